"""The server of a draft: it drafts behind decided tokens on request. Other servers build on it.

A server is a state machine. Whoever carries its calls (a child process, a rank, or this process) makes them in this order:

    open                    a session begins;
    admit                   a prompt takes a row;
    speculate_first_token   work while the verifier reads the prompt;
    serve                   an outcome comes, and the server answers with a speculation;
    work                    work while the verifier verifies;
    early_exit              likely next tokens come from the middle of the verification (Mirror-SD only);
    measured                the session ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch

from sdbench.asynchronous.protocol import Caller, Outcome, Speculation
from sdbench.device import synchronise
from sdbench.drafting.draft_tokens import draft_tokens
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel
from sdbench.lm.programs.modes import programs_of
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampler


class DraftServer:
    """Draft on request, and hold no speculations. model: the draft."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.device = model, model.device
        self.served: list[dict[str, Any]] = []

    def branch_slots(self, length: int) -> int:
        """Return the cache slots that a row needs behind its own for drafts of `length` tokens."""
        return 0

    def open(self, rows: int, slots: int, length: int, sampler: Sampler) -> None:
        """Begin a session of `rows` empty rows of `slots` tokens. The server drafts `length` tokens at a time."""
        self.length = length
        self.model.allocate(rows, slots + self.branch_slots(length))
        self.state = DecodeState(
            torch.zeros(rows, slots, dtype=torch.long, device=self.device),
            np.ones(rows, np.int64),
            np.zeros(rows, bool),
            sampler,
            Trace(sequence=[-1] * rows, sequence_round=[0] * rows),
        )
        self.served = []
        self._streams = np.zeros(rows, np.uint64)
        self._rounds = [-1] * rows  # how often the row was served, from 0
        self._decided = [1] * rows

    def admit(self, row: int, tokens: Sequence[int], stream: int) -> None:
        """Read the prompt of a new sequence. stream: names its random choices."""
        state = self.state
        state.tokens[row, : len(tokens)] = torch.tensor(tokens, device=self.device)
        state.length[row], state.active[row] = len(tokens), True
        self._streams = self._streams.copy()
        self._streams[row] = stream
        self._decided[row], self._rounds[row] = len(tokens), -1
        self.model.reset(row)
        state.trace.round = -1
        self._behind_prompt = self.model.read(state, state.length, "prefill", row=row).logits
        synchronise(self.device)

    def speculate_first_token(self, caller: Caller | None = None) -> None:
        """Work while the verifier reads the prompt. caller: a message that arrives ends the work."""
        return None

    def serve(self, outcome: Outcome) -> Speculation:
        """Return the speculation for an outcome."""
        received = self._begin()
        self._apply(outcome)
        drafted = draft_tokens(self.model, self.state, self.length, "backup", self.key())
        self.state.place_many(drafted.tokens, self.state.length)
        length = [self.length if active else 0 for active in outcome.active]
        self._log([False] * len(length), received)
        return Speculation([False] * len(length), length, drafted.tokens, drafted.logits)

    def work(self, caller: Caller | None = None) -> None:
        """Work while the verifier verifies the last speculation. caller: a message that arrives ends the work."""
        return None

    def early_exit(self, likely: list[list[list[int]]], caller: Caller | None = None) -> None:
        """Work on likely next tokens that the verifier's early exit names while it verifies the last speculation.

        likely: of each row, tokens behind each number of accepted ones, the likeliest first; [] for a row that is not active.
        """
        return None

    def measured(self) -> dict[str, Any]:
        """Return what the server recorded since `open`.

        steps: as in a trace; their `round` is an index into `served`. served: one entry per answer. programs: of the model.
        bytes: the size of weights, slots and speculations.
        """
        self.state.trace.close()
        return {
            "steps": self.state.trace.steps,
            "served": self.served,
            "programs": programs_of([self.model.execution]),
            "bytes": self.model.bytes,
        }

    def key(self) -> Key:
        """Name the choices of the speculation that is being made, by row: the row's stream, and how often it was served."""
        return Key(self._streams, self._rounds)

    def _begin(self) -> float:
        """Number the steps of the next answer. Return the time."""
        received = perf_counter()
        self.state.trace.round = len(self.served)
        return received

    def _apply(self, outcome: Outcome) -> None:
        """Bring tokens, lengths and the model's cache up to an outcome."""
        state = self.state
        state.active[:] = outcome.active
        for row, (active, first, end) in enumerate(zip(outcome.active, outcome.first, outcome.length, strict=True)):
            if active:
                state.write(row, first, outcome.tokens[row])
                state.length[row] = self._decided[row] = end
                self.model.forget(row, first)
            else:  # tokens of an inactive row go where no token will ever be decided
                state.length[row] = state.tokens.shape[1] - self.length
        self._streams = outcome.streams
        self._rounds = [number + on for number, on in zip(self._rounds, outcome.active, strict=True)]

    def _log(self, hit: list[bool], received: float) -> None:
        """Record an answer that is ready. hit: whether the cache held it, by row. `ranks` may be filled in before `measured`."""
        synchronise(self.device)
        self.served.append({"hit": [*hit], "received": received, "replied": perf_counter(), "ranks": [None] * len(hit)})
