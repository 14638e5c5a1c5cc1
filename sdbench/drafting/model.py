"""Draft with a model, or with a model's own first layers (early exit)."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.drafting.base import Local
from sdbench.drafting.draft_tokens import GoOn, draft_tokens
from sdbench.drafting.rank_log import RankLog
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import ProposerRecord


class ModelDrafter(Local):
    """Draw tokens from a language model, one after the other (Leviathan et al., 2211.17192)."""

    kind = ProposalKind.SAMPLED
    stops = True

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.name = model, model.name
        self._ranks = RankLog()

    @property
    def models(self) -> list[LanguageModel]:
        return [self.model]

    def max_lookahead(self, length: int) -> int:
        return length

    def open(self, state: DecodeState, length: int) -> None:
        self._ranks.open()

    def admit(self, state: DecodeState, row: int) -> None:
        self.model.reset(row)
        # The last decided token is read by the first drafting step.
        behind = self.model.read(state, state.length - 1, "prefill", row=row).logits
        self._ranks.admitted(state, row, behind[0, -1])

    def propose(self, state: DecodeState, length: int, key: Key, go_on: GoOn | None = None) -> Draft:
        # If a row kept its whole last draft, the first step also gives the logits behind it. They rank the bonus token.
        whole = self._ranks.whole(state)
        drafted = draft_tokens(self.model, state, length, "draft", key, num_logits=2 if whole else 1, go_on=go_on)
        full, made = drafted.length is None, drafted.tokens
        count = _all(state.rows, made.shape[1], made.device) if drafted.length is None else drafted.length
        draft = Draft(made, count, drafted.q, self.kind, full, self._ranks.number)
        self._ranks.drafted(state, draft, drafted.before)
        return draft

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        self.model.keep(length, paths)
        self._ranks.verified(length)

    def record(self) -> ProposerRecord:
        return ProposerRecord(self.name, self._ranks.notes())


@lru_cache(maxsize=64)
def _all(rows: int, length: int, device: torch.device) -> Int[Tensor, " B"]:
    """Return [B] times `length`: all tokens of each row count."""
    return torch.full((rows,), length, device=device)


class EarlyExit(ModelDrafter):
    """Draft with the verifier's own first `layers` layers and its head (LayerSkip, 2404.16710). Works on any model."""

    def __init__(self, model: LanguageModel, layers: int) -> None:
        validate.whole("proposer.layers", layers, 1)
        super().__init__(model.truncated(layers))
