"""The heuristic schedule of transformers' assisted generation (FA D.4)."""

from __future__ import annotations

from sdbench import validate
from sdbench.drafting.lengths.base import LengthPolicy


class Heuristic(LengthPolicy):
    """Draft `up` tokens more behind a draft that was kept whole, and `down` fewer behind any other, but at least 1.

    first: tokens of a sequence's first draft. up, down: tokens. The defaults are those of transformers
    (`num_assistant_tokens_schedule: heuristic_transient`, with the 5 tokens of its earlier versions). There the length has no
    upper limit; here it is the stage's draft length.
    """

    def __init__(self, first: int = 5, up: int = 2, down: int = 1) -> None:
        self.first = validate.whole("lengths.first", first, 1)
        self.up = validate.whole("lengths.up", up)
        self.down = validate.whole("lengths.down", down)

    def start(self) -> int:
        return self.first

    def length(self, memory: int, most: int) -> int:
        return min(memory, most)

    def learn(self, memory: int, proposed: int, accepted: int, most: int) -> int:
        now = min(memory, most)
        return now + self.up if accepted == proposed else max(now - self.down, 1)
