"""Define the tasks of the tiny family: held-out texts of the generators that wrote its training texts.

All tasks are synthetic, and reports label them so. Prompts are plain text, because the tiny tokenizer has no chat template.
"""

from __future__ import annotations

from typing import ClassVar

from sdbench.errors import InputError
from sdbench.tasks.base import Prompt, check_limit
from sdbench.tasks.dataset import reference_of
from sdbench.tasks.texts import final_answer, generate, records


class TinyTask:
    """Provide prompts of one generator's test split, whose contents never occur in training.

    count: number of prompts. seed: seed of the generator. max_new_tokens: the longest answer, in tokens (None: the
    default of the class). Errors: InputError.
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
        """Return the first `limit` of the `count` prompts (None: all)."""
        check_limit(limit)
        count = self.count if limit is None else min(limit, self.count)
        texts = [generate(self.name, "test", self.seed, index) for index in range(count)]
        return [
            Prompt(f"{self.name}/{self.seed}/{index}", text.prompt, reference=text.answer)
            for index, text in enumerate(texts)
        ]

    def score(self, prompt: Prompt, text: str) -> float | None:
        """Return None: the task has no score, unless a subclass defines one."""
        return None


class WordProblems(TinyTask):
    """Provide arithmetic word problems. The score is 1 if the final answer in the text is right."""

    name = "wordproblems"
    default_max_new_tokens = 192

    def score(self, prompt: Prompt, text: str) -> float:
        return float(final_answer(text) == reference_of(prompt))


class Records(TinyTask):
    """Provide records to copy or summarise. The score is 1 if the output equals the reference, except for outer blanks."""

    name = "records"
    default_max_new_tokens = 192

    def score(self, prompt: Prompt, text: str) -> float:
        return float(records.matches(text, reference_of(prompt)))


class Stories(TinyTask):
    """Provide free stories with high entropy. They have no right answer, and so no score."""

    name = "stories"
    default_max_new_tokens = 192
    scored = False
