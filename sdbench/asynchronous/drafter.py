"""Proposers whose draft works in a server of its own, usually in another process.

`propose` sends the outcome of the last verification and receives the next speculation. The decoding loop stays the speculative
one, so every rule works over such a proposer, and so does a pyramid.
"""

from __future__ import annotations

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch

from sdbench import validate
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.asynchronous.backup import Backup
from sdbench.asynchronous.child_process import ServerFaultError, ServerHandle, ServerProcess
from sdbench.asynchronous.draft_server import DraftServer
from sdbench.asynchronous.fan_out import FanOut, Geometric, branch_slots
from sdbench.asynchronous.protocol import NEW_TOKENS, Outcome, Speculation
from sdbench.asynchronous.saguaro import Saguaro
from sdbench.asynchronous.speculation import SpeculationServer
from sdbench.device import put, upload, usable
from sdbench.drafting.base import NeverLearns
from sdbench.drafting.lengths import LengthPolicy
from sdbench.errors import InputError
from sdbench.keyed_random import HashChoices, Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import ProposerRecord, RoundNote

T = TypeVar("T")

ON_FAULT = ("stop", "continue")
Launch = Callable[..., ServerHandle]  # starts a server; its arguments are those of `ServerProcess`


class _Server(Protocol):
    """A server as the proposer sees it, wherever it runs."""

    def admit(self, row: int, tokens: list[int], stream: int) -> None: ...
    def wait_admitted(self) -> None: ...
    def send_outcome(self, outcome: Outcome) -> None: ...
    def send_early_exit(self, likely: list[list[list[int]]]) -> None: ...
    def receive_draft(self) -> Speculation: ...
    def measured(self) -> dict[str, Any] | None: ...


class _InProcess:
    """Run a server in this process: for the oracle, and where there is one core.

    Nothing runs at the same time. The server reads a prompt when the first token is decided, and it works right after each answer.
    """

    def __init__(self, server: DraftServer) -> None:
        self.server = server
        self._waiting: dict[int, tuple[list[int], int]] = {}
        self._fresh = False

    def admit(self, row: int, tokens: list[int], stream: int) -> None:
        self._waiting[row] = tokens, stream

    def wait_admitted(self) -> None:
        for row, (tokens, stream) in self._waiting.items():
            self.server.admit(row, tokens, stream)
            self._fresh = True
        self._waiting.clear()

    def send_outcome(self, outcome: Outcome) -> None:
        self.outcome = outcome
        if self._fresh:
            self.server.speculate_first_token()
        self._fresh = False

    def send_early_exit(self, likely: list[list[list[int]]]) -> None:
        self.server.early_exit(likely)

    def receive_draft(self) -> Speculation:
        speculation = self.server.serve(self.outcome)
        self.server.work()
        return speculation

    def measured(self) -> dict[str, Any]:
        return self.server.measured()


@dataclass(frozen=True)
class _Sent:
    """An outcome that was sent. batch_round: the batch's round. sequences: by active row, its sequence. Times are in seconds."""

    batch_round: int
    sequences: dict[int, int]
    asked: float
    wanted: float
    answered: float


