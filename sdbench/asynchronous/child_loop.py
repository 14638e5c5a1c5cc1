"""The child's side of a draft's server: it answers the messages from the pipe, one after the other, until the pipe closes."""

from __future__ import annotations

import pickle
from time import perf_counter
from typing import Any

import torch

from sdbench.asynchronous.draft_server import DraftServer
from sdbench.asynchronous.protocol import HEAD, Outcome, OutcomeMessage, SpeculationMessage
from sdbench.asynchronous.transport import PeerGoneError, Transport, Waiter, receive_bytes
from sdbench.sampling import Sampler


def serve(pipe: Any, server: DraftServer, transport: Transport) -> None:
    """Answer until the pipe closes. If something fails, send the reason to the verifier."""
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
    """Hold the verifier's messages in their order. The server may look at the next one before its turn.

    outcomes: reads outcomes; None before a session.
    """

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
        """Wait for the next message and return it: a command, or an outcome with its serial number."""
        message, self._next = self._next, None
        if message is None:
            self.waiter.wait(None, soon=self.in_session)
            message = self._read()
        return message

    def _read(self) -> bytes | tuple[int, Outcome]:
        data = receive_bytes(self.pipe)
        if self.outcomes is None or not data.startswith(HEAD):
            return data
        return self.outcomes.unpack(data)


def _serve(pipe: Any, server: DraftServer, transport: Transport) -> None:
    speculations, inbox = None, _Inbox(pipe)

    pipe.send_bytes(done(perf_counter()))
    while True:
        message = inbox.take()
        if isinstance(message, tuple):
            assert speculations is not None
            serial, outcome = message
            transport.send(speculations.pack(serial, server.serve(outcome)))
            server.work(inbox)
            continue
        command, *words = pickle.loads(message)
        if command == "open":
            rows, slots, length, sampling, dtype, frozen = words
            if frozen:
                server.model.freeze()
            server.open(rows, slots, length, Sampler(sampling))
            inbox.outcomes, inbox.in_session = OutcomeMessage(rows), True
            speculations = SpeculationMessage(rows, length, server.model.vocab, dtype, server.device)
            pipe.send_bytes(done())
        elif command == "admit":
            server.admit(*words)
            pipe.send_bytes(done())
            server.speculate_first_token(inbox)
        elif command == "early_exit":
            server.early_exit(words[0], inbox)
        else:
            # The session ends. The servers of other arms share this core, so this one stops polling.
            pipe.send_bytes(done(server.measured()))
            inbox.in_session = False


def done(value: Any = None) -> bytes:
    """Return the message that acknowledges a command."""
    return pickle.dumps(("done", value))
