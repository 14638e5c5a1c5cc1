"""Convert a GGUF file once into the user's cache, and load the converted copy from there.

The library `transformers` needs half a minute to read a GGUF file of 135 M parameters, because it dequantises every block in
Python. The same weights load in one second as safetensors. The copy is in float32, which represents every dequantised value
exactly. The SHA-256 of the file is the name of the copy.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdbench.errors import InputError
from sdbench.models.cache import cached, writable_cache
from sdbench.models.quiet import quiet, reason_of
from sdbench.models.weight_files import check_weight_files, sha256_of

_MAGIC = b"GGUF"
_PART = "gguf"  # the folder within the cache


def converted(file: Path) -> Path:
    """Return the folder with the converted weights and tokenizer of a GGUF file. Converts the file if needed.

    Errors: InputError if the file is damaged or cannot be converted, or if a package is missing.
    """
    status = file.stat()
    return _converted(file, status.st_size, status.st_mtime_ns)


@lru_cache
def _converted(file: Path, size: int, changed: int) -> Path:
    """Convert a file, with a cache in memory. size, changed: the file's; a replaced file has other values and is read again."""
    with file.open("rb") as content:
        if content.read(4) != _MAGIC:
            raise InputError(f"{file} is not a GGUF file, or is corrupted: it does not begin with '{_MAGIC.decode()}'.")
    digest = sha256_of(file)
    made_before = cached(_PART, digest)
    if made_before is not None:
        try:
            check_weight_files(made_before)
            return made_before
        except InputError:
            shutil.rmtree(made_before, ignore_errors=True)  # replace a damaged copy
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"Reading {file} needs the package {' and '.join(missing)}: pip install 'sdbench[gguf]'.")
    check_whole(file)
    folder = writable_cache(_PART) / digest
    # A temporary folder receives the copy and is then renamed. So the cache never contains an incomplete copy.
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as scratch:
            made = Path(scratch) / "model"
            _convert(file, made)
            (made / "source.json").write_text(json.dumps({"file": file.name, "bytes": size, "sha256": digest}) + "\n")
            try:
                os.rename(made, folder)
            except OSError:
                if not folder.is_dir():
                    raise
                shutil.rmtree(made)  # another process has made the same copy
    except OSError as error:
        raise InputError(
            f"{file} cannot be converted in {folder.parent} ({error.strerror or error}); make room there, or set SDBENCH_CACHE "
            "to another folder."
        ) from error
    return folder


def check_whole(file: Path) -> None:
    """Refuse a GGUF file that is cut short, that is one part of several, or that contains no language model."""
    import gguf

    try:
        reader = gguf.GGUFReader(str(file))
        ends = [int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors]
        fields = {name: _field(reader, name) for name in ("general.type", "general.architecture", "split.count")}
    except Exception as error:  # numpy, struct and the reader raise different types
        raise InputError(
            f"{file} is cut short or corrupted ({file.stat().st_size} bytes): fetch it again, and compare its size with the "
            "publisher's."
        ) from error
    if max(ends, default=0) > file.stat().st_size:
        raise InputError(
            f"{file} is cut short: it has {file.stat().st_size} bytes instead of at least {max(ends)}; fetch it again."
        )
    if int(fields["split.count"] or 1) > 1:
        raise InputError(
            f"{file} is one part of {fields['split.count']}; join the parts first (llama.cpp's llama-gguf-split --merge)."
        )
    kind = fields["general.type"] or "model"
    if kind != "model" or not reader.tensors:
        raise InputError(
            f"{file} holds no language model (its general.type is '{kind}'); give the file of the model itself."
        )


def _field(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
            # The config still says that the model is quantised, so transformers would not save it. The tensors are dequantised.
            config = copy.deepcopy(read.config)
            delattr(config, "quantization_config")
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
            model.load_state_dict(read.state_dict(), assign=True)
            model.tie_weights()
            model.generation_config = read.generation_config
            tokenizer.save_pretrained(folder)
            model.save_pretrained(folder)
    except Exception as error:  # the reader, the dequantiser and the tokenizer raise different types
        raise InputError(
            f"{file} cannot be converted ({reason_of(error)}); give the model as a folder in transformers' format, or another "
            "GGUF file."
        ) from error
