"""Draft on the host from the tokens of each row: what drafters without a model have in common.

Such a draft is a function of tokens and logits that are known already. So it is deterministic, and the delta rule applies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch

from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.drafting.base import Local
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState
from sdbench.topology import Topology


@dataclass
class Nodes:
    """Hold the drafted tokens of one row. parents: the node that each token follows; None for a chain.

    untested: the last nodes that are no candidates; the verifier only reads them. matched: the tokens of the match that the draft
    stands behind (`Draft.matched`).
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] | None = None
    untested: int = 0
    matched: int = 0


class TextDrafter(Local, ABC):
    """Draft each row from its tokens. A subclass writes `draft_row`."""

    kind = ProposalKind.DETERMINISTIC

    @property
    def models(self) -> list[LanguageModel]:
        return []

    def max_lookahead(self, length: int) -> int:
        return length

    def admit(self, state: DecodeState, row: int) -> None:
        return None

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        return None

    @abstractmethod
    def draft_row(self, row: int, text: list[int], length: int) -> Nodes:
        """Return the draft of one row, of at most `length` tokens. text: its decided tokens, prompt included."""

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        rows = [
            self.draft_row(row, state.tokens[row, :end].tolist(), length) if active else Nodes()
            for row, (end, active) in enumerate(zip(state.length.tolist(), state.active.tolist(), strict=True))
        ]
        width, device = max(len(nodes.tokens) for nodes in rows), state.tokens.device
        padded = [nodes.tokens + [0] * (width - len(nodes.tokens)) for nodes in rows]
        tokens = torch.tensor(padded, dtype=torch.long, device=device).view(state.rows, width)
        counts = torch.tensor([len(nodes.tokens) for nodes in rows], device=device)
        if not self.trees or not width:
            matched = torch.tensor([nodes.matched for nodes in rows], device=device) if self.matches else None
            return Draft(tokens, counts, None, self.kind, matched=matched)
        trees = [Topology.of(nodes.parents or ()) for nodes in rows]
        tested = None
        if any(nodes.untested for nodes in rows):
            tested = [len(nodes.tokens) - nodes.untested for nodes in rows]
        return Draft(tokens, counts, None, self.kind, topology=trees, tested=tested)
