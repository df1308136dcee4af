"""True times of the words of a split of `mini`, from the synthesizer, as a CTM: a reference for recognized times.

python -m local.mini_corpus.word_times --corpus egs/mini/data/raw --split test --out word_times_test.ctm
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from local import mini
from local.common.synthesis import Line, read_transcripts, word_times
from residualformer.errors import UserError, run_main
from residualformer.files import read_json, write_text
from residualformer.words.formats import ctm_lines
from residualformer.words.words import Word
from residualformer.workflow.options import OptionParser


def drawn_lines(corpus: Path, split: str) -> list[Line]:
    """Return the lines of a split as `obtain` drew them; UserError where they are not those of the corpus."""
    options = read_json(corpus / "options.json", "run stage 0 first")
    counts: dict[str, int] = {}
    texts = {}
    for record in read_transcripts(corpus):
        counts[record["split"]] = counts.get(record["split"], 0) + 1
        texts[record["id"]] = record["text"]
    if split not in counts:
        raise UserError(f"--split {split}: {corpus} has {', '.join(counts) or 'no finished corpus'}.")
    speakers, used = mini.split_speakers(options["seed"]), set[str]()
    for each, count in counts.items():  # the sentences of one split depend on those drawn before
        drawn = max(mini.BABBLERS, -(-count // mini.LINES_AT_A_TIME) * mini.LINES_AT_A_TIME)
        lines = list(itertools.islice(mini.draw_lines(each, speakers[each], options["seed"], used), drawn))[:count]
        if each == split:
            break
    if any(line.id not in texts for line in lines):
        raise UserError(f"--split {split}: {corpus} has streams (--pauses), of which the times of words are not known.")
    if any(texts[line.id] != line.text for line in lines):
        raise UserError(f"{corpus} was made by another version of this corpus: run stage 0 again, with --overwrite.")
    return lines


def timed_line(line: Line, seed: int) -> list[Word] | None:
    """Return the words of a line with their true times; None where the engine joins or splits them otherwise."""
    plain = re.sub("<[^>]*>", lambda tag: "\0" * len(tag[0]), line.spoken)  # text in tags takes place, but is no word
    places = [match.span() for match in re.finditer(r"[^\s\0]+", plain)]
    words = line.text.split()
    if len(places) != len(words):
        return None
    found = []
    spoken = word_times(line, seed, mini.CONDITIONS)
    for word, (first, end) in zip(words, places, strict=True):
        times = [(start_s, end_s) for place, start_s, end_s in spoken if first <= place < end]
        if not times:
            return None
        found.append(Word(word, round(times[0][0], 3), round(times[-1][1], 3), 1.0))
    return found


def main() -> None:
    parser = OptionParser(__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="what stage 0 wrote, data/raw")
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, required=True, metavar="CTM")
    args = parser.parse_args()
    seed = read_json(args.corpus / "options.json", "run stage 0 first")["seed"]
    lines = drawn_lines(args.corpus, args.split)
    timed = [(line.id, timed_line(line, seed)) for line in lines]
    write_text(args.out, "".join(ctm_lines(name, words) for name, words in timed if words))
    print(f"word times of {sum(words is not None for _, words in timed)} of {len(lines)} utterances -> {args.out}")


if __name__ == "__main__":
    run_main(main)
