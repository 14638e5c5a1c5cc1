"""Seeded generators of the texts that the tiny family is trained and tested on: pure Python, stateless by index."""

from collections.abc import Callable

from sdbench.tasks.texts import records, stories, sums, wordproblems
from sdbench.tasks.texts.text import SPLITS, Text, split_of
from sdbench.tasks.texts.wordproblems import final_answer

__all__ = ["GENERATORS", "SPLITS", "Text", "final_answer", "generate", "split_of"]

GENERATORS: dict[str, Callable[[str, int, int], Text]] = {
    wordproblems.KIND: wordproblems.generate,
    records.KIND: records.generate,
    stories.KIND: stories.generate,
    sums.KIND: sums.generate,
}


def generate(kind: str, split: str, seed: int, index: int) -> Text:
    """Write the text of a kind with this index: the same whatever was generated before it."""
    if kind not in GENERATORS:
        raise ValueError(f"unknown kind of text '{kind}': use one of {', '.join(GENERATORS)}")
    return GENERATORS[kind](split, seed, index)
