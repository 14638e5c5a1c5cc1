"""`MyTask`: word problems with two steps, and a score that reads the number of "The answer is N."."""

from __future__ import annotations

import re
from itertools import product

from sdbench.tasks import Prompt
from sdbench.tasks.base import check_limit
from sdbench.validate import whole

# One fixed form. The last number of a text may be a step, a list's number or a unit.
STATED = re.compile(r"The answer is (-?\d+)\.(?!\d)")


class MyTask:
    """Ask how many books are left.

    largest: the largest number of books at first, at least 10. max_new_tokens: the longest answer, in tokens.
    """

    name = "my_task"  # the name in reports
    scored = True  # `score` gives numbers; a task without a score says False, and returns None
    synthetic = True  # a program made the prompts; reports say so
    stop = ("\nQuestion:",)  # strings that end an answer, besides the model's own end-of-sequence tokens

    def __init__(self, largest: int = 40, max_new_tokens: int = 128) -> None:
        self.largest = whole("tasks.largest", largest, 10)
        self.max_new_tokens = whole("tasks.max_new_tokens", max_new_tokens, 1)

    def prompts(self, limit: int | None = None) -> list[Prompt]:
        """Return the first `limit` prompts, or all. The order never changes, so runs can be paired."""
        check_limit(limit)
        prompts = [
            Prompt(
                id=f"{self.name}/{books}+{more}",  # unique in the task
                # What a base model continues. A chat model also gets it, unless messages=(Message("user", ...),) is set.
                text=f"Question: Leo has {books} books. First, he buys {more} more. Next, he sells 4 of them. "
                "How many books does Leo have now?\nAnswer:",
                reference=str(books + more - 4),  # what `score` compares with
                category=f"{books // 10 * 10} books and more",  # groups of the report
            )
            for more, books in product(range(2, 12), range(10, self.largest + 1))
        ]
        return prompts[:limit]

    def score(self, prompt: Prompt, text: str) -> float:
        """Return 1 if the last stated answer is right, else 0. The text ends before the stop string."""
        stated = STATED.findall(text)
        return float(stated[-1:] == [prompt.reference])
