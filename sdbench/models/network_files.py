"""The folder of a small trained network: its weights, and a JSON file with what it reads and its sizes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from sdbench import validate
from sdbench.errors import InputError
from sdbench.paths import expanded, packaged

WEIGHTS_FILE = "model.safetensors"


def write_network(folder: Path, network: nn.Module, shape: Any, name: str) -> None:
    """Write the weights of a network, and its shape. shape: a dataclass. name: of the file of the shape."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors makes the file readable for its owner only
    (folder / name).write_text(json.dumps(asdict(shape), indent=2) + "\n")


def network_files(knob: str, path: Any, name: str, made_by: str) -> list[Path]:
    """Return the files of the weights and of the shape.

    knob: for messages. path: the folder, or `pkg://PACKAGE/FOLDER`. name: of the file of the shape. made_by: what writes such a
    folder, for messages. Errors: InputError if a file is missing.
    """
    if not isinstance(path, str):
        raise InputError(f"{knob} is {validate.shown(path)}; it must be the folder that `sdbench train` wrote.")
    folder = packaged(path, knob) or expanded(path)
    for file in (WEIGHTS_FILE, name):
        if not (folder / file).is_file():
            raise InputError(f"{knob}: the folder {path} holds no {file}; {made_by} writes such a folder.")
    return [folder / WEIGHTS_FILE, folder / name]
