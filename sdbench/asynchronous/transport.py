"""Transports between the verifier's process and the server's.

Outcomes and commands are small and known on the host, so they go through a pipe. Answers hold logits. On CPUs they go through the
pipe too: a round trip of 10 kB takes 0.05 ms there, and gloo takes a hundred times as long. Between GPUs they go from device to
device through `torch.distributed` (NCCL). One byte on the pipe announces such an answer. The receiver waits for this byte under a
time limit, and for the end of the other process at once. So it notices a peer that died or stalls before it enters NCCL.
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
    """Carry the answers, each in one preallocated buffer."""

    def send(self, buffer: Tensor) -> None: ...

    def receive(self, buffer: Tensor, seconds: float) -> bytes | Tensor:
        """Return the next answer, of the size of `buffer`, in memory that nothing else will use.

        Raises:
            PeerGoneError, PeerSilentError: the peer has ended, or has not answered within `seconds`.
            UnexpectedMessageError: the message has another size.
        """
        ...


class PipeTransport:
    """Send through the pipe, for models on the CPU or on the same GPU. waiter: waits for messages on the pipe."""

    def __init__(self, pipe: Any, waiter: Waiter | None = None) -> None:
        self.pipe, self.waiter = pipe, waiter or Waiter(pipe)
        self._seen: tuple[Tensor, Any] | None = None  # a buffer on the host, and its bytes

    def send(self, buffer: Tensor) -> None:
        if self._seen is not None and self._seen[0] is buffer:
            self.pipe.send_bytes(self._seen[1])
            return
        data = buffer.cpu().numpy().data
        self._seen = (buffer, data) if buffer.device.type == "cpu" else None
        self.pipe.send_bytes(data)

    def receive(self, buffer: Tensor, seconds: float) -> bytes:
        self.waiter.wait(seconds)
        # Read the whole message: a longer one, such as a reason for a failure, must not be lost.
        data = receive_bytes(self.pipe)
        if len(data) != buffer.numel():
            raise UnexpectedMessageError(data)
        return data


class GroupTransport:
    """Send through a `torch.distributed` group of two (NCCL between GPUs, gloo in tests), announced on the pipe."""

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
    """A message arrived in place of an answer. data: its bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(f"{len(data)} bytes in place of an answer")
        self.data = data


class Waiter:
    """Wait for a message on a pipe, or for the end of the process behind it (its sentinel).

    The selector is made once. `multiprocessing.connection.wait` makes a new one each time, which takes longer than the message.
    """

    def __init__(self, pipe: Any, sentinel: int | None = None) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe, selectors.EVENT_READ)
        self._pipe = pipe
        if sentinel is not None:
            self._selector.register(sentinel, selectors.EVENT_READ)

    def ready(self) -> bool:
        """Say whether a message can be received now."""
        return bool(self._selector.select(0))

    def wait(self, seconds: float | None, soon: bool = True) -> None:
        """Return when the pipe has a message. Errors: PeerSilentError after `seconds`, PeerGoneError if the process has ended.

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
    """Receive the next message. Errors: PeerGoneError."""
    try:
        return pipe.recv_bytes()
    except (EOFError, OSError) as error:
        raise PeerGoneError from error
