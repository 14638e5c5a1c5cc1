"""Record a decoding: one row for each verification, and one row for each step of a batch.

On the CPU the clock times a step. On CUDA the trace records events around the step and reads them when it is closed, so timing
never makes the host wait. The trace alone writes its rows. What a proposer knows of a round arrives as a `RoundNote`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sdbench.topology import VerifiedTree


class NotFinite(NamedTuple):
    """Tell where a model's logits first were not finite, or left no token possible.

    role: the model. sequence: the number of the sequence (-1: no row held one). round: the batch's round, -1 in prefill.
    """

    role: str
    sequence: int
    round: int


@dataclass(frozen=True)
class Edge:
    """Name a proposer and its verifier by their roles. proposer: "" where nothing drafts, as in autoregressive decoding."""

    proposer: str
    verifier: str

    def __str__(self) -> str:
        return f"{self.proposer}>{self.verifier}" if self.proposer else self.verifier


class RoundNote(NamedTuple):
    """Tell what a proposer knows of the verification of one of its drafts.

    draft: the number of the draft in the session (`Draft.number`). row: the row of the batch. columns: the values by column.
    """

    draft: int
    row: int
    columns: dict[str, Any]


@dataclass
class ProposerRecord:
    """Hold what a proposer recorded in a session. steps: rows of `STEPS` that another process made."""

    proposer: str
    notes: Iterable[RoundNote] = ()
    steps: Iterable[dict[str, Any]] = ()


@dataclass
class Trace:
    """Hold the rows of one decoding, in the columns of `sdbench.runs.schema`. Seconds are wall-clock.

    rounds, steps: the rows, as dicts.
    sequence, sequence_round: the sequence that each row of the batch holds, and its round. The decoder updates both.
    round: the batch's own round, -1 in prefill. The decoder updates it.
    at_close: called when nothing is timed any more.
    outside: seconds that belong to no decoding, such as the start of a process.
    not_finite: the first step whose logits held a NaN or an infinity. It is known once the trace is closed.
    """

    rounds: list[dict[str, Any]] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)
    sequence_round: list[int] = field(default_factory=list)
    round: int = -1
    at_close: list[Callable[[], None]] = field(default_factory=list)
    outside: float = 0.0
    not_finite: NotFinite | None = None
    _peaks: list[tuple[str, int, list[int], Tensor]] = field(default_factory=list)
    _cuda: bool = field(default_factory=torch.cuda.is_available)  # asking a device takes longer
    _steps: list[dict[str, Any]] = field(default_factory=list)
    _made: list[tuple[Any, ...]] = field(default_factory=list)
    _pending: list[tuple[list[dict[str, Any]], Any, Any]] = field(default_factory=list)
    _of_draft: dict[tuple[str, int, int], dict[str, Any]] = field(default_factory=dict)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Return the steps so far. Steps on CUDA have no seconds until the trace is closed."""
        self._catch_up()
        return self._steps

    def begin(self, device: torch.device) -> Any:
        """Start to time a step on `device`, and return the mark that `end` needs."""
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
        """Record the step that began at `mark`.

        role, kind, rows, tokens, context: as in `STEPS`. missed: the step ran eagerly, because no program fitted.
        steps: how many steps one program made. The steps behind the first have `width` tokens a row. All share the time evenly.
        """
        begun, started = mark
        if started is None:
            timed: Any = perf_counter() - begun
        else:
            event, stream = started  # the model's device need not be the current one
            done = torch.cuda.Event(enable_timing=True)
            done.record(stream)
            timed = event, done
        self._made.append((self.round, role, kind, rows, tokens, context, missed, steps, width, begun, timed))

    def _catch_up(self) -> None:
        """Make rows of the steps that ended since the last call."""
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
        """Make the rows of a step, or of all steps of a program. timed: its seconds, or the events around it."""
        step = {"round": number, "role": role, "kind": kind, "rows": rows, "tokens": tokens, "context": context}
        if missed:
            step["missed"] = True
        made = [step]
        if steps > 1:
            step["loop"] = steps
            later = range(context + width, context + steps * width, width)
            made += [{**step, "tokens": width, "context": length} for length in later]
        self._steps += made
        if isinstance(timed, float):
            _share(made, begun, timed)
        else:
            step["begun"] = begun
            self._pending.append((made, *timed))

    def watch(self, role: str, logits: Float[Tensor, "B *R V"], rows: list[int]) -> None:
        """Remember the largest logits of a step; `close` checks them, so the host does not wait here.

        The largest of some logits is a NaN if one of them is, infinite if one of them is, and -inf if no token is possible.
        rows: the row of the batch that each row of `logits` belongs to, -1 for one that does not count.
        """
        sequences = [self.sequence[row] if row >= 0 else -1 for row in rows]
        self._peaks.append((role, self.round, sequences, logits.amax(-1)))

    def _check_peaks(self) -> None:
        """Find the first step that was not finite."""
        for role, number, sequences, peak in self._peaks:
            if bool(peak.isfinite().all()):
                continue
            sound = peak.isfinite().flatten(1).all(1).tolist()
            bad = [sequence for sequence, fine in zip(sequences, sound, strict=True) if not fine and sequence >= 0]
            if bad:
                self.not_finite = NotFinite(role, bad[0], number)
                break
        self._peaks.clear()

    def verified(
        self,
        row: int,
        edge: Edge,
        inner_round: int,
        proposed: int,
        accepted: int,
        emitted: int,
        draft: int | None = None,
        tree: VerifiedTree | None = None,
        read: int | None = None,
        origins: list[str] | None = None,
    ) -> str:
        """Record one verification of one row. Return its outcome, `bonus` or `correction`.

        draft: the number of the draft (None: the proposer writes no notes). tree: what was verified, if it was no chain. Then
        `proposed` and `accepted` are depths. read: the tokens that the verifier read behind the decided ones, if they were more
        than the draft. origins: the level that each drafted token comes from (`Draft.origins`).
        """
        verification = {
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
        if tree is not None:
            verification["outcome"] = "correction" if tree.topology.children[tree.end] else "bonus"
            verification["nodes"], verification["end"] = tree.topology.size, tree.end
            verification["parents"], verification["drafted"] = list(tree.topology.parent), tree.tokens
        if read is not None:
            verification["read"] = read
        if origins is not None:
            verification["origins"] = origins[:proposed]
        self.rounds.append(verification)
        if draft is not None:
            self._of_draft[edge.proposer, draft, row] = verification
        return str(verification["outcome"])

    def join(self, record: ProposerRecord) -> None:
        """Add a proposer's columns to the verifications of its drafts, and its steps to the steps."""
        self._catch_up()
        self._steps += record.steps
        for note in record.notes:
            verification = self._of_draft.get((record.proposer, note.draft, note.row))
            if verification is not None:  # a draft that was never verified has no row
                verification.update(note.columns)

    def close(self) -> None:
        """Read the pending events and call `at_close`. Call it after the block's time has been taken."""
        self._catch_up()
        for made, start, done in self._pending:
            done.synchronize()
            _share(made, made[0]["begun"], start.elapsed_time(done) / 1e3)
        self._pending.clear()
        if self.not_finite is None:
            self._check_peaks()
        for record in self.at_close:
            record()
        self.at_close.clear()
        self._of_draft.clear()


def _share(steps: list[dict[str, Any]], begun: float, seconds: float) -> None:
    """Share the time of a program evenly among its steps."""
    share = seconds / len(steps)
    for number, step in enumerate(steps):
        step["begun"], step["seconds"] = begun + number * share, share
