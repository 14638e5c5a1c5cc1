"""Published sets from the folder that SDBENCH_DATA names, where lm-eval would go to the hub.

A copy has the rows of the hub's set, one JSON object a line; CommonsenseQA may also be as its authors publish it. Where a task
draws worked examples from a split that the copy lacks, they are drawn from the split that is tested, without the question itself;
the record says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdbench.errors import InputError
from sdbench.tasks.rows import DATA_FOLDER, rows_of

if TYPE_CHECKING:
    from datasets import Dataset

# The hub's name of each set, and which file holds which split.
COPIES: dict[str, dict[str, str]] = {
    "openai/gsm8k": {"test": "gsm8k_test.jsonl", "train": "gsm8k_train.jsonl"},
    "openai/openai_humaneval": {"test": "humaneval.jsonl.gz"},
    "google-research-datasets/mbpp": {"test": "mbpp_test.jsonl"},
    "tau/commonsense_qa": {"validation": "commonsense_qa_dev.jsonl", "train": "commonsense_qa_train.jsonl"},
    "cais/mmlu": {"test": "mmlu_test.jsonl", "dev": "mmlu_dev.jsonl"},
    "google/IFEval": {"train": "ifeval.jsonl"},
    "HuggingFaceH4/MATH-500": {"test": "math500.jsonl"},
}


class Copy:
    """A set that is read from files: what lm-eval calls in place of `datasets.load_dataset`.

    dataset: the hub's name; part: which of its parts (None: all); files: by split.
    """

    def __init__(self, dataset: str, part: str | None, files: Mapping[str, Path]) -> None:
        self.dataset, self.part, self.files = dataset, part, dict(files)

    def __repr__(self) -> str:
        return f"{self.dataset} from {DATA_FOLDER}: " + ", ".join(file.name for file in self.files.values())

    def __call__(self, **_: Any) -> dict[str, Dataset]:
        """The splits. Errors: InputError if a file cannot be read."""
        from datasets import Dataset

        splits = {}
        for split, file in self.files.items():
            rows = [_as_on_the_hub(row.fields) for row in rows_of(self.dataset, str(file), None, None)]
            # MMLU's subjects are parts of the hub's set; a copy holds all of them in one file.
            own = [row for row in rows if self.part is None or row.get("subject", self.part) == self.part]
            if not own:
                raise InputError(f"{file} has no rows of the part '{self.part}' of {self.dataset}.")
            splits[split] = Dataset.from_list(own)
        return splits


def with_copy(config: dict[str, Any]) -> dict[str, Any]:
    """A task's config that reads its set from SDBENCH_DATA, if the split that it tests is there; else as it was."""
    folder, files = os.environ.get(DATA_FOLDER), COPIES.get(str(config.get("dataset_path")), {})
    if not folder or config.get("custom_dataset"):
        return config
    there = {split: Path(folder) / name for split, name in files.items() if (Path(folder) / name).is_file()}
    tested = config.get("test_split") or config.get("validation_split")
    if tested not in there:
        return config
    local = {**config, "custom_dataset": Copy(config["dataset_path"], config.get("dataset_name"), there)}
    if (config.get("fewshot_split") or config.get("training_split")) in there or _own_examples(config):
        return local
    # lm-eval leaves a question out of its own examples only where both come from what it calls the test split.
    return {**local, "training_split": None, "validation_split": None, "test_split": tested, "fewshot_split": tested}


def _own_examples(config: Mapping[str, Any]) -> bool:
    """Whether the task's file holds its worked examples itself."""
    return bool((config.get("fewshot_config") or {}).get("samples"))


def _as_on_the_hub(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row in the hub's columns: CommonsenseQA's authors nest the choices in the question."""
    nested = row.get("question")
    if not isinstance(nested, dict):
        return dict(row)
    choices = nested["choices"]
    columns = {key: [choice[key] for choice in choices] for key in ("label", "text")}
    return {**row, "question": nested["stem"], "choices": columns}
