"""Compare the greedy tokens of arms that claim to be lossless with those of the baseline.

Where two outputs part, both tokens must tie with the target's best logit (`sdbench.harness.ties`). The comparison then goes on. One
forward of the target scores the rest of the arm's output. Each token must be the target's own choice after the tokens before it, or
tie with it. Such an output counts as a tie. Any other difference is a mismatch, and makes the arm's row void.

For a masked diffusion model, every difference is a mismatch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from sdbench.harness.arms import Arm
from sdbench.harness.plan import Plan
from sdbench.harness.ties import coarser, tied
from sdbench.lm.diffusion import DiffusionModel
from sdbench.lm.transformer import Transformer
from sdbench.stopping import Stop

PART = 64  # positions that are compared at once, for their logits need memory


def identities(
    plan: Plan, arms: Sequence[Arm], target: Transformer | None, sequences: pd.DataFrame
) -> dict[str, dict[str, int] | None]:
    """Count for each arm the sequences that are identical to the baseline's, differ by ties, or are mismatches.

    `tie_positions` counts the tied tokens. An arm's value is None if it does not claim to be lossless. All values are None if the
    run samples, the baseline does not claim to be lossless, or there is no target.
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
        counts = Counter(identical=0, ties=0, mismatches=0, tie_positions=0)
        for prompt, repeat, tokens in _of(sequences, arm.name)[[*keys, "tokens"]].itertuples(index=False):
            got = list(tokens)
            expected = wanted.get((prompt, repeat), got)  # a sequence without a baseline counts as identical
            if isinstance(target, DiffusionModel):  # the logits of one forward do not say which position came first
                counts.update(["identical" if got == expected else "mismatches"])
            else:
                counts.update(compared(plan, target, prompts[prompt], expected, got))
        found[arm.name] = dict(counts)
    return found


def _of(sequences: pd.DataFrame, arm: str) -> pd.DataFrame:
    return sequences[sequences["arm"] == arm]


def compared(plan: Plan, target: Transformer, prompt: list[int], wanted: list[int], got: list[int]) -> dict[str, int]:
    """Compare two outputs of a prompt under a plan's stop, limit and epsilon. Return what `match` returns."""
    return match(target, prompt, wanted, got, plan.stop, plan.max_new_tokens, plan.config["verify"]["epsilon"])


def match(
    target: Transformer,
    prompt: list[int],
    wanted: list[int],
    got: list[int],
    stop: Stop,
    max_new_tokens: int,
    epsilon: float | None = None,
) -> dict[str, int]:
    """Compare an arm's output with the wanted one. Return what to add to the counts of `identities`.

    epsilon: the difference below which two logits tie; None: by the precision. `tie_positions` counts where the outputs part, and
    each later token that is not the target's own choice.
    """
    if got == wanted:
        return {"identical": 1}
    at = next((i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), None)
    if at is None or not _ends_rightly(got, stop, max_new_tokens) or max(*got, wanted[at]) >= target.ids.width:
        return {"mismatches": 1}
    logits = scored(target, prompt, got, at, max_new_tokens)
    dtype = coarser(target.dtype, logits.dtype)
    ours = torch.tensor(got[at:], device=logits.device)
    if not bool(tied(_wide(logits[:1]), ours.new_tensor(wanted[at : at + 1]), dtype, epsilon)):
        return {"mismatches": 1}
    positions = 0
    for part, tokens in zip(logits.split(PART), ours.split(PART), strict=True):
        wide = _wide(part)
        if not bool(tied(wide, tokens, dtype, epsilon).all()):
            return {"mismatches": 1}
        positions += int((wide.argmax(-1) != tokens).sum())
    return {"ties": 1, "tie_positions": max(positions, 1)}


@torch.inference_mode()
def scored(
    target: Transformer, prompt: list[int], output: list[int], since: int, max_new_tokens: int
) -> Float[Tensor, "T V"]:
    """Return the target's logits for the tokens of an output from position `since` on, from one forward, under its rules."""
    ids = torch.tensor([[*prompt, *output]], device=target.device)
    logits = target.model(input_ids=ids, logits_to_keep=len(output) - since + 1).logits[0, :-1]
    logits = target.ids.widen(logits)
    if target.rules is None:
        return logits
    rules, known = target.rules.start(prompt, max_new_tokens), [*prompt, *output]
    ruled = [rules(known[: len(prompt) + since + place], one) for place, one in enumerate(logits)]
    return torch.stack(ruled)


def _ends_rightly(tokens: list[int], stop: Stop, max_new_tokens: int) -> bool:
    """Say whether an output ends at its first stop, or at the limit if nothing stops it."""
    kept = stop.start().push(tokens)
    return len(tokens) == (max_new_tokens if kept is None else kept)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
