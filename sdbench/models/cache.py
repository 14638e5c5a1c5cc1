"""Find the user's cache folder, which contains converted GGUF files and compiled programs."""

from __future__ import annotations

import os
import sys
import tempfile
from functools import cache
from pathlib import Path

from sdbench.errors import InputError

VARIABLE = "SDBENCH_CACHE"


def cache_folder() -> Path:
    """Return the cache folder. It may be missing or read-only.

    The folder is SDBENCH_CACHE, else `sdbench` in XDG_CACHE_HOME, else `sdbench` in ~/.cache. Without a home directory it is a
    folder in the temporary directory. Errors: InputError if SDBENCH_CACHE begins with `~` and the user has no home directory.
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
    """Return a writable folder of the cache, and make it if needed.

    part: the name of the folder within the cache. If the default cache is not writable, a folder in the temporary directory
    replaces it, and one line on standard error says so. Errors: InputError if SDBENCH_CACHE is not writable, or if neither the
    default cache nor the temporary directory is writable.
    """
    return _writable(cache_folder(), part, named=bool(os.environ.get(VARIABLE)))


def cached(part: str, name: str) -> Path | None:
    """Return the path of a cached entry. Looks in the cache folder and in its replacement; None if both lack the entry."""
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
    """Tell whether this user owns the folder, if it is in the temporary directory. Other users could write files there."""
    return folder != _fallback() or not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


def _unwritable(folder: Path, mode: int = 0o777) -> str | None:
    """Make a folder and a temporary file in it. Returns the reason of a failure, or None."""
    try:
        folder.parent.mkdir(mode=mode, parents=True, exist_ok=True)
        folder.mkdir(mode=mode, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__
