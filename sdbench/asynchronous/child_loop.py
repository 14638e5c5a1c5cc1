"""The child's side of a speculation server: it answers what comes by the pipe, message after message, until the pipe closes."""

from __future__ import annotations

import pickle
from time import perf_counter
from typing import Any

import torch

from sdbench.asynchronous.protocol import Outcome
from sdbench.asynchronous.speculation import SpeculationServer
from sdbench.asynchronous.transport import PeerGoneError, Transport, Waiter, receive_bytes
from sdbench.asynchronous.wire import HEAD, OutcomeMessage, SpeculationMessage
from sdbench.sampling import Sampler


def serve(pipe: Any, server: SpeculationServer, transport: Transport) -> None:
    """Answer until the pipe closes; what goes wrong is told."""
    try:
        with torch.inference_mode():
            _serve(pipe, server, transport)
    except (PeerGoneError, BrokenPipeError, ConnectionResetError):
        return
    except BaseException as error:
        try:
            pipe.send_bytes(pickle.dumps(("failed", f"{type(error).__name__}: {error}")))
        except OSError:
            return


class _Inbox:
    """What the verifier has sent, in its order: the next message may be looked at before its turn. outcomes: how one is read."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.waiter = pipe, Waiter(pipe)
        self.outcomes: OutcomeMessage | None = None
        self.in_session = False
        self._next: bytes | tuple[int, Outcome] | None = None

    def ready(self) -> bool:
        return self._next is not None or self.waiter.ready()

    def outcome(self) -> Outcome | None:
        if self._next is None and self.waiter.ready():
            self._next = self._read()
        return self._next[1] if isinstance(self._next, tuple) else None

    def take(self) -> bytes | tuple[int, Outcome]:
        """The next message, waited for if need be: a command, or an outcome with its serial number."""
        said, self._next = self._next, None
        if said is None:
            self.waiter.wait(None, soon=self.in_session)
            said = self._read()
        return said

    def _read(self) -> bytes | tuple[int, Outcome]:
        data = receive_bytes(self.pipe)
        if self.outcomes is None or not data.startswith(HEAD):
            return data
        return self.outcomes.unpack(data)


def _serve(pipe: Any, server: SpeculationServer, transport: Transport) -> None:
    speculations, inbox = None, _Inbox(pipe)

    pipe.send_bytes(done(perf_counter()))
    while True:
        said = inbox.take()
        if isinstance(said, tuple):
            assert speculations is not None
            serial, outcome = said
            transport.send(speculations.pack(serial, server.serve(outcome)))
            server.work(inbox)
            continue
        command, *words = pickle.loads(said)
        if command == "open":
            rows, slots, length, sampling, dtype, frozen = words
            if frozen:
                server.model.execution.freeze(server.model)
            server.open(rows, slots, length, Sampler(sampling))
            inbox.outcomes, inbox.in_session = OutcomeMessage(rows), True
            speculations = SpeculationMessage(rows, length, server.model.vocab, dtype, server.device)
            pipe.send_bytes(done())
        elif command == "admit":
            server.admit(*words)
            pipe.send_bytes(done())
            server.foresee(inbox)
        else:
            # A session's last. While other arms decode, their servers are to have the core that they share.
            pipe.send_bytes(done(server.measured()))
            inbox.in_session = False


def done(value: Any = None) -> bytes:
    """The answer to a command that was carried out."""
    return pickle.dumps(("done", value))
