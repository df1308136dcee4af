"""Text of any language keeps its characters; case and punctuation go only where it is asked for."""

from __future__ import annotations

import pytest

from residualformer.data.text import is_unspaced, normalize


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("  déjà\tvu \n", "déjà vu"),
        ("de\u0301ja\u0300", "déjà"),  # composed
        ("\ufeffco\u00adop", "coop"),
        ("\u200fשלום\u200e ❤\ufe0f", "שלום ❤"),  # marks of direction, and of an emoji's colour
        ("👨\u200d👩", "👨\u200d👩"),
        ("你好，世界。", "你好，世界。"),
        ("می‌خواهم", "می‌خواهم"),  # the joiner is spelling in Persian
        ("Ａ①", "Ａ①"),  # compatibility characters are characters
        ("", ""),
    ],
)
def test_nothing_but_form_and_spaces_changes_by_default(given, expected):
    assert normalize(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Don't stop -- «l’eau», 5 €!", "Don't stop l'eau 5"),
        ("well-known 'quote'", "well known quote"),
        ("你好，世界！", "你好世界"),
        ("用 Python 写“代码”。", "用 Python 写代码"),
        ("สวัสดี (ครับ)", "สวัสดี ครับ"),
        ("हिन्दी।", "हिन्दी"),  # vowel signs are no punctuation
        ("?!", ""),
        ("oui ❤\ufe0f 👨\u200d👩\u200d👧", "oui"),
    ],
)
def test_punctuation_goes_on_request(given, expected):
    assert normalize(given, punctuation=False) == expected


def test_case():
    assert normalize("Straße İ É", "upper") == "STRASSE İ É"
    assert normalize("ÉCOLE ΟΔΟΣ", "lower") == "école οδος"
    with pytest.raises(ValueError, match="keep, lower, upper"):
        normalize("a", "title")


@pytest.mark.parametrize("text", ["ÉCOLE, c’est\u00a0là", "e\u0301İ", "你好 , world"])
@pytest.mark.parametrize("case", ["keep", "lower", "upper"])
@pytest.mark.parametrize("punctuation", [True, False])
def test_it_is_done_once_and_for_all(text, case, punctuation):
    once = normalize(text, case, punctuation)
    assert normalize(once, case, punctuation) == once


def test_scripts_without_spaces():
    assert all(map(is_unspaced, "汉かナไລខ々"))
    assert not any(map(is_unspaced, "aéЖ한हا, 5"))
