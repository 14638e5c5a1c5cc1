"""One comparison: every arm on every prompt, block by block, into a run folder.

In each repeat, every arm decodes each block in turn. After each arm the run times a few reference forwards. Then it writes the
block to the journal. A run that was stopped continues with the first block that the journal lacks.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sdbench.decoding.base import Request
from sdbench.errors import InputError, RunError
from sdbench.harness.arms import Arm, make
from sdbench.harness.blocks import decode, rotated
from sdbench.harness.build import build
from sdbench.harness.co_tenancy import CoTenants
from sdbench.harness.gpu_lock import lease
from sdbench.harness.gpu_memory import PeakMemory
from sdbench.harness.greedy_match import identities
from sdbench.harness.own_code import own_line
from sdbench.harness.plan import Plan, load, load_role
from sdbench.harness.progress import Progress, compiling
from sdbench.harness.reference_forward import ReferenceForwards
from sdbench.lm.model import LanguageModel
from sdbench.lm.programs.modes import programs_of
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.paths import expanded
from sdbench.runs.bandwidth import read_bandwidth
from sdbench.runs.environment import environment
from sdbench.runs.lock import held
from sdbench.runs.record import RunFolder, claim
from sdbench.runs.run_id import run_id
from sdbench.runs.trackers import Tracker
from sdbench.tasks.base import provenance

WARMUP_TOKENS = 24


def folder_of(plan: Plan) -> RunFolder:
    """Claim the run's folder and return it. It may hold blocks of an earlier attempt at the same run."""
    identity = run_id(plan.config, plan.identities, plan.prompts_sha256, {**plan.own_code, **plan.drafting_files})
    out = plan.config["out"] or Path("results") / "runs" / f"{plan.config['name']}-{identity}"
    return claim(expanded(out), identity)


def run(plan: Plan, folder: RunFolder | None = None) -> tuple[Path, dict[str, Any], bool]:
    """Make or continue the comparison. Return its folder, its summary, and False if the run was finished before.

    folder: the result of `folder_of`, if the caller has it already.
    """
    from sdbench.analysis.metrics.summary import summarise
    from sdbench.analysis.stats.intervals import FewPrompts
    from sdbench.runs.record import load as load_run

    config = plan.config
    tracker: Tracker = build(config["tracker"], {}, "tracker")
    folder = folder or folder_of(plan)
    out = folder.path
    if plan.ranks:
        plan.ranks.join()
        plan.ranks.shared(None if folder.finished else folder.journal.finished())
    if folder.finished:
        if not (out / "report" / "report.html").is_file():  # the earlier attempt stopped while it wrote the report
            _report(out, png=False)
        return out, load_run(out).summary, False
    plan.take_cores()
    with held(out), leased(plan), _failures(folder):
        folder.plan(len(plan.blocks) * config["repeats"])
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
            "notes": plan.notes,
        }
        for note in plan.notes:
            print(f"sdbench: {note}", file=sys.stderr)
        folder.describe(config, _environment(folder, found))
        folder.ask(_prompts(plan))
        try:
            tracker.start(config, out.name, out, folder.measurement)
            with ExitStack() as stack:
                arms, models = _measure(plan, folder, stack)
            tables = folder.journal.tables()
            same = identities(plan, arms, models.get("target"), tables["sequences"])
            lost = Counter(fault["arm"] for fault in folder.faults)
            meta = {arm.name: _meta(plan, arm, same[arm.name], lost[arm.name], folder) for arm in arms}
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                shared = len(folder.shared_blocks)
                summary = summarise(
                    tables, plan.baseline, meta, margin=config["margin"], shared_blocks=shared, notes=plan.notes
                )
            # The table marks arms with few prompts by a flag, so that warning is not printed again.
            for said in dict.fromkeys(str(one.message) for one in caught if one.category is not FewPrompts):
                print(f"sdbench: {said}.", file=sys.stderr)
            folder.finish(tables, summary)
            tracker.finish(summary, tables["sequences"], _report(out, tracker.wants_png))
        finally:
            tracker.close()
    return out, summary, True


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
        _measure(plan, NullRunFolder(finished), stack)


