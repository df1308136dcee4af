"""Numbers in words, by num2words, which knows some fifty languages."""

from __future__ import annotations

from residualformer.context.grammar.syntax import Numbers, Place, parse_sentence
from residualformer.errors import closest
from residualformer.optional import optional

FORMS = ("cardinal", "ordinal")
MOST_NUMBERS = 100_000


def spoken_numbers(numbers: range, form: str, language: str, place: Place) -> Numbers:
    """Return numbers with the ways to say them; in English the "and" of "two hundred and five" may be left out.

    Raises:
        UserError: there are too many numbers, form or language is unknown, a number cannot be said in it, or num2words
            is not installed.
    """
    count = (numbers.stop - 1 - numbers.start) // numbers.step + 1  # `len` overflows
    if count > MOST_NUMBERS:
        raise place.error(f"the range has {count} numbers; allowed are {MOST_NUMBERS}: repeat digits instead.")
    if form not in FORMS:
        raise place.error(f"form is '{form}'; allowed are {', '.join(FORMS)}.{closest(form, FORMS)}")
    num2words = optional("num2words")
    languages = sorted(num2words.CONVERTER_CLASSES)
    if language not in languages:
        raise place.error(f"language is '{language}'; allowed are {', '.join(languages)}.")
    spoken = {}
    for number in numbers:
        try:
            text = num2words.num2words(number, lang=language, to=form)
        except Exception as error:  # its languages raise what they like
            raise place.error(f"{number} has no words as {form} in language {language} ({error}).") from error
        text = text.replace("-", " ").replace(",", "")
        if language.startswith("en"):
            text = text.replace(" and ", " [and] ")
        spoken[number] = parse_sentence(text, place)
    return Numbers(spoken)
