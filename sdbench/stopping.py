"""When an output ends. A decoder knows no tokenizer: it pushes the tokens of each block and is told how many are kept."""

from __future__ import annotations

from typing import Protocol


class StopState(Protocol):
    """Watches one sequence."""

    reason: str | None
    """Why the output stopped, 'eos' or 'stop'; None while it has not."""

    def push(self, tokens: list[int]) -> int | None:
        """Take the next new tokens; returns how many are kept, the stopping one included (None: no stop)."""
        ...


class Stop(Protocol):
    """When outputs end."""

    def start(self) -> StopState:
        """A watcher of one new sequence."""
        ...


class NeverStop:
    """Outputs end by length only: for runs that ignore the end of sequence."""

    reason: str | None = None

    def start(self) -> StopState:
        return self

    def push(self, tokens: list[int]) -> int | None:
        return None
