"""Define the task Spec-Bench: common prompts for comparing methods of speculative decoding (Xia et al. 2024).

The task has the paper's six categories of 80 prompts. The eight categories of the MT-bench part count as one, `mt_bench`, and
its conversations have two turns. The task has no score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sdbench.tasks.conversation import Conversation
from sdbench.tasks.rows import Row

_OWN_CATEGORIES = ("translation", "summarization", "qa", "math_reasoning", "rag")


class SpecBench(Conversation):
    """Read a turn of the 480 conversations. The hub has no official copy, so the source is the file in the authors' repository."""

    name = "spec_bench"
    file_name = "spec_bench.jsonl"
    default_hub: ClassVar[Mapping[str, Any] | None] = {
        "path": "json",
        "data_files": "https://raw.githubusercontent.com/hemingkx/Spec-Bench/main/data/spec_bench/question.jsonl",
        "split": "train",
    }
    default_max_new_tokens = 512

    def turns(self, row: Row) -> tuple[str, list[str], str]:
        category = row.text("category")
        own = category if category in _OWN_CATEGORIES else "mt_bench"
        return f"spec_bench/{row.get('question_id', int)}", [turn.strip() for turn in row.texts("turns")], own
