"""Connect to a completion server that runs already, or start one and always stop it.

The client speaks HTTP with httpx, which supports streams and a time limit on every wait. Each fault of the server is a
`RunError`: a late start, an incomplete answer, an error as the answer, or silence.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any

import httpx

from sdbench.errors import InputError, RunError
from sdbench.paths import unpackaged

POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0
LOG_LINES = 3


class Server:
    """Manage a completion server.

    url: the address of the server. command: the command that starts it (None: it runs already); a `pkg://PACKAGE/FOLDER` in it is
    replaced by the folder. start_seconds: longest time until it answers. stall_seconds: longest silence during an answer.
    Errors: InputError; RunError while it runs.
    """

    def __init__(self, url: str, command: str | None, start_seconds: float, stall_seconds: float) -> None:
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InputError(f"url is {url!r}; it must begin with http:// or https://.")
        for name, value in (("start_seconds", start_seconds), ("stall_seconds", stall_seconds)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise InputError(f"{name} is {value!r}; it must be a positive number of seconds.")
        self.words = [unpackaged(word, "command") for word in shlex.split(command)] if command else []
        if self.words and shutil.which(self.words[0]) is None:
            raise InputError(
                f"command: there is no program '{self.words[0]}' here; install it, or attach by url alone."
            )
        self.url, self.start_seconds, self.stall_seconds = url.rstrip("/"), start_seconds, stall_seconds
        self.died = False  # whether it ended by itself before it answered
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Any = None
        self._client: httpx.Client | None = None

    @property
    def client(self) -> httpx.Client:
        if self._client is None:
            limit = httpx.Timeout(self.stall_seconds, connect=min(5.0, self.stall_seconds))
            self._client = httpx.Client(base_url=self.url, timeout=limit, trust_env=False)
        return self._client

    def start(self) -> None:
        """Start the server and wait until it answers; without a command, check that it answers. Errors: RunError."""
        if self._process is not None:
            return
        if not self.words:
            if not self._answers():
                raise RunError(f"No server answers at {self.url}; start one there, or give the arm a command.")
            return
        if self._answers():
            raise RunError(f"A server answers at {self.url} already; stop it, or attach to it without a command.")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        leash = [sys.executable, "-m", "sdbench.child_process", *self.words]
        self._process = subprocess.Popen(
            leash, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        until = monotonic() + self.start_seconds
        while not self._answers():
            status = self._process.poll()
            if status is not None or monotonic() > until:
                why = (
                    f"did not answer within {self.start_seconds:g} s"
                    if status is None
                    else f"ended with status {status}"
                    if status >= 0
                    else f"was ended by {signal.Signals(-status).name}"
                )
                said, self.died = self._said(), status is not None
                self.stop()
                raise RunError(f"The server '{self.words[0]}' {why}{said}.")
            sleep(POLL_SECONDS)

    def stop(self) -> None:
        """End the started server and its child processes. A server that ran before keeps running."""
        if self._client is not None:
            self._client.close()
            self._client = None
        process, self._process = self._process, None
        if process is None:
            return
        for word, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, word)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
        self._log.close()

    def get(self, path: str) -> httpx.Response:
        """Return the answer to a GET request. Errors: RunError."""
        with self._faults():
            return self._checked(self.client.get(path))

    def events(
        self, path: str, request: dict[str, Any], last: Callable[[dict[str, Any]], bool] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the events of a streamed answer (SSE: `data:` lines of JSON, then [DONE]). Errors: RunError.

        last: tells the last event of a server that sends no [DONE].
        """
        with self._faults():
            with self.client.stream("POST", path, json=request) as answer:
                if answer.is_error:
                    answer.read()
                self._checked(answer)
                for line in answer.iter_lines():
                    data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                    if data == "[DONE]":
                        return
                    if data:
                        event = self._event(data)
                        yield event
                        if last is not None and last(event):
                            return
            raise RunError(f"The server at {self.url} ended an answer in the middle{self._said()}.")

    def _event(self, data: str) -> dict[str, Any]:
        try:
            event = json.loads(data)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise RunError(f"The server at {self.url} sent an event that is no JSON object: {data[:80]!r}.")
        if event.get("error") or event.get("object") == "error":
            raise RunError(f"The server at {self.url} answered an error: {_sentence(event)}.")
        return event

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if answer.is_error:
            try:
                said = _sentence(answer.json())
            except ValueError:
                said = " ".join(answer.text.split())[:200]
            raise RunError(f"The server at {self.url} answered {answer.status_code}: {said or 'nothing else'}.")
        return answer

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except httpx.ReadTimeout as error:
            raise RunError(f"The server at {self.url} was silent for {self.stall_seconds:g} s in an answer.") from error
        except httpx.HTTPError as error:
            raise RunError(f"The server at {self.url} is gone ({type(error).__name__}){self._said()}.") from error

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2.0, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _said(self) -> str:
        """Return the last log lines of a started server, as the end of a message."""
        if self._process is None:
            return ""
        self._log.flush()
        text = os.pread(self._log.fileno(), 1 << 20, max(0, os.fstat(self._log.fileno()).st_size - (1 << 12))).decode(
            errors="replace"
        )
        lines = [line.strip() for line in text.splitlines() if line.strip()][-LOG_LINES:]
        return f"; it last said: {' / '.join(lines)}" if lines else ""


def _sentence(document: Any) -> str:
    """Return the message of an error document (the form of OpenAI, or a plain message)."""
    inner = document.get("error", document) if isinstance(document, dict) else document
    said = inner.get("message", inner) if isinstance(inner, dict) else inner
    return " ".join(str(said).split()).rstrip(".")[:300]
