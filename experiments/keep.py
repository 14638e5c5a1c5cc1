"""Keep a finished run as a reference result, small enough to commit: all but its traces, and its report.

python experiments/keep.py RUN_FOLDER NAME
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from sdbench.analysis.report import report

FILES = ("summary.json", "config.yaml", "environment.json", "sequences.parquet")


def main(run: Path, name: str) -> None:
    kept = Path(__file__).resolve().parents[1] / "results" / name
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    report([run], kept)
    for file in FILES:
        shutil.copy(run / file, kept / file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
