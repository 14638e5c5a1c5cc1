"""Define the task GSM8K: grade-school word problems (Cobbe et al. 2021), zero-shot with worked steps.

The chat form asks for steps and for a last line `#### <number>`, the ending of the solutions in the data set. The score is 1 if
the final number of the text equals the reference in value. The search follows lm-eval's `flexible-extract`, with one
difference: a number stated as the answer has priority over a later number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sdbench.tasks.answers import last_number, same_number
from sdbench.tasks.base import Message, Prompt
from sdbench.tasks.dataset import DatasetTask, reference_of
from sdbench.tasks.rows import Row

_CHAT = (
    "{question}\n\nThink step by step, and end with a line that holds only #### followed by the final answer as a "
    "number, for example: #### 42"
)
_PLAIN = "Question: {question}\nAnswer: Let's think step by step."


class GSM8K(DatasetTask):
    """Read the 1,319 problems of the test split."""

    name = "gsm8k"
    file_name = "gsm8k_test.jsonl"
    default_hub: ClassVar[Mapping[str, Any] | None] = {"path": "openai/gsm8k", "name": "main", "split": "test"}
    default_max_new_tokens = 320
    scored = True
    default_stop = ("\nQuestion:",)

    def prompt(self, row: Row) -> Prompt:
        question = row.text("question").strip()
        _, mark, answer = row.text("answer").rpartition("####")
        if not mark or last_number(answer) is None:
            raise row.refuse("the field 'answer' should end with '#### <number>'.")
        chat = (Message("user", _CHAT.format(question=question)),)
        return Prompt(f"gsm8k/{row.number}", _PLAIN.format(question=question), chat, answer.strip())

    def score(self, prompt: Prompt, text: str) -> float:
        """Return 1 if the final number is right, else 0."""
        number = last_number(text)
        return float(number is not None and same_number(number, reference_of(prompt)))
