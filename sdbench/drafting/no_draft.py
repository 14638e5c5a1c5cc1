"""No drafting: with it the speculative loop is autoregressive decoding."""

from __future__ import annotations

import torch

from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.drafting.base import Local
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths
from sdbench.lm.state import DecodeState


class NoDraft(Local):
    """Drafts no token, so each round is one target forward and its token."""

    name = ""
    kind = ProposalKind.DETERMINISTIC

    @property
    def models(self) -> list[LanguageModel]:
        return []

    def max_lookahead(self, length: int) -> int:
        return 0

    def admit(self, context: DecodeState, row: int) -> None:
        return None

    def open(self, context: DecodeState, length: int) -> None:
        none = torch.zeros(context.rows, 0, dtype=torch.long, device=context.tokens.device)
        self._draft = Draft(none, none.sum(1), None, self.kind)

    def propose(self, context: DecodeState, length: int, key: Key) -> Draft:
        return self._draft

    def commit(self, length: Lengths) -> None:
        return None
