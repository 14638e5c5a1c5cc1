"""One comparison: every arm on every prompt, block by block, into a run folder.

For each repeat and each block every arm decodes the block in turn; then a few bare forwards are timed, and the block goes to the
journal. What is in the journal is never done again: a run that was stopped is taken up where it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sdbench.decoding.base import Request
from sdbench.harness.arms import Arm, make
from sdbench.harness.bare import BareForwards
from sdbench.harness.blocks import decode, rotated
from sdbench.harness.build import build
from sdbench.harness.plan import Plan, load, load_role
from sdbench.harness.progress import Progress
from sdbench.lm.weights import weights_identity
from sdbench.runs.environment import environment
from sdbench.runs.identity import run_id
from sdbench.runs.journal import Journal
from sdbench.runs.record import RunFolder, claim
from sdbench.runs.trackers import Tracker
from sdbench.tasks.base import prompts_sha256

WARMUP_TOKENS = 24


def run(plan: Plan) -> tuple[Path, dict[str, Any], bool]:
    """Make the comparison, or take it up: its folder, its summary, and whether anything was left to do."""
    from sdbench.analysis.statistics import FewPrompts
    from sdbench.analysis.summary import summarise
    from sdbench.runs.record import load as load_run

    config = plan.config
    tracker: Tracker = build(config["tracker"], {}, "tracker")
    identities = {role: weights_identity(spec) for role, spec in plan.specs.items()}
    identity = run_id(config, identities, prompts_sha256([prompt for prompt, _ in plan.prompts]))
    out = Path(config["out"] or Path("results") / "runs" / f"{config['name']}-{identity}")
    folder = claim(out, identity)
    if plan.ranks:
        plan.ranks.join()
        plan.ranks.shared(None if folder.finished else folder.journal.finished())
    if folder.finished:
        return out, load_run(out).summary, False
    plan.take_cores()
    with _failures(folder):
        folder.describe(config, {**environment(), "weights": identities, "mode": plan.mode})
        try:
            tracker.start(config, out.name, out)
            with ExitStack() as stack:
                arms = _measure(plan, folder.journal, stack)
            meta = {arm.name: _meta(plan, arm) for arm in arms}
            tables = folder.journal.tables()
            with warnings.catch_warnings():
                # The table says it under its flags, in place of a warning among the progress.
                warnings.simplefilter("ignore", FewPrompts)
                summary = summarise(tables, plan.baseline, meta, margin=config["margin"])
            folder.finish(tables, summary)
            tracker.finish(summary, tables["sequences"], _report(out))
        finally:
            tracker.close()
    return out, summary, True


def follow(plan: Plan) -> None:
    """Take part in the comparison that the first rank makes: the same blocks, of which nothing is kept here."""
    assert plan.ranks is not None
    plan.ranks.join()
    if plan.ranks.drafts:
        plan.ranks.serve(partial(load_role, plan))
        return
    finished = plan.ranks.shared(None)
    if finished is None:
        return  # the run was finished before
    plan.take_cores()
    with ExitStack() as stack:
        _measure(plan, Unwritten(finished), stack)


class Unwritten:
    """The journal of the first rank, as the others see it."""

    def __init__(self, done: set[tuple[int, int]]) -> None:
        self._done = done

    def finished(self) -> set[tuple[int, int]]:
        return self._done

    def write(self, block: int, repeat: int, tables: Mapping[str, Any]) -> None:
        return None


def _report(out: Path) -> list[Path]:
    from sdbench.analysis.report import report

    return sorted(report([out]).parent.rglob("*.png"))


def _measure(plan: Plan, journal: Journal | Unwritten, stack: ExitStack) -> list[Arm]:
    """Decode all blocks that the journal lacks. stack: closes the arms."""
    finished = journal.finished()
    models = load(plan)
    for model in models.values():
        model.allocate(plan.batch_size, plan.slots)
    arms = make(plan.arm_configs, models)
    if plan.ranks:
        plan.ranks.give(arms)
    for arm in arms:
        stack.callback(arm.decoder.close)
    views = {model.name: model for arm in arms for model in arm.decoder.models}
    bare = BareForwards(views)
    todo = [
        (repeat, block)
        for repeat in range(plan.config["repeats"])
        for block in range(len(plan.blocks))
        if (block, repeat) not in finished
    ]
    if todo:
        _warm_up(plan, arms)
    shown = plan.ranks is None or plan.ranks.first
    with Progress([arm.name for arm in arms], len(finished), len(finished) + len(todo), shown) as progress:
        for repeat, block in todo:
            tables: dict[str, list[dict[str, Any]]] = {"sequences": [], "rounds": [], "steps": []}
            for arm in rotated(arms, block + repeat):
                part = decode(plan, arm, plan.blocks[block], block, repeat)
                if plan.ranks:
                    plan.ranks.agree(part["sequences"])
                progress.decoded(arm.name, part["sequences"])
                for name, rows in part.items():
                    tables[name] += rows
            plan.take_cores()
            bare.see(tables["steps"])
            journal.write(block, repeat, {**tables, "bare": bare.time()})
            progress.advance()
    return arms


def _warm_up(plan: Plan, arms: list[Arm]) -> None:
    """Let every arm decode the first prompts a little way, uncounted, so that no first-time cost is measured."""
    for arm in arms:
        prompts = plan.prompts[: plan.config["warmup"] * plan.batch_size]
        requests = [Request(tokens, f"warm-up {prompt.id}") for prompt, tokens in prompts]
        new = min(WARMUP_TOKENS, plan.max_new_tokens)
        plan.take_cores(arm.threads)
        for _ in arm.decoder.generate(requests, plan.sampling, plan.stop, new, plan.seed, plan.batch_size):
            pass


def _devices(plan: Plan, role: str, apart: bool) -> list[str]:
    """Where a role's model works; on a CPU a process of its own is a core of its own."""
    if plan.ranks:
        return plan.ranks.devices(role, apart)
    device = plan.specs[role].device or plan.config["hardware"]["device"]
    return [f"{device} ({role}'s own core)" if apart and device == "cpu" else device]


def _meta(plan: Plan, arm: Arm) -> Any:
    return {
        "lossless": arm.decoder.lossless,
        "devices": sorted({name for role in arm.roles for name in _devices(plan, role, role in arm.apart)}),
        "mode": plan.mode,
        "memory_bytes": arm.memory_bytes,
        "config": arm.config,
        "synthetic": plan.task.synthetic,
    }


@contextmanager
def _failures(folder: RunFolder) -> Iterator[None]:
    """Leave the reason in the folder when something breaks; what the journal has stays."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except Exception as error:
        folder.fail(f"{type(error).__name__}: {error}")
        raise
