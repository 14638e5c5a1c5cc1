"""One comparison, from a plan to a run folder with its summary and report.

`sdbench.harness.measure` decodes the blocks. A run that was stopped continues with the first block that the journal lacks.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sdbench.errors import InputError
from sdbench.harness.arms import Arm
from sdbench.harness.build import build
from sdbench.harness.gpu_lock import lease
from sdbench.harness.greedy_match import identities
from sdbench.harness.likelihood import answer_nats
from sdbench.harness.measure import NullRunFolder, measure
from sdbench.harness.plan import Plan, load_role
from sdbench.lm.transformer import Transformer
from sdbench.paths import expanded
from sdbench.runs.bandwidth import read_bandwidth
from sdbench.runs.environment import environment
from sdbench.runs.lock import held
from sdbench.runs.record import RunFolder, claim
from sdbench.runs.run_id import run_id
from sdbench.runs.trackers import Tracker
from sdbench.tasks.base import provenance


def folder_of(plan: Plan) -> RunFolder:
    """Claim the run's folder and return it. It may hold blocks of an earlier attempt at the same run."""
    identity = run_id(plan.config, plan.identities, plan.prompts_sha256, {**plan.own_code, **plan.drafting_files})
    out = plan.config["out"] or Path("results") / "runs" / f"{plan.config['name']}-{identity}"
    return claim(expanded(out), identity)


def run(plan: Plan, folder: RunFolder | None = None, finish: bool = False) -> tuple[Path, dict[str, Any], bool]:
    """Make or continue the comparison. Return its folder, its summary, and False if the run was finished before.

    folder: the result of `folder_of`, if the caller has it already. finish: decode nothing more, and make the summary of the blocks
    that a stopped run has. The summary says how many these are. Raises: InputError, if it has none.
    """
    from sdbench.analysis.metrics.summary import summarise
    from sdbench.analysis.stats.intervals import FewPrompts
    from sdbench.runs.record import load as load_run

    config = plan.config
    tracker: Tracker = build(config["tracker"], {}, "tracker")
    folder = folder or folder_of(plan)
    out = folder.path
    if finish and not folder.finished:
        _check_stopped(plan, folder)
    if plan.ranks:
        plan.ranks.join()
        plan.ranks.shared(None if folder.finished else folder.journal.finished())
    if folder.finished:
        if not (out / "report" / "report.html").is_file():  # the earlier attempt stopped while it wrote the report
            _report(out, png=False)
        return out, load_run(out).summary, False
    plan.take_cores()
    with held(out), leased(plan), _failures(folder):
        planned = len(plan.blocks) * config["repeats"]
        folder.plan(planned)
        notes = [*plan.notes]
        if finish and (done := len(folder.journal.finished())) < planned:
            notes.append(f"The run was stopped, and ended with {done} of {planned} blocks.")
        attempt = 1 + (folder.failure or {}).get("attempt", 0)
        found = {
            "weights": plan.identities,
            "prompts_sha256": plan.prompts_sha256,
            "own_code": plan.own_code,
            "drafting_files": plan.drafting_files,
            "mode": plan.mode,
            "task": provenance(plan.task),
            "attempt": attempt,
            "generation_config": plan.family.defaults.record,
            "notes": notes,
        }
        for note in notes:
            print(f"sdbench: {note}", file=sys.stderr)
        folder.describe(config, _environment(folder, found))
        folder.ask(_prompts(plan))
        try:
            tracker.start(config, out.name, out, folder.measurement)
            with ExitStack() as stack:
                arms, models = measure(plan, folder, stack, more=not finish)
            tables = folder.journal.tables()
            same = identities(plan, arms, models.get("target"), tables["sequences"])
            nats = answer_nats(plan, arms, models.get("target"), tables["sequences"])
            if nats is not None:
                tables["sequences"]["nats"] = nats
            lost = Counter(fault["arm"] for fault in folder.faults)
            meta = {arm.name: _meta(plan, arm, same[arm.name], lost[arm.name], folder) for arm in arms}
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                shared = len(folder.shared_blocks)
                summary = summarise(
                    tables, plan.baseline, meta, margin=config["margin"], shared_blocks=shared, notes=notes
                )
            # The table marks arms with few prompts by a flag, so that warning is not printed again.
            for said in dict.fromkeys(str(one.message) for one in caught if one.category is not FewPrompts):
                print(f"sdbench: {said}.", file=sys.stderr)
            folder.finish(tables, summary)
            tracker.finish(summary, tables["sequences"], _report(out, tracker.wants_png))
        finally:
            tracker.close()
    return out, summary, True


def _check_stopped(plan: Plan, folder: RunFolder) -> None:
    """Refuse to finish a run that cannot be. Raises: InputError."""
    if plan.ranks:
        raise InputError("--finish is for a run without hardware.tensor_parallel.")
    if not folder.journal.finished():
        raise InputError(f"--finish: {folder.path} holds no measured block of this run; run it without --finish.")


