"""Words of a hypothesis: where they begin and end among the tokens and in time."""

import numpy as np
import pytest

from residualformer.errors import UserError
from residualformer.hypothesis import Hypothesis
from residualformer.words.alignment import Alignment
from residualformer.words.calibration import Calibration, read_calibration, save_calibration
from residualformer.words.words import Span, spans, timed_words, word_times


@pytest.mark.parametrize(
    "pieces, words",
    [
        ("▁ A B ▁ C", [("AB", 1, 2), ("C", 4, 4)]),  # characters
        ("A ▁ ▁ B ▁", [("A", 0, 0), ("B", 3, 3)]),
        ("▁GO OD ▁ MOR NING ▁N OW", [("GOOD", 0, 1), ("MORNING", 3, 4), ("NOW", 5, 6)]),
        ("▁A <unk> ▁<unk>", [("A<unk>", 0, 1), ("<unk>", 2, 2)]),
        ("A▁B C▁", [("A", 0, 0), ("BC", 0, 1)]),  # a piece of two words
        ("你 好 ▁OK 世界", [("你", 0, 0), ("好", 1, 1), ("OK", 2, 2), ("世界", 3, 3)]),
        ("ひ ら A B", [("ひ", 0, 0), ("ら", 1, 1), ("AB", 2, 3)]),
        ("", []),
    ],
)
def test_words_of_pieces(pieces, words):
    assert spans(pieces.split()) == [Span(*each) for each in words]


def test_times_are_less_the_delays_and_in_order():
    calibration = Calibration(start_delay_s=0.2, end_delay_s=0.1)
    words = [Span("A", 0, 1), Span("B", 2, 2)]
    found = word_times(words, np.array([0.5, 0.8, 2.0]), 0.04, calibration, 0.0, 3.0)
    assert found == [(0.3, 0.74), (1.8, 1.94)]
    assert word_times(words, np.array([0.5, 0.8, 0.86]), 0.04, calibration, 0.0, 3.0) == [(0.3, 0.7), (0.7, 0.8)]


def test_times_lie_within_the_audio_whatever_the_delays():
    rng = np.random.default_rng(0)
    for _ in range(200):
        count, start, length = rng.integers(1, 8), rng.uniform(0, 5), rng.choice([0.05, 0.3, 2.0])
        written = start + np.sort(rng.uniform(0, length, count))
        calibration = Calibration(*rng.uniform(-0.5, 0.5, 2))
        words = [Span("x", i, i) for i in range(count)]
        times = [t for pair in word_times(words, written, 0.04, calibration, start, start + length) for t in pair]
        assert times == sorted(times)
        assert times[0] >= round(start, 2) and times[-1] <= round(start + length, 2) + 1e-9
        if length > 0.3:
            assert all(end - begin > 0.009 for begin, end in zip(times[::2], times[1::2], strict=True))


def test_words_with_their_confidences():
    pieces = ["<blk>", "\u2581A", "\u2581B", "C"]
    nbest = [Hypothesis([1, 2, 3], [1, 5, 6], np.log(0.6)), Hypothesis([1, 2], [1, 5], np.log(0.4))]
    alignment = Alignment(np.array([1.0, 5.5, 6.0]), np.log([0.9, 0.5, 0.8]), -1.0)
    found = timed_words(nbest, alignment, pieces, Calibration(), "beam", 0.0, 0.1, 0.0, 1.0)
    assert [(w.word, w.start, w.end) for w in found.words] == [("A", 0.1, 0.2), ("BC", 0.55, 0.7)]

    def of_odds(p, share):  # of the default calibration, which weighs both alike
        odds = (p / (1 - p) * share / (1 - share)) ** 0.5
        return odds / (1 + odds)

    certain = 1 - 1e-4
    expected = [of_odds(0.9, certain), of_odds(0.4, 0.6)]
    assert [w.confidence for w in found.words] == pytest.approx(expected, abs=1e-4)
    assert found.confidence == pytest.approx(sum(expected) / 2, abs=1e-4)
    assert found.token_confidences == pytest.approx(
        [of_odds(0.9, certain), of_odds(0.5, certain), of_odds(0.8, 0.6)], abs=1e-4
    )
    nothing = timed_words([Hypothesis([], [], -1.0)], Alignment(np.zeros(0), np.zeros(0), -1.0), pieces,
                          Calibration(), "greedy", 0.0, 0.1, 0.0, 1.0)  # fmt: skip
    assert (nothing.words, nothing.token_confidences, nothing.confidence) == ([], [], None)


def test_a_calibration_is_read_as_it_was_written_and_only_beside_its_model(tmp_path):
    assert read_calibration(tmp_path, "abc") == Calibration()
    made = Calibration(0.1, -0.2, measured_on=10, fingerprint="abc")
    save_calibration(tmp_path / "calibration.json", made)
    assert read_calibration(tmp_path, "abc") == made
    assert read_calibration(tmp_path, "abd") == Calibration()  # of other weights
    (tmp_path / "calibration.json").write_text('{"start_delay_s": "x"}')
    with pytest.raises(UserError, match="damaged"):
        read_calibration(tmp_path, "abc")