class NullRunFolder:
    """Replace the run folder on the other target ranks. It knows the finished blocks and discards all writes.

    done: the pairs (block, repeat) in the first rank's journal.
    """

    def __init__(self, done: set[tuple[int, int]]) -> None:
        self._done = done

    @property
    def journal(self) -> NullRunFolder:
        return self

    def finished(self) -> set[tuple[int, int]]:
        return self._done

    def write(self, block: int, repeat: int, tables: Mapping[str, Any]) -> None:
        return None

    def note_shared(self, block: int, repeat: int) -> None:
        return None

    def note_fault(self, arm: str, block: int, repeat: int, said: str) -> None:
        return None

    def note_not_finite(self, arm: str, said: str) -> None:
        return None

    @property
    def arm_failures(self) -> dict[str, str]:
        return {}

    def note_arm_failure(self, arm: str, said: str) -> None:
        return None

    def add_to_environment(self, **facts: Any) -> None:
        return None


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


def _measure(
    plan: Plan, folder: RunFolder | NullRunFolder, stack: ExitStack
) -> tuple[list[Arm], dict[str, Transformer]]:
    """Decode all blocks that the journal lacks. Return the arms, and the models by role. stack: closes the arms at its exit."""
    finished = folder.journal.finished()
    models = load(plan)
    for model in models.values():
        model.allocate(plan.batch_size, plan.slots)
    arms = make(plan.arm_configs, models, plan.encode)
    if plan.ranks:
        plan.ranks.give(arms)
    for arm in arms:
        stack.callback(arm.decoder.close)
        arm.failure = folder.arm_failures.get(arm.name)
    views = {model.name: model for arm in arms for model in arm.decoder.models}
    bare, peak = ReferenceForwards(views), PeakMemory({model.device for model in models.values()})
    todo = [
        (repeat, block)
        for repeat in range(plan.config["repeats"])
        for block in range(len(plan.blocks))
        if (block, repeat) not in finished
    ]
    if todo:
        for arm in arms:
            if arm.peer:
                plan.take_cores(arm.threads)
                arm.peer.open(plan.batch_size, plan.slots)
        for arm in arms:
            with _void_after_an_error(plan, folder, arm):
                _warm_up(plan, arm)
        _freeze(folder, views, arms)
    shown = plan.ranks is None or plan.ranks.first
    bar = Progress([arm.name for arm in arms], len(finished), len(finished) + len(todo), shown)
    with ExitStack() as around:
        # All ranks belong to one run, so they do not count as co-tenants.
        company = None if plan.ranks else around.enter_context(CoTenants(plan.use))
        progress = around.enter_context(bar)
        begun = None
        for repeat, block in todo:
            if repeat != begun:
                begun, answers = repeat, _answers(plan, folder, repeat, finished)
                for arm in arms:
                    arm.decoder.begin_pass(answers.get(arm.name, ()))
            tables: dict[str, list[dict[str, Any]]] = {"sequences": [], "rounds": [], "steps": [], "bare": []}
            for arm in rotated(arms, block + repeat):
                if arm.failure:
                    continue
                part = None
                with _void_after_an_error(plan, folder, arm), nullcontext() if arm.peer else peak.watched():
                    part = decode(plan, arm, plan.blocks[block], block, repeat)
                if part is None:
                    continue
                if arm.fault:
                    folder.note_fault(arm.name, block, repeat, arm.fault)
                if arm.not_finite:
                    folder.note_not_finite(arm.name, arm.not_finite)
                if plan.ranks:
                    plan.ranks.agree(part["sequences"])
                progress.decoded(arm.name, part["sequences"])
                for name, rows in part.items():
                    tables[name] += rows
                if arm.peer is None:
                    plan.take_cores()
                    # All target ranks must time the same shapes. Only the first rank sees the draft's steps, so it sends its list.
                    bare.see(plan.ranks.shared(part["steps"]) if plan.ranks else part["steps"])
                    timed = bare.time()
                    tables["bare"] += [{**row, "after": arm.name, "block": block, "repeat": repeat} for row in timed]
            if company and company.disturbed():
                folder.note_shared(block, repeat)
            folder.journal.write(block, repeat, tables)
            progress.advance()
    if todo and not isinstance(folder, NullRunFolder) and plan.ranks is None:
        folder.add_to_environment(**peak.beside(plan, folder.environment.get("memory") or {}))
    return arms, models


