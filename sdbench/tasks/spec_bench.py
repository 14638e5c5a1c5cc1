"""Spec-Bench: the prompts that speculative decoding is most often compared on (Xia et al. 2024), first turns only.

Six categories of 80, as the paper groups them; the eight categories of its MT-bench part count as one, `mt_bench`. Not
scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sdbench.tasks.base import Message, Prompt
from sdbench.tasks.dataset import DatasetTask
from sdbench.tasks.rows import Row

_OWN_CATEGORIES = ("translation", "summarization", "qa", "math_reasoning", "rag")


class SpecBench(DatasetTask):
    """The 480 first turns. The hub has no official copy, so the file of the authors' repository is read instead."""

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
