"""A speculation server in a process of its own, and the handle by which the verifier's process holds it.

Nothing waits without end: every answer is awaited together with the process itself and under a time limit. The child ignores
Ctrl-C (its parent decides) and ends by itself when the pipe closes or its parent is gone; `stop` asks it to, then makes it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch

from sdbench.asynchronous.child_loop import done, serve
from sdbench.asynchronous.protocol import Outcome, Speculation
from sdbench.asynchronous.speculation import SpeculationServer
from sdbench.asynchronous.transport import (
    GroupTransport,
    PeerGoneError,
    PeerSilentError,
    PipeTransport,
    Transport,
    UnexpectedMessageError,
    Waiter,
    receive_bytes,
)
from sdbench.asynchronous.wire import MalformedError, OutcomeMessage, SpeculationMessage
from sdbench.child_process import die_with_parent
from sdbench.device import pin
from sdbench.errors import RunError
from sdbench.lm.model import LanguageModel
from sdbench.sampling import Sampling

START_SECONDS = 180.0  # a new process imports torch and transformers first
STOP_SECONDS = 2.0
COMPILE_SECONDS = 600.0  # an answer for which a program is compiled first

ServerFactory = Callable[[LanguageModel], SpeculationServer]


class ServerFaultError(RunError):
    """The speculation server died, stalled, failed or answered nonsense."""


class ServerHandle(ABC):
    """A speculation server in another process, at the other end of a pipe.

    model: the draft. seconds: how long an answer may take. device: where the answers are wanted (by default where the model is).
    """

    pipe: Any
    waiter: Waiter
    transport: Transport

    def __init__(self, model: LanguageModel, seconds: float, device: torch.device | None) -> None:
        self.model, self.seconds, self.serial = model, seconds, 0
        self._patience = seconds
        self._unanswered = 0  # commands that were sent
        self.device = device or model.device

    def open(
        self, rows: int, slots: int, length: int, sampling: Sampling, dtype: torch.dtype, frozen: bool = True
    ) -> None:
        """Begin a session: the server makes room while the verifier reads its prompt, too.

        frozen: the server may make no programs; where it may, an answer can take as long as that.
        """
        self._patience = self.seconds if frozen else max(self.seconds, COMPILE_SECONDS)
        self._outcome = OutcomeMessage(rows)
        self._speculation = SpeculationMessage(rows, length, self.model.vocab, dtype, self.device)
        self.serial = 0
        self.admitted()
        self._post(pickle.dumps(("open", rows, slots, length, sampling, dtype, frozen)))
        self._unanswered += 1

    def admit(self, row: int, tokens: list[int], stream: int) -> None:
        """A prompt takes a row; `admitted` waits until the server has read it."""
        self._post_long(pickle.dumps(("admit", row, tokens, stream)))
        self._unanswered += 1

    def admitted(self) -> None:
        """Wait until the server has done what it was told so far."""
        while self._unanswered:
            self._answer(self._patience)
            self._unanswered -= 1

    def tell(self, outcome: Outcome) -> None:
        """Tell an outcome: the server sets to work on what follows."""
        self.admitted()
        self.serial += 1
        self._post(self._outcome.pack(self.serial, outcome))

    def hear(self) -> Speculation:
        """The speculation for the outcome that was told."""
        try:
            answer = self.transport.receive(self._speculation.buffer, self._patience)
            return self._speculation.unpack(self.serial, answer)
        except (PeerGoneError, PeerSilentError, MalformedError, UnexpectedMessageError) as error:
            raise self._fault(error) from error

    def measured(self) -> dict[str, Any] | None:
        """What the server recorded in this session: its steps, and what it served. None where another process keeps it."""
        return self._command("measured")

    @abstractmethod
    def stop(self) -> None:
        """Have done with the server."""

    @abstractmethod
    def _ended(self) -> str:
        """One clause on how the other process ended."""

    def _command(self, *words: Any) -> Any:
        self.admitted()
        self._post_long(pickle.dumps(words))
        return self._answer(self._patience)

    def _post(self, message: bytes) -> None:
        """Send what the pipe has room for: few numbers, to a server that has taken all that came before."""
        try:
            self.pipe.send_bytes(message)
        except OSError as error:
            raise self._fault(self._last_words()) from error

    def _post_long(self, message: bytes) -> None:
        """Send what the pipe may have no room for: a server that does not read it is noticed in time too."""
        failed: list[Exception] = []

        def send() -> None:
            try:
                self.pipe.send_bytes(message)
            except Exception as error:  # of a pipe that was closed meanwhile any kind
                failed.append(error)

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        sending.join(self._patience)
        if sending.is_alive():
            raise self._fault(PeerSilentError())
        if failed:
            raise self._fault(self._last_words()) from failed[0]

    def _answer(self, seconds: float) -> Any:
        try:
            self.waiter.wait(seconds)
            data = receive_bytes(self.pipe)
        except (PeerGoneError, PeerSilentError) as error:
            raise self._fault(error) from error
        try:
            kind, value = pickle.loads(data)
        except Exception as error:
            raise self._fault(MalformedError("what came is no answer to a command")) from error
        if kind != "done":
            raise self._fault(UnexpectedMessageError(data))
        return value

    def _last_words(self) -> Exception:
        """Why a process ended that takes no messages any more: what it still said, if it did."""
        try:
            while self.pipe.poll(0):
                data = receive_bytes(self.pipe)
                if data != done():  # what acknowledges an earlier command is no reason
                    return UnexpectedMessageError(data)
        except (PeerGoneError, OSError):
            pass
        return PeerGoneError()

    def _fault(self, error: Exception) -> ServerFaultError:
        """One sentence on what went wrong; the process is ended, for its state is unknown."""
        if isinstance(error, PeerSilentError):
            text = f"The draft's process has not answered for {self._patience:g} s."
        elif isinstance(error, (PeerGoneError, OSError)):
            text = f"The draft's process has ended{self._ended()}."
        elif isinstance(error, UnexpectedMessageError):
            text = f"The draft's process failed: {_complaint(error.data)}."
        else:
            text = f"The draft's process answered nonsense: {error}."
        self.stop()
        return ServerFaultError(text)


class ServerProcess(ServerHandle):
    """A running speculation server.

    make: makes the server over the model, in the child. seconds: how long an answer may take. core: which core it is pinned to.
    backend: None sends answers by the pipe; a backend of torch.distributed ("nccl", "gloo") by a group of the two. device: where
    the answers are wanted (by default where the model is).
    """

    def __init__(
        self,
        model: LanguageModel,
        make: ServerFactory,
        seconds: float,
        core: int | None = None,
        threads: int = 1,
        backend: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(model, seconds, device)
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        self._store = tempfile.TemporaryDirectory() if backend else None
        store = os.path.join(self._store.name, "store") if self._store else None
        self.process = context.Process(
            target=_main,
            args=(far, model.bare(), make, core, threads, backend, store),
            name="sdbench draft",
            daemon=True,
        )
        self.process.start()
        far.close()
        self._finalizer = weakref.finalize(self, _end, self.process, self.pipe)
        self.waiter = Waiter(self.pipe, self.process.sentinel)
        self.transport = PipeTransport(self.pipe, self.waiter)
        if backend:
            group = join_group(backend, store or "", 0)
            self.transport = GroupTransport(self.pipe, group, 1, self.waiter)
        self._answer(START_SECONDS)

    def stop(self) -> None:
        """End the process, at the latest in `STOP_SECONDS` and a little."""
        self._finalizer()
        if self._store:
            self.transport = PipeTransport(self.pipe, self.waiter)  # lets go of the group
            self._store.cleanup()

    def _ended(self) -> str:
        self.process.join(STOP_SECONDS)
        return f" (exit status {self.process.exitcode})"


def _complaint(data: bytes) -> str:
    try:
        kind, value = pickle.loads(data)
        return str(value) if kind == "failed" else "an answer to another question"
    except Exception:
        return f"{len(data)} bytes that are no answer"


def _end(process: Any, pipe: Any) -> None:
    """Ask, then insist."""
    pipe.close()
    process.join(STOP_SECONDS)
    for insist in (process.terminate, process.kill):
        if process.is_alive():
            insist()
            process.join(STOP_SECONDS)


def join_group(backend: str, store: str, rank: int) -> Any:
    """A group of the two processes, no part of any other: each server has its own."""
    import torch.distributed as dist

    limit, file_store = timedelta(seconds=START_SECONDS), dist.FileStore  # pyright: ignore[reportPrivateImportUsage]
    meeting = file_store(store, 2)
    meeting.set_timeout(limit)
    if backend == "nccl":
        return dist.ProcessGroupNCCL(meeting, rank, 2, dist.ProcessGroupNCCL.Options())
    return dist.ProcessGroupGloo(meeting, rank, 2, limit)


def _main(
    pipe: Any,
    model: LanguageModel,
    make: ServerFactory,
    core: int | None,
    threads: int,
    backend: str | None,
    store: str,
) -> None:
    """The child: serve until the pipe closes."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if core is not None:
        pin((core,))
    torch.set_num_threads(threads)
    if model.device.type == "cuda":
        torch.cuda.set_device(model.device)
    transport: Transport = PipeTransport(pipe)
    if backend:
        transport = GroupTransport(pipe, join_group(backend, store, 1), 0)
    serve(pipe, make(model), transport)
