"""Compare the greedy tokens of arms that claim to be lossless with those of the baseline.

At the first difference, the target's two best logits decide. It is a rounding tie if the two outputs chose these two tokens, and
the logits differ by less than epsilon. Ties are counted apart. Any other difference is a mismatch, and makes the arm's row void.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch

from sdbench.harness.arms import Arm
from sdbench.harness.plan import Plan
from sdbench.lm.transformer import Transformer


def identities(
    plan: Plan, arms: Sequence[Arm], target: Transformer | None, sequences: pd.DataFrame
) -> dict[str, dict[str, int] | None]:
    """Count for each arm the sequences that are identical to the baseline's, differ by a tie, or are mismatches.

    An arm's value is None if it does not claim to be lossless. All values are None if the run samples, the baseline does not claim
    to be lossless, or there is no target.
    """
    claims = {arm.name for arm in arms if arm.decoder.lossless}
    if not plan.sampling.greedy or plan.baseline not in claims or target is None:
        return dict.fromkeys((arm.name for arm in arms), None)
    prompts = {prompt.id: tokens for prompt, tokens in plan.prompts}
    keys = ["prompt_id", "repeat"]
    wanted = {
        tuple(row[:2]): list(row[2]) for row in _of(sequences, plan.baseline)[[*keys, "tokens"]].itertuples(index=False)
    }
    found: dict[str, dict[str, int] | None] = {}
    for arm in arms:
        if arm.name not in claims:
            found[arm.name] = None
            continue
        counts = {"identical": 0, "ties": 0, "mismatches": 0}
        for prompt, repeat, tokens in _of(sequences, arm.name)[[*keys, "tokens"]].itertuples(index=False):
            counts[_kind(plan, target, prompts[prompt], wanted.get((prompt, repeat)), list(tokens))] += 1
        found[arm.name] = counts
    return found


def _of(sequences: pd.DataFrame, arm: str) -> pd.DataFrame:
    return sequences[sequences["arm"] == arm]


def _kind(plan: Plan, target: Transformer, prompt: list[int], wanted: list[int] | None, got: list[int]) -> str:
    """Return the kind of a sequence: identical, ties or mismatches. A sequence without a baseline counts as identical."""
    if wanted is None or got == wanted:
        return "identical"
    return "ties" if gap(target, prompt, wanted, got) < plan.config["verify"]["epsilon"] else "mismatches"


@torch.inference_mode()
def gap(target: Transformer, prompt: list[int], wanted: Sequence[int], got: Sequence[int]) -> float:
    """Return the difference of the target's two best logits at the first token where two outputs differ.

    The result is infinite if one output is the beginning of the other, or if the outputs did not choose these two tokens.
    """
    at = next((i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), None)
    if at is None:
        return math.inf
    ids = torch.tensor([[*prompt, *wanted[:at]]], device=target.device)
    best = target.model(input_ids=ids, logits_to_keep=1).logits[0, -1].float().topk(2)
    if {wanted[at], got[at]} != set(best.indices.tolist()):
        return math.inf
    return float(best.values[0] - best.values[1])
