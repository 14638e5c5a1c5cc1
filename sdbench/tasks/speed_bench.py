"""Define the task SPEED-Bench (2604.09557): 880 prompts in eleven categories, and prompts of fixed lengths.

The published set (hub nvidia/SPEED-Bench) holds ids and categories. It lacks many texts, because they belong to other data sets.
The user fetches them with `prepare_data.py` of specdec_bench (github NVIDIA/Model-Optimizer). The task has no score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdbench import validate
from sdbench.tasks.conversation import Conversation
from sdbench.tasks.rows import Row

SPLITS = ("qualitative", "throughput_1k", "throughput_2k", "throughput_8k", "throughput_16k", "throughput_32k")
_NOT_FETCHED = "FULL BENCHMARK DATA SHOULD BE FETCHED"  # how the text of a prompt begins that is not there


class SpeedBench(Conversation):
    """Read a turn of a split.

    split: qualitative, or throughput_N with inputs of N tokens. The file is `speed/SPLIT/test.parquet` in the folder that
    SDBENCH_DATA names, where `prepare_data.py --output_dir $SDBENCH_DATA` writes it. path: another file. answers, category, stop,
    max_new_tokens: as in `Conversation`.
    """

    default_max_new_tokens = 512

    def __init__(self, split: str = "qualitative", answers: str | Sequence[str] | None = None, **named: Any) -> None:
        validate.choice("tasks.split", split, SPLITS)
        self.name = "speed_bench" if split == "qualitative" else f"speed_bench_{split}"
        self.file_name = f"speed/{split}/test.parquet"  # pyright: ignore[reportAttributeAccessIssue]
        super().__init__(answers, **named)

    def turns(self, row: Row) -> tuple[str, list[str], str]:
        turns = row.texts("turns")
        if turns[0].startswith(_NOT_FETCHED):
            raise row.refuse(
                "the text of this prompt is not there: fetch the texts with specdec_bench's `prepare_data.py --config all`."
            )
        return f"{self.name}/{row.label('question_id')}", turns, row.text("category")
