"""Measure the chain of levels that `sdbench tune` chose against the chains that it rejected.

    python -m experiments.benchmarks.hierarchies [models=NAME tasks=NAME hardware=NAME limit=N ...] [--top N] [--out DIR]

`sdbench tune` predicts every chain of the family's models, early exits and look-up. This program then runs these chains as
arms of one run, each with the lengths that `tune` gave it, and compares prediction with measurement. The words are
overrides of `sdbench run`. The run is kept, with its report; `chains.json` in its folder has the table. `--top N` runs only
the N chains with the best predictions.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.harness.plan import prepare
from sdbench.harness.run import run
from sdbench.harness.tune import tune


def arms_of(chains: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the config of an arm for each chain, by a name that lists its levels and lengths."""
    found = {}
    for chain in chains:
        composed = compose(shlex.split(chain["command"])[2:])["arms"]
        name = "ar" if len(chain["levels"]) == 1 else " > ".join(chain["levels"]) + f" {chain['lengths']}"
        found[name] = composed["ar" if name == "ar" else "hierarchy"]
    return found


def compared(chains: Sequence[dict[str, Any]], summary: dict[str, Any]) -> dict[str, Any]:
    """Return predicted and measured speed-ups of each chain, and the rank that the chosen chain has among the measured ones."""
    rows = [
        {
            "chain": name,
            "predicted_speedup": chain["speedup"],
            "planned": chain["planned"],
            "speedup": summary["arms"][name]["speedup"],
            "speedup_ci95": summary["arms"][name]["speedup_ci95"],
            "lossless": summary["arms"][name]["lossless"],
        }
        for chain, name in zip(chains, arms_of(chains), strict=True)
    ]
    order = sorted(rows, key=lambda row: -row["speedup"])
    chosen = rows[0]
    return {
        "chosen": chosen["chain"],
        "rank_measured": order.index(chosen) + 1,
        "best_measured": order[0]["chain"],
        "chosen_over_best": chosen["speedup"] / order[0]["speedup"],
        "chains": order,
    }


def main(argv: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="overrides, as for `sdbench run`, without arms")
    parser.add_argument("--top", type=int, help="run this many chains, those with the best predictions")
    parser.add_argument("--out", type=Path, default=Path("results/runs/hierarchies"))
    options = parser.parse_intermixed_args(argv)
    try:
        found = tune(options.words)["chains"]
        chosen = found[: options.top]
        alone = next(chain for chain in found if len(chain["levels"]) == 1)
        chains = chosen if alone in chosen else [*chosen, alone]
        config = compose(["tracker=none", *options.words, "arms=[ar]", f"out={options.out}", "name=hierarchies"])
        config["arms"] = arms_of(chains)
        folder, summary, _ = run(prepare({**config, "baseline": "ar"}))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    document = compared(chains, summary)
    (folder / "chains.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(pd.DataFrame(document["chains"]).to_string(index=False))
    print(
        f"chosen: {document['chosen']}; measured rank {document['rank_measured']} of {len(chains)}; report: {folder / 'report'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
