"""Sentences of books: as they are read aloud, and none of a test set."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import soundfile

from local import book_text
from residualformer.data.corpus_utterance import CorpusUtterance
from residualformer.data.validate import write_cuts
from residualformer.errors import UserError

BOOK = """Somebody's note: not of the book. It names Mr. Nobody.

*** START OF THE PROJECT GUTENBERG EBOOK ***

"Mr. Hale, don't go!" said Mrs. Lee.
She waited -- in vain.

In 1854 he came back. A naïve hope... Now
was it not? (It was.)

He went down to the river again and saw the old boat there.

*** END OF THE PROJECT GUTENBERG EBOOK ***

This is a licence.
"""


def test_sentences_are_as_they_are_read_aloud():
    assert list(book_text.sentences(BOOK)) == [
        "MISTER HALE DON'T GO SAID MISSUS LEE",
        "SHE WAITED IN VAIN",
        "NOW WAS IT NOT",
        "IT WAS",
        "HE WENT DOWN TO THE RIVER AGAIN AND SAW THE OLD BOAT THERE",
    ]


@pytest.mark.parametrize(("heard", "left_out"), [("DOWN TO THE RIVER AGAIN AND SAW THE", 1), ("DOWN TO THE RIVER", 0)])
def test_a_sentence_with_eight_words_of_a_test_set_is_left_out(tmp_path, monkeypatch, capsys, heard, left_out):
    soundfile.write(tmp_path / "a.wav", np.ones(16000, np.int16), 16000)
    cuts = tmp_path / "cuts_test.jsonl.gz"
    write_cuts([CorpusUtterance("a", tmp_path / "a.wav", f"AND {heard} END", "s")], "test", cuts, 16000, [])
    books = tmp_path / "books"
    books.mkdir()
    (books / "one.txt").write_text(BOOK, encoding="utf-8")
    (books / "two.txt").write_text(BOOK, encoding="utf-8")  # what is there twice is written once
    options = ["--books", str(books), "--without", str(cuts), "--out", str(tmp_path / "out.txt")]
    monkeypatch.setattr(sys, "argv", ["book_text", *options])
    book_text.main()
    lines = (tmp_path / "out.txt").read_text(encoding="utf-8").splitlines()
    assert lines == list(book_text.sentences(BOOK))[: 5 - left_out]
    assert f"{2 * left_out} like a test set's left out" in capsys.readouterr().out


def test_a_folder_without_books_gives_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["book_text", "--books", str(tmp_path), "--out", str(tmp_path / "out.txt")])
    with pytest.raises(UserError, match=r"holds no \.txt file"):
        book_text.main()
