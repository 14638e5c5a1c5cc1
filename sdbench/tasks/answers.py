"""Final answers in free text: numbers and letters of choices."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

# A stated answer, in the forms that the prompts ask for and that instruct models like: "#### 18", "The answer is 18",
# "Answer: 18" and "\boxed{18}", with markup or a currency sign in between.
_STATED_NUMBER = re.compile(r"(?:####|answer\s+is:?|answer:|\\boxed\{)[\s*$\\(€£]*(-?[\d.,]*\d)", re.IGNORECASE)
# lm-eval's `flexible-extract` of gsm8k: the last thing in the text that looks like a number.
_ANY_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
# Lower case counts in brackets only: "the answer is a bank" states no letter.
_STATED_LETTER = (
    r"(?i:answer\s+is:?|answer:|\\boxed\{{)[\s*\"']*(?:\(((?i:[{letters}]))\)|\(?([{letters}])(?![A-Za-z]))"
)
_BRACKETED_LETTER = r"\(([{letters}])\)"
_OPENING_LETTER = r"\s*[*\"(]*([{letters}])(?:[.:;)*\"]|\s*$)"


def last_number(text: str) -> str | None:
    """The final answer of a worked solution: the last number that is stated as the answer, else the last number."""
    stated = _STATED_NUMBER.findall(text)
    if stated:
        return stated[-1]
    loose = [match.group() for match in _ANY_NUMBER.finditer(text) if any(sign.isdigit() for sign in match.group())]
    return loose[-1] if loose else None


def same_number(left: str, right: str) -> bool:
    """Whether two numbers are equal in value: thousands separators, currency signs and a closing full stop apart."""
    first, second = _value(left), _value(right)
    return first is not None and first == second


def _value(number: str) -> Decimal | None:
    try:
        return Decimal(re.sub(r"[,$\s]", "", number).rstrip("."))
    except InvalidOperation:
        return None


def chosen_letter(text: str, letters: str) -> str | None:
    """The choice that a text makes among `letters`, such as 'ABCDE'.

    In this order: the last letter that is stated as the answer, the letter that the text opens with, the last letter
    in brackets. A bare capital inside a sentence is not taken, since 'A' is also a word.
    """
    stated = re.findall(_STATED_LETTER.format(letters=letters), text)
    if stated:
        return "".join(stated[-1]).upper()
    opening = re.match(_OPENING_LETTER.format(letters=letters), text)
    if opening:
        return opening.group(1)
    bracketed = re.findall(_BRACKETED_LETTER.format(letters=letters), text)
    return bracketed[-1] if bracketed else None
