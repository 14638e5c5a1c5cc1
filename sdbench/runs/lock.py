"""Who works on a run's folder right now: a lock that the process holds, and that the system lets go when the process dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sdbench.errors import InputError

_LOCK = ".lock"
_PATIENCE_SECONDS = 2.0  # `running` takes the lock for a moment to see whether it is free


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's folder.

    Raises:
        InputError: another process holds it.
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
    """Whether a living process holds a run's folder."""
    if not (folder / _LOCK).exists():
        return False
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False  # a folder that may only be read: nobody runs in it as us
    lock.release()
    return False
