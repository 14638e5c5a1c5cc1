"""Decode the blocks of a comparison that its journal lacks.

In each repeat, every arm decodes each block in turn. After each arm a few reference forwards are timed. Then the block is
written to the journal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from sdbench.decoding.base import Request
from sdbench.errors import InputError, RunError
from sdbench.harness.arms import Arm, make
from sdbench.harness.blocks import decode, rotated
from sdbench.harness.co_tenancy import CoTenants
from sdbench.harness.gpu_memory import PeakMemory
from sdbench.harness.own_code import own_line
from sdbench.harness.plan import Plan, load
from sdbench.harness.progress import Progress, compiling
from sdbench.harness.reference_forward import ReferenceForwards
from sdbench.lm.model import LanguageModel
from sdbench.lm.programs.modes import programs_of
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.runs.record import RunFolder

WARMUP_TOKENS = 24


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


def measure(
    plan: Plan, folder: RunFolder | NullRunFolder, stack: ExitStack, more: bool = True
) -> tuple[list[Arm], dict[str, Transformer]]:
    """Decode all blocks that the journal lacks. Return the arms, and the models by role.

    stack: closes the arms at its exit. more: whether to decode; False makes the arms alone.
    """
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
        if more and (block, repeat) not in finished
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
