"""Outcomes and speculations as messages: one fused, preallocated buffer each way.

outcome      int64 [magic, serial | active B | length B | first B | streams B | tokens B W]
speculation  int64 [magic, serial | hit B | length B | tokens B K], then logits [B, K, V] in the model's own type

No key or value ever crosses: the server reads the tokens itself.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sdbench.remote.messages import Outcome, Speculation

MAGIC = 0x5DBE9C4
HEAD = np.int64(MAGIC).tobytes()
NEW_TOKENS = 8  # the most tokens that stages above add between two outcomes (each adds one)


class MalformedError(Exception):
    """What came is no message of this session."""


class OutcomeMessage:
    """The buffer of outcomes of a session with B rows."""

    def __init__(self, rows: int) -> None:
        self.ints = np.zeros(2 + rows * (4 + NEW_TOKENS), np.int64)
        self._active, self._length, self._first, self._streams = self.ints[2 : 2 + 4 * rows].reshape(4, rows)
        self._tokens = self.ints[2 + 4 * rows :].reshape(rows, NEW_TOKENS)

    def pack(self, serial: int, outcome: Outcome) -> np.ndarray:
        """The buffer, filled."""
        self.ints[:2] = MAGIC, serial
        self._active[:], self._length[:], self._first[:] = outcome.active, outcome.length, outcome.first
        self._streams[:] = outcome.streams.view(np.int64)
        self._tokens[:, : outcome.tokens.shape[1]] = outcome.tokens
        return self.ints

    def unpack(self, data: bytes) -> tuple[int, Outcome]:
        """The serial number and a copy of what came."""
        if len(data) != self.ints.nbytes:
            raise MalformedError(f"an outcome of {len(data)} bytes; expected {self.ints.nbytes}")
        self.ints[:] = np.frombuffer(data, np.int64)
        streams = self._streams.view(np.uint64).copy()
        active = self._active.astype(bool)
        outcome = Outcome(active, self._length.copy(), self._first.copy(), self._tokens.copy(), streams)
        return int(self.ints[1]), outcome


class SpeculationMessage:
    """The buffer of speculations of a session: B rows, K tokens, V logits each, on `device`."""

    def __init__(self, rows: int, length: int, vocab: int, dtype: torch.dtype, device: torch.device) -> None:
        self.rows, self.length, self.vocab, self.dtype = rows, length, vocab, dtype
        self._ints = 2 + rows * (2 + length)
        self.buffer = torch.zeros(
            self._ints * 8 + rows * length * vocab * dtype.itemsize, dtype=torch.uint8, device=device
        )
        self._head, self._scores = self._parts(self.buffer)

    def _parts(self, buffer: Tensor) -> tuple[Tensor, Tensor]:
        """The whole numbers, and the logits [B, K, V], as views."""
        scores = buffer[self._ints * 8 :].view(self.dtype)
        return buffer[: self._ints * 8].view(torch.int64), scores.view(self.rows, self.length, self.vocab)

    def pack(self, serial: int, speculation: Speculation) -> Tensor:
        """The buffer, filled."""
        head = [MAGIC, serial, *speculation.hit.tolist(), *speculation.length.tolist()]
        self._head[: len(head)] = torch.tensor(head)
        self._head[len(head) :] = speculation.tokens.reshape(-1)
        self._scores.copy_(speculation.logits)
        return self.buffer

    def unpack(self, serial: int, buffer: Tensor) -> Speculation:
        """What a buffer holds, as views, if it is the answer to `serial` and makes sense.

        Raises:
            MalformedError: it does not.
        """
        head, logits = self._parts(buffer)
        magic, number, *rest = head.tolist()
        hit, drafted, tokens = rest[: self.rows], rest[self.rows : 2 * self.rows], rest[2 * self.rows :]
        if (magic, number) != (MAGIC, serial):
            raise MalformedError(f"the answer to outcome {number} where that to {serial} was due")
        if not (all(flag in (0, 1) for flag in hit) and all(0 <= length <= self.length for length in drafted)):
            raise MalformedError(f"hits {hit}, lengths {drafted} in a draft of {self.length}")
        if not all(0 <= token < self.vocab for token in tokens):
            raise MalformedError(f"a token outside the vocabulary of {self.vocab}")
        grid = head[2 + 2 * self.rows :].view(self.rows, self.length)
        if math.isnan(logits.gather(-1, grid[..., None]).sum()):
            raise MalformedError("a drafted token without a probability")
        return Speculation(np.array(hit, bool), np.array(drafted), grid, logits)