def _environment(folder: RunFolder, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of the environment: this machine, `found`, and what earlier attempts recorded of revisions and faults.

    found: facts of this attempt. They replace facts of this machine with the same name.
    """
    now, before = environment(), folder.environment
    earlier: list[str] = before.get("earlier_revisions") or []
    was, here = ((one.get("git") or {}).get("sha") for one in (before, now))
    if was and was != here and folder.journal.finished():
        earlier = [*earlier, was]
        print(
            f"sdbench: revision {was[:8]} measured a part of this run; revision {(here or 'unknown')[:8]} measures the rest.",
            file=sys.stderr,
        )
    kept = {
        "earlier_revisions": earlier,
        **{name: before.get(name) for name in ("faults", "memory", "not_finite", "arm_failures")},
    }
    return {**now, **found, **{key: value for key, value in kept.items() if value}}


def _prompts(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return for each prompt id the decoded text of its tokens, and the reference that the scorer compares with."""
    decode = plan.family.tokenizer.backend_tokenizer.decode
    return {
        prompt.id: {"text": decode(tokens, skip_special_tokens=False), "reference": prompt.reference}
        for prompt, tokens in plan.prompts
    }


@contextmanager
def leased(plan: Plan) -> Iterator[None]:
    """Hold the locks of the GPUs that the plan's models use, and assign the models to these GPUs.

    In a tensor-parallel run the launcher assigns the GPUs, so this function does nothing.
    """
    if plan.ranks:
        yield
        return
    wanted = [device for device in plan.devices.values() if device.startswith("cuda")]
    present = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if wanted else []
    with lease(wanted, present) as given:
        plan.place(given)
        if plan.devices["target"].startswith("cuda"):
            torch.cuda.set_device(plan.devices["target"])
        yield


def run_worker_rank(plan: Plan) -> None:
    """Decode the same blocks as the first rank, or serve the draft on the last rank. Only the first rank writes results."""
    assert plan.ranks is not None
    plan.ranks.join()
    if plan.ranks.drafts:
        plan.ranks.serve(partial(load_role, plan))
        return
    finished = plan.ranks.shared(None)
    if finished is None:
        return  # an earlier command finished the run
    plan.take_cores()
    with ExitStack() as stack:
        measure(plan, NullRunFolder(finished), stack)


def _report(out: Path, png: bool) -> list[Path]:
    """Write the report of a run, and return the paths of its PNG files. png: also write each figure as PNG, for a tracker.

    A report that fails ends no run, because everything measured is in the folder already.
    """
    from sdbench.analysis.report.write import report

    try:
        return sorted(report([out], png=png).parent.rglob("*.png"))
    except (
        Exception
    ) as error:  # a full disk, a font, a style of the user's: the drawing library raises different exceptions
        said = f"{type(error).__name__}: {error}"
        print(f"sdbench: the report was not written ({said}); `sdbench report {out}` writes it.", file=sys.stderr)
        return []


def _devices(plan: Plan, role: str, apart: bool) -> list[str]:
    """Return the devices of a role's model. apart: whether the model has its own process, which on a CPU has its own core."""
    if plan.ranks:
        return plan.ranks.devices(role, apart)
    device = plan.specs[role].device or plan.config["hardware"]["device"]
    return [f"{device} ({role}'s own core)" if apart and device == "cpu" else device]


def _meta(plan: Plan, arm: Arm, identity: dict[str, int] | None, lost: int, folder: RunFolder) -> Any:
    """Return the facts of an arm that the summary needs besides the tables. lost: blocks that went on without a draft."""
    return {
        "lossless": arm.decoder.lossless,
        "devices": sorted({name for role in arm.roles for name in _devices(plan, role, role in arm.apart)}),
        "mode": plan.mode,
        "memory_bytes": arm.memory_bytes,
        "config": arm.config,
        "synthetic": plan.task.synthetic,
        "end_to_end_only": arm.peer is not None,
        "simulated_acceptance": arm.simulated,
        "identity": identity,
        "lost_draft_blocks": lost,
        "not_finite": folder.not_finite.get(arm.name),
        "failure": folder.arm_failures.get(arm.name),
        "reads": {} if arm.peer else _reads(plan, arm),
    }


def _reads(plan: Plan, arm: Arm) -> dict[str, Any]:
    """Return what a step of each model of an arm must read. Without the models of servers and of mixtures of experts."""
    from sdbench.analysis.metrics.bandwidth import Reads

    threads, found = arm.threads or plan.config["hardware"]["threads"], {}
    plan.take_cores(arm.threads)
    for model in arm.decoder.models:
        if isinstance(model, Transformer) and (weights := model.weight_bytes) is not None:
            with suppress(torch.OutOfMemoryError):  # a full device has no room for the measurement
                speed = read_bandwidth(str(model.device), threads)
                found[model.name] = Reads(weight_bytes=weights, token_bytes=model.token_bytes, bytes_per_second=speed)
    plan.take_cores()
    return found


@contextmanager
def _failures(folder: RunFolder) -> Iterator[None]:
    """Write the reason of a failure to the folder, and raise the error again. The journal keeps its blocks."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except Exception as error:
        attempt = 1 + (folder.failure or {}).get("attempt", 0)
        folder.fail(f"{type(error).__name__}: {error}", attempt=attempt)
        raise
