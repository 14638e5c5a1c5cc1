"""Decode one block of prompts with one arm. Every arm decodes each block; the order of the arms rotates from block to block."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch

from sdbench.analysis.tables import ERROR
from sdbench.decoding.base import Finished, Request
from sdbench.errors import ScoringError
from sdbench.harness.arms import Arm
from sdbench.harness.plan import Plan
from sdbench.lm.probe import first_not_finite
from sdbench.lm.trace import NotFinite, Trace
from sdbench.lm.transformer import Transformer
from sdbench.runs.energy import Energy
from sdbench.tasks.base import Prompt
from sdbench.tasks.pieces import pieces

Tables = dict[str, list[dict[str, Any]]]


def rotated(arms: Sequence[Arm], turn: int) -> list[Arm]:
    """Return the arms in the order of turn number `turn`. Over all turns, each arm comes first equally often."""
    shift = turn % len(arms)
    return [*arms[shift:], *arms[:shift]]


def decode(plan: Plan, arm: Arm, prompts: Sequence[tuple[Prompt, list[int]]], block: int, repeat: int) -> Tables:
    """Decode the prompts of a block with one arm. Return the rows of the tables `sequences`, `rounds` and `steps`."""
    trace = Trace()
    plan.take_cores(arm.threads)
    requests = [Request(tokens, prompt.id, repeat) for prompt, tokens in prompts]
    # In compiled modes a smaller last block keeps the batch size, and so the compiled shapes. Its free rows produce nothing.
    eager = plan.config["hardware"]["execution"] == "eager"
    energy = Energy()
    begun = perf_counter()
    finished = list(
        arm.decoder.generate(
            requests,
            plan.sampling,
            plan.stop,
            plan.max_new_tokens,
            seed=plan.seed,
            rows=min(plan.batch_size, len(requests)) if eager else plan.batch_size,
            trace=trace,
        )
    )
    wall = perf_counter() - begun - trace.outside
    joules = energy.spent()
    trace.close()
    if trace.not_finite is not None and arm.not_finite is None:
        arm.not_finite = _where(arm, trace.not_finite, requests, finished)
        print(f"sdbench: {arm.name}: {arm.not_finite}. Its row is void.", file=sys.stderr)
    decode_seconds = wall - sum(item.prefill_seconds for item in finished)
    by_id = {prompt.id: prompt for prompt, _ in prompts}
    common = {"arm": arm.name, "repeat": repeat, "block": block}
    sequences = []
    for item in finished:
        prompt = by_id[item.request.name]
        text, reason = plan.checker.text_of(item.tokens, item.reason), item.reason
        try:
            score = None if arm.simulated else plan.task.score(prompt, text)
        except ScoringError as error:
            score, reason = None, ERROR
            print(f"sdbench: {error} It counts as failed.", file=sys.stderr)
        sequences.append(
            {
                **common,
                "prompt_id": prompt.id,
                "category": prompt.category,
                "prompt_tokens": len(item.request.tokens),
                "tokens": item.tokens,
                "pieces": pieces(item.tokens, plan.family.tokenizer),
                "text": text,
                "finish_reason": reason,
                "score": score,
                "first_token_seconds": item.first_token_seconds,
                "prefill_seconds": item.prefill_seconds,
                "decode_seconds": item.decode_seconds,
                "block_decode_seconds": decode_seconds,
                "target_calls": item.target_calls,
                **({} if joules is None else {"block_joules": joules}),
            }
        )
    for row in trace.rounds:
        row.update(common, prompt_id=requests[row.pop("sequence")].name)
    for row in trace.steps:
        row.update(common)
    return {"sequences": sequences, "rounds": trace.rounds, "steps": trace.steps}


def _where(arm: Arm, found: NotFinite, requests: Sequence[Request], finished: Sequence[Finished]) -> str:
    """Describe where an arm's logits first were not finite: the model, the prompt, the round and, if found, the module."""
    request = requests[found.sequence]
    when = "in the prefill" if found.round < 0 else f"in round {found.round}"
    said = f"the logits of {found.role} are not finite {when} of the prompt '{request.name}'"
    model = next((model for model in arm.decoder.models if model.name == found.role), None)
    if isinstance(model, Transformer):
        answer = next((item.tokens for item in finished if item.request is request), [])
        ids = model.ids.read(torch.tensor([[*request.tokens, *answer]], device=model.device))
        module = first_not_finite(model.model, ids)
        said += f", first in the output of {module}" if module else "; one forward over the whole answer is finite"
    return said
