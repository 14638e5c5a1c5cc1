"""How far two processes slow each other on this machine: that they do not is the premise of drafting beside the target.

python -m experiments.ssd.contention OUT [models=...]

A verification and a step of the draft's tree, each over slots of its own and on a core of its own, alone and both at once, in turn;
medians of `TURNS` turns. Where both at once take longer, the cores are not two whole ones: they share caches, memory or more.
"""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from experiments.bench.scaling import Shape, Stepper
from experiments.script import script
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
    """Step for so long: the seconds of each step."""
    stepper.seconds.clear()
    until = perf_counter() + seconds
    while perf_counter() < until:
        stepper.step()
    return list(stepper.seconds)


@torch.inference_mode()
def beside(pipe: Any, model: Transformer, core: int) -> None:
    """The other process: works for as long as it is told, until it is told 0."""
    die_with_parent()
    pin((core,))
    torch.set_num_threads(1)
    stepper = Stepper(model, TREE)
    while seconds := pipe.recv():
        pipe.send(work(stepper, seconds))


@torch.inference_mode()
def measure(target: Transformer, draft: Transformer) -> dict[str, dict[str, float]]:
    """Median seconds of both kinds of step, `alone` and with `both` at work, and their ratio."""
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
    names = {
        "verify": f"verify {VERIFY.tokens} tokens (target)",
        "tree": f"a tree's step, {TREE.tokens} branches (draft)",
    }
    lines = ["| step | alone (ms) | both at once (ms) | slower by |", "| --- | ---: | ---: | ---: |"]
    for kind, row in found.items():
        lines.append(
            f"| {names[kind]} | {1e3 * row['alone']:.2f} | {1e3 * row['both']:.2f} | {row['slowdown'] - 1:.0%} |"
        )
    return "\n".join(lines) + "\n"


def main(out_folder: str, *overrides: str) -> None:
    if len(usable()) < 2:
        raise InputError("One core is all that there is to use; two processes need one each.")
    plan = prepare(compose(["arms=[ar,sd]", "limit=1", "tracker=none", "hardware=cpu_pair", *overrides]))
    plan.take_cores()
    models, out = load(plan), Path(out_folder)
    found = measure(models["target"], models["draft"])
    out.mkdir(parents=True, exist_ok=True)
    (out / "contention.json").write_text(json.dumps(found, indent=2) + "\n")
    (out / "contention.md").write_text(text(found))
    print(text(found))


if __name__ == "__main__":
    script(main, __doc__, 1, more=True)
