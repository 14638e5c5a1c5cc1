"""SSD as a proposer: the draft sits in a speculation server, which drafts for what the verifier may decide while it decides.

`propose` tells the server the outcome of the last verification and takes the next speculation; the decoding loop stays the
speculative one, so any rule, and a pyramid, works over it.
"""

from __future__ import annotations

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from sdbench import validate
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.asynchronous.backup import Backup
from sdbench.asynchronous.child_process import ServerFaultError, ServerHandle, ServerProcess
from sdbench.asynchronous.fan_out import FanOut, Geometric, widest
from sdbench.asynchronous.protocol import Outcome, Speculation
from sdbench.asynchronous.saguaro import Saguaro
from sdbench.asynchronous.speculation import DraftServer, SpeculationServer
from sdbench.asynchronous.wire import NEW_TOKENS
from sdbench.device import put, upload, usable
from sdbench.drafting.rank_log import places_of
from sdbench.errors import InputError
from sdbench.keyed_random import HashChoices, Key
from sdbench.lm.model import LanguageModel, Lengths
from sdbench.lm.state import DecodeState

T = TypeVar("T")

ON_FAULT = ("stop", "continue")
# What starts a server, called as ServerProcess is: where processes are not started but given, something else.
Launch = Callable[..., ServerHandle]


class _Server(Protocol):
    """A server as the proposer sees it, wherever it runs."""

    def admit(self, row: int, tokens: list[int], stream: int) -> None: ...
    def admitted(self) -> None: ...
    def tell(self, outcome: Outcome) -> None: ...
    def hear(self) -> Speculation: ...
    def measured(self) -> dict[str, Any] | None: ...


class _InProcess:
    """A server in this process, which builds as soon as it has served: for the oracle, and where there is one core.

    Nothing is done meanwhile: it reads a prompt when the first token is there, and foresees that on the time of decoding.
    """

    def __init__(self, server: SpeculationServer) -> None:
        self.server = server
        self._waiting: dict[int, tuple[list[int], int]] = {}
        self._fresh = False

    def admit(self, row: int, tokens: list[int], stream: int) -> None:
        self._waiting[row] = tokens, stream

    def admitted(self) -> None:
        for row, (tokens, stream) in self._waiting.items():
            self.server.admit(row, tokens, stream)
            self._fresh = True
        self._waiting.clear()

    def tell(self, outcome: Outcome) -> None:
        self.told = outcome
        if self._fresh:
            self.server.foresee()
        self._fresh = False

    def hear(self) -> Speculation:
        speculation = self.server.serve(self.told)
        self.server.work()
        return speculation

    def measured(self) -> dict[str, Any]:
        return self.server.measured()


