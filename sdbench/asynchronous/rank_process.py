"""A speculation server on a rank of its own, beside a target that is spread over several.

The target's ranks decode the same rows in the same steps, so all of them must be given the same speculation. The first asks the
server and passes every answer on; the others wait for it, and say whether what they decided is what the first one decided. The
server's rank was not started by the first: they meet over a socket, and the answers go from device to device.
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
from sdbench.asynchronous.protocol import Outcome, Speculation
from sdbench.asynchronous.transport import GroupTransport, Waiter
from sdbench.asynchronous.wire import OutcomeMessage, SpeculationMessage
from sdbench.errors import RunError
from sdbench.lm.model import LanguageModel
from sdbench.sampling import Sampling

Broadcast = Callable[[Tensor], None]


class RankServer(ServerHandle):
    """The server as the target's first rank holds it. connect: opens a connection to the server's rank; group: the two ranks, the
    server's is number 1; broadcast: from the first of the target's ranks to the others."""

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

    def tell(self, outcome: Outcome) -> None:
        super().tell(outcome)
        self.told = fingerprint(outcome)

    def hear(self) -> Speculation:
        speculation = super().hear()
        head = torch.tensor([self.serial, self.told], device=self.device)
        self.broadcast(head)
        self.broadcast(self._speculation.pack(self.serial, speculation))
        return speculation

    def stop(self) -> None:
        self.pipe.close()

    def _ended(self) -> str:
        return ""


class Follower(ServerHandle):
    """The server as the target's other ranks see it: through the first."""

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

    def admitted(self) -> None:
        return None

    def tell(self, outcome: Outcome) -> None:
        self.serial += 1
        self.told = fingerprint(outcome)

    def hear(self) -> Speculation:
        head = torch.zeros(2, dtype=torch.int64, device=self.device)
        self.broadcast(head)
        self.broadcast(self._speculation.buffer)
        if head.tolist() != [self.serial, self.told]:
            raise DivergedError
        return self._speculation.unpack(self.serial, self._speculation.buffer.clone())

    def measured(self) -> dict[str, Any] | None:
        """Nothing: the first rank keeps the record."""
        return None

    def stop(self) -> None:
        return None

    def _ended(self) -> str:
        return ""


class DivergedError(RunError):
    """The target's ranks decided differently: what follows on them would be noise."""

    def __init__(self) -> None:
        super().__init__("The target's ranks have decided differently, so their forwards no longer belong together.")


def fingerprint(outcome: Outcome) -> int:
    """A number that two outcomes have in common if they are equal."""
    return zlib.crc32(OutcomeMessage(len(outcome.active)).pack(0, outcome))


class ServingRank:
    """The draft's rank: a server for each connection, until the first of them, which only says that the run goes on, is closed.

    models: gives the model of a role. group: this rank, number 1, and the target's first.
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
        with self.lock:  # arms that share a model load it once
            model = self.models(role)
        if model.device.type == "cuda":
            torch.cuda.set_device(model.device)  # each thread has a current device of its own
        serve(pipe, make(model.bare()), GroupTransport(pipe, self.group, 0))


def connector(address: Any, key: bytes) -> Callable[[], Connection]:
    """Opens connections to the server's rank."""
    return lambda: Client(address, authkey=key)
