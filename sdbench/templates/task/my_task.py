"""`MyTask`: sums of two numbers, and a score that reads the last number of the answer."""

from __future__ import annotations

import re
from itertools import product

from sdbench.tasks import Prompt
from sdbench.tasks.base import check_limit
from sdbench.validate import whole

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class MyTask:
    """Ask for every sum of two numbers from 1 to `largest`.

    largest: the largest number; there are largest x largest prompts. max_new_tokens: the longest answer, in tokens.
    """

    name = "my_task"  # the name in reports
    scored = True  # `score` gives numbers; with False it may return None
    synthetic = True  # a program made the prompts; reports say so
    stop = ("\n",)  # strings that end an answer, besides the model's own end-of-sequence tokens

    def __init__(self, largest: int = 9, max_new_tokens: int = 24) -> None:
        self.largest = whole("tasks.largest", largest, 1)
        self.max_new_tokens = whole("tasks.max_new_tokens", max_new_tokens, 1)

    def prompts(self, limit: int | None = None) -> list[Prompt]:
        """Return the first `limit` prompts, or all. The order never changes, so runs can be paired."""
        check_limit(limit)
        numbers = range(1, self.largest + 1)
        prompts = [
            Prompt(
                id=f"{self.name}/{a}+{b}",  # unique in the task
                text=f"Q: What is {a} + {b}?\nA:",  # what a base model continues
                # messages=(Message("user", "..."),) is the form for chat models; without it they get the plain text
                reference=str(a + b),  # what `score` compares with
                category="carry" if a + b > 9 else "no carry",  # groups of the report
            )
            for a, b in product(numbers, numbers)
        ]
        return prompts[:limit]

    def score(self, prompt: Prompt, text: str) -> float:
        """Return 1 if the last number of the answer is the sum, else 0. The text ends before the stop string."""
        numbers = NUMBER.findall(text)
        return float(bool(numbers) and float(numbers[-1]) == float(prompt.reference or "nan"))
