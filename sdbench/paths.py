"""Read the paths that a user gives."""

from __future__ import annotations

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """Return a path with a leading `~` replaced by the home directory. Without such a directory the `~` is a plain letter."""
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError:
        return path
