"""How messages cross between the verifier's process and the speculation server's.

Requests are small and known on the host, so they go by a pipe, as do commands. Answers hold logits: on CPUs they go by the pipe too
(a round trip of some 10 kB takes 0.05 ms there; gloo's send and receive take a hundred times that), between GPUs by
`torch.distributed` (NCCL), straight from device to device, behind one byte on the pipe that says that they are coming. That byte is
waited for with a time limit, together with the other process itself: a peer that died or stalls is noticed, and NCCL is entered
only by two that are there.
"""

from __future__ import annotations

import multiprocessing.connection
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

READY = b"!"


class PeerGone(Exception):
    """The other process has ended."""


class PeerSilent(Exception):
    """The other process has not answered in time."""


class Transport(Protocol):
    """Carries the answers, one preallocated buffer each."""

    def send(self, buffer: Tensor) -> None: ...

    def receive(self, buffer: Tensor, seconds: float) -> None:
        """Fill `buffer` with the next answer.

        Raises:
            PeerGone, PeerSilent: none will come, or none came in `seconds`.
            ValueError: what came has another size.
        """
        ...


class PipeTransport:
    """By the pipe: for models on the CPU, or on the same GPU. watched: what else to wait for, such as the other process's sentinel."""

    def __init__(self, pipe: Any, watched: Sequence[Any] = ()) -> None:
        self.pipe, self.watched = pipe, watched

    def send(self, buffer: Tensor) -> None:
        self.pipe.send_bytes(memoryview(buffer.cpu().numpy()))

    def receive(self, buffer: Tensor, seconds: float) -> None:
        await_message(self.pipe, self.watched, seconds)
        # Read whole: a longer message (a complaint in place of an answer) must not be lost.
        data = receive_bytes(self.pipe)
        if len(data) != buffer.numel():
            raise UnexpectedMessage(data)
        buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))


class GroupTransport:
    """By a `torch.distributed` group of two (NCCL between GPUs, gloo in tests), announced on the pipe."""

    def __init__(self, pipe: Any, group: Any, peer: int, watched: Sequence[Any] = ()) -> None:
        self.pipe, self.group, self.peer, self.watched = pipe, group, peer, watched

    def send(self, buffer: Tensor) -> None:
        import torch.distributed as dist

        self.pipe.send_bytes(READY)
        dist.send(buffer, self.peer, group=self.group)

    def receive(self, buffer: Tensor, seconds: float) -> None:
        import torch.distributed as dist

        await_message(self.pipe, self.watched, seconds)
        data = receive_bytes(self.pipe)
        if data != READY:
            raise UnexpectedMessage(data)
        dist.recv(buffer, self.peer, group=self.group)


class UnexpectedMessage(ValueError):
    """Another message than the answer that was due; data: its bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(f"{len(data)} bytes where an answer was due")
        self.data = data


def await_message(pipe: Any, watched: Sequence[Any], seconds: float) -> None:
    """Wait until the pipe has a message."""
    if pipe.poll(0):
        return
    ready = multiprocessing.connection.wait([pipe, *watched], seconds)
    if not ready:
        raise PeerSilent
    if pipe not in ready:
        raise PeerGone


def receive_bytes(pipe: Any) -> bytes:
    try:
        return pipe.recv_bytes()
    except (EOFError, OSError) as error:
        raise PeerGone from error
