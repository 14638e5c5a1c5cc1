"""Final answers are found in what models really write."""

from __future__ import annotations

import pytest

from sdbench.tasks.answers import chosen_letter, last_number, same_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("16 - 3 - 4 = 9\n9 * 2 = 18\n#### 18", "18"),
        ("#### $1,800.50", "1800.5"),
        ("The answer is 42. It took 3 steps.", "42"),
        ("**Answer:** 7", "7"),
        ("so \\boxed{12} apples", "12"),
        ("The answer is: -5", "-5"),
        ("She has 3 and then 70,000 dollars.", "70000"),
        ("It costs $5", "5"),
        ("The answer is 3.\nNo, the answer is 4.", "4"),
        ("18.00", "18"),
        ("#### **18**", "18"),
    ],
)
def test_numbers(text, number):
    found = last_number(text)
    assert found is not None
    assert same_number(found, number)


def test_no_number():
    assert last_number("none at all ...") is None
    assert not same_number("a", "a")
    assert not same_number("18", "19")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A bank has one. The answer is (B).", "B"),
        ("The answer is C", "C"),
        ("Answer: **D**", "D"),
        ("B. library", "B"),
        ("(E)", "E"),
        ("E", "E"),
        ("Of (A) and (C), (C) is better.", "C"),
        ("The answer is (A). No: the answer is (D).", "D"),
        ("the answer is (b)", "B"),
        ("A bank is a place.", None),
        ("The answer is a bank", None),
        ("The answer is bank", None),
        ("", None),
    ],
)
def test_letters(text, letter):
    assert chosen_letter(text, "ABCDE") == letter
