"""One job per GPU: a run holds a lock for each device that it works on, and waits for one that another run holds.

A device without an index (`cuda`) is whichever is free, so the jobs of a sweep spread over the GPUs of a machine. The lock is a
file's, so it ends with the process that holds it. CPUs are not leased: `company.py` notes who shares them.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sdbench.errors import InputError

POLL_SECONDS = 0.5


def registry() -> Path:
    """The folder where the jobs of this machine meet, whoever runs them; SDBENCH_LEASES names another.

    Raises:
        InputError: it is not there, and cannot be made or written.
    """
    folder = Path(os.environ.get("SDBENCH_LEASES") or Path(tempfile.gettempdir()) / "sdbench-leases")
    try:
        return shared(folder)
    except OSError as error:
        raise InputError(
            f"The folder {folder}, where the jobs of this machine meet, cannot be written ({error.strerror}): "
            "set SDBENCH_LEASES to another."
        ) from error


def shared(folder: Path) -> Path:
    """A folder in which every user of the machine may leave files. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(PermissionError):  # another user's, who has seen to it
        folder.chmod(0o1777)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return folder


@contextmanager
def lease(wanted: Sequence[str], present: Sequence[str]) -> Iterator[dict[str, str]]:
    """Hold the wanted devices alone: what each stands for. Waits until they are free.

    Args:
        wanted: devices by name: one of `present`, or a kind alone, such as `cuda`, for any of that kind that is free.
        present: every device that there is, such as `cuda:0`.

    Raises:
        InputError: there is no such device.
    """
    named = sorted({device for device in wanted if device in present})
    kinds = sorted(set(wanted) - set(named))
    given = {device: device for device in named}
    with ExitStack() as stack:
        for device in named:
            stack.enter_context(_take([device], device))
        for kind in kinds:
            free = [device for device in present if device.partition(":")[0] == kind and device not in named]
            if not free:
                raise InputError(f"There is no device {kind} left; this machine has: {', '.join(present) or 'none'}.")
            given[kind] = stack.enter_context(_take(free, kind))
        yield given


@contextmanager
def _take(candidates: Sequence[str], name: str) -> Iterator[str]:
    """Hold the first of the candidates that is free."""
    told = False
    while True:
        for device in candidates:
            lock = FileLock(registry() / f"{_safe(physical(device))}.lock", mode=0o666)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                yield device
            finally:
                lock.release()
            return
        if not told:
            print(f"waiting for {name}: another job works on it", file=sys.stderr, flush=True)
            told = True
        time.sleep(POLL_SECONDS)


def physical(device: str) -> str:
    """The device itself: two processes that see different GPUs call each of them cuda:0."""
    kind, _, index = device.partition(":")
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if kind == "cuda" and index.isdigit() and int(index) < len(visible):
        return f"cuda:{visible[int(index)].strip()}"
    return device


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)