class AsyncDrafter(ABC):
    """A draft with a process of its own: what all of them have in common.

    model: the draft, its weights shared with the server. process: whether the server really has a process of its own.
    timeout_seconds: how long an answer may take. on_fault: "stop" ends the run, with one sentence, when the server dies, stalls or
    answers nonsense; "continue" goes on without a draft, and starts a new server for the next block. core: of that process (None:
    the last of those that may be used).
    """

    kind = ProposalKind.SAMPLED
    caches = False  # whether what is drafted may be held for an outcome

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
        self.bytes: int | None = None  # that it holds: weights, slots, speculations
        self.launch: Launch = ServerProcess
        self._running: ServerHandle | None = None
        self._server: _Server | None = None
        self._given, self._grown = 0, -1  # slots of the model here: as it was given, as a server here left it

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def models(self) -> list[LanguageModel]:
        return [self.model]

    def max_lookahead(self, length: int) -> int:
        return length

    def tree(self, length: int) -> int:
        """How many tokens the server holds of speculations for each row, drafts of `length` tokens being asked."""
        return 0

    def open(self, context: DecodeState, length: int) -> None:
        """A session begins: the server makes room."""
        rows, slots = context.tokens.shape
        # As much room as the model was given here, so that the server's pool, and its programs, stay from block to block. What a
        # server in this very process added to it, for its branches, was not given.
        if self.model.slots != self._grown:
            self._given = self.model.slots
        slots = max(slots, min(self._given, self.model.max_positions))
        self.fault, self._server, self._length = None, None, length
        self._stands = [1] * rows
        self._full, self._whole = [length] * rows, torch.full((rows,), length, device=context.tokens.device)
        self._sent: list[_Sent] = []
        self._server = self._guarded(lambda: self._started(context, rows, slots, length))
        context.trace.at_close.append(lambda: self._record(context))

    def prompt(self, context: DecodeState, row: int, key: Key) -> None:
        """The server reads the prompt while the verifier does."""
        length, server = int(context.length[row]), self._server
        self._stands[row] = length
        if server is not None:
            tokens = context.tokens[row, :length].tolist()
            self._guarded(lambda: server.admit(row, tokens, int(key.streams[row])))

    def admit(self, context: DecodeState, row: int) -> None:
        server = self._server
        if server is not None:
            self._guarded(server.admitted)

    def propose(self, context: DecodeState, length: int, key: Key) -> Draft:
        self.ask(context, key)
        return self.take(context, length)

    def ask(self, context: DecodeState, key: Key) -> None:
        """Tell the server what has been decided; it sets to work on what follows."""
        self._asked, server = perf_counter(), self._server
        if server is not None:
            outcome = self._outcome(context, key)
            self._guarded(lambda: server.tell(outcome))

    def take(self, context: DecodeState, length: int) -> Draft:
        """The draft behind what was told last, waited for if need be; empty if the server is lost."""
        device, server, wanted = context.tokens.device, self._server, perf_counter()
        # What needs no answer is done before it comes.
        before, trace = self._sent[-1].places if self._sent else {}, context.trace
        active = context.active.tolist()
        places = places_of(trace.sequence, trace.sequence_round, active, before)
        # All of the speculation stands until a verdict says otherwise.
        ends = zip(active, context.length.tolist(), self._stands, strict=True)
        self._stands = [decided + length if on else before for on, decided, before in ends]
        speculation = None if server is None else self._guarded(server.hear)
        if speculation is None:
            none = torch.zeros(context.rows, 0, dtype=torch.long, device=device)
            return Draft(none, none.sum(1), None, self.kind)
        self._sent.append(_Sent(trace.round, places, self._asked, wanted, perf_counter()))
        context.place_many(speculation.tokens, context.length)
        full = speculation.length == self._full
        return Draft(
            speculation.tokens.to(device),
            self._whole if full else put(torch.tensor(speculation.length), device),
            context.sampler.score(speculation.logits.to(device)),
            self.kind,
            full,
        )

    def _outcome(self, context: DecodeState, key: Key) -> Outcome:
        """What has been decided since the last speculation."""
        here = list(zip(context.active.tolist(), context.length.tolist(), self._stands, strict=True))
        ends = [length if on else 1 for on, length, _ in here]
        first = [min(stands, length - 1) if on else 0 for on, length, stands in here]
        width = max(end - begin for begin, end in zip(first, ends, strict=True))
        if width > NEW_TOKENS:
            raise InputError(f"{width} tokens were added between two speculations; at most {NEW_TOKENS} can be told.")
        if context.host is not None:
            new = [line[begin:end].tolist() for line, begin, end in zip(context.host, first, ends, strict=True)]
        else:
            at = np.minimum(np.array(first)[:, None] + np.arange(width), np.array(ends)[:, None] - 1)
            new = context.tokens.gather(1, upload(at, context.tokens.device)).tolist()
            new = [row[: end - begin] for row, begin, end in zip(new, first, ends, strict=True)]
        return Outcome([on for on, _, _ in here], ends, first, new, key.streams)

    def commit(self, length: Lengths) -> None:
        self._stands = [min(stands, int(end)) for stands, end in zip(self._stands, length, strict=True)]

    def close(self) -> None:
        """End the server's process, if there is one."""
        if self._running is not None:
            self._running.stop()
        self._running = self._server = None

    def _started(self, context: DecodeState, rows: int, slots: int, length: int) -> _Server:
        make = self._factory()
        # Choices that are no hash (the oracle's walk) cannot be made elsewhere.
        if not self.process or not isinstance(context.sampler.choices, HashChoices):
            server = make(self.model)
            server.open(rows, slots, length, context.sampler)
            self._grown = self.model.slots
            return _InProcess(server)
        if self._running is None:
            begun = perf_counter()
            self._running = self._new_process(make, context.tokens.device)
            context.trace.outside += perf_counter() - begun
        self._running.open(
            rows, slots, length, context.sampler.sampling, self.model.dtype, self.model.execution.settled
        )
        return self._running

    @abstractmethod
    def _factory(self) -> Callable[[LanguageModel], SpeculationServer]:
        """What makes the server over the model, in its process."""

    def _new_process(self, make: Any, verifier: torch.device) -> ServerHandle:
        own = self.model.device
        if own.type == "cuda" and own == verifier:
            warnings.warn(
                f"{self.name} and its verifier share {own}: what one does the other waits for, so little is hidden.",
                stacklevel=2,
            )
        backend = "nccl" if own.type == verifier.type == "cuda" and own != verifier else None
        cores = usable()
        core = self.core if self.core is not None else cores[-1] if len(cores) > 1 and own.type == "cpu" else None
        return self.launch(self.model, make, self.timeout_seconds, core, self.threads, backend, verifier)

    def _guarded(self, action: Callable[[], T]) -> T | None:
        """Do it; on a fault end the run, or go on without a draft, as configured."""
        try:
            return action()
        except ServerFaultError as fault:
            self._running = self._server = None
            if self.on_fault == "stop":
                raise
            self.fault = str(fault)
            print(f"sdbench: {fault} This block goes on without a draft.", file=sys.stderr)
            return None

    def _record(self, context: DecodeState) -> None:
        """Put the server's steps, and what came of each speculation, into the trace of the session."""
        server = self._server
        measured = None if server is None else self._guarded(server.measured)
        if measured is None:
            return
        if self.process:
            self.programs, self.bytes = measured["programs"], measured["bytes"]
        for step in measured["steps"]:
            prefill = step["kind"] == "prefill"
            batch_round = -1 if prefill or step["round"] < 0 else self._sent[step["round"]].batch_round
            concurrent = self.process and (step["kind"] in ("glue", "tree", "branch") or not self.caches)
            context.trace.steps.append({**step, "round": batch_round, "concurrent": concurrent})
        rounds = {
            (row["sequence"], row["round"], row["inner_round"]): row
            for row in context.trace.rounds
            if row["proposer"] == self.name
        }
        latest: dict[int, dict[str, Any]] = {}
        for sent, served in zip(self._sent, measured["served"], strict=True):
            for row, place in sent.places.items():
                rank, before, verified = served["ranks"][row], latest.get(row), rounds.get(place)
                if rank is not None and before is not None and before["sequence"] == place[0]:
                    before["rank"] = rank
                if verified is None:
                    continue
                if rank is not None and place[1:] == (0, 0):
                    verified["first_rank"] = rank
                verified.update(
                    hit=served["hit"][row] if self.caches else None,
                    asked=sent.asked,
                    wanted=sent.wanted,
                    received=served["received"],
                    replied=served["replied"],
                    answered=sent.answered,
                    built=served.get("built"),
                )
                latest[row] = verified


class SSDDrafter(AsyncDrafter):
    """SSD. fan_out, backup, saguaro: how the server speculates (see there); the rest is as for any draft beside the verifier."""

    caches = True

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
            self.fan_out.counts(length, self.model.vocab, hit)  # a fan-out that does not fit the length is refused here
        return length

    def tree(self, length: int) -> int:
        return length * widest(self.fan_out, length, sys.maxsize)

    def _factory(self) -> Callable[[LanguageModel], SpeculationServer]:
        return partial(SpeculationServer, fan_out=self.fan_out, backup=self.backup, saguaro=self.saguaro)


class OnDemandDrafter(AsyncDrafter):
    """A draft that drafts behind what it is told, when it is told, and holds nothing."""

    def _factory(self) -> Callable[[LanguageModel], SpeculationServer]:
        return DraftServer


@dataclass(frozen=True)
class _Sent:
    """An outcome that was told. places: by row, the (sequence, round, inner round) of the verification that the answer goes to."""

    batch_round: int
    places: dict[int, tuple[int, int, int]]
    asked: float
    wanted: float
    answered: float
