"""Define the task HumanEval: Python functions to complete (Chen et al. 2021), as prompts without a score.

A score needs to run the generated code. The task lm_eval/humaneval runs it in a sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sdbench.tasks.base import Message, Prompt
from sdbench.tasks.dataset import DatasetTask
from sdbench.tasks.rows import Row

_CHAT = (
    "Complete this Python function. Answer with the whole function, without an explanation.\n\n```python\n{code}\n```"
)


class HumanEval(DatasetTask):
    """Read the 164 function headers with their docstrings. The plain form of a prompt is the code alone."""

    name = "humaneval"
    file_name = "humaneval.jsonl.gz"
    default_hub: ClassVar[Mapping[str, Any] | None] = {"path": "openai/openai_humaneval", "split": "test"}
    default_max_new_tokens = 384

    def prompt(self, row: Row) -> Prompt:
        code = row.text("prompt")
        return Prompt(row.text("task_id"), code, (Message("user", _CHAT.format(code=code.strip())),))
