"""What a proposer hands to a verifier: drafted tokens, the distributions they were drawn from, and how they were chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import torch
from jaxtyping import Int
from torch import Tensor

from sdbench.sampling import Scored
from sdbench.topology import Topology


class ProposalKind(Enum):
    """Say how a proposer chose its tokens, given the q that it states.

    SAMPLED: each token was drawn from its q. DETERMINISTIC: the tokens are a function of the context, so q has all its mass on
    them. RELABELLED: q is a verifier's distribution, but a lossy stage chose the tokens.
    """

    SAMPLED = "sampled"
    DETERMINISTIC = "deterministic"
    RELABELLED = "relabelled"


NEVER: frozenset[ProposalKind] = frozenset()
OVER_ANY = frozenset(ProposalKind)
OVER_DRAWN = frozenset({ProposalKind.SAMPLED, ProposalKind.DETERMINISTIC})  # the tokens really come from q


@dataclass
class Draft:
    """Hold the drafted tokens of a batch: chains of up to K tokens, or trees of N tokens (then K is N).

    tokens: [B, K]. length: [B], how many tokens of each row count.
    q: the proposer's scores [B, K, V]; None for a deterministic proposer, which has none.
    kind: how the tokens were chosen.
    full: the host knows that all K tokens of each row count.
    number: the number of the draft in the proposer's session, from 0; None if the proposer writes no notes (`RoundNote`).
    topology: the tree of each row, of its first tokens; None for chains. q is then the law of each token given its elder siblings.
    tested: by row, how many first nodes of its tree are candidates. The verifier reads the other nodes too, but does not test
        them. The proposer wants their logits (lookahead decoding). None: all nodes are candidates.
    origins: by row, the level of a hierarchy that each token comes from; None if all come from the proposer itself.
    matched: [B], the tokens of the match that a copied draft stands behind; None for drafts that no match gave.
    """

    tokens: Int[Tensor, "B K"]
    length: Int[Tensor, " B"]
    q: Scored | None
    kind: ProposalKind
    full: bool = False
    number: int | None = None
    topology: list[Topology] | None = None
    tested: list[int] | None = None
    origins: list[list[str]] | None = None
    matched: Int[Tensor, " B"] | None = None

    def candidates(self, p: Scored) -> tuple[Draft, Scored]:
        """Return the draft and the verifier's scores p, [B, N+1, V], without the nodes that are not tested."""
        if self.tested is None or self.topology is None:
            return self, p
        width = max(self.tested)
        trees = [Topology.of(tree.parent[:n]) for tree, n in zip(self.topology, self.tested, strict=True)]
        return replace(
            self,
            tokens=self.tokens[:, :width],
            length=torch.tensor(self.tested, device=self.length.device),
            q=None if self.q is None else self.q[:, :width],
            topology=trees if width else None,
            tested=None,
        ), p[:, : width + 1]

    @property
    def trees(self) -> list[Topology]:
        """The tree of each row. A chain of `length` tokens is a tree without siblings."""
        return self.topology or [Topology.chain(length) for length in self.length.tolist()]

    def to(self, device: torch.device) -> Draft:
        """Return the same draft on the verifier's device."""
        if self.tokens.device == device:
            return self
        q = None if self.q is None else Scored(self.q.logits.to(device), self.q.sampling)
        return replace(self, tokens=self.tokens.to(device), length=self.length.to(device), q=q)

    def scored(self, p: Scored) -> Scored:
        """Return q for the rules that read it. p: the verifier's scores. Deterministic tokens have all mass on themselves."""
        if self.q is not None:
            return self.q
        shape = (*self.tokens.shape, p.logits.shape[-1])
        one_hot = torch.zeros(shape, dtype=wide(p.logits), device=p.logits.device)
        one_hot.scatter_(-1, self.tokens[..., None], 1.0)
        return Scored(torch.log(one_hot), p.sampling).knowing(probs=one_hot, plain=one_hot)


def wide(values: Tensor) -> torch.dtype:
    """Return the type that probabilities are computed in: float32, or float64 for float64."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32
