"""The state of one decoding: the tokens so far, how many of them are decided, how to choose, and where to record.

The buffer holds each row's tokens from slot 0 on. The first `length` tokens are decided. The drafted tokens of the round follow
them. Only the loop of the verifier writes them there. A proposer that drafts step by step works on a `copy`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sdbench.device import put, upload
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampler


@dataclass(frozen=True)
class DecodeState:
    """Hold the state of the B rows of a batch.

    tokens: [B, N] on the verifier's device. length: [B] decided tokens. active: [B] whether the row is being decoded.
    sampler: how to choose. trace: where rounds and steps are recorded.
    host: on a CPU the memory of `tokens`, row by row. Writing the few tokens of a round there is faster than a call of torch.
    """

    tokens: Int[Tensor, "B N"]
    length: np.ndarray
    active: np.ndarray
    sampler: Sampler
    trace: Trace
    host: list[memoryview] | None = None

    def __post_init__(self) -> None:
        if self.host is None and self.tokens.device.type == "cpu":
            object.__setattr__(self, "host", [memoryview(line) for line in self.tokens.numpy()])

    @property
    def rows(self) -> int:
        return len(self.length)

    def tokens_on(self, device: torch.device) -> Int[Tensor, "B N"]:
        """Return all tokens on the device of a model."""
        return self.tokens if self.host is not None and device.type == "cpu" else self.tokens.to(device)

    def place(self, tokens: Int[Tensor, " B"] | list[int], at: np.ndarray | list[int]) -> None:
        """Write one token per row at position at[b]."""
        if self.host is not None:
            given = tokens.tolist() if isinstance(tokens, Tensor) else tokens
            slots = at.tolist() if isinstance(at, np.ndarray) else at
            for line, slot, token in zip(self.host, slots, given, strict=True):
                line[slot] = token
        elif self.rows == 1:
            self.tokens[:, int(at[0])] = tokens if isinstance(tokens, Tensor) else tokens[0]
        else:
            where = upload(np.asarray(at), self.tokens.device)
            values = tokens if isinstance(tokens, Tensor) else upload(np.array(tokens), where.device)
            self.tokens.scatter_(1, where[:, None], values[:, None].to(where.device))

    def place_many(self, tokens: Int[Tensor, "B K"], at: np.ndarray) -> None:
        """Write K tokens per row from position at[b] on."""
        if self.host is not None:
            for line, first, values in zip(self.host, at.tolist(), tokens.tolist(), strict=True):
                for slot, token in enumerate(values, first):
                    line[slot] = token
        elif self.rows == 1:
            first = int(at[0])
            self.tokens[:, first : first + tokens.shape[1]] = tokens
        else:
            where = upload(at[:, None] + np.arange(tokens.shape[1]), self.tokens.device)
            self.tokens.scatter_(1, where, tokens.to(self.tokens.device))

    def write(self, row: int, first: int, tokens: list[int]) -> None:
        """Write the tokens of one row from position `first` on."""
        if self.host is not None:
            line = self.host[row]
            for slot, token in enumerate(tokens, first):
                line[slot] = token
        else:
            self.tokens[row, first : first + len(tokens)] = put(torch.tensor(tokens), self.tokens.device)

    def last(self) -> Int[Tensor, " B"] | list[int]:
        """Return the last decided token of each row, as numbers where the host has them."""
        if self.host is not None:
            return [line[length - 1] for line, length in zip(self.host, self.length.tolist(), strict=True)]
        if self.rows == 1:
            return self.tokens[:, int(self.length[0]) - 1].clone()
        return self.tokens.gather(1, upload(self.length - 1, self.tokens.device)[:, None])[:, 0]

    def ahead(self, length: np.ndarray, active: np.ndarray) -> DecodeState:
        """Return a state over the same tokens with other decided lengths and active rows."""
        return replace(self, length=length, active=active)

    def copy(self) -> DecodeState:
        """Return a state over a copy of the tokens. A proposer drafts in it and leaves the caller's tokens as they are."""
        return replace(self, tokens=self.tokens.clone(), host=None)
