"""What verifier and server say to each other: an outcome goes one way, the speculation for it the other.

Numbers by row are plain numbers: both sides come to them from a forward, and then each call of a library, numpy's too, takes
several times what it does in a loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor


class Caller(Protocol):
    """The verifier, as a server at work sees it."""

    def ready(self) -> bool:
        """Whether it has said something."""
        ...

    def outcome(self) -> Outcome | None:
        """What it has said, if that is an outcome; it will be served all the same."""
        ...


@dataclass
class Outcome:
    """What a verification came to, for each of B rows.

    active: [B] rows that are decoded; the others are not looked at. length: [B] decided tokens, the verifier's own one included.
    first: [B] where the tokens begin that the server does not have right: length - 1, unless a stage above has added its own.
    tokens: by row, those length - first tokens. streams: [B] uint64, the rows' random streams.
    """

    active: list[bool]
    length: list[int]
    first: list[int]
    tokens: list[list[int]]
    streams: np.ndarray


@dataclass
class Speculation:
    """What to verify next. hit: [B]; length: [B] drafted tokens that count; tokens: [B, K]; logits: [B, K, V], their law's."""

    hit: list[bool]
    length: list[int]
    tokens: Int[Tensor, "B K"]
    logits: Float[Tensor, "B K V"]
