"""Weight files on disk: whether they are whole, and what they are."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from sdbench.errors import InputError

CHECKSUMS = "SHA256SUMS"
_INDEX = "model.safetensors.index.json"


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where converted weights are kept: SDBENCH_CACHE, else sdbench/ in XDG_CACHE_HOME, else in ~/.cache."""
    own = os.environ.get("SDBENCH_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sdbench"


def folder_sha256(folder: Path) -> str:
    """The identity of a model's folder: a SHA-256 over the names and SHA-256 of its config and weight files."""
    files = sorted([folder / "config.json", *_weight_files(folder)])
    lines = "".join(f"{sha256_of(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def check_checksums(folder: Path) -> None:
    """Refuse a packaged folder with a file that differs from the list of checksums beside the folder."""
    listing = folder.parent / CHECKSUMS
    try:
        entries = [line.split(maxsplit=1) for line in listing.read_text().splitlines() if line.strip()]
        expected = {name.lstrip("*"): digest for digest, name in entries}
    except (OSError, ValueError) as error:
        raise InputError(f"{listing} is missing or malformed; install the package again.") from error
    own = {name: digest for name, digest in expected.items() if name.startswith(f"{folder.name}/")}
    if not own:
        raise InputError(f"{listing} says nothing of {folder.name}/; install the package again.")
    for name, digest in own.items():
        file = listing.parent / name
        if not file.is_file() or sha256_of(file) != digest:
            raise InputError(
                f"{file} does not match its checksum; reinstall the package, or in a checkout: git checkout -- {file}."
            )


def check_weight_files(folder: Path) -> None:
    """Refuse a folder whose weight files are missing, cut short or otherwise unreadable, from their headers alone."""
    index = folder / _INDEX
    if index.is_file():
        for name in sorted(_shards(index)):
            if not (folder / name).is_file():
                raise InputError(f"{folder} lacks the weight file {name}, which {_INDEX} lists.")
    files = _weight_files(folder)
    if not files:
        raise InputError(f"{folder} holds no weight files (*.safetensors).")
    for file in files:
        if file.suffix == ".safetensors":
            _check_safetensors(file)


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _shards(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{index} is malformed; fetch the model again.") from error


def _check_safetensors(file: Path) -> None:
    """A safetensors file is 8 bytes (the header's length), a JSON header with each tensor's place, and the tensors."""
    size = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        header = content.read(length) if length <= size - 8 else b""
    try:
        places = [entry["data_offsets"] for name, entry in json.loads(header).items() if name != "__metadata__"]
        expected = 8 + length + max((end for _, end in places), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is not a readable safetensors file: it is corrupted, so fetch it again.") from error
    if size != expected:
        raise InputError(f"{file} is corrupted: it has {size} bytes instead of {expected}, so fetch it again.")
