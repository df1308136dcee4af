"""Sentences of books as text for a language model, one per line, in the form of the English transcripts.

python -m local.book_text --books DIR --without egs/english/data/manifests/cuts_test-clean.jsonl.gz --out books.txt

The books are plain text files, such as Project Gutenberg's, whose own notes at both ends are left out. Left out as well
are sentences that share eight words in a row with a text of `--without`: give the test sets, whose books may be among
these. Sentences with digits or foreign letters are left out, because how they would be read is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from residualformer.data.text import ENGLISH, normalize
from residualformer.errors import UserError, run_main
from residualformer.files import replacing
from residualformer.workflow.options import OptionParser

SHARED_WORDS = 8  # in a row: a sentence with as many of a test set is taken from it
LONGEST = 60  # words; longer "sentences" are lists and tables
_NOTES = re.compile(r"^\*\*\* ?(?:START|END) OF .*$", re.MULTILINE)
_PARAGRAPHS = re.compile(r"\n\s*\n")
_ENDS = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z])")
_TITLE = re.compile(r"\b(Mr|Mrs|Ms|Dr|St|Messrs|Capt|Col|Gen|Prof|Rev|Hon)\b\.?")
_SPOKEN = {"Mr": "Mister", "Mrs": "Missus", "Dr": "Doctor", "St": "Saint", "Capt": "Captain"}  # in LibriSpeech


def sentences(book: str) -> Iterator[str]:
    """Return the sentences of a book in capital letters without punctuation, in its order."""
    parts = _NOTES.split(book)
    body = parts[1] if len(parts) == 3 else book
    for paragraph in _PARAGRAPHS.split(body):
        spoken = _TITLE.sub(lambda match: _SPOKEN.get(match[1], match[1]), " ".join(paragraph.split()))
        for sentence in _ENDS.split(spoken):
            text = normalize(sentence, "upper", punctuation=False)
            if ENGLISH.fullmatch(text) and 1 < len(text.split()) <= LONGEST:
                yield text


def sequences(words: Sequence[str]) -> set[tuple[str, ...]]:
    """Return all runs of `SHARED_WORDS` words."""
    return {tuple(words[start : start + SHARED_WORDS]) for start in range(len(words) - SHARED_WORDS + 1)}


def held_out(manifests: Sequence[Path]) -> set[tuple[str, ...]]:
    """Return the runs of words of all texts of some manifests."""
    from residualformer.data.manifest import read_cuts  # imports Lhotse, not needed by options

    texts = (part.text or "" for path in manifests for cut in read_cuts(path, stage=1) for part in cut.supervisions)
    return {run for text in texts for run in sequences(text.split())}


def main() -> None:
    parser = OptionParser(__doc__.splitlines()[0])
    parser.add_argument("--books", type=Path, required=True, metavar="DIR", help="folder of plain text files, UTF-8")
    parser.add_argument(
        "--without", type=Path, nargs="*", default=[], metavar="CUTS", help="manifests of the test sets"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    books = sorted(args.books.glob("*.txt"))
    if not books:
        raise UserError(f"'{args.books}' holds no .txt file: give a folder of books as plain text.")
    runs, kept, shared = held_out(args.without), dict[str, None](), 0
    for book in tqdm(books, desc="read", unit="book"):
        for text in sentences(book.read_text(encoding="utf-8", errors="replace")):
            if runs.isdisjoint(sequences(text.split())):
                kept[text] = None
            else:
                shared += 1
    with replacing(args.out) as temporary:
        temporary.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")
    words = sum(text.count(" ") + 1 for text in kept)
    print(
        f"{len(books)} books: {len(kept)} sentences, {words} words -> {args.out}; {shared} like a test set's left out"
    )


if __name__ == "__main__":
    run_main(main)
