"""Find the final answer in free text: a number, or the letter of a choice."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

# A stated answer. The prompts ask for some of these forms, and instruct models often write the others: "#### 18",
# "The answer is 18", "Answer: 18" and "\boxed{18}". Markup or a currency sign may stand before the number.
_STATED_NUMBER = re.compile(r"(?:####|answer\s+is:?|answer:|\\boxed\{)[\s*$\\(€£]*(-?[\d.,]*\d)", re.IGNORECASE)
# The pattern of `flexible-extract` in lm-eval's gsm8k. Its last match in the text is the answer.
_ANY_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
# A lower-case letter counts in brackets only, because "the answer is a bank" states no letter.
_STATED_LETTER = (
    r"(?i:answer\s+is:?|answer:|\\boxed\{{)[\s*\"']*(?:\(((?i:[{letters}]))\)|\(?([{letters}])(?![A-Za-z]))"
)
_BRACKETED_LETTER = r"\(([{letters}])\)"
_OPENING_LETTER = r"\s*[*\"(]*([{letters}])(?:[.:;)*\"]|\s*$)"


def last_number(text: str) -> str | None:
    """Return the final answer of a worked solution; None if the text has no number.

    The last number that the text states as its answer comes first, then the last number of the text.
    """
    stated = _STATED_NUMBER.findall(text)
    if stated:
        return stated[-1]
    loose = [match.group() for match in _ANY_NUMBER.finditer(text) if any(sign.isdigit() for sign in match.group())]
    return loose[-1] if loose else None


def same_number(left: str, right: str) -> bool:
    """Return whether two numbers have equal values; ignore commas, dollar signs, blanks and a final full stop."""
    first, second = _value(left), _value(right)
    return first is not None and first == second


def _value(number: str) -> Decimal | None:
    try:
        return Decimal(re.sub(r"[,$\s]", "", number).rstrip("."))
    except InvalidOperation:
        return None


def chosen_letter(text: str, letters: str) -> str | None:
    """Return the choice of a text among `letters`, such as 'ABCDE'; None if it makes no choice.

    The search order is: the last letter stated as the answer, a letter at the start of the text, the last letter in
    brackets. A plain capital inside a sentence does not count, because 'A' is also a word.
    """
    stated = re.findall(_STATED_LETTER.format(letters=letters), text)
    if stated:
        return "".join(stated[-1]).upper()
    opening = re.match(_OPENING_LETTER.format(letters=letters), text)
    if opening:
        return opening.group(1)
    bracketed = re.findall(_BRACKETED_LETTER.format(letters=letters), text)
    return bracketed[-1] if bracketed else None
