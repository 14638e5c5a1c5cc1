"""Say where the time of a round goes: in the forwards of each model, and around them.

    python -m experiments.benchmarks.rounds RUN ... [--out FILE]

Each RUN is the folder of a finished run. The steps that it recorded give the forwards; the beginnings of two successive
rounds give the length of a round. What is left is time around the forwards: the acceptance rule, the choices, the stop
rule, the record, and the loop. The table holds medians over rounds. Arms whose draft works in another process are left
out: their forwards overlap.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from sdbench.errors import InputError
from sdbench.runs.record import Run, load

AROUND, WHOLE = "around the forwards", "round"
BLOCK = ["block", "repeat"]


def profile(steps: pd.DataFrame) -> dict[str, float]:
    """Return median milliseconds of each part of a round.

    steps: the steps of one arm. A block's last round has no successor, so it is left out.
    """
    decoding = steps[steps["round"] >= 0]
    parts = decoding.assign(part=decoding["role"] + " " + decoding["kind"])
    seconds = parts.pivot_table(
        index=[*BLOCK, "round"], columns="part", values="seconds", aggfunc="sum", fill_value=0.0
    )
    begun = decoding.groupby([*BLOCK, "round"])["begun"].min()
    whole = (begun.groupby(level=BLOCK).shift(-1) - begun).dropna()
    table = seconds.reindex(whole.index)
    table = table.assign(**{AROUND: whole - table.sum(axis=1), WHOLE: whole})
    return {str(part): 1e3 * float(median) for part, median in table.median().items()} | {"rounds": len(table)}


def synchronous(steps: pd.DataFrame) -> bool:
    """Whether all steps of an arm follow one another, and were recorded."""
    concurrent = "concurrent" in steps and steps["concurrent"].eq(True).any()
    return bool(len(steps)) and not concurrent and not steps["kind"].isin(["backup", "glue", "tree", "branch"]).any()


def profiles(run: Run) -> dict[str, Any]:
    """Return the profile of each synchronous arm of a run, and what it was measured on."""
    tables = {arm: run.steps[run.steps["arm"] == arm] for arm in run.summary["arms"]}
    return {
        "execution": run.config["hardware"]["execution"],
        "temperature": run.config["sampling"]["temperature"],
        "machine": run.environment["cpu"]["model"],
        "arms": {arm: profile(steps) for arm, steps in tables.items() if synchronous(steps)},
    }


def main(argv: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("results/rounds/rounds.json"))
    options = parser.parse_args(argv)
    try:
        found = [profiles(load(run)) for run in options.runs]
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(pd.DataFrame({f"{one['execution']}: {arm}": parts for one in found for arm, parts in one["arms"].items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
