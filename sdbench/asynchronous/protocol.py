"""The protocol between a verifier and its draft's server: an outcome goes one way, a speculation comes back.

Between processes each message is one buffer. No key or value of the cache ever crosses, because the server reads the tokens itself:

    outcome      int64 [magic, serial | active B | length B | first B | signal B | streams B | tokens B W]
    speculation  int64 [magic, serial | hit B | length B | tokens B K], then logits [B, K, V] in the model's own type

Values by row are lists of plain numbers. Right after a forward every call of numpy takes several times as long as a short loop.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

MAGIC = 0x5DBE9C4
HEAD = np.int64(MAGIC).tobytes()
NEW_TOKENS = 8  # the most tokens that the stages above add between two outcomes; each stage adds one


class Caller(Protocol):
    """The verifier, as its server sees it during its own work."""

    def ready(self) -> bool:
        """Say whether a message has arrived."""
        ...

    def outcome(self) -> Outcome | None:
        """Return the next message if it is an outcome. It stays the next message."""
        ...


@dataclass
class Outcome:
    """Hold the result of a verification, for each of B rows.

    active: [B] whether the row is decoded; the other fields of inactive rows mean nothing.
    length: [B] decided tokens, with the verifier's own one.
    first: [B] the position of the first token that the server does not have. It is length - 1, unless a stage above has changed
        more tokens.
    tokens: by row, the length - first tokens from `first` on. streams: [B] uint64, the rows' random streams.
    signal: [B] what the verifier expects of the next draft; only SpecBranch's server reads it. None: 0 for each row.
    """

    active: list[bool]
    length: list[int]
    first: list[int]
    tokens: list[list[int]]
    streams: np.ndarray
    signal: list[int] | None = None


@dataclass
class Speculation:
    """Hold the tokens to verify next. hit: [B]. length: [B] tokens that count. tokens: [B, K]. logits: [B, K, V], of their law."""

    hit: list[bool]
    length: list[int]
    tokens: Int[Tensor, "B K"]
    logits: Float[Tensor, "B K V"]


class MalformedError(Exception):
    """A message that does not belong to the session, or whose values are impossible."""


class OutcomeMessage:
    """Convert the outcomes of a session with B rows to bytes and back."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._streams: tuple[int, ...] = ()
        self._same = np.zeros(0, np.uint64)

    def pack(self, serial: int, outcome: Outcome) -> bytes:
        """Return the message. serial: the number of the outcome in the session."""
        width = max(map(len, outcome.tokens))
        tokens = [token for row in outcome.tokens for token in (*row, *(0,) * (width - len(row)))]
        signal = outcome.signal or (0,) * self.rows
        rows = *outcome.active, *outcome.length, *outcome.first, *signal, *outcome.streams.tolist(), *tokens
        return struct.pack(self._form(width), MAGIC, serial, *rows)

    def unpack(self, data: bytes) -> tuple[int, Outcome]:
        """Return the serial number and the outcome. Errors: MalformedError."""
        rows = self.rows
        width, rest = divmod(len(data) // 8 - 2 - 5 * rows, rows)
        if rest or len(data) % 8 or not 0 < width <= NEW_TOKENS:
            raise MalformedError(f"an outcome of {len(data)} bytes for {rows} rows")
        _, serial, *ints = struct.unpack(self._form(width), data)
        active, length, first, signal, streams = (ints[at * rows : (at + 1) * rows] for at in range(5))
        if self._streams != tuple(streams):  # they change with the prompts only
            self._streams, self._same = tuple(streams), np.array(streams, np.uint64)
        tokens = [ints[at : at + width] for at in range(5 * rows, len(ints), width)]
        tokens = [row[: end - begin] for row, begin, end in zip(tokens, first, length, strict=True)]
        return serial, Outcome([flag != 0 for flag in active], length, first, tokens, self._same, signal)

    def _form(self, width: int) -> str:
        return f"={2 + 4 * self.rows}q{self.rows}Q{self.rows * width}q"


class SpeculationMessage:
    """Convert the speculations of a session to one preallocated buffer and back: B rows, K tokens, V logits, on `device`."""

    def __init__(self, rows: int, length: int, vocab: int, dtype: torch.dtype, device: torch.device) -> None:
        self.rows, self.length, self.vocab, self.dtype = rows, length, vocab, dtype
        self._on_cpu = device.type == "cpu"
        self._form = struct.Struct(f"={2 + rows * (2 + length)}q")
        size = rows * length * vocab * dtype.itemsize
        self.buffer = torch.zeros(self._form.size + size, dtype=torch.uint8, device=device)
        self._scores = self._logits(self.buffer[self._form.size :].view(dtype))
        # The host writes the whole numbers, on the CPU directly into the buffer.
        self._head = self.buffer[: self._form.size]
        self._numbers = self._head.cpu().numpy()
        self._bytes: Any = self._numbers.data

    def _logits(self, flat: Tensor) -> Tensor:
        return flat.view(self.rows, self.length, self.vocab)

    def pack(self, serial: int, speculation: Speculation) -> Tensor:
        """Fill the buffer and return it. serial: the number of the outcome that the speculation answers."""
        tokens = [token for row in speculation.tokens.tolist() for token in row]
        self._form.pack_into(self._bytes, 0, MAGIC, serial, *speculation.hit, *speculation.length, *tokens)
        if not self._on_cpu:
            self._head.copy_(torch.from_numpy(self._numbers))
        self._scores.copy_(speculation.logits)
        return self.buffer

    def unpack(self, serial: int, answer: bytes | Tensor) -> Speculation:
        """Read the speculation in an answer.

        serial: the number of the outcome that the answer must belong to.
        answer: bytes, or a buffer. The logits of the speculation are a view of it.

        Raises:
            MalformedError: the answer belongs to another outcome, or its values are impossible.
        """
        size, at, count = self._form.size, 8 * (2 + 2 * self.rows), self.rows * self.length
        if isinstance(answer, bytes):
            head = bytearray(answer)
            flat = torch.frombuffer(head, dtype=self.dtype, offset=size)
            flat = flat if self._on_cpu else flat.to(self.buffer.device)
        else:
            head, flat = bytearray(answer[:size].cpu().numpy()), answer[size:].view(self.dtype)
        grid, logits = torch.frombuffer(head, dtype=torch.int64, count=count, offset=at), self._logits(flat)
        magic, number, *rest = self._form.unpack_from(head)
        hit, drafted, tokens = rest[: self.rows], rest[self.rows : 2 * self.rows], rest[2 * self.rows :]
        if magic != MAGIC or serial != number:
            raise MalformedError(f"the answer belongs to outcome {number}, not to {serial}")
        if not (all(flag in (0, 1) for flag in hit) and all(0 <= length <= self.length for length in drafted)):
            raise MalformedError(f"hits {hit}, lengths {drafted} in a draft of {self.length}")
        if min(tokens) < 0 or max(tokens) >= self.vocab:
            raise MalformedError(f"a token outside the vocabulary of {self.vocab}")
        if math.isnan(logits.sum()):
            raise MalformedError("a drafted token without a probability")
        return Speculation([flag != 0 for flag in hit], drafted, grid.view(self.rows, self.length), logits)
