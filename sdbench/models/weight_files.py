"""Find the weight files of a model folder, and check that they are complete."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdbench.errors import InputError

CHECKSUMS = "SHA256SUMS"
ADAPTER = "adapter_config.json"
MEDUSA_FILES = (
    "medusa_lm_head.safetensors",
    "medusa_lm_head.pt",
)  # as FasterDecoding/Medusa names the weights of its heads
# In the order of precedence of `transformers`.
_WHOLE = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    *MEDUSA_FILES,
)
_POINTER = b"version https://git-lfs"
_LEGACY_PICKLE = b"\x80\x02\x8a\n"  # how a file of an old torch begins; newer files are zip archives
_CUT = "is no whole PyTorch weight file: it is cut short or corrupted, so fetch it again"
# Number types that a weight can have in a checkpoint without a quantization config.
_FLOATS = {"F64", "F32", "F16", "BF16"}


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files that `transformers` reads from a model folder, or those of Medusa heads.

    Errors: InputError if there are none, or if an index lists a file that is missing.
    """
    found = next((folder / name for name in _WHOLE if (folder / name).is_file()), None)
    if found is None:
        others = sorted(
            file.name for file in folder.iterdir() if file.suffix in (".safetensors", ".bin", ".h5", ".gguf")
        )
        has = f"; it has {', '.join(others[:3])}, which is not that format" if others else ""
        raise InputError(
            f"{folder} holds no weight files of transformers' format (model.safetensors, or its parts and their index){has}."
        )
    if found.suffix != ".json":
        return [found]
    try:
        names = sorted(set(json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{found} is malformed; fetch the model again.") from error
    for name in names:
        if not (folder / name).is_file():
            raise InputError(f"{folder} lacks the weight file {name}, which {found.name} lists.")
    return [folder / name for name in names]


def check_checksums(folder: Path) -> None:
    """Refuse a packaged folder if a file does not match its checksum. The parent folder contains the list of checksums."""
    listing = folder.parent / CHECKSUMS
    try:
        entries = [line.split(maxsplit=1) for line in listing.read_text().splitlines() if line.strip()]
        expected = {name.lstrip("*"): digest for digest, name in entries}
    except (OSError, ValueError) as error:
        raise InputError(f"{listing} is missing or malformed; install the package again.") from error
    own = {name: digest for name, digest in expected.items() if name.startswith(f"{folder.name}/")}
    if not own:
        raise InputError(f"{listing} has no line for {folder.name}/; install the package again.")
    for name, digest in own.items():
        file = listing.parent / name
        if not file.is_file() or sha256_of(file) != digest:
            raise InputError(
                f"{file} does not match its checksum; reinstall the package, or in a checkout: git checkout -- {file}."
            )


def check_weight_files(folder: Path, quantized: bool = False) -> None:
    """Refuse a folder with missing, incomplete or unreadable weight files. This reads only the headers.

    quantized: the folder's config has a quantization config, so integer weights are allowed.
    """
    refuse_adapter(folder)
    for file in weight_files(folder):
        if _pointer(file):
            raise InputError(
                f"{file} is a Git LFS pointer and not the weights: run `git lfs pull` in {folder}, or fetch the model again."
            )
        if file.suffix == ".safetensors":
            _check_safetensors(file, quantized)
        else:
            _check_bin(file)


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder that contains a LoRA adapter, with or without its base model."""
    if not (folder / ADAPTER).is_file():
        return
    try:
        base = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        base = None
    raise InputError(
        f"{folder} holds an adapter ({ADAPTER}){f' for {base}' if base else ''}, not a whole model: merge the two (peft's "
        "merge_and_unload(), then save_pretrained) and give the folder of the merged model."
    )


def tensors_of(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Read the `dtype` and `shape` of each tensor in a folder from the safetensors headers, by name; None for .bin files."""
    files = weight_files(folder)
    if any(file.suffix != ".safetensors" for file in files):
        return None
    return {name: entry for file in files for name, entry in _header(file)[0].items()}


def sizes_differ(path: str, role: str, odd: Sequence[tuple[str, Sequence[int], Sequence[int]]]) -> str:
    """Return the sentence about tensors whose shapes differ. odd: the name, the shape in the checkpoint and that of the config."""
    name, *shapes = odd[0]
    stored, wanted = ("x".join(map(str, shape)) for shape in shapes)
    return (
        f"config.json does not belong to the weights of {path} ({role}): the checkpoint has {name} as {stored}, the config makes "
        f"it {wanted}{others(odd)}. Take both files from the same model."
    )


def others(tensors: Sequence[Any]) -> str:
    """Return how many tensors there are beyond the first, as an insertion into a sentence."""
    more = len(tensors) - 1
    return f" (and {more} more tensor{'s' if more > 1 else ''})" if more else ""


def _pointer(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(len(_POINTER)) == _POINTER


def _header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Read the header of a safetensors file. Returns its entries, and the number of bytes that the file must have.

    The file consists of 8 bytes with the header's length, a JSON header with the offsets of each tensor, and the tensors.
    """
    size = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        header = content.read(length) if length <= size - 8 else b""
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        return entries, 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{file} is not a readable safetensors file: it is corrupted, so fetch it again.") from error


def _check_safetensors(file: Path, quantized: bool) -> None:
    entries, expected = _header(file)
    size = file.stat().st_size
    if size != expected:
        raise InputError(f"{file} is corrupted: it has {size} bytes instead of {expected}, so fetch it again.")
    packed = {name: entry["dtype"] for name, entry in entries.items() if name.endswith(".weight")}
    odd = next((name for name, dtype in packed.items() if dtype not in _FLOATS), None)
    if odd is not None and not quantized:
        raise InputError(
            f"{file} stores {odd} as {packed[odd]}, but config.json has no quantization_config that says how to read it: take the "
            "checkpoint with its own config.json, or one in float32, bfloat16 or float16."
        )


def _check_bin(file: Path) -> None:
    """Refuse a .bin file that is incomplete or holds other things than named tensors. A zip archive's tensors are not read."""
    import torch

    try:
        tensors = torch.load(file, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and _begins_as_torch(file):
            raise InputError(
                f"{file} may hold Python objects, not tensors alone, so it is not opened; fetch it again, or take the "
                "model in safetensors."
            ) from error
        raise InputError(f"{file} {_CUT}.") from error
    except Exception as error:  # the reader raises different types
        raise InputError(f"{file} {_CUT}.") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise InputError(
            f"{file} is no table of tensors by name: take the file that `save_pretrained` wrote, or a model in safetensors."
        )


def _begins_as_torch(file: Path) -> bool:
    """Tell whether a file begins as torch writes it, in the zip format or in the older one."""
    with file.open("rb") as content:
        return zipfile.is_zipfile(file) or content.read(len(_LEGACY_PICKLE)) == _LEGACY_PICKLE
