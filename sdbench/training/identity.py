"""Say whose work a folder holds, so that a training never goes on from what another one left."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdbench import validate
from sdbench.errors import InputError

IDENTITY_FILE = "identity.json"


def claim(folder: Path, identity: Mapping[str, Any], knob: str, begun: bool) -> None:
    """Make a folder that of a training, or of its data.

    identity: what defines them; nested mappings count key by key. knob: the option that names the folder, for messages. begun:
    whether the folder holds work already. If not, what a refused training wrote there is replaced.
    Errors: InputError if the folder belongs to another one. The sentence names what differs.
    """
    wanted, file = _flat(json.loads(json.dumps(identity))), folder / IDENTITY_FILE
    if begun and file.is_file():
        held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        other = [key for key in sorted(held.keys() | wanted.keys()) if held.get(key) != wanted.get(key)]
        if other:
            key = other[0]
            more = f" (and {len(other) - 1} more)" if len(other) > 1 else ""
            raise InputError(
                f"{knob}: the folder {folder} was begun with {key}={validate.shown(held.get(key))}, and this training has "
                f"{validate.shown(wanted.get(key))}{more}: choose another {knob}, or delete the folder."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(wanted, indent=2, sort_keys=True) + "\n")
    os.replace(unfinished, file)


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with keys such as recipe.data.path."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found
