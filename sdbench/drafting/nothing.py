"""No drafting: with it the speculative loop is autoregressive decoding."""

from __future__ import annotations

import torch

from sdbench.acceptance.base import Density, Draft
from sdbench.drafting.base import Local
from sdbench.lm.context import Context
from sdbench.lm.model import LanguageModel, Lengths
from sdbench.sampling import Key


class Nothing(Local):
    """Drafts no token, so each round is one target forward and its token."""

    name = ""
    density = Density.DELTA

    @property
    def models(self) -> list[LanguageModel]:
        return []

    def reach(self, length: int) -> int:
        return 0

    def admit(self, context: Context, row: int) -> None:
        return None

    def open(self, context: Context, length: int) -> None:
        none = torch.zeros(context.rows, 0, dtype=torch.long, device=context.tokens.device)
        self._draft = Draft(none, none.sum(1), None, self.density)

    def propose(self, context: Context, length: int, key: Key) -> Draft:
        return self._draft

    def commit(self, length: Lengths) -> None:
        return None
