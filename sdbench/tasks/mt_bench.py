"""Define the task MT-bench: open questions in eight categories (Zheng et al. 2023), first turns only.

The task has no score, because a score needs a judge model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sdbench.tasks.base import Message, Prompt
from sdbench.tasks.dataset import DatasetTask
from sdbench.tasks.rows import Row


class MTBench(DatasetTask):
    """Read the 80 first turns. Categories: writing, roleplay, reasoning, math, coding, extraction, stem, humanities."""

    name = "mt_bench"
    file_name = "mt_bench.jsonl"
    default_hub: ClassVar[Mapping[str, Any] | None] = {"path": "HuggingFaceH4/mt_bench_prompts", "split": "train"}
    default_max_new_tokens = 512

    def prompt(self, row: Row) -> Prompt:
        # The hub's copy calls these fields `prompt` and `prompt_id`.
        turns, number = ("turns", "question_id") if "turns" in row else ("prompt", "prompt_id")
        turn = row.first(turns).strip()
        return Prompt(
            id=f"mt_bench/{row.get(number, int)}",
            text=turn,
            messages=(Message("user", turn),),
            category=row.text("category"),
        )