class AsyncDrafter(NeverLearns, ABC):
    """Draft in a server of its own: what all such proposers have in common.

    model: the draft; the server shares its weights. process: whether the server gets a process of its own.
    timeout_seconds: how long an answer may take.
    on_fault: what happens if the server dies, stalls or answers nonsense. "stop" ends the run with one sentence. "continue" goes
        on without a draft, and starts a new server for the next block.
    core: the core of the process (None: the last usable one). threads: its torch threads.
    """

    kind = ProposalKind.SAMPLED
    own_length: int | None = None
    trees = False
    caches = False  # whether the server caches speculations

    def __init__(
        self,
        model: LanguageModel,
        process: bool = True,
        timeout_seconds: float = 10.0,
        on_fault: str = "stop",
        core: int | None = None,
        threads: int = 1,
    ) -> None:
        if on_fault not in ON_FAULT:
            raise InputError(f"on_fault is '{on_fault}'; it must be one of {', '.join(ON_FAULT)}.")
        validate.switch("proposer.process", process)
        validate.number("proposer.timeout_seconds", timeout_seconds, 0, bounds="()")
        validate.whole("proposer.threads", threads, 1)
        if core is not None:
            validate.whole("proposer.core", core)
        self.model = model
        self.process, self.timeout_seconds, self.on_fault = process, timeout_seconds, on_fault
        self.core, self.threads = core, threads
        self.fault: str | None = None
        self.programs: dict[str, Any] | None = None  # of the server's process
        self.bytes: int | None = None  # of its weights, slots and speculations
        self.launch: Launch = ServerProcess
        self._running: ServerHandle | None = None
        self._server: _Server | None = None

    def limited(self, policy: LengthPolicy) -> Self:
        """Return the proposer under a length policy, which its server applies. Raises: InputError."""
        raise InputError(
            f"{type(self).__name__} takes no length policy: its server sets the length. Leave lengths at fixed, or take SSDDrafter."
        )

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def models(self) -> list[LanguageModel]:
        return [self.model]

    def max_lookahead(self, length: int) -> int:
        return length

    def branch_slots(self, length: int) -> int:
        """Return the slots that the server's speculations take for each row, for drafts of `length` tokens."""
        return 0

    def open(self, state: DecodeState, length: int) -> None:
        rows, slots = state.tokens.shape
        self.fault, self._server, self._length = None, None, length
        self._stands = [1] * rows  # by row: the first tokens that the server has right
        self._full, self._whole = [length] * rows, torch.full((rows,), length, device=state.tokens.device)
        self._sent: list[_Sent] = []
        self._server = self._guarded(lambda: self._started(state, rows, slots, length))

    def prompt(self, state: DecodeState, row: int, key: Key) -> None:
        length, server = int(state.length[row]), self._server
        self._stands[row] = length
        if server is not None:
            tokens = state.tokens[row, :length].tolist()
            self._guarded(lambda: server.admit(row, tokens, int(key.streams[row])))

    def admit(self, state: DecodeState, row: int) -> None:
        server = self._server
        if server is not None:
            self._guarded(server.wait_admitted)

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        self.request(state, key)
        return self.receive(state, length)

    def request(self, state: DecodeState, key: Key) -> None:
        """Send the outcome of the last verification. The server begins the next draft."""
        self._asked, server = perf_counter(), self._server
        if server is not None:
            outcome = self._outcome(state, key)
            self._guarded(lambda: server.send_outcome(outcome))

    def receive(self, state: DecodeState, length: int) -> Draft:
        """Wait for the draft behind the last outcome, and return it. It is empty if the server is lost."""
        device, server, wanted = state.tokens.device, self._server, perf_counter()
        # Work that needs no answer is done before the answer comes.
        trace, active = state.trace, state.active.tolist()
        sequences = {row: trace.sequence[row] for row, on in enumerate(active) if on}
        # The whole speculation stands until a verdict says otherwise.
        ends = zip(active, state.length.tolist(), self._stands, strict=True)
        self._stands = [decided + length if on else before for on, decided, before in ends]
        speculation = None if server is None else self._guarded(server.receive_draft)
        if speculation is None:
            none = torch.zeros(state.rows, 0, dtype=torch.long, device=device)
            return Draft(none, none.sum(1), None, self.kind)
        number = len(self._sent)
        self._sent.append(_Sent(trace.round, sequences, self._asked, wanted, perf_counter()))
        trace.watch(self.name, speculation.logits, [row if on else -1 for row, on in enumerate(active)])
        full = speculation.length == self._full
        return Draft(
            speculation.tokens.to(device),
            self._whole if full else put(torch.tensor(speculation.length), device),
            state.sampler.score(speculation.logits.to(device)),
            self.kind,
            full,
            number,
        )

    def _outcome(self, state: DecodeState, key: Key) -> Outcome:
        """Return what has been decided since the last speculation."""
        here = list(zip(state.active.tolist(), state.length.tolist(), self._stands, strict=True))
        ends = [length if on else 1 for on, length, _ in here]
        first = [min(stands, length - 1) if on else 0 for on, length, stands in here]
        width = max(end - begin for begin, end in zip(first, ends, strict=True))
        if width > NEW_TOKENS:
            raise InputError(f"{width} tokens were added between two speculations; at most {NEW_TOKENS} are possible.")
        if state.host is not None:
            new = [line[begin:end].tolist() for line, begin, end in zip(state.host, first, ends, strict=True)]
        else:
            at = np.minimum(np.array(first)[:, None] + np.arange(width), np.array(ends)[:, None] - 1)
            new = state.tokens.gather(1, upload(at, state.tokens.device)).tolist()
            new = [row[: end - begin] for row, begin, end in zip(new, first, ends, strict=True)]
        return Outcome([on for on, _, _ in here], ends, first, new, key.streams)

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        self._stands = [min(stands, int(end)) for stands, end in zip(self._stands, length, strict=True)]

    def close(self) -> None:
        if self._running is not None:
            self._running.stop()
        self._running = self._server = None

    def record(self) -> ProposerRecord:
        """Return the server's steps, and what it recorded of each speculation."""
        server = self._server
        measured = None if server is None else self._guarded(server.measured)
        if measured is None:
            return ProposerRecord(self.name)
        if self.process:
            self.programs, self.bytes = measured["programs"], measured["bytes"]
        return ProposerRecord(self.name, self._notes(measured["served"]), self._steps(measured["steps"]))

    def _steps(self, steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the server's steps, with the batch's rounds and whether they ran while the verifier was busy."""
        for step in steps:
            prefill = step["kind"] == "prefill" or step["round"] < 0
            batch_round = -1 if prefill else self._sent[step["round"]].batch_round
            concurrent = self.process and (step["kind"] in ("glue", "tree", "branch") or not self.caches)
            yield {**step, "round": batch_round, "concurrent": concurrent}

    def _notes(self, served: list[dict[str, Any]]) -> Iterator[RoundNote]:
        """Yield the notes on each draft. The rank of an outcome comes with the next draft, and belongs to the one before it."""
        last: dict[int, tuple[int, int]] = {}  # by row: the sequence and the number of its last draft
        for number, (sent, answer) in enumerate(zip(self._sent, served, strict=True)):
            for row, sequence in sent.sequences.items():
                rank, (before, its) = answer["ranks"][row], last.get(row, (None, -1))
                columns = {
                    "hit": answer["hit"][row] if self.caches else None,
                    "asked": sent.asked,
                    "wanted": sent.wanted,
                    "received": answer["received"],
                    "replied": answer["replied"],
                    "answered": sent.answered,
                    "built": answer.get("built"),
                }
                if rank is not None and before == sequence:
                    yield RoundNote(its, row, {"rank": rank})
                elif rank is not None:
                    columns["first_rank"] = rank
                last[row] = sequence, number
                yield RoundNote(number, row, columns)

    def _started(self, state: DecodeState, rows: int, slots: int, length: int) -> _Server:
        """Begin a session of the server, and start its process if there is none."""
        make = self._factory()
        # Choices that are no hash, such as the oracle's walk, must be made in this process.
        if not self.process or not isinstance(state.sampler.choices, HashChoices):
            server = make(self.model)
            server.open(rows, slots, length, state.sampler)
            return _InProcess(server)
        if self._running is None:
            begun = perf_counter()
            self._running = self._new_process(make, state.tokens.device)
            state.trace.outside += perf_counter() - begun
        self._running.open(rows, slots, length, state.sampler.sampling, self.model.dtype, self.model.execution.settled)
        return self._running

    @abstractmethod
    def _factory(self) -> Callable[[LanguageModel], DraftServer]:
        """Return what makes the server over the model, in its process."""

    def _new_process(self, make: Any, verifier: torch.device) -> ServerHandle:
        own = self.model.device
        if own.type == "cuda" and own == verifier:
            warnings.warn(
                f"{self.name} and its verifier share {own}: each waits for the other's work, so little time is hidden.",
                stacklevel=2,
            )
        backend = "nccl" if own.type == verifier.type == "cuda" and own != verifier else None
        cores = usable()
        core = self.core if self.core is not None else cores[-1] if len(cores) > 1 and own.type == "cpu" else None
        return self.launch(self.model, make, self.timeout_seconds, core, self.threads, backend, verifier)

    def _guarded(self, action: Callable[[], T]) -> T | None:
        """Call `action`. On a fault end the run, or go on without a draft, as configured."""
        try:
            return action()
        except ServerFaultError as fault:
            self._running = self._server = None
            if self.on_fault == "stop":
                raise
            self.fault = str(fault)
            print(f"sdbench: {fault} This block goes on without a draft.", file=sys.stderr)
            return None


class SSDDrafter(AsyncDrafter):
    """Draft by SSD. fan_out, backup, saguaro: how the server speculates. The other arguments are those of `AsyncDrafter`."""

    caches = True
    policy: LengthPolicy | None = None

    def __init__(
        self,
        model: LanguageModel,
        fan_out: FanOut | None = None,
        backup: Backup | None = None,
        saguaro: Saguaro | None = None,
        process: bool = True,
        timeout_seconds: float = 10.0,
        on_fault: str = "stop",
        core: int | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__(model, process, timeout_seconds, on_fault, core, threads)
        self.fan_out: FanOut = fan_out or Geometric()
        self.backup, self.saguaro = backup, saguaro

    def max_lookahead(self, length: int) -> int:
        for hit in (True, False):
            self.fan_out.counts(length, self.model.vocab, hit)  # refuses a fan-out that does not fit the length
        return length

    def branch_slots(self, length: int) -> int:
        # The vocabulary may be unknown yet, so it sets no limit here.
        return branch_slots(self.fan_out, length, sys.maxsize)

    def _factory(self) -> Callable[[LanguageModel], DraftServer]:
        return partial(
            SpeculationServer, fan_out=self.fan_out, backup=self.backup, saguaro=self.saguaro, policy=self.policy
        )

    def limited(self, policy: LengthPolicy) -> Self:
        under = copy(self)
        under.policy = policy
        return under


class OnDemandDrafter(AsyncDrafter):
    """Draft behind each outcome, on request, without a cache."""

    def _factory(self) -> Callable[[LanguageModel], DraftServer]:
        return DraftServer
