"""Measure what blocked copies of the weights gain (`sdbench.lm.prepacked`): the target's time for a step over n tokens.

    python -m experiments.benchmarks.prepacked OUT.json [OVERRIDE ...]

The overrides are those of `sdbench run`. The target is loaded twice, as it is and with blocked copies, and both are timed in turn.
OUT.json gets the median seconds of each size, with 95 % intervals.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from sdbench.harness.config import compose
from sdbench.harness.plan import load_role, prepare
from sdbench.harness.tree_plan import TreeClock, time_in_turn
from sdbench.runs.environment import cpu_model

SIZES = (0, 1, 2, 3, 4, 5, 7, 9, 11, 15, 23, 31)  # tokens behind the last decided one
CONTEXT = 256
REPEATS = 41


def measure(overrides: list[str]) -> dict[str, object]:
    """Return the times of the steps, by kind and number of tokens."""
    clocks, plan = {}, None
    for kind, prepacked in (("plain", "false"), ("prepacked", "true")):
        plan = prepare(compose(["arms=[ar]", "tracker=none", *overrides, f"hardware.prepack={prepacked}"]))
        plan.take_cores()
        clocks[kind] = TreeClock(load_role(plan, "target"), CONTEXT, max(SIZES))
    assert plan is not None
    curves = time_in_turn(clocks, dict.fromkeys(clocks, SIZES), REPEATS)
    return {
        "model": str(plan.specs["target"].path).rsplit("/", 1)[-1],
        "machine": cpu_model(),
        "dtype": plan.config["hardware"]["dtype"],
        "threads": torch.get_num_threads(),
        "context": CONTEXT,
        "repeats": REPEATS,
        "torch": torch.__version__,
        "seconds": {
            kind: {size + 1: [curve.median(size), *curve.interval(size)] for size in SIZES}
            for kind, curve in curves.items()
        },
    }


if __name__ == "__main__":
    found = measure(sys.argv[2:])
    Path(sys.argv[1]).parent.mkdir(parents=True, exist_ok=True)
    Path(sys.argv[1]).write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))
