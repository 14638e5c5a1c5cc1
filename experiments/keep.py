"""Keep a finished run as a reference result, small enough to commit: all but its traces, and its report.

python -m experiments.keep RUN_FOLDER NAME
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from experiments.script import script
from sdbench.analysis.report.write import report

FILES = ("summary.json", "environment.json", "sequences.parquet")


def main(run_folder: str, name: str) -> None:
    run = Path(run_folder)
    kept = Path(__file__).resolve().parents[1] / "results" / name
    kept.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=kept.parent, prefix=".keeping-") as scratch:
        making = Path(scratch) / kept.name
        making.mkdir()
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
    script(main, __doc__, 2)
