"""Outcomes and speculations as messages: one fused, preallocated buffer each way.

outcome      int64 [magic, serial | active B | length B | first B | streams B | tokens B W]
speculation  int64 [magic, serial | hit B | length B | tokens B K], then logits [B, K, V] in the model's own type

No key or value ever crosses: the server reads the tokens itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdbench.remote.server import Outcome, Speculation

MAGIC = 0x5DBE9C4
HEAD = np.int64(MAGIC).tobytes()
NEW_TOKENS = 8  # the most tokens that stages above add between two outcomes (each adds one)


class Malformed(Exception):
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
            raise Malformed(f"an outcome of {len(data)} bytes; expected {self.ints.nbytes}")
        self.ints[:] = np.frombuffer(data, np.int64)
        streams = self._streams.view(np.uint64).copy()
        active = self._active.astype(bool)
        outcome = Outcome(active, self._length.copy(), self._first.copy(), self._tokens.copy(), streams)
        return int(self.ints[1]), outcome


class SpeculationMessage:
    """The buffer of speculations of a session: B rows, K tokens, V logits each, on `device`."""

    def __init__(self, rows: int, length: int, vocab: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.vocab = (rows, length), vocab
        ints = 2 + rows * (2 + length)
        scores = rows * length * vocab
        self.buffer = torch.zeros(ints * 8 + scores * dtype.itemsize, dtype=torch.uint8, device=device)
        self._ints = self.buffer[: ints * 8].view(torch.int64)
        self._logits = self.buffer[ints * 8 :].view(dtype).view(rows, length, vocab)

    def pack(self, serial: int, speculation: Speculation) -> Tensor:
        """The buffer, filled."""
        rows = self.shape[0]
        head = np.concatenate([[MAGIC, serial], speculation.hit, speculation.length])
        self._ints[: len(head)] = torch.from_numpy(head).to(self.buffer.device)
        self._ints[2 + 2 * rows :] = speculation.tokens.reshape(-1)
        self._logits.copy_(speculation.logits)
        return self.buffer

    def unpack(self, serial: int) -> Speculation:
        """A copy of what the buffer holds, if it is the answer to `serial` and makes sense.

        Raises:
            Malformed: it does not.
        """
        rows, length = self.shape
        ints = self._ints.cpu().numpy()
        hit, drafted, tokens = ints[2 : 2 + rows], ints[2 + rows : 2 + 2 * rows], ints[2 + 2 * rows :]
        if ints[0] != MAGIC or ints[1] != serial:
            raise Malformed(f"the answer to outcome {ints[1]} where that to {serial} was due")
        if ((hit < 0) | (hit > 1)).any() or ((drafted < 0) | (drafted > length)).any():
            raise Malformed(f"hits {hit.tolist()}, lengths {drafted.tolist()} in a draft of {length}")
        if ((tokens < 0) | (tokens >= self.vocab)).any():
            raise Malformed(f"a token outside the vocabulary of {self.vocab}")
        grid = torch.from_numpy(tokens.reshape(rows, length).copy()).to(self.buffer.device)
        logits = self._logits.clone()
        own = logits.gather(-1, grid[..., None])
        if bool(torch.isnan(own).any()):
            raise Malformed("a drafted token without a probability")
        return Speculation(hit.astype(bool), drafted.copy(), grid, logits)
