"""The user's cache folder: converted GGUF files and compiled programs."""

from __future__ import annotations

import os
import sys
import tempfile
from functools import cache
from pathlib import Path

from sdbench.errors import InputError

VARIABLE = "SDBENCH_CACHE"


def cache_folder() -> Path:
    """Return the cache folder that the environment names. It may not exist, and may not be writable.

    The folder is SDBENCH_CACHE, else `sdbench` in XDG_CACHE_HOME, else `sdbench` in ~/.cache. Without a home directory it is the
    folder that `writable_cache` falls back to.
    """
    named, base = os.environ.get(VARIABLE), os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(named).expanduser() if named else Path(base or "~/.cache").expanduser() / "sdbench"
    except RuntimeError:  # there is no home directory
        if named:
            raise InputError(
                f"{VARIABLE} is {named}, but there is no home directory for '~'; give a full path."
            ) from None
        return _fallback()


def writable_cache(part: str) -> Path:
    """Return a folder of the cache that can be written, and make it if needed.

    part: the name of the folder within the cache. Where the default cache cannot be written, a folder of the temporary directory
    takes its place, and one line on standard error says so. Errors: InputError if SDBENCH_CACHE, or the temporary directory, cannot
    be written.
    """
    return _writable(cache_folder(), part, named=bool(os.environ.get(VARIABLE)))


def cached(part: str, name: str) -> Path | None:
    """Return the entry of a name in the cache folder, or in the folder that replaces it; None if neither has one."""
    places = (folder / part / name for folder in (cache_folder(), _fallback()))
    return next((place for place in places if place.exists() and _private(place.parents[1])), None)


@cache
def _writable(folder: Path, part: str, named: bool) -> Path:
    reason = _unwritable(folder / part)
    if reason is None:
        return folder / part
    if named:
        raise InputError(f"{VARIABLE} is {folder}, which cannot be written ({reason}); name a folder that can.")
    other = _fallback()
    if _unwritable(other / part, mode=0o700) is not None or not _private(other):
        raise InputError(
            f"Neither the cache {folder} ({reason}) nor {other} can be written; set {VARIABLE} to a folder that can."
        )
    print(
        f"sdbench: the cache {folder} cannot be written ({reason}), so {other} is used; set {VARIABLE} to another folder.",
        file=sys.stderr,
    )
    return other / part


def _fallback() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"sdbench-{user}"


def _private(folder: Path) -> bool:
    """Whether a folder in the temporary directory belongs to this user, so that nobody else has put files there."""
    return folder != _fallback() or not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


def _unwritable(folder: Path, mode: int = 0o777) -> str | None:
    """Make a folder and a file in it; return why that failed, or None."""
    try:
        folder.parent.mkdir(mode=mode, parents=True, exist_ok=True)
        folder.mkdir(mode=mode, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__
