"""How messages cross between the verifier's process and the speculation server's.

Requests are small and known on the host, so they go by a pipe, as do commands. Answers hold logits: on CPUs they go by the pipe too
(a round trip of some 10 kB takes 0.05 ms there; gloo's send and receive take a hundred times that), between GPUs by
`torch.distributed` (NCCL), straight from device to device, behind one byte on the pipe that says that they are coming. That byte is
waited for with a time limit, together with the other process itself: a peer that died or stalls is noticed, and NCCL is entered
only by two that are there.
"""

from __future__ import annotations

import selectors
from time import perf_counter
from typing import Any, Protocol

from torch import Tensor

READY = b"!"
SPIN_SECONDS = 0.02


class PeerGoneError(Exception):
    """The other process has ended."""


class PeerSilentError(Exception):
    """The other process has not answered in time."""


class Transport(Protocol):
    """Carries the answers, one preallocated buffer each."""

    def send(self, buffer: Tensor) -> None: ...

    def receive(self, buffer: Tensor, seconds: float) -> bytes | Tensor:
        """The next answer, of the size of `buffer`, in memory that nothing else will use.

        Raises:
            PeerGoneError, PeerSilentError: none will come, or none came in `seconds`.
            ValueError: what came has another size.
        """
        ...


class PipeTransport:
    """By the pipe: for models on the CPU, or on the same GPU. waiter: waits for its messages."""

    def __init__(self, pipe: Any, waiter: Waiter | None = None) -> None:
        self.pipe, self.waiter = pipe, waiter or Waiter(pipe)
        self._seen: tuple[Tensor, Any] | None = None  # a buffer of the host, and its bytes

    def send(self, buffer: Tensor) -> None:
        if self._seen is not None and self._seen[0] is buffer:
            self.pipe.send_bytes(self._seen[1])
            return
        data = buffer.cpu().numpy().data
        self._seen = (buffer, data) if buffer.device.type == "cpu" else None
        self.pipe.send_bytes(data)

    def receive(self, buffer: Tensor, seconds: float) -> bytes:
        self.waiter.wait(seconds)
        # Read whole: a longer message (a complaint in place of an answer) must not be lost.
        data = receive_bytes(self.pipe)
        if len(data) != buffer.numel():
            raise UnexpectedMessageError(data)
        return data


class GroupTransport:
    """By a `torch.distributed` group of two (NCCL between GPUs, gloo in tests), announced on the pipe."""

    def __init__(self, pipe: Any, group: Any, peer: int, waiter: Waiter | None = None) -> None:
        self.pipe, self.group, self.peer, self.waiter = pipe, group, peer, waiter or Waiter(pipe)

    def send(self, buffer: Tensor) -> None:
        self.pipe.send_bytes(READY)
        self.group.send([buffer], self.peer, 0).wait()

    def receive(self, buffer: Tensor, seconds: float) -> Tensor:
        self.waiter.wait(seconds)
        data = receive_bytes(self.pipe)
        if data != READY:
            raise UnexpectedMessageError(data)
        self.group.recv([buffer], self.peer, 0).wait()
        return buffer.clone()


class UnexpectedMessageError(ValueError):
    """Another message than the answer that was due; data: its bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(f"{len(data)} bytes where an answer was due")
        self.data = data


class Waiter:
    """Waits for a message on a pipe, and for the end of the process behind it (its sentinel), whichever comes first.

    The selector is made once: `multiprocessing.connection.wait` makes a new one each time, which takes longer than the message.
    """

    def __init__(self, pipe: Any, sentinel: int | None = None) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe, selectors.EVENT_READ)
        self._pipe = pipe
        if sentinel is not None:
            self._selector.register(sentinel, selectors.EVENT_READ)

    def ready(self) -> bool:
        """Whether there is something to be received now."""
        return bool(self._selector.select(0))

    def wait(self, seconds: float | None, soon: bool = True) -> None:
        """Return when the pipe has a message. Raises: PeerSilentError after `seconds`, PeerGoneError if there will be none.

        soon: poll for a while before sleeping, because waking up takes longer than a message. Do not set it when no message is
        expected: other processes may need the core.
        """
        until = perf_counter() + (SPIN_SECONDS if soon else 0.0)
        ready = self._selector.select(0)
        while not ready and perf_counter() < until:
            ready = self._selector.select(0)
        if not ready:
            ready = self._selector.select(seconds)
        if not ready:
            raise PeerSilentError
        if all(key.fileobj is not self._pipe for key, _ in ready):
            raise PeerGoneError


def receive_bytes(pipe: Any) -> bytes:
    try:
        return pipe.recv_bytes()
    except (EOFError, OSError) as error:
        raise PeerGoneError from error
