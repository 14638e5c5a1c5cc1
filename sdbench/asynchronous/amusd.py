"""A draft that never waits (AMUSD, 2410.17375): it drafts on while the verifier verifies, and the verifier takes what there is.

The server's run is what it has drafted behind the decided tokens. An outcome whose new tokens are those of the run shortens it from
the front; any other ends it, and the server starts again behind the decided tokens. Answers hold as much of the run as there is,
`least` tokens at least. How long drafts are thus depends on timing, never on what was drafted, so any lossless rule stays lossless:
what stands behind a token of the run that the verifier chose too was drawn behind that very token. (The authors' code is greedy.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from sdbench import validate
from sdbench.asynchronous.drafter import AsyncDrafter
from sdbench.asynchronous.protocol import Caller, Outcome, Speculation
from sdbench.asynchronous.speculation import SpeculationServer
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel
from sdbench.sampling import Sampler


class AMUSDServer(SpeculationServer):
    """least: tokens that are waited for before an answer."""

    holds = False

    def __init__(self, model: LanguageModel, least: int = 2) -> None:
        super().__init__(model)
        self.least = least

    def open(self, rows: int, slots: int, length: int, sampler: Sampler) -> None:
        super().open(rows, slots, length, sampler)
        self._ahead = np.zeros(rows, np.int64)
        self._scores: list[list[Tensor]] = [[] for _ in range(rows)]

    def admit(self, row: int, tokens: Sequence[int], stream: int) -> None:
        super().admit(row, tokens, stream)
        self._ahead[row], self._scores[row] = 0, []

    def serve(self, outcome: Outcome) -> Speculation:
        received, context = perf_counter(), self.context
        context.trace.round = len(self.served)
        survived = np.zeros(context.rows, bool)
        for row in np.flatnonzero(outcome.active).tolist():
            first, length, decided = outcome.first[row], outcome.length[row], self._decided[row]
            end = decided + int(self._ahead[row])
            drafted = context.tokens[row, first : min(length, end)].tolist()
            # (A stage above may have cut back behind what was decided here, and put the same token there: that ends the run too.)
            survived[row] = decided <= length <= end and drafted == outcome.tokens[row]
            gone = length - decided if survived[row] else int(self._ahead[row])
            self._ahead[row] -= gone
            del self._scores[row][:gone]
            if survived[row]:
                outcome.first[row], outcome.tokens[row] = (
                    end,
                    [],
                )  # the whole run is right, so the model forgets nothing
        self._take(outcome)
        while (self._ahead[outcome.active] < min(self.least, self.length)).any():
            self._draft("backup")
        speculation = self._so_far()
        self._log(survived.tolist(), received)
        return speculation

    def work(self, caller: Caller | None = None) -> None:
        """Draft on until the caller says something, or as far as a draft may reach."""
        active = self.context.active
        while active.any() and self._ahead[active].min() < self.length and not (caller is not None and caller.ready()):
            self._draft("run")

    def _draft(self, kind: str) -> None:
        """One more token behind every row's run that is not full."""
        context = self.context
        short = context.active & (self._ahead < self.length)
        end = np.where(context.active, context.length + self._ahead, context.length)
        here = context.ahead(end, short)
        logits = self.model.read(here, end, kind).logits[:, -1]
        # Named by its place: a place is drafted anew only if nothing that was drafted there has been looked at.
        token = context.sampler.draw(context.sampler.score(logits), Key(self._streams, end) / "run")
        here.place(token, np.where(short, end, context.tokens.shape[1] - 1))
        for row in np.flatnonzero(short):
            self._scores[row].append(logits[row])
            self._ahead[row] += 1

    def _so_far(self) -> Speculation:
        context, K = self.context, self.length
        length = np.where(context.active, np.minimum(self._ahead, K), 0)
        logits = torch.zeros(context.rows, K, self.model.vocab, dtype=self.model.dtype, device=self.device)
        for row in np.flatnonzero(length):
            logits[row, : length[row]] = torch.stack(self._scores[row][: length[row]])
        return Speculation([False] * context.rows, length.tolist(), self._drafted_tokens().clone(), logits)


class AMUSDDrafter(AsyncDrafter):
    """A draft that drafts without pause, as far as draft_length tokens ahead; least: tokens that an answer holds at least."""

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

    def _factory(self) -> Callable[[LanguageModel], SpeculationServer]:
        return partial(AMUSDServer, least=self.least)
