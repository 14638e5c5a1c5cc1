"""Run one job per GPU. A run locks each GPU that it uses, and waits while another run holds the lock.

A device without an index (`cuda`) means any free GPU, so the jobs of a sweep use all GPUs of a machine. The lock is a file lock,
so the system releases it when the process ends. Runs do not lock CPUs; `co_tenancy.py` detects jobs that share them.
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
    """Return the folder in which the jobs of all users of this machine register. SDBENCH_LEASES can name another folder.

    Raises:
        InputError: the folder cannot be created or written.
    """
    folder = Path(os.environ.get("SDBENCH_LEASES") or Path(tempfile.gettempdir()) / "sdbench-leases")
    try:
        return shared(folder)
    except OSError as error:
        raise InputError(
            f"The folder {folder}, in which the jobs of this machine register, cannot be written ({error.strerror}): "
            "set SDBENCH_LEASES to another folder."
        ) from error


def shared(folder: Path) -> Path:
    """Create a folder in which every user of the machine may write, and return its path. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(PermissionError):  # another user owns the folder and has set its mode
        folder.chmod(0o1777)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return folder


@contextmanager
def lease(wanted: Sequence[str], present: Sequence[str]) -> Iterator[dict[str, str]]:
    """Lock the wanted devices, and give the device that each wanted name stands for. Wait until the devices are free.

    Args:
        wanted: names of devices. A name is one of `present`, or a kind such as `cuda`, which means any free device of that kind.
        present: all devices of the machine, such as `cuda:0`.

    Raises:
        InputError: the machine has no such device, or all devices of the kind are wanted by name.
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
    """Lock the first free device of the candidates, and give its name. name: for the message while the run waits."""
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
    """Return the name of the physical device. Processes with different CUDA_VISIBLE_DEVICES give one name to different GPUs."""
    kind, _, index = device.partition(":")
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if kind == "cuda" and index.isdigit() and int(index) < len(visible):
        return f"cuda:{visible[int(index)].strip()}"
    return device


def _safe(name: str) -> str:
    """Replace the characters that a file name should not contain."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)
