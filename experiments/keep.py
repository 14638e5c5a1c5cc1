"""Keep a finished run as a reference result, small enough to commit: all but its traces, and its report.

python experiments/keep.py RUN_FOLDER NAME
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from sdbench.analysis.report import report

FILES = ("summary.json", "environment.json", "sequences.parquet")


def main(run: Path, name: str) -> None:
    kept = Path(__file__).resolve().parents[1] / "results" / name
    making = kept.with_name(f".{kept.name}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    report([run], making, page=False)
    for file in FILES:
        shutil.copy(run / file, making / file)
    config = without_folders(yaml.safe_load((run / "config.yaml").read_text()))
    (making / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    # What is there gives way only to what is whole.
    shutil.rmtree(kept, ignore_errors=True)
    making.rename(kept)


def without_folders(value: Any) -> Any:
    """The config with absolute paths cut to their last part: where files lay on one machine is of no use on another."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
