"""A draft's server on a rank of its own, for a target that is spread over several ranks.

The target's ranks decode the same rows in the same steps, so all of them need the same speculation. The first rank asks the server
and broadcasts every answer. The other ranks receive it, and check that they decided the same outcome as the first. The first rank
did not start the server's rank: they meet over a socket, and the answers go from device to device.
"""

from __future__ import annotations

import pickle
import threading
import zlib
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

import torch
from torch import Tensor

from sdbench.asynchronous.child_loop import serve
from sdbench.asynchronous.child_process import START_SECONDS, ServerFactory, ServerHandle
from sdbench.asynchronous.protocol import Outcome, OutcomeMessage, Speculation, SpeculationMessage
from sdbench.asynchronous.transport import GroupTransport, Waiter
from sdbench.errors import RunError
from sdbench.lm.model import LanguageModel
from sdbench.sampling import Sampling

Broadcast = Callable[[Tensor], None]


class RankServer(ServerHandle):
    """Hold the server on the target's first rank.

    connect: opens a connection to the server's rank. group: the two ranks; the server has number 1.
    broadcast: sends from the first of the target's ranks to the others.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        group: Any,
        broadcast: Broadcast,
        model: LanguageModel,
        make: ServerFactory,
        seconds: float,
        device: torch.device,
    ) -> None:
        super().__init__(model, seconds, device)
        self.broadcast = broadcast
        self.pipe = connect()
        self.waiter = Waiter(self.pipe)
        self.transport = GroupTransport(self.pipe, group, 1, self.waiter)
        self.pipe.send_bytes(pickle.dumps((model.name, make)))
        self._answer(START_SECONDS)

    def send_outcome(self, outcome: Outcome) -> None:
        super().send_outcome(outcome)
        self.sent = fingerprint(outcome)

    def receive_draft(self) -> Speculation:
        speculation = super().receive_draft()
        head = torch.tensor([self.serial, self.sent], device=self.device)
        self.broadcast(head)
        self.broadcast(self._speculation.pack(self.serial, speculation))
        return speculation

    def stop(self) -> None:
        self.pipe.close()

    def _ended(self) -> str:
        return ""


class Follower(ServerHandle):
    """Hold the server on the target's other ranks, which get everything from the first."""

    def __init__(self, broadcast: Broadcast, model: LanguageModel, seconds: float, device: torch.device) -> None:
        super().__init__(model, seconds, device)
        self.broadcast = broadcast

    def open(
        self, rows: int, slots: int, length: int, sampling: Sampling, dtype: torch.dtype, frozen: bool = True
    ) -> None:
        self._speculation = SpeculationMessage(rows, length, self.model.vocab, dtype, self.device)
        self.serial = 0

    def admit(self, row: int, tokens: list[int], stream: int) -> None:
        return None

    def wait_admitted(self) -> None:
        return None

    def send_early_exit(self, likely: list[list[list[int]]]) -> None:
        return None

    def send_outcome(self, outcome: Outcome) -> None:
        self.serial += 1
        self.sent = fingerprint(outcome)

    def receive_draft(self) -> Speculation:
        head = torch.zeros(2, dtype=torch.int64, device=self.device)
        self.broadcast(head)
        self.broadcast(self._speculation.buffer)
        if head.tolist() != [self.serial, self.sent]:
            raise DivergedError
        return self._speculation.unpack(self.serial, self._speculation.buffer.clone())

    def measured(self) -> dict[str, Any] | None:
        """Return None: the first rank keeps the record."""
        return None

    def stop(self) -> None:
        return None

    def _ended(self) -> str:
        return ""


class DivergedError(RunError):
    """The target's ranks decided differently, so their next forwards would mix two texts."""

    def __init__(self) -> None:
        super().__init__("The target's ranks have decided differently, so their forwards no longer belong together.")


def fingerprint(outcome: Outcome) -> int:
    """Return a checksum of an outcome."""
    return zlib.crc32(OutcomeMessage(len(outcome.active)).pack(0, outcome))


class ServingRank:
    """Run the draft's rank: one server for each connection. It ends when the first connection closes, which carries no messages.

    models: returns the model of a role. group: this rank, number 1, and the target's first rank.
    """

    def __init__(self, models: Callable[[str], LanguageModel], group: Any) -> None:
        self.models, self.group = models, group
        self.lock = threading.Lock()

    def run(self, listener: Listener) -> None:
        control = listener.accept()
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        try:
            control.recv_bytes()
        except (EOFError, OSError):
            return

    def _accept(self, listener: Listener) -> None:
        while True:
            threading.Thread(target=self._serve, args=(listener.accept(),), daemon=True).start()

    def _serve(self, pipe: Connection) -> None:
        role, make = pickle.loads(pipe.recv_bytes())
        with self.lock:  # arms with the same model load it once
            model = self.models(role)
        if model.device.type == "cuda":
            torch.cuda.set_device(model.device)  # each thread has its own current device
        serve(pipe, make(model.bare()), GroupTransport(pipe, self.group, 0))


def connector(address: Any, key: bytes) -> Callable[[], Connection]:
    """Return what opens a connection to the server's rank."""
    return lambda: Client(address, authkey=key)
