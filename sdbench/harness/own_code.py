"""Identify the Python files of a user's own methods, which define a run as its config does."""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import sdbench

# Files below these folders belong to a package. The run's record holds the versions of packages, and the git revision of sdbench.
_PACKAGES = tuple(
    Path(folder).resolve()
    for folder in {*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), *sdbench.__path__}
)


def own_code(config: Any) -> dict[str, str]:
    """Return the SHA-256 of each of the user's own Python files that the classes of a built config come from, by module.

    config: in which every `_target_` has been imported. The modules that such a file imports count too, if they are the user's.
    """
    waiting = {module for target in _targets(config) if (module := sys.modules.get(target.rpartition(".")[0]))}
    found: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        file = _file(module)
        if file is None or module.__name__ in found:
            continue
        found[module.__name__] = hashlib.sha256(file.read_bytes()).hexdigest()
        waiting.update(_imported(module))
    return dict(sorted(found.items()))


def own_line(error: BaseException) -> str:
    """Return the file and the line of the user's own code that an error passed last, such as "coin.py, line 7"; '' if none."""
    frame, found = error.__traceback__, ""
    while frame is not None:
        file = Path(frame.tb_frame.f_code.co_filename)
        if _is_own(file.resolve()):
            found = f"{file.name}, line {frame.tb_lineno}"
        frame = frame.tb_next
    return found


def _targets(config: Any) -> Iterator[str]:
    """Yield the `_target_` paths of a config."""
    if isinstance(config, dict):
        if isinstance(config.get("_target_"), str):
            yield config["_target_"]
        for value in config.values():
            yield from _targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from _targets(value)


def _imported(module: ModuleType) -> Iterator[ModuleType]:
    """Yield the modules that a module names, or whose classes and functions it names."""
    for value in vars(module).values():
        found = value if isinstance(value, ModuleType) else sys.modules.get(getattr(value, "__module__", None) or "")
        if found is not None:
            yield found


def _file(module: ModuleType) -> Path | None:
    """Return the source of a module; None if it belongs to a package, or has no file."""
    name = getattr(module, "__file__", None)
    if not name:
        return None
    file = Path(name).resolve()
    return file if _is_own(file) else None


def _is_own(file: Path) -> bool:
    return file.is_file() and not any(file.is_relative_to(folder) for folder in _PACKAGES)
