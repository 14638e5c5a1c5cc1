"""Measure how far rounding moves the difference of the target's two best logits, in steps of the precision (`docs/ties.md`).

    python -m experiments.benchmarks.rounding OUT.json [OVERRIDE ...]

The overrides are those of `sdbench run`. The target decodes the prompts greedily. Forwards of one token, and of six tokens, are
compared with one forward over the whole text. OUT.json gets the quantiles over the positions where the second-best token has a
chance, and the largest distance where the best token changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from sdbench.decoding import Request, Speculative
from sdbench.harness.config import compose
from sdbench.harness.plan import load_role, prepare
from sdbench.harness.ties import STEPS, tolerance
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling

WIDTHS = (1, 6)  # tokens of a forward
CLOSE = 2.0  # a second-best logit further below the best one never comes first


def measure(overrides: list[str]) -> dict[str, object]:
    """Return the quantiles of the change, in steps, and the largest distance in steps where the best token changed."""
    plan = prepare(compose(["arms=[ar]", "tracker=none", *overrides]))
    plan.take_cores()
    target = load_role(plan, "target")
    requests = [Request(tokens, prompt.id) for prompt, tokens in plan.prompts]
    moved, parted = [], [0.0]
    for item in Speculative(target).generate(requests, Sampling(), plan.stop, plan.max_new_tokens):
        for change, distance in changes(target, item.request.tokens, item.tokens):
            moved.append(change)
            parted += [distance] if distance is not None else []
    found = torch.cat(moved).quantile(torch.tensor([0.5, 0.99, 1.0])).tolist()
    return {
        "model": str(plan.specs["target"].path).rsplit("/", 1)[-1],
        "task": plan.task.name,
        "dtype": plan.config["hardware"]["dtype"],
        "comparisons": sum(map(len, moved)),
        **dict(zip(("half", "most", "largest"), found, strict=True)),
        "parted": max(parted),
        "torch": torch.__version__,
    }


@torch.inference_mode()
def changes(
    target: Transformer, prompt: list[int], output: list[int]
) -> Iterator[tuple[Float[Tensor, " T"], float | None]]:
    """Yield for each width the changes in steps, and the largest distance where the best token changed (None: nowhere)."""
    ids = torch.tensor([[*prompt, *output[:-1]]], device=target.device)
    whole = target.model(input_ids=ids, logits_to_keep=len(output)).logits[0].float()
    best, second = whole.topk(2).indices.unbind(-1)
    for width in WIDTHS:
        cache, start = DynamicCache(), len(prompt) - 1
        if start:
            target.model(input_ids=ids[:, :start], past_key_values=cache)
        parts = [
            target.model(input_ids=part, past_key_values=cache).logits[0] for part in ids[:, start:].split(width, 1)
        ]
        stepped = torch.cat(parts).float()
        gaps = [_at(logits, best) - _at(logits, second) for logits in (whole, stepped)]
        step = tolerance(whole, _at(whole, second), target.dtype) / STEPS[target.dtype]
        other = stepped.argmax(-1)
        distance = (_at(whole, best) - _at(whole, other)) / step
        changed = other != best
        yield (
            ((gaps[0] - gaps[1]).abs() / step)[gaps[0] < CLOSE],
            float(distance[changed].max()) if bool(changed.any()) else None,
        )


def _at(logits: Float[Tensor, "T V"], tokens: Tensor) -> Float[Tensor, " T"]:
    return logits.gather(-1, tokens[:, None])[:, 0]


if __name__ == "__main__":
    found = measure(sys.argv[2:])
    Path(sys.argv[1]).write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))