def _answers(
    plan: Plan, folder: RunFolder | NullRunFolder, repeat: int, finished: set[tuple[int, int]]
) -> dict[str, list[tuple[list[int], list[int]]]]:
    """Return, by arm, prompt and answer of the sequences of a repeat that an earlier attempt decoded, in their order."""
    if not any(done == repeat for _, done in finished):
        return {}
    found: dict[str, list[tuple[list[int], list[int]]]] = {}
    if isinstance(folder, RunFolder):
        prompts = {prompt.id: tokens for prompt, tokens in plan.prompts}
        sequences = folder.journal.tables()["sequences"]
        own = sequences[sequences["repeat"] == repeat]
        for arm, prompt, tokens in zip(own["arm"], own["prompt_id"], own["tokens"], strict=True):
            found.setdefault(arm, []).append((prompts[prompt], list(map(int, tokens))))
    return plan.ranks.shared(found) if plan.ranks else found


@contextmanager
def _void_after_an_error(plan: Plan, folder: RunFolder | NullRunFolder, arm: Arm) -> Iterator[None]:
    """Let the other arms go on if this arm raises an error: it takes no further part, and its row is void.

    An error of the baseline, of a rank, of the machine or of the input ends the run.
    """
    try:
        yield
    except (InputError, RunError, OSError):
        raise
    except Exception as error:
        if arm.name == plan.baseline or plan.ranks is not None:
            raise
        arm.failure = f"{type(error).__name__}: {error}".splitlines()[0]
        if line := own_line(error):
            arm.failure += f" ({line})"
        folder.note_arm_failure(arm.name, arm.failure)
        print(f"sdbench: {arm.name} failed ({arm.failure}). Its row is void; the other arms go on.", file=sys.stderr)


def _warm_up(plan: Plan, arm: Arm) -> None:
    """Decode the first prompts with an arm, and discard the results. First-time costs then fall outside the measurement."""
    if arm.failure:
        return
    prompts = plan.prompts[: plan.config["warmup"] * plan.batch_size]
    requests = [Request(tokens, f"warm-up {prompt.id}") for prompt, tokens in prompts]
    # In compiled modes the warm-up has the full length, so that every shape of a real answer is compiled.
    eager = plan.config["hardware"]["execution"] == "eager"
    new = min(WARMUP_TOKENS, plan.max_new_tokens) if eager else plan.max_new_tokens
    if not eager:
        print(f"sdbench: {arm.name} warms up and makes its programs; the first time takes minutes.", file=sys.stderr)
    plan.take_cores(arm.threads)
    with nullcontext() if eager else compiling(arm.name, [model.execution for model in arm.decoder.models]):
        for _ in range(2):  # a method that calibrates its draft length is warmed up again with the new length
            trace = Trace()
            decoded = arm.decoder.generate(
                requests, plan.sampling, plan.stop, new, seed=plan.seed, rows=plan.batch_size, trace=trace
            )
            for _ in decoded:
                pass
            trace.close()
            if not arm.decoder.calibrate(trace):
                break


def _freeze(folder: RunFolder | NullRunFolder, models: Mapping[str, LanguageModel], arms: list[Arm]) -> None:
    """Forbid further compilation, and write the counts and seconds of the programs so far to the environment."""
    for model in models.values():
        model.freeze()
    own = programs_of([model.execution for model in models.values()])
    elsewhere = [programs for arm in arms for programs in arm.async_programs]
    folder.add_to_environment(programs={name: round(sum(one[name] for one in (own, *elsewhere)), 3) for name in own})


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
