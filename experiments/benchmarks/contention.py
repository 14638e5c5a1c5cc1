"""Measure how far two processes slow each other on this machine. Asynchronous drafting assumes that they do not.

    python -m experiments.benchmarks.contention OUT [overrides of `sdbench run`: models=, ...]

A verification of the target and a tree step of the draft run on a core each: alone, and both at once, in turn. The table holds
medians over `TURNS` turns. If both at once take longer, the two cores share caches, memory bandwidth or execution units.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.scaling import Shape, Stepper
from sdbench.analysis.report.grid import Column, Grid
from sdbench.child_process import die_with_parent
from sdbench.device import pin, usable
from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.harness.plan import load, prepare
from sdbench.lm.transformer import Transformer

TURNS, SECONDS = 20, 0.5
CONTEXT = 160
VERIFY = Shape("contention", "target", 1, 5, CONTEXT)  # K = 4
TREE = Shape("contention", "draft", 1, 12, CONTEXT, wide=True)


def work(stepper: Stepper, seconds: float) -> list[float]:
    """Make steps for some seconds; return the seconds of each step."""
    stepper.seconds.clear()
    until = perf_counter() + seconds
    while perf_counter() < until:
        stepper.step()
    return list(stepper.seconds)


@torch.inference_mode()
def beside(pipe: Any, model: Transformer, core: int) -> None:
    """Be the other process: receive a number of seconds, make steps for that long, send their times; end at 0."""
    die_with_parent()
    pin((core,))
    torch.set_num_threads(1)
    stepper = Stepper(model, TREE)
    while seconds := pipe.recv():
        pipe.send(work(stepper, seconds))


@torch.inference_mode()
def measure(target: Transformer, draft: Transformer) -> dict[str, dict[str, float]]:
    """Return median seconds of both kinds of step, `alone` and with `both` processes at work, and their ratio."""
    context, stepper = multiprocessing.get_context("spawn"), Stepper(target, VERIFY)
    pipe, far = context.Pipe()
    process = context.Process(target=beside, args=(far, draft.bare(), usable()[-1]), daemon=True)
    process.start()
    far.close()  # so that its end is the pipe's
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(TURNS + 1):  # the first warms up
        for verifies, drafts in ((True, False), (False, True), (True, True)):
            when = "both" if verifies and drafts else "alone"
            if drafts:
                pipe.send(SECONDS)
            found = {"verify": work(stepper, SECONDS)} if verifies else {}
            if drafts:
                found["tree"] = pipe.recv()
            for kind, seconds in found.items():
                times.setdefault((kind, when), []).extend(seconds if turn else [])
    pipe.send(0)
    process.join()
    medians = {key: float(np.median(seconds)) for key, seconds in times.items()}
    return {
        kind: {
            **{when: medians[kind, when] for when in ("alone", "both")},
            "slowdown": medians[kind, "both"] / medians[kind, "alone"],
        }
        for kind in ("verify", "tree")
    }


def text(found: dict[str, dict[str, float]]) -> str:
    """Show the result as a table in Markdown."""
    names = {
        "verify": f"verify {VERIFY.tokens} tokens (target)",
        "tree": f"a step of the tree, {TREE.tokens} branches (draft)",
    }
    rows = [[names[kind], 1e3 * row["alone"], 1e3 * row["both"], row["slowdown"] - 1] for kind, row in found.items()]
    columns = [
        Column("step"),
        Column("alone (ms)", ".2f"),
        Column("both at once (ms)", ".2f"),
        Column("slower by", ".0%"),
    ]
    return Grid(columns, rows).markdown()


def main(argv: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options, overrides = parser.parse_known_args(argv)
    try:
        if len(usable()) < 2:
            raise InputError("This process may use one core only; two processes need one each.")
        plan = prepare(compose(["arms=[ar,sd]", "limit=1", "tracker=none", "hardware=cpu_pair", *overrides]))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    plan.take_cores()
    models = load(plan)
    found = measure(models["target"], models["draft"])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "contention.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
