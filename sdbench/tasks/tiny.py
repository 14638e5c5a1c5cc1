"""The tasks of the tiny family: held-out texts of the generators that it was trained on.

All are synthetic, and labelled so. Prompts are plain text: the tiny tokenizer has no chat template.
"""

from __future__ import annotations

from typing import ClassVar

from sdbench.errors import InputError
from sdbench.tasks.base import Prompt, check_limit
from sdbench.tasks.dataset import reference_of
from sdbench.tasks.texts import final_answer, generate, records


class TinyTask:
    """Prompts of one generator's test split, whose contents never occur in training.

    count: how many prompts there are. seed: which texts. max_new_tokens: the longest answer, in tokens.
    """

    name: ClassVar[str]
    default_max_new_tokens: ClassVar[int]
    scored: bool = True
    synthetic: bool = True
    stop: tuple[str, ...] = ()

    def __init__(self, count: int = 1000, seed: int = 0, max_new_tokens: int | None = None) -> None:
        if count < 1:
            raise InputError(f"tasks.count is {count}; it must be a positive number of prompts.")
        self.count = count
        self.seed = seed
        self.max_new_tokens = self.default_max_new_tokens if max_new_tokens is None else max_new_tokens

    def prompts(self, limit: int | None = None) -> list[Prompt]:
        """The first `limit` of the `count` prompts."""
        check_limit(limit)
        count = self.count if limit is None else min(limit, self.count)
        texts = [generate(self.name, "test", self.seed, index) for index in range(count)]
        return [
            Prompt(f"{self.name}/{self.seed}/{index}", text.prompt, reference=text.answer)
            for index, text in enumerate(texts)
        ]

    def score(self, prompt: Prompt, text: str) -> float | None:
        """None, unless a subclass knows better."""
        return None


class WordProblems(TinyTask):
    """Arithmetic word problems: 1 if the final answer that the text states is right."""

    name = "wordproblems"
    default_max_new_tokens = 192

    def score(self, prompt: Prompt, text: str) -> float:
        return float(final_answer(text) == reference_of(prompt))


class Records(TinyTask):
    """Records to be copied or summarised: 1 if the output is the wanted one, character for character."""

    name = "records"
    default_max_new_tokens = 192

    def score(self, prompt: Prompt, text: str) -> float:
        return float(records.matches(text, reference_of(prompt)))


class Stories(TinyTask):
    """Free stories, high in entropy. There is no right answer, so no score."""

    name = "stories"
    default_max_new_tokens = 192
    scored = False
