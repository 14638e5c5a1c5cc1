"""Replay speculative decoding along a text that the target wrote: what the draft would have drafted, and where each round ends.

The text's token y is a draw from the target's law p. The exact rule couples it with a draw x from the draft's law q, so that
P(x = y) is as large as it can be. Given y, therefore

    x = y with probability min(1, q(y) / p(y)), else x is a draw from norm((q - p)+).

If x is y, the drafted token is kept and the round goes on. If not, y is the correction, and the next round begins behind it. So one
pass of each model over the text gives drafted tokens with the law that they have in decoding. For greedy laws, x = y exactly where
both models have the same most likely token.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def drafted(
    p: Float[Tensor, "N V"], q: Float[Tensor, "N V"], text: Int[Tensor, " N"], generator: torch.Generator
) -> tuple[Int[Tensor, " N"], Bool[Tensor, " N"], Float[Tensor, " N"]]:
    """Return the drafted token at each position, whether it is kept, and min(1, p(x) / q(x)).

    p, q: the laws of the target and the draft behind the text before each position, warped as in decoding.
    """
    own = text[:, None]
    kept = torch.rand(len(text), generator=generator) * p.gather(-1, own)[:, 0] < q.gather(-1, own)[:, 0]
    rest = (q - p).clamp(min=0)
    rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, q)  # equal laws: rounding alone rejects
    tokens = torch.where(kept, text, torch.multinomial(rest, 1, generator=generator)[:, 0])
    chosen = tokens[:, None]
    return tokens, kept, (p.gather(-1, chosen) / q.gather(-1, chosen))[:, 0].clamp(max=1)


def depths(kept: Iterable[bool], most: int) -> list[int]:
    """Return, for each position, how many tokens the round had drafted before it; -1 where no token was drafted.

    The first token of a text belongs to the prefill. Behind `most` kept tokens the target adds one of its own.
    """
    found: list[int] = []
    depth = -1
    for good in kept:
        found.append(depth)
        depth = 0 if depth < 0 or not good else -1 if depth + 1 == most else depth + 1
    return found
