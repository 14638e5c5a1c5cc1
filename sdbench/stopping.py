"""Decide when an output ends. A decoder has no tokenizer. It pushes the tokens of each block, and receives how many to keep."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class StopState(Protocol):
    """Watch one sequence."""

    reason: str | None
    """The reason why the output stopped, `eos` or `stop`; None before that."""

    def push(self, tokens: list[int]) -> int | None:
        """Take the next new tokens. Return how many to keep, with the one that stops the output; None if nothing stops it."""
        ...


class Stop(Protocol):
    """Decide when the outputs of a run end."""

    def start(self) -> StopState:
        """Return the state for a new sequence."""
        ...


class NeverStop:
    """End outputs by their length only, for runs that ignore the end of sequence."""

    reason: str | None = None

    def start(self) -> StopState:
        return self

    def push(self, tokens: list[int]) -> int | None:
        return None


class StopAtTokens:
    """End outputs at given tokens, for callers without a tokenizer. ids: the end-of-sequence tokens."""

    def __init__(self, ids: Collection[int]) -> None:
        self.ids = frozenset(ids)

    def start(self) -> StopState:
        return _AtTokens(self.ids)


class _AtTokens:
    """Watch one sequence."""

    def __init__(self, ids: frozenset[int]) -> None:
        self.reason: str | None = None
        self._ids = ids

    def push(self, tokens: list[int]) -> int | None:
        for index, token in enumerate(tokens):
            if token in self._ids:
                self.reason = "eos"
                return index + 1
        return None
