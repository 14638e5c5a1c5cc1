"""Draft nothing. The speculative loop is then autoregressive decoding."""

from __future__ import annotations

import torch

from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.drafting.base import Local
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState


class NoDraft(Local):
    """Return an empty draft, so each round is one target forward and its token."""

    name = ""
    kind = ProposalKind.DETERMINISTIC

    @property
    def models(self) -> list[LanguageModel]:
        return []

    def max_lookahead(self, length: int) -> int:
        return 0

    def admit(self, state: DecodeState, row: int) -> None:
        return None

    def open(self, state: DecodeState, length: int) -> None:
        none = torch.zeros(state.rows, 0, dtype=torch.long, device=state.tokens.device)
        self._draft = Draft(none, none.sum(1), None, self.kind)

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        return self._draft

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        return None
