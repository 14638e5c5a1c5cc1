"""Read the paths that a user gives."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from sdbench.errors import InputError

PACKAGED = "pkg://"
_PACKAGED_IN_TEXT = re.compile(PACKAGED + r"[\w.\-]+(?:/[\w.\-]+)*")


def expanded(path: str | Path) -> Path:
    """Return a path with a leading `~` replaced by the home directory. Without such a directory the `~` is a plain letter."""
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def refuse_file(knob: str, folder: Path) -> None:
    """Refuse a place for results that is a file. knob: what names it, for the message. Errors: InputError."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{knob}: {folder} is a file; name a folder.")


def packaged(path: str, knob: str) -> Path | None:
    """Return the folder that `pkg://PACKAGE/FOLDER` names; None for any other path. knob: for messages. Errors: InputError."""
    if not path.startswith(PACKAGED):
        return None
    package, _, inside = path.removeprefix(PACKAGED).partition("/")
    try:
        folder = Path(str(resources.files(package))) / inside
    except ModuleNotFoundError as error:
        raise InputError(f"{knob}: there is no installed package '{package}'.") from error
    if not folder.is_dir():
        raise InputError(f"{knob}: the package {package} lacks {inside}; install it again.")
    return folder


def unpackaged(text: str, knob: str) -> str:
    """Return a text, such as a command, with each `pkg://PACKAGE/FOLDER` in it replaced by its folder. Errors: InputError."""
    return _PACKAGED_IN_TEXT.sub(lambda found: str(packaged(found[0], knob)), text)
