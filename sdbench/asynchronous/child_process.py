"""A draft's server in a process of its own, and the handle that the verifier's process has of it.

Nothing waits without end: the handle waits for an answer and for the end of the process at once, and under a time limit. The child
ignores Ctrl-C, because its parent decides. It ends when the pipe closes or its parent is gone. `stop` closes the pipe and then
ends the process by force.
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
from sdbench.asynchronous.draft_server import DraftServer
from sdbench.asynchronous.protocol import MalformedError, Outcome, OutcomeMessage, Speculation, SpeculationMessage
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
from sdbench.child_process import die_with_parent
from sdbench.device import pin
from sdbench.errors import RunError
from sdbench.lm.model import LanguageModel
from sdbench.sampling import Sampling

START_SECONDS = 180.0  # a new process imports torch and transformers first
STOP_SECONDS = 2.0
COMPILE_SECONDS = 600.0  # an answer that needs a new compiled program

ServerFactory = Callable[[LanguageModel], DraftServer]


class ServerFaultError(RunError):
    """The draft's server died, stalled, failed or answered nonsense."""


class ServerHandle(ABC):
    """Hold a server in another process, at the other end of a pipe.

    model: the draft. seconds: how long an answer may take. device: of the answers (None: the model's device).
    """

    pipe: Any
    waiter: Waiter
    transport: Transport

    def __init__(self, model: LanguageModel, seconds: float, device: torch.device | None) -> None:
        self.model, self.seconds, self.serial = model, seconds, 0
        self._patience = seconds
        self._unanswered = 0  # commands without an answer
        self.device = device or model.device

    def open(
        self, rows: int, slots: int, length: int, sampling: Sampling, dtype: torch.dtype, frozen: bool = True
    ) -> None:
        """Begin a session. The arguments are those of `DraftServer.open`. Does not wait for the server.

        dtype: of the logits. frozen: the server compiles no more programs. Otherwise an answer may take `COMPILE_SECONDS`.
        """
        self._patience = self.seconds if frozen else max(self.seconds, COMPILE_SECONDS)
        self._outcome = OutcomeMessage(rows)
        self._speculation = SpeculationMessage(rows, length, self.model.vocab, dtype, self.device)
        self.serial = 0
        self.wait_admitted()
        self._post(pickle.dumps(("open", rows, slots, length, sampling, dtype, frozen)))
        self._unanswered += 1

    def admit(self, row: int, tokens: list[int], stream: int) -> None:
        """Send a prompt that takes a row. Does not wait until the server has read it."""
        self._post_long(pickle.dumps(("admit", row, tokens, stream)))
        self._unanswered += 1

    def wait_admitted(self) -> None:
        """Wait until the server has carried out all commands."""
        while self._unanswered:
            self._answer(self._patience)
            self._unanswered -= 1

    def send_outcome(self, outcome: Outcome) -> None:
        """Send an outcome. The server begins the next speculation."""
        self.wait_admitted()
        self.serial += 1
        self._post(self._outcome.pack(self.serial, outcome))

    def send_early_exit(self, likely: list[list[list[int]]]) -> None:
        """Send likely next tokens in the middle of a verification (`DraftServer.early_exit`). There is no answer."""
        self._post(pickle.dumps(("early_exit", likely)))

    def receive_draft(self) -> Speculation:
        """Wait for the speculation behind the last outcome, and return it. Errors: ServerFaultError."""
        try:
            answer = self.transport.receive(self._speculation.buffer, self._patience)
            return self._speculation.unpack(self.serial, answer)
        except (PeerGoneError, PeerSilentError, MalformedError, UnexpectedMessageError) as error:
            raise self._fault(error) from error

    def measured(self) -> dict[str, Any] | None:
        """Return what the server recorded in the session (`DraftServer.measured`). None if another rank keeps the record."""
        return self._command("measured")

    @abstractmethod
    def stop(self) -> None:
        """End the server."""

    @abstractmethod
    def _ended(self) -> str:
        """Say in one clause how the other process ended."""

    def _command(self, *words: Any) -> Any:
        self.wait_admitted()
        self._post_long(pickle.dumps(words))
        return self._answer(self._patience)

    def _post(self, message: bytes) -> None:
        """Send a short message, for which the pipe has room. The server has taken all earlier messages."""
        try:
            self.pipe.send_bytes(message)
        except OSError as error:
            raise self._fault(self._last_words()) from error

    def _post_long(self, message: bytes) -> None:
        """Send a long message, for which the pipe may have no room. A server that does not read it is noticed in time."""
        failed: list[Exception] = []

        def send() -> None:
            try:
                self.pipe.send_bytes(message)
            except Exception as error:  # a pipe that was closed raises several kinds
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
            raise self._fault(MalformedError("the message is no answer to a command")) from error
        if kind != "done":
            raise self._fault(UnexpectedMessageError(data))
        return value

    def _last_words(self) -> Exception:
        """Return why a process takes no more messages: the last message that it sent, if there is one."""
        try:
            while self.pipe.poll(0):
                data = receive_bytes(self.pipe)
                if data != done():  # the answer to an earlier command is no reason
                    return UnexpectedMessageError(data)
        except (PeerGoneError, OSError):
            pass
        return PeerGoneError()

    def _fault(self, error: Exception) -> ServerFaultError:
        """End the process, whose state is unknown, and return the fault as one sentence."""
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
    """Run a server in a child process.

    make: makes the server over the model, in the child. seconds: how long an answer may take. core: the core of the child.
    backend: None sends answers through the pipe. A backend of torch.distributed ("nccl", "gloo") sends them between two ranks.
    device: of the answers (None: the model's device).
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
        """End the process, within about `STOP_SECONDS`."""
        self._finalizer()
        if self._store:
            self.transport = PipeTransport(self.pipe, self.waiter)  # frees the group
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
    """End a process: close its pipe, then terminate it, then kill it."""
    pipe.close()
    process.join(STOP_SECONDS)
    for end in (process.terminate, process.kill):
        if process.is_alive():
            end()
            process.join(STOP_SECONDS)


def join_group(backend: str, store: str, rank: int) -> Any:
    """Join a group of the two processes. Each server has a group of its own. rank: 0 is the verifier, 1 the server."""
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
    """Run the child: serve until the pipe closes."""
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
