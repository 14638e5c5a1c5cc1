"""Generate the training and test texts of the tiny family: pure Python, without state; seed and index determine a text."""

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
    """Return the text of a kind with this index; earlier calls do not influence it. Errors: ValueError for an unknown kind."""
    if kind not in GENERATORS:
        raise ValueError(f"unknown kind of text '{kind}': use one of {', '.join(GENERATORS)}")
    return GENERATORS[kind](split, seed, index)
