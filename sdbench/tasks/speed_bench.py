"""Define the task SPEED-Bench (2604.09557): 880 prompts in eleven categories, and prompts of fixed lengths; first turns only.

The published set (hub nvidia/SPEED-Bench) holds ids and categories. It lacks many texts, because they belong to other data sets.
The user fetches them with `prepare_data.py` of specdec_bench (github NVIDIA/Model-Optimizer). The task has no score.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdbench import validate
from sdbench.tasks.base import Message, Prompt
from sdbench.tasks.dataset import DatasetTask
from sdbench.tasks.rows import Row

SPLITS = ("qualitative", "throughput_1k", "throughput_2k", "throughput_8k", "throughput_16k", "throughput_32k")
_NOT_FETCHED = "FULL BENCHMARK DATA SHOULD BE FETCHED"  # how the text of a prompt begins that is not there


class SpeedBench(DatasetTask):
    """Read the first turns of a split.

    split: qualitative, or throughput_N with inputs of N tokens. The file is `speed/SPLIT/test.parquet` in the folder that
    SDBENCH_DATA names, where `prepare_data.py --output_dir $SDBENCH_DATA` writes it. path: another file. category, stop,
    max_new_tokens: as in `DatasetTask`.
    """

    default_max_new_tokens = 512

    def __init__(
        self,
        split: str = "qualitative",
        path: str | None = None,
        category: str | Sequence[str] | None = None,
        stop: str | Sequence[str] | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        validate.choice("tasks.split", split, SPLITS)
        super().__init__(path, None, category, stop, max_new_tokens)
        self.name = "speed_bench" if split == "qualitative" else f"speed_bench_{split}"
        self.file_name = f"speed/{split}/test.parquet"  # pyright: ignore[reportAttributeAccessIssue]

    def prompt(self, row: Row) -> Prompt:
        turn = row.first("turns")
        if turn.startswith(_NOT_FETCHED):
            raise row.refuse(
                "the text of this prompt is not there: fetch the texts with specdec_bench's `prepare_data.py --config all`."
            )
        return Prompt(
            id=f"{self.name}/{row.label('question_id')}",
            text=turn,
            messages=(Message("user", turn),),
            category=row.text("category"),
        )
