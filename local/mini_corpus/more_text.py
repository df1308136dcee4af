"""More sentences of the grammar of `mini`, one per line, for a language model; none is in the corpus.

python -m local.mini_corpus.more_text --corpus egs/mini/data/raw --sentences 20000 --out egs/mini/data/more.txt
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from local import mini
from local.common.synthesis import generator, read_transcripts
from local.mini_corpus.grammar import draw_sentence
from residualformer.errors import UserError, run_main
from residualformer.files import write_text
from residualformer.workflow.options import OptionParser, positive_whole_number, whole_number


def more_sentences(corpus: Collection[str], count: int, seed: int) -> list[str]:
    """Return `count` different sentences that are not among those of the corpus."""
    rng, found = generator(seed, "mini more text"), dict[str, None]()
    while len(found) < count:
        text = draw_sentence(rng).text
        if text not in corpus and len(text.split()) <= mini.MAX_WORDS:
            found[text] = None
    return list(found)


def main() -> None:
    parser = OptionParser(__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="what stage 0 wrote, data/raw")
    parser.add_argument("--sentences", type=positive_whole_number, default=20_000, metavar="N")
    parser.add_argument("--seed", type=whole_number, default=1, metavar="N")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    known = {record["text"] for record in read_transcripts(args.corpus)}
    if not known:
        raise UserError(f"no finished corpus in '{args.corpus}': run stage 0 first.")
    write_text(args.out, "".join(f"{text}\n" for text in more_sentences(known, args.sentences, args.seed)))
    print(f"{args.sentences} sentences, none of them among the {len(known)} of the corpus -> {args.out}")


if __name__ == "__main__":
    run_main(main)
