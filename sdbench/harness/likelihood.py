"""Ask the target how likely the answers of lossy arms are.

A task's own score says little where the target rarely solves it. The likelihood of an answer compares any two arms: an exact arm's
answers have the baseline's in expectation, and a loose rule's have a lower one. After the last block, one forward of the target
scores each answer, under its law at temperature 1 and after its own rules for logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from sdbench.acceptance.draft import wide
from sdbench.analysis.tables import ERROR
from sdbench.harness.arms import Arm
from sdbench.harness.greedy_match import PART, scored
from sdbench.harness.plan import Plan
from sdbench.lm.diffusion import DiffusionModel
from sdbench.lm.transformer import Transformer


def answer_nats(
    plan: Plan, arms: Sequence[Arm], target: Transformer | None, sequences: pd.DataFrame
) -> pd.Series | None:
    """Return minus the log-likelihood of each answer in nats, by row of `sequences`: of the lossy arms and of the baseline.

    The other rows have NaN, and so have failed answers. None: the run has no lossy arm, no target that gives a law in one forward,
    or a target that several processes hold.
    """
    lossy = {arm.name for arm in arms if not (arm.decoder.lossless or arm.simulated or arm.peer)}
    if not lossy or target is None or isinstance(target, DiffusionModel) or plan.ranks:
        return None
    prompts = {prompt.id: tokens for prompt, tokens in plan.prompts}
    wanted = sequences[sequences["arm"].isin(lossy | {plan.baseline}) & (sequences["finish_reason"] != ERROR)]
    known: dict[tuple[str, tuple[int, ...]], float] = {}
    found = []
    for prompt, tokens in zip(wanted["prompt_id"], wanted["tokens"], strict=True):
        key = prompt, tuple(map(int, tokens))
        if key not in known:
            known[key] = _nats(plan, target, prompts[prompt], list(key[1]))
        found.append(known[key])
    return pd.Series(found, index=wanted.index, dtype=float).reindex(sequences.index)


def _nats(plan: Plan, target: Transformer, prompt: list[int], answer: list[int]) -> float:
    """Return minus the log-likelihood of an answer in nats; NaN if the target cannot write it."""
    if not answer or max(answer) >= target.ids.width:
        return float("nan")
    logits = scored(target, prompt, answer, 0, plan.max_new_tokens)
    tokens = torch.tensor(answer, device=logits.device)
    total = 0.0
    for part, chosen in zip(logits.split(PART), tokens.split(PART), strict=True):
        law = part.log_softmax(-1, dtype=wide(part))
        total -= float(law.gather(-1, chosen[:, None]).double().sum())
    return total
