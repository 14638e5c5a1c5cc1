"""Define the task Spec-Bench: common prompts for comparing methods of speculative decoding (Xia et al. 2024), first turns only.

The task has the paper's six categories of 80 prompts. The eight categories of the MT-bench part count as one, `mt_bench`. The
task has no score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sdbench.tasks.base import Message, Prompt
from sdbench.tasks.dataset import DatasetTask
from sdbench.tasks.rows import Row

_OWN_CATEGORIES = ("translation", "summarization", "qa", "math_reasoning", "rag")


class SpecBench(DatasetTask):
    """Read the 480 first turns. The hub has no official copy, so the source is the file in the authors' repository."""

    name = "spec_bench"
    file_name = "spec_bench.jsonl"
    default_hub: ClassVar[Mapping[str, Any] | None] = {
        "path": "json",
        "data_files": "https://raw.githubusercontent.com/hemingkx/Spec-Bench/main/data/spec_bench/question.jsonl",
        "split": "train",
    }
    default_max_new_tokens = 512

    def prompt(self, row: Row) -> Prompt:
        turn = row.first("turns").strip()
        category = row.text("category")
        return Prompt(
            id=f"spec_bench/{row.get('question_id', int)}",
            text=turn,
            messages=(Message("user", turn),),
            category=category if category in _OWN_CATEGORIES else "mt_bench",
        )
