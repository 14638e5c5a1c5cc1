"""AMUSD (2410.17375): a draft that never waits. It drafts on while the verifier verifies, and the verifier takes what is ready.

The server's run is the tokens that it has drafted behind the decided ones. If the new tokens of an outcome are the first tokens of
the run, the run continues behind them. Any other outcome ends the run, and the server starts again behind the decided tokens. An
answer holds the whole run, and at least `least` tokens. So the length of a draft depends on timing and never on the drafted
values. A token behind the verifier's own token was drawn behind that very token, so every lossless rule stays lossless. (The
authors' code is greedy.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sdbench import validate
from sdbench.asynchronous.draft_server import DraftServer
from sdbench.asynchronous.drafter import AsyncDrafter
from sdbench.asynchronous.protocol import Caller, Outcome, Speculation
from sdbench.drafting.draft_tokens import draft_token
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel
from sdbench.sampling import Sampler


class AMUSDServer(DraftServer):
    """Draft without pause. least: the fewest tokens of an answer."""

    def __init__(self, model: LanguageModel, least: int = 2) -> None:
        super().__init__(model)
        self.least = least

    def open(self, rows: int, slots: int, length: int, sampler: Sampler) -> None:
        super().open(rows, slots, length, sampler)
        self._ahead = np.zeros(rows, np.int64)  # tokens of the run
        self._scores: list[list[Tensor]] = [[] for _ in range(rows)]  # their logits

    def admit(self, row: int, tokens: Sequence[int], stream: int) -> None:
        super().admit(row, tokens, stream)
        self._ahead[row], self._scores[row] = 0, []

    def serve(self, outcome: Outcome) -> Speculation:
        received = self._begin()
        survived = [active and self._advance(row, outcome) for row, active in enumerate(outcome.active)]
        for row in np.flatnonzero(survived).tolist():
            # The run has these tokens already, and the model's cache stays as it is.
            outcome.first[row], outcome.tokens[row] = self.model.kv_len[row], []
        self._apply(outcome)
        while (self._ahead[outcome.active] < min(self.least, self.length)).any():
            self._draft("backup")
        speculation = self._so_far()
        self._log(survived, received)
        return speculation

    def _advance(self, row: int, outcome: Outcome) -> bool:
        """Remove the decided tokens from a row's run. Return whether the run continues; if not, it is empty."""
        first, length, decided = outcome.first[row], outcome.length[row], self._decided[row]
        end = decided + int(self._ahead[row])
        drafted = self.state.tokens[row, first : min(length, end)].tolist()
        # A stage above may cut decided tokens and put the same token there. This ends the run too.
        survived = decided <= length <= end and drafted == outcome.tokens[row]
        gone = length - decided if survived else int(self._ahead[row])
        self._ahead[row] -= gone
        del self._scores[row][:gone]
        return survived

    def work(self, caller: Caller | None = None) -> None:
        """Draft until a message arrives, or until every run is full."""
        active = self.state.active
        while active.any() and self._ahead[active].min() < self.length and not (caller is not None and caller.ready()):
            self._draft("run")

    def _draft(self, kind: str) -> None:
        """Draft one more token behind every run that is not full."""
        state = self.state
        short = state.active & (self._ahead < self.length)
        end = np.where(state.active, state.length + self._ahead, state.length)
        here = state.ahead(end, short)
        # The position names the draw. A position is drafted again only if nothing drafted there has been looked at.
        token, _, logits = draft_token(self.model, here, end, kind, Key(self._streams, end) / "run")
        here.place(token, np.where(short, end, state.tokens.shape[1] - 1))
        for row in np.flatnonzero(short):
            self._scores[row].append(logits[row, -1])
            self._ahead[row] += 1

    def _so_far(self) -> Speculation:
        """Return the runs as a speculation."""
        state, K = self.state, self.length
        length = np.where(state.active, np.minimum(self._ahead, K), 0)
        tokens = torch.zeros(state.rows, K, dtype=torch.long, device=self.device)
        logits = torch.zeros(state.rows, K, self.model.vocab, dtype=self.model.dtype, device=self.device)
        for row in np.flatnonzero(length).tolist():
            first, count = int(state.length[row]), int(length[row])
            tokens[row, :count] = state.tokens[row, first : first + count]
            logits[row, :count] = torch.stack(self._scores[row][:count])
        return Speculation([False] * state.rows, length.tolist(), tokens, logits)


class AMUSDDrafter(AsyncDrafter):
    """Draft without pause, up to draft_length tokens ahead. least: the fewest tokens of an answer."""

    def __init__(
        self,
        model: LanguageModel,
        least: int = 2,
        process: bool = True,
        timeout_seconds: float = 10.0,
        on_fault: str = "stop",
        core: int | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__(model, process, timeout_seconds, on_fault, core, threads)
        validate.whole("proposer.least", least, 1)
        self.least = least

    def _factory(self) -> Callable[[LanguageModel], DraftServer]:
        return partial(AMUSDServer, least=self.least)
