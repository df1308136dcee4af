"""The speech engine: the same bits each time, letters by name, sound and not silence."""

from __future__ import annotations

import numpy as np
import pytest

from local.common.espeak import SAMPLING_RATE, Voice, phonemes, spell_letters, synthesize, synthesize_words
from local.common.synthesis import ACCENTS, VARIANTS
from residualformer.errors import UserError


@pytest.mark.parametrize("variant", ["", "m3", "f4", "klatt4", "Storm", "john"])
def test_nothing_leaks_from_one_utterance_to_the_next(variant):
    voice = Voice("en-us", variant, words_per_minute=160)
    first = synthesize("turn on the lights", voice, seed=3)
    synthesize("something else, and longer than that", Voice("en", "f2", 190, 70), seed=5)
    np.testing.assert_array_equal(first, synthesize("turn on the lights", voice, seed=3))


@pytest.mark.parametrize("accent", sorted(set(ACCENTS)))
def test_single_letters_are_said_by_name(accent):
    voice = Voice(accent)
    # A rhymes with the name of K, I is said like the word eye
    assert phonemes(spell_letters("A"), voice)[1:] == phonemes(spell_letters("K"), voice)[2:]
    assert phonemes(spell_letters("I"), voice)[1:] == phonemes("eye", voice)[1:]
    assert phonemes(spell_letters("RUBOUT G A"), voice).split()[1:] == [
        phonemes(spell_letters("G"), voice), phonemes(spell_letters("A"), voice)
    ]  # fmt: skip


def test_words_are_not_spelled():
    assert "say-as" not in spell_letters("I'M HERE AT SIX O'CLOCK")
    assert phonemes(spell_letters("GO OH")) == phonemes("go oh") == "ɡˌoʊ ˈoʊ"
    assert phonemes(spell_letters("G O")) == "dʒˈiː ˈoʊ"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_voice_in_use_sounds(variant):
    samples = synthesize("please turn on the light in room seven", Voice("en-us", variant)).astype(np.float64)
    assert 1.2 < len(samples) / SAMPLING_RATE < 3.5
    assert np.sqrt(np.mean(samples**2)) > 500  # of 32768
    frames = np.abs(samples[: len(samples) // 441 * 441]).reshape(-1, 441).max(axis=1)  # 20 ms each
    assert np.mean(frames > 0.05 * frames.max()) > 0.4  # sound for most of the time


def test_speed_and_pitch_do_what_they_say():
    slow, fast = (synthesize("one two three four", Voice(words_per_minute=rate)) for rate in (120, 200))
    assert len(slow) > 1.3 * len(fast)
    low, high = (synthesize("one two three four", Voice(pitch=pitch)) for pitch in (20, 80))
    assert not np.array_equal(low, high)


def test_an_unknown_voice_is_named():
    with pytest.raises(UserError, match="no voice 'en-xx'"):
        synthesize("hello", Voice("en-xx"))


@pytest.mark.parametrize("voice", [Voice(), Voice("en-gb-scotland", "f3", 150, word_gap=2), Voice("en-029", "klatt4")])
def test_words_and_when_they_are_spoken(voice):
    text = spell_letters("read page G seven")
    samples, words = synthesize_words(text, voice, seed=4)
    np.testing.assert_array_equal(samples, synthesize(text, voice, seed=4))
    assert [text[word.place :].split()[0].split("<")[0] for word in words] == ["read", "page", "g", "seven"]
    edges = [edge for word in words for edge in (word.start, word.end)]
    assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= len(samples)
    assert all(word.end - word.start > 0.1 * SAMPLING_RATE for word in words)
    spoken = np.zeros(len(samples), bool)
    for word in words:
        spoken[word.start : word.end] = True
    loud = np.abs(samples.astype(float))
    assert loud[spoken].mean() > 5 * loud[~spoken].mean()
