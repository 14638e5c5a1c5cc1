"""The generated texts: the same everywhere, disjoint between the splits, and right."""

import hashlib
import json
import re

import pytest

from sdbench.tasks.texts import GENERATORS, final_answer, generate, split_of
from sdbench.tasks.texts.records import matches

DIGESTS = {
    "wordproblems": "83c03a792adc5218b7a469f51934856ae8c47888e8538d43e967dabdf6c79481",
    "records": "f9d850d20e1026b6c526b0b261581704acfc02dcbdd3d32d51fe4f6a1efeae9f",
    "stories": "67764079bbe032f9cf1c9079f530738fa272526eab313a7946f102c86822a72e",
    "sums": "6fdc0b9fe1581dfcaf075a4a52d135fe9fc614193f8a46d55fdca4111533d209",
}


@pytest.mark.parametrize("kind", GENERATORS)
def test_texts_are_the_same_everywhere(kind: str) -> None:
    digest = hashlib.sha256()
    for split in ("train", "test"):
        for index in range(50):
            text = generate(kind, split, 0, index)
            digest.update(f"{text.prompt}{text.completion}{text.answer}".encode())
    assert digest.hexdigest() == DIGESTS[kind]


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_text_depends_on_its_index_alone(kind: str) -> None:
    backwards = [generate(kind, "test", 3, index) for index in reversed(range(20))]
    assert backwards[::-1] == [generate(kind, "test", 3, index) for index in range(20)]
    assert len({text.prompt for text in backwards}) > 15


@pytest.mark.parametrize("kind", GENERATORS)
def test_splits_are_disjoint(kind: str) -> None:
    contents = {
        split: {content for index in range(1000) for content in generate(kind, split, 0, index).contents}
        for split in ("train", "test")
    }
    assert not contents["train"] & contents["test"]
    for split, held in contents.items():
        assert {split_of(content) for content in held} == {split}


@pytest.mark.parametrize("kind", GENERATORS)
def test_contents_are_what_the_text_says(kind: str) -> None:
    text = generate(kind, "test", 0, 7)
    if kind == "wordproblems":
        start, steps = text.contents[0].split(":")
        numbers = [start, *(n for step in steps.split(",") for n in step.split("-")[1:] if n != "0")]
        assert all(number in text.completion for number in numbers)
    if kind == "sums":
        assert f"{text.contents[0]} =" in text.prompt
    if kind == "records":
        assert all(content in text.prompt for content in text.contents)
    if kind == "stories":
        assert all(piece in text.prompt for piece in text.contents[0].split("/"))


def test_unknown_split_and_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        generate("stories", "dev", 0, 0)
    with pytest.raises(ValueError, match="unknown kind of text 'poems'"):
        generate("poems", "test", 0, 0)


@pytest.mark.parametrize("split", ["train", "test"])
def test_worked_steps_are_right(split: str) -> None:
    for index in range(500):
        text = generate("wordproblems", split, 5, index)
        start = re.search(r"has (\d+) ", text.prompt)
        assert start
        value = int(start[1])
        *lines, last = text.completion.strip().split("\n")
        assert len(lines) == text.prompt.count(". ") - 1
        for line in lines:
            for left, sign, right, result in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", line):
                a, b = int(left), int(right)
                assert int(result) == {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]
            before, after = re.search(r"has (\d+) .* = (\d+) \w+ now\.$", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
            assert int(before) == value
            value = int(after)
        assert last == f"The answer is {value}."
        assert text.answer == str(value) == final_answer(text.completion)


def test_sums_are_right() -> None:
    for index in range(500):
        text = generate("sums", "train", 5, index)
        left, sign, right = text.contents[0].split()
        a, b = int(left), int(right)
        assert int(text.answer or "") == {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]
        assert text.completion == f" {text.answer}."


def test_final_answer() -> None:
    assert final_answer("so it is 4.\nThe answer is 17.") == "17"
    assert final_answer("The answer is 1. No: The answer is -2.") == "-2"
    assert final_answer("The answer is") is None


def test_records_are_copied_from_the_prompt() -> None:
    for index in range(200):
        text = generate("records", "test", 5, index)
        assert text.answer == text.completion
        assert matches(text.completion + "\n", text.answer)
        assert not matches(text.completion[:-1], text.answer)
        if text.completion.startswith("{"):
            shown = json.loads(text.prompt.split("\n")[1])
            assert json.loads(text.completion).items() <= shown.items()
