"""What happened while decoding: one row per verification, one row per batch step.

On the CPU a step is timed by the clock. On CUDA events are recorded around it and read when the trace is closed, so that
timing never makes the host wait. Steps are noted as they are made, and become rows when somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch


@dataclass(frozen=True)
class Edge:
    """Name a proposer and its verifier by their roles. proposer: "" where nothing drafts, as in autoregressive decoding."""

    proposer: str
    verifier: str

    def __str__(self) -> str:
        return f"{self.proposer}>{self.verifier}" if self.proposer else self.verifier


@dataclass
class Trace:
    """rounds, and `steps`, as lists of rows (dicts), in the columns of `sdbench.runs.schema`; seconds are wall-clock.

    sequence, sequence_round: which sequence each row of the batch holds, and its round; round: the batch's own round, -1 in
    prefill. The decoder keeps these three up to date. at_close: what is left to record when nothing is timed any more.
    """

    rounds: list[dict[str, Any]] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)
    sequence_round: list[int] = field(default_factory=list)
    round: int = -1
    at_close: list[Callable[[], None]] = field(default_factory=list)
    outside: float = 0.0  # seconds that are nobody's decoding: a process was started
    _cuda: bool = field(default_factory=torch.cuda.is_available)  # asking a device takes longer
    _steps: list[dict[str, Any]] = field(default_factory=list)
    _made: list[tuple[Any, ...]] = field(default_factory=list)
    _pending: list[tuple[list[dict[str, Any]], Any, Any]] = field(default_factory=list)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps so far; those on CUDA are without their seconds until the trace is closed."""
        self._catch_up()
        return self._steps

    def begin(self, device: torch.device) -> Any:
        """Start timing a step on `device`; give what it returns to `end`."""
        if not self._cuda or device.type != "cuda":
            return perf_counter(), None
        stream = torch.cuda.current_stream(device)
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream)
        return perf_counter(), (event, stream)

    def end(
        self,
        mark: Any,
        role: str,
        kind: str,
        rows: int,
        tokens: int,
        context: int,
        missed: bool = False,
        steps: int = 1,
        width: int = 1,
    ) -> None:
        """Record a step that `begin` marked the start of. missed: it was eager for want of a compiled program.

        steps: how many steps one program made, of `width` tokens a row behind the first; each is given an even share of the time.
        """
        begun, started = mark
        if started is None:
            timed: Any = perf_counter() - begun
        else:
            event, stream = started  # of the model's device, which need not be the current one
            done = torch.cuda.Event(enable_timing=True)
            done.record(stream)
            timed = event, done
        self._made.append((self.round, role, kind, rows, tokens, context, missed, steps, width, begun, timed))

    def _catch_up(self) -> None:
        """Make rows of what was noted since."""
        for step in self._made:
            self._lay_out(*step)
        self._made.clear()

    def _lay_out(
        self,
        number: int,
        role: str,
        kind: str,
        rows: int,
        tokens: int,
        context: int,
        missed: bool,
        steps: int,
        width: int,
        begun: float,
        timed: Any,
    ) -> None:
        """Make the rows of a step, or of the steps of a program. timed: its seconds, or the events around it."""
        step = {"round": number, "role": role, "kind": kind, "rows": rows, "tokens": tokens, "context": context}
        if missed:
            step["missed"] = True
        made = [step]
        if steps > 1:
            step["loop"] = steps
            later = range(context + width, context + steps * width, width)
            made += [{**step, "tokens": width, "context": extent} for extent in later]
        self._steps += made
        if isinstance(timed, float):
            _share(made, begun, timed)
        else:
            step["begun"] = begun
            self._pending.append((made, *timed))

    def verified(self, row: int, edge: Edge, inner_round: int, proposed: int, accepted: int, emitted: int) -> None:
        """Record one verification of one row."""
        self.rounds.append(
            {
                "sequence": self.sequence[row],
                "edge": str(edge),
                "proposer": edge.proposer,
                "verifier": edge.verifier,
                "round": self.sequence_round[row],
                "inner_round": inner_round,
                "proposed": int(proposed),
                "accepted": int(accepted),
                "emitted": int(emitted),
                "outcome": "bonus" if accepted == proposed else "correction",
            }
        )

    def close(self) -> None:
        """Read the events that are still out, and record what was put off. Once the block's time has been taken."""
        self._catch_up()
        for made, start, done in self._pending:
            done.synchronize()
            _share(made, made[0]["begun"], start.elapsed_time(done) / 1e3)
        self._pending.clear()
        for record in self.at_close:
            record()
        self.at_close.clear()


def _share(steps: list[dict[str, Any]], begun: float, seconds: float) -> None:
    """Give each of the steps of a program an even share of its time."""
    share = seconds / len(steps)
    for number, step in enumerate(steps):
        step["begun"], step["seconds"] = begun + number * share, share
