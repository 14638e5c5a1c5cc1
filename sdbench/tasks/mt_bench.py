"""Define the task MT-bench: open questions of two turns in eight categories (Zheng et al. 2023).

The task has no score, because a score needs a judge model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sdbench.tasks.conversation import Conversation
from sdbench.tasks.rows import Row


class MTBench(Conversation):
    """Read a turn of the 80 conversations. Categories: writing, roleplay, reasoning, math, coding, extraction, stem, humanities."""

    name = "mt_bench"
    file_name = "mt_bench.jsonl"
    default_hub: ClassVar[Mapping[str, Any] | None] = {"path": "HuggingFaceH4/mt_bench_prompts", "split": "train"}
    default_max_new_tokens = 512

    def turns(self, row: Row) -> tuple[str, list[str], str]:
        # The hub's copy calls these fields `prompt` and `prompt_id`.
        turns, number = ("turns", "question_id") if "turns" in row else ("prompt", "prompt_id")
        return f"mt_bench/{row.get(number, int)}", [turn.strip() for turn in row.texts(turns)], row.text("category")
