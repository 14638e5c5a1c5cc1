"""Show on standard error how far a run is: the programs that an arm compiles, then the blocks and the speed of each arm."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from sdbench.lm.programs.execution import Execution


@contextmanager
def compiling(arm: str, executions: Sequence[Execution], every: float = 20.0) -> Iterator[None]:
    """Show how many programs an arm has ready, and for how long it has worked: on a terminal each second, else now and then.

    executions: of the arm's models. every: seconds between two lines where standard error is no terminal.
    """
    begun, done = perf_counter(), threading.Event()

    def said() -> str:
        made, loaded = sum(one.made for one in executions), sum(one.loaded for one in executions)
        return f"{arm} warms up: {made} programs compiled, {loaded} loaded, {perf_counter() - begun:.0f} s"

    def lines() -> None:
        while not done.wait(every):
            print(f"sdbench: {said()}", file=sys.stderr, flush=True)

    def status() -> None:
        from rich.console import Console

        with Console(stderr=True).status(said()) as shown:
            while not done.wait(1.0):
                shown.update(said())

    teller = threading.Thread(target=status if sys.stderr.isatty() else lines, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


class Progress:
    """Show a bar on a terminal; elsewhere print a line at most every 20 seconds, and one at the end.

    done, total: numbers of blocks. shown: False shows nothing.
    """

    EVERY_SECONDS = 20.0

    def __init__(self, arms: list[str], done: int, total: int, shown: bool = True) -> None:
        self.done, self.total, self.shown = done, total, shown
        self.tokens = dict.fromkeys(arms, 0)
        self.seconds = dict.fromkeys(arms, 0.0)
        self.bar: Any = None
        self.last = perf_counter()

    def __enter__(self) -> Progress:
        if self.shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeRemainingColumn

            columns = (BarColumn(30), TextColumn("{task.completed}/{task.total} blocks"), TimeRemainingColumn())
            self.bar = Bar(*columns, TextColumn("{task.description}"), console=Console(stderr=True))
            self.bar.start()
            self.task = self.bar.add_task("", total=self.total, completed=self.done)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar:
            self.bar.stop()

    def decoded(self, arm: str, sequences: list[dict[str, Any]]) -> None:
        """Add the tokens and the decode seconds of an arm's last block. The first token of a sequence belongs to its prefill."""
        self.tokens[arm] += sum(len(row["tokens"]) - 1 for row in sequences)
        self.seconds[arm] += sequences[0]["block_decode_seconds"]

    def advance(self) -> None:
        """Count a finished block, and show the progress."""
        self.done += 1
        if self.bar:
            self.bar.update(self.task, completed=self.done, description=self._speeds())
        elif self.shown and (perf_counter() - self.last > self.EVERY_SECONDS or self.done == self.total):
            self.last = perf_counter()
            print(f"{self.done}/{self.total} blocks; tokens/s: {self._speeds()}", file=sys.stderr, flush=True)

    def _speeds(self) -> str:
        """Return the tokens per second of each arm, as text."""
        speeds = {arm: self.tokens[arm] / self.seconds[arm] for arm in self.tokens if self.seconds[arm]}
        return "  ".join(f"{arm} {speed:.0f}" for arm, speed in speeds.items())
