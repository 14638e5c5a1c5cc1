"""Lock the folder of a run for the process that writes it. The system releases the lock when the process ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sdbench.errors import InputError

_LOCK = ".lock"
_PATIENCE_SECONDS = 2.0  # `running` takes the lock for a moment to test whether it is free


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock the folder of a run for the duration of the context.

    Raises:
        InputError: another process has locked it.
    """
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=_PATIENCE_SECONDS)
    except Timeout as error:
        raise InputError(f"{folder} is being run by another process; wait for it, or choose another out.") from error
    try:
        yield
    finally:
        lock.release()


def running(folder: Path) -> bool:
    """Tell whether a live process has locked the folder of a run."""
    if not (folder / _LOCK).exists():
        return False
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False  # a read-only folder: no run of this user works in it
    lock.release()
    return False
