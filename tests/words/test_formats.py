"""Output formats against their grammars: CTM's fields, SubRip and WebVTT as W3C defines it, text and JSON."""

import json
import re

import pytest

from residualformer.words.formats import COLUMNS, LINES, WRITERS, columns
from residualformer.words.words import Word

# The grammars of whole files, https://www.w3.org/TR/webvtt1/#file-structure; text lines hold no "-->", "&" and "<" only
# in escapes and tags. SubRip has no standard: counters from 1, a comma, and two digits or more of hours.
_TEXT = r"(?:(?!.*-->)[^\n]+\n)+"
SRT = re.compile(rf"(?:\d+\n(\d\d+):[0-5]\d:[0-5]\d,\d\d\d --> (\d\d+):[0-5]\d:[0-5]\d,\d\d\d\n{_TEXT}\n)*")
_VTT_TEXT = r"(?:(?:[^\n&<>]|&amp;|&lt;|&gt;)+\n)+"
VTT = re.compile(
    rf"WEBVTT\n\n(?:[^\n]*\n\d\d+:[0-5]\d:[0-5]\d\.\d\d\d --> \d\d+:[0-5]\d:[0-5]\d\.\d\d\d\n{_VTT_TEXT}\n)*"
)
ARROW = "-->"
ODD = ["a-->b", "R&D", "<i>", "&amp;", "na\u00efve", "\U0001f600", "\u0434\u0430", ARROW]


def result(words: list[Word], **more) -> dict:
    text = " ".join(word.word for word in words)
    return {"text": text, "words": [vars(word) for word in words], **more}


def spoken(words: list[str], start: float = 0.0, each: float = 0.3, gap: float = 0.0) -> list[Word]:
    return [Word(w, round(start + i * (each + gap), 2), round(start + i * (each + gap) + each, 2), 0.5)
            for i, w in enumerate(words)]  # fmt: skip


def written(kind: str, *results: dict, name: str = "a.wav") -> str:
    writer = WRITERS[kind]()
    return writer.header + "".join(writer.write(name, each) for each in results)


def times(text: str) -> list[tuple[float, float]]:
    found = re.findall(r"(\d+):(\d\d):(\d\d)[.,](\d{3}) --> (\d+):(\d\d):(\d\d)[.,](\d{3})", text)
    clock = [[int(part) for part in each] for each in found]
    return [tuple(h * 3600 + m * 60 + s + ms / 1000 for h, m, s, ms in (c[:4], c[4:])) for c in clock]


@pytest.mark.parametrize("kind, grammar", [("srt", SRT), ("vtt", VTT)])
@pytest.mark.parametrize(
    "words",
    [
        [],
        spoken(["ONE"]),
        spoken([f"WORD{i}" for i in range(60)]),
        spoken(ODD),
        spoken(["X"], start=360_000.0),  # 100 hours
        spoken(["x" * 200, "y"]),
        spoken(list("\u4f60\u597d\u4e16\u754c") * 20),
        [Word("a", 1.0, 1.0, 0.1)],  # takes no time
    ],
)
def test_subtitles_keep_to_the_grammar(kind, grammar, words):
    text = written(kind, result(words), result([Word(w.word, w.start + 100, w.end + 100, 1) for w in words]))
    assert grammar.fullmatch(text)
    found = times(text)
    assert all(start < end for start, end in found)
    assert all(first[1] <= second[0] for first, second in zip(found, found[1:], strict=False))
    text.encode("utf-8")


def test_subtitles_end_at_pauses_and_where_they_are_full():
    words = [*spoken(["GOOD", "MORNING"]), *spoken(["NOW"], start=2.0), *spoken(["LONGER"] * 40, start=2.3, each=0.2)]
    cues = [cue.split("\n")[2:] for cue in written("srt", result(words)).strip().split("\n\n")]
    assert cues[0] == ["GOOD MORNING"] and cues[1][0].startswith("NOW LONGER")
    assert all(len(lines) <= LINES and all(columns(line) <= COLUMNS for line in lines) for lines in cues)
    slow = spoken(["A"] * 10, each=1.0)
    assert all(end - start <= 7 for start, end in times(written("srt", result(slow))))


def test_numbers_of_subtitles_go_on_from_result_to_result():
    text = written("srt", result(spoken(["A"])), result(spoken(["B"], start=5)))
    assert [block.split("\n")[0] for block in text.strip().split("\n\n")] == ["1", "2"]
    assert written("srt", result(spoken(["X"], start=360_000.5))).startswith("1\n100:00:00,500 --> 100:00:00,800\nX")


def test_what_the_formats_reserve_is_escaped():
    text = " ".join(written("vtt", result(spoken(ODD))).split("\n"))
    assert "a--&gt;b R&amp;D &lt;i&gt; &amp;amp; na\u00efve \U0001f600 \u0434\u0430" in text
    assert "a\u2192b" in written("srt", result(spoken(ODD)))


def test_scripts_without_spaces_have_none():
    text = written("vtt", result(spoken(["\u4f60", "\u597d", "OK", "\u4e16", "\u754c"])))
    assert text.split("\n")[4] == "\u4f60\u597d OK \u4e16\u754c"


def test_ctm_has_six_fields():
    words = [Word("GOOD", 0.1, 0.35, 0.98765), Word("\u65e9", 0.35, 0.5, 1.0)]
    rows = [line.split(" ") for line in written("ctm", result(words), name="my file.wav").splitlines()]
    assert rows == [["my_file.wav", "1", "0.10", "0.25", "GOOD", "0.9877"], ["my_file.wav", "1", "0.35", "0.15",
                    "\u65e9", "1.0000"]]  # fmt: skip


def test_text_and_json():
    whole, partial = {"text": "A \u00e9", "score": -1.0}, {"partial": "A", "end": 1.5}
    assert written("text", partial, whole, {**whole, "start": 0.5, "end": 2.0}).splitlines() == [
        "a.wav\t... 1.50\tA", "a.wav\tA \u00e9", "a.wav\t0.50-2.00\tA \u00e9"
    ]  # fmt: skip
    lines = written("json", partial, whole).splitlines()
    assert [json.loads(line) for line in lines] == [{"file": "a.wav", **partial}, {"file": "a.wav", **whole}]
    assert "\u00e9" in lines[1]
