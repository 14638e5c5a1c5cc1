"""PEARL's adaptive window (2408.11850, AS 2) as a draft length: what the draft can draft while the verifier verifies."""

from __future__ import annotations

from typing import Any

from sdbench import validate
from sdbench.drafting.lengths.base import LengthPolicy
from sdbench.drafting.lengths.times import StageTimes

FIRST_WINDOW = 4  # before `calibrate`


class Window(LengthPolicy):
    """Draft T / t tokens: the verifier's seconds of a verification over the draft's seconds of a token, rounded down.

    tokens: the window. None: the warm-up measures it, so the drafted tokens depend on timing. The stage's draft length is the most.
    """

    def __init__(self, tokens: int | None = None) -> None:
        self.tokens = None if tokens is None else validate.whole("lengths.tokens", tokens, 1)
        self._measured: int | None = None

    def length(self, memory: Any, most: int) -> int:
        return self.tokens or self._measured or FIRST_WINDOW

    def calibrate(self, times: StageTimes) -> bool:
        if self.tokens or self._measured or not times.verify:
            return False
        # A longer draft takes the verifier longer. The times belong to the drafts of the warm-up, so the mean length decides.
        read = min(times.verify, key=lambda tokens: abs(tokens - 1 - times.drafted))
        self._measured = max(int(times.verify[read] * times.drafted / times.drafting), 1)
        return self._measured != FIRST_WINDOW
