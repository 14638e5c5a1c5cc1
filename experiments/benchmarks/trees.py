"""Measure T_v(n), the target's time for a verification of n nodes, name the token tree that it recommends, and try that tree.

    python -m experiments.benchmarks.trees OUT.json [--layers N] [overrides of `sdbench run`: models=, tasks=, limit=, ...]

There is a curve for each precision and execution mode. All sizes of all curves are timed in turn, so a slow phase of the machine
affects all of them. A probe run of each curve gives the acceptance by rank and the time around the forwards. The tree of each curve
is the one with the least predicted seconds per token (`fastest_tree`). It then decodes the prompts of the probe again, and OUT.json
gets what was predicted and what was measured. A family without a draft needs --layers: its target's first layers draft.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.harness.plan import Plan, load_role, prepare
from sdbench.harness.run import run
from sdbench.harness.tree_plan import (
    DEPTH,
    PROBE_TREES,
    Curve,
    TreeClock,
    host_line,
    measured_acceptance,
    predictor,
    time_in_turn,
)
from sdbench.runs.environment import cpu_model, git_state
from sdbench.runs.record import Run, load
from sdbench.simulate.events import places
from sdbench.theory.trees import fastest_tree
from sdbench.topology import Topology

ASSETS = "pkg://sdbench/assets/"
MOST = 64  # nodes
COMPILED = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)  # each size needs a program of its own
LEVELS = (0, 1, 2, 3, 4, 6, 8, 12, 16)  # nodes of a depth
COMPILED_LEVELS = (0, 1, 2, 4, 8)
PROBED = 12  # tokens of the probe's chains


@dataclass(frozen=True)
class Options:
    """What to measure. sizes: of all modes; () is every size in eager mode, and COMPILED in the others."""

    modes: Sequence[str]
    dtypes: Sequence[str]
    sizes: Sequence[int]
    repeats: int
    context: int
    layers: int | None
    overrides: Sequence[str]

    def words(self, dtype: str, mode: str) -> list[str]:
        """Return the overrides of a run of one curve."""
        own = [f"hardware.dtype={dtype}", f"hardware.execution={mode}", "tracker=none"]
        if self.layers is not None:
            own += ["arms.sequoia.proposer.model=target", f"+arms.sequoia.proposer.layers={self.layers}"]
        return [*self.overrides, *own]

    def probe(self) -> tuple[str, list[str]]:
        """Return the arm whose ranks are recorded, and its overrides."""
        if self.layers is None:
            return "sd", [f"arms.sd.draft_length={PROBED}"]
        return "early_exit", [
            f"arms.early_exit.draft_length={PROBED}",
            f"arms.early_exit.proposer.layers={self.layers}",
        ]

    def sizes_of(self, mode: str, levels: bool) -> Sequence[int]:
        """Return the sizes of a curve: of the steps that draft a depth, or of verifications."""
        if levels:
            return LEVELS if mode == "eager" else COMPILED_LEVELS
        return self.sizes or (range(1, MOST + 1) if mode == "eager" else COMPILED)


def measure(options: Options) -> dict[str, Any]:
    """Return the document of OUT.json."""
    chain, words = options.probe()
    plans = {
        (dtype, mode): prepare(
            compose([*options.words(dtype, mode), f"arms=[ar,{chain},sequoia]", "name=tree-probe", *words, PROBE_TREES])
        )
        for dtype in options.dtypes
        for mode in options.modes
    }
    curves = time_curves(plans, options)
    found = []
    with TemporaryDirectory(prefix="sdbench-trees-") as scratch:
        for number, (key, plan) in enumerate(plans.items()):
            plan.config["out"] = str(Path(scratch) / f"probe-{number}")
            probe = load(run(plan)[0])
            tree = recommended(probe, chain, curves[*key, "target"], curves[*key, "draft"])
            if tree["nodes"]:
                tree |= tried(options, key, tree, Path(scratch) / f"tried-{number}")
            found.append({"dtype": key[0], "execution": key[1], **curve_of(curves[*key, "target"]), "tree": tree})
    first = next(iter(plans.values()))
    return {
        "target": _name(first, "target"),
        "draft": f"its first {options.layers} layers" if options.layers is not None else _name(first, "draft"),
        "task": first.task.name,
        "prompts": len(first.prompts),
        "context": options.context,
        "repeats": options.repeats,
        "threads": first.config["hardware"]["threads"],
        "machine": cpu_model() if first.devices["target"] == "cpu" else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "revision": (git_state(Path(__file__).resolve().parents[2]) or {}).get("sha"),
        "curves": found,
    }


def time_curves(plans: dict[tuple[str, str], Plan], options: Options) -> dict[Any, Curve]:
    """Time the target and the draft of each precision and mode, all sizes in turn."""
    clocks, sizes = {}, {}
    loaded: dict[tuple[str, str], Any] = {}
    for (dtype, mode), plan in plans.items():
        plan.take_cores()
        for role in ("target", "draft"):
            weights = "target" if options.layers is not None else role
            if (dtype, weights) not in loaded:
                loaded[dtype, weights] = load_role(plan, weights)
            levels = role == "draft"
            own = options.sizes_of(mode, levels)
            key = dtype, mode, role
            layers = options.layers if levels else None
            clocks[key] = TreeClock(loaded[dtype, weights], options.context, max(own), mode, layers, levels)
            sizes[key] = own if levels else (0, *own)
    curves = time_in_turn(clocks, sizes, options.repeats)
    missed = [" ".join(key) for key, clock in clocks.items() if clock.missed]
    if missed:
        raise InputError(f"Some steps did not run in their mode ({', '.join(missed)}): leave out that mode.")
    return curves


def recommended(probe: Run, chain: str, target: Curve, draft: Curve) -> dict[str, Any]:
    """Return the tree of a curve and what is predicted of it. nodes: 0 if no tree is faster than the target alone."""
    tables = probe.tables
    rounds = tables["rounds"]
    strings = [string.tolist() for string in places(rounds[rounds["arm"] == chain])]
    host = host_line(tables, [arm for arm in probe.summary["arms"] if arm.startswith("sequoia[")])
    acceptance = measured_acceptance(strings)
    most = max(target.samples)
    seconds, paths = fastest_tree(acceptance, draft, lambda nodes: target(nodes) + host(nodes), most, DEPTH)
    found = {"acceptance": acceptance, "host_seconds": host(len(paths)), "nodes": len(paths)}
    if not paths:
        return found
    setting = predictor(strings, draft, target, host)(acceptance, len(paths), max(map(len, paths)))
    return {
        **found,
        "depth": setting.depth,
        "parents": list(Topology.from_paths(setting.paths).parent),
        "planned_seconds_per_token": seconds,
        "predicted": {
            "round_seconds": setting.round_seconds,
            "tokens_per_round": setting.tokens_per_round,
            "seconds_per_token": setting.round_seconds / setting.tokens_per_round,
        },
    }


def tried(options: Options, key: tuple[str, str], tree: dict[str, Any], out: Path) -> dict[str, Any]:
    """Decode with a recommended tree. Return what was measured, and predicted / measured of each value."""
    knobs = [
        f"arms.sequoia.proposer.acceptance=[{','.join(map(str, tree['acceptance']))}]",
        f"arms.sequoia.proposer.budget={tree['nodes']}",
        f"arms.sequoia.proposer.depth={tree['depth']}",
    ]
    config = compose([*options.words(*key), "arms=[ar,sequoia]", "name=tree-tried", f"out={out}", *knobs])
    _, summary, _ = run(prepare(config))
    tables = load(out).tables
    sequences, rounds = (tables[name][tables[name]["arm"] == "sequoia"] for name in ("sequences", "rounds"))
    seconds = float(sequences["decode_seconds"].sum())
    tokens = int((sequences["tokens"].map(len) - 1).sum())
    measured = {
        "round_seconds": seconds / len(rounds),
        "tokens_per_round": tokens / len(rounds),
        "seconds_per_token": seconds / tokens,
    }
    return {
        "measured": measured,
        "predicted_over_measured": {name: tree["predicted"][name] / value for name, value in measured.items()},
        "speedup": summary["arms"]["sequoia"]["speedup"],
    }


def curve_of(curve: Curve) -> dict[str, Any]:
    """Return the medians and intervals of a curve, by size."""
    rows = []
    for nodes in sorted(curve.samples):
        low, high = curve.interval(nodes)
        rows.append({"nodes": nodes, "seconds": curve.median(nodes), "low": low, "high": high})
    return {"verification": rows}


def _name(plan: Plan, role: str) -> str:
    path = str(plan.specs[role].path).removeprefix(ASSETS)
    return path.rstrip("/").rsplit("/", 1)[-1] if path.startswith("/") else path


def main(argv: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--modes", default="eager,compile", help="execution modes")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="precisions")
    parser.add_argument("--sizes", default="", help="numbers of nodes; by default every one to 64 in eager mode")
    parser.add_argument("--repeats", type=int, default=21, help="timings of each size")
    parser.add_argument("--context", type=int, default=128, help="tokens before the tree")
    parser.add_argument("--layers", type=int, help="draft with the target's first layers")
    given, overrides = parser.parse_known_args(argv)
    sizes = tuple(int(size) for size in given.sizes.split(",") if size)
    options = Options(
        given.modes.split(","), given.dtypes.split(","), sizes, given.repeats, given.context, given.layers, overrides
    )
    try:
        found = measure(options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for curve in found["curves"]:
        tree = curve["tree"]
        ratio = tree.get("predicted_over_measured", {}).get("seconds_per_token")
        said = f"{tree['nodes']} nodes, predicted / measured {ratio:.3f}" if ratio else "no tree is faster"
        print(f"{curve['dtype']}, {curve['execution']}: {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
