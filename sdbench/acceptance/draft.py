"""What a proposer hands to a verifier: drafted tokens, the distributions that they were drawn from, and how they were chosen."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Int
from torch import Tensor

from sdbench.sampling import Scored


class ProposalKind(Enum):
    """How a proposer chose its tokens, given the q that it states."""

    SAMPLED = "sampled"  # each token was really drawn from its q
    DETERMINISTIC = (
        "deterministic"  # the tokens are a deterministic function of the context: q has all its mass on them
    )
    RELABELLED = "relabelled"  # q is what a verifier says, but a lossy stage chose the tokens


NEVER: frozenset[ProposalKind] = frozenset()
OVER_ANY = frozenset(ProposalKind)
OVER_DRAWN = frozenset({ProposalKind.SAMPLED, ProposalKind.DETERMINISTIC})  # where the tokens really come from q


@dataclass
class Draft:
    """Drafted tokens of a batch: chains of up to K tokens.

    tokens: [B, K]; length: [B], how many of them count in each row; q: the proposer's scores [B, K, V], or None where
    the proposer has none (kind DELTA); kind: what q is to the tokens; full: it is known on the host that all K count.
    """

    tokens: Int[Tensor, "B K"]
    length: Int[Tensor, " B"]
    q: Scored | None
    kind: ProposalKind
    full: bool = False

    def to(self, device: torch.device) -> Draft:
        """The same draft where its verifier is."""
        if self.tokens.device == device:
            return self
        q = None if self.q is None else Scored(self.q.logits.to(device), self.q.sampling)
        return Draft(self.tokens.to(device), self.length.to(device), q, self.kind, self.full)

    def scored(self, p: Scored) -> Scored:
        """q, for the rules that read it. Deterministic tokens have all their mass on themselves."""
        if self.q is not None:
            return self.q
        shape = (*self.tokens.shape, p.logits.shape[-1])
        one_hot = torch.zeros(shape, dtype=wide(p.logits), device=p.logits.device)
        one_hot.scatter_(-1, self.tokens[..., None], 1.0)
        scores = Scored(torch.log(one_hot), p.sampling)
        scores._probs = scores._plain = one_hot
        return scores


def wide(values: Tensor) -> torch.dtype:
    """The type that probabilities are computed in: float32, or float64 for float64."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32
