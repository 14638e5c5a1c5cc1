"""Tokens per second of the arms against batch size, from one run for each: a table.

python -m experiments.bench.batch OUT RUN ...
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from experiments.script import script
from sdbench.runs.record import load


def rows(folders: list[Path]) -> pd.DataFrame:
    """One row for each arm of each run; `over_one`: against the same arm at the smallest batch."""
    found = pd.DataFrame(
        [
            {
                "arm": name,
                "batch_size": run.config["batch_size"],
                "tokens_per_second": arm["tokens_per_second"],
                "model_time_fraction": arm["model_time_fraction"],
                "memory_bytes": arm["memory_bytes"],
            }
            for run in map(load, folders)
            for name, arm in run.summary["arms"].items()
        ]
    ).sort_values(["arm", "batch_size"])
    first = found.groupby("arm")["tokens_per_second"].transform("first")
    return found.assign(over_one=found["tokens_per_second"] / first)


def main(out_folder: str, *run_folders: str) -> None:
    out, table = Path(out_folder), rows([Path(folder) for folder in run_folders])
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "batch.csv", index=False, float_format="%.6g")
    print(table.to_string(index=False))


if __name__ == "__main__":
    script(main, __doc__, 2, more=True)
