"""SIMULATED acceptance by a recording: the n-th verification of a sequence keeps as many tokens as the recording's n-th did.

Every sequence replays the recording from its beginning, and starts it again at its end. If fewer tokens were drafted than
recorded, all are kept. The rule tests no token, and the verifier's own token follows. So the text is meaningless.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sdbench.acceptance.base import Law, one_hot, row
from sdbench.acceptance.draft import NEVER, Draft, ProposalKind
from sdbench.errors import InputError
from sdbench.sampling import Scored


class Recorded:
    """Replay accepted lengths. lengths: one for each verification. The memory of a row is the number of its verifications."""

    lossless_over: frozenset[ProposalKind] = NEVER
    simulated = True

    def __init__(self, lengths: Sequence[int] = (0,)) -> None:
        whole = isinstance(lengths, Sequence) and not isinstance(lengths, str)
        if (
            not whole
            or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in lengths)
            or not lengths
        ):
            raise InputError(
                f"recorded.lengths is {lengths!r}; it must be a list of accepted lengths, such as [4, 0, 2]."
            )
        self.lengths = list(lengths)

    def start(self, rows: int) -> Float[Tensor, "B 1"]:
        return torch.zeros(rows, 1)

    def law(self, draft: Draft, p: Scored, memory: Float[Tensor, "B 1"] | None = None) -> Law:
        replayed = self.start(len(draft.length)) if memory is None else memory
        at = replayed[:, 0].long().remainder(len(self.lengths))
        kept = torch.tensor(self.lengths, device=at.device)[at].to(draft.length.device)
        accepted = one_hot(torch.minimum(kept, draft.length), p.logits.new_zeros(1, draft.tokens.shape[1] + 1))
        return Law(accepted, lambda n: row(p, n).probs, lambda n: replayed + 1)
