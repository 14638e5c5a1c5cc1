"""Read published data sets from the folder that SDBENCH_DATA names, instead of from the hub.

A copy has the rows of the hub's set, one JSON object per line. CommonsenseQA may also have its authors' format. A task may draw
worked examples from a split that the copy lacks. Then lm-eval draws them from the test split, without the question itself, and the
record says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdbench.errors import InputError
from sdbench.hub_access import data_set_at_hand
from sdbench.tasks.rows import DATA_FOLDER, rows_of

if TYPE_CHECKING:
    from datasets import Dataset

# By the hub's name of each set: the file of each split. The split of the questions is the first.
COPIES: dict[str, dict[str, str]] = {
    "openai/gsm8k": {"test": "gsm8k_test.jsonl", "train": "gsm8k_train.jsonl"},
    "openai/openai_humaneval": {"test": "humaneval.jsonl.gz"},
    "google-research-datasets/mbpp": {"test": "mbpp_test.jsonl"},
    "tau/commonsense_qa": {"validation": "commonsense_qa_dev.jsonl", "train": "commonsense_qa_train.jsonl"},
    "cais/mmlu": {"test": "mmlu_test.jsonl", "dev": "mmlu_dev.jsonl"},
    "google/IFEval": {"train": "ifeval.jsonl"},
    "HuggingFaceH4/MATH-500": {"test": "math500.jsonl"},
}

# By lm-eval's name of each task that has a config file: the hub's name of its data set.
DATA_SETS = {
    "gsm8k_cot_zeroshot": "openai/gsm8k",
    "commonsense_qa_cot_zeroshot": "tau/commonsense_qa",
    "humaneval_instruct": "openai/openai_humaneval",
    "mbpp": "google-research-datasets/mbpp",
    "mmlu_generative": "cais/mmlu",
    "ifeval": "google/IFEval",
    "math500": "HuggingFaceH4/MATH-500",
}


class Copy:
    """A data set in local files. lm-eval calls it instead of `datasets.load_dataset`.

    dataset: the hub's name. part: the part of the set (None: all parts). files: the file of each split.
    """

    def __init__(self, dataset: str, part: str | None, files: Mapping[str, Path]) -> None:
        self.dataset, self.part, self.files = dataset, part, dict(files)

    def __repr__(self) -> str:
        return f"{self.dataset} from {DATA_FOLDER}: " + ", ".join(file.name for file in self.files.values())

    def __call__(self, **_: Any) -> dict[str, Dataset]:
        """Read the splits, by name. Errors: InputError if a file cannot be read, or has no rows of the part."""
        from datasets import Dataset

        splits = {}
        for split, file in self.files.items():
            rows = [_as_on_the_hub(row.fields) for row in rows_of(self.dataset, str(file), None, None)]
            # MMLU's subjects are parts of the hub's set. A copy holds all subjects in one file.
            own = [row for row in rows if self.part is None or row.get("subject", self.part) == self.part]
            if not own:
                raise InputError(f"{file} has no rows of the part '{self.part}' of {self.dataset}.")
            splits[split] = Dataset.from_list(own)
        return splits


def with_copy(config: dict[str, Any]) -> dict[str, Any]:
    """Make a task's config read its data set from SDBENCH_DATA. Without a copy of the test split, return the config unchanged."""
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
    # lm-eval excludes a question from its own worked examples only if both come from the config's `test_split`.
    return {**local, "training_split": None, "validation_split": None, "test_split": tested, "fewshot_split": tested}


def check_source(dataset: str) -> None:
    """Check that a data set can be read, without lm-eval. Errors: InputError."""
    folder, files = os.environ.get(DATA_FOLDER), list(COPIES[dataset].values())
    if folder and (Path(folder) / files[0]).is_file():
        rows_of(dataset, str(Path(folder) / files[0]), None, None)
    else:
        check_at_hand(dataset)


def check_at_hand(dataset: str) -> None:
    """Check that the hub or its cache may give a data set. Errors: InputError.

    If the hub is unreachable, this also sets its clients to read only their cache.
    """
    if not data_set_at_hand(dataset):
        raise InputError(f"The data set {dataset} is not here and the hub does not answer{advice(dataset)}.")


def advice(dataset: str) -> str:
    """Return the end of a sentence that says how to give a data set; an empty text for a set without a copy."""
    files = list(COPIES.get(dataset, {}).values())
    return f": put {files[0]} into the folder that {DATA_FOLDER} names" if files else ""


def _own_examples(config: Mapping[str, Any]) -> bool:
    """Tell whether the task's file contains its worked examples."""
    return bool((config.get("fewshot_config") or {}).get("samples"))


def _as_on_the_hub(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a row to the hub's columns. The authors' format of CommonsenseQA nests the choices in the question."""
    nested = row.get("question")
    if not isinstance(nested, dict):
        return dict(row)
    choices = nested["choices"]
    columns = {key: [choice[key] for choice in choices] for key in ("label", "text")}
    return {**row, "question": nested["stem"], "choices": columns}
