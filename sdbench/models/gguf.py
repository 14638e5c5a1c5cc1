"""GGUF files: converted once into the user's cache, and opened from there afterwards.

Reading a GGUF file through `transformers` takes half a minute for 135 M parameters, since every block is dequantised in
Python; the same weights as safetensors open in a second. The copy is in float32, which holds every dequantised value
exactly, and is keyed by the SHA-256 of the file.
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

from sdbench.errors import InputError
from sdbench.models.quiet import quiet
from sdbench.models.weight_files import cache_folder, check_weight_files, sha256_of

_MAGIC = b"GGUF"


def converted(file: Path) -> Path:
    """The folder with the converted weights and tokenizer of a GGUF file; made if it is not there yet."""
    status = file.stat()
    return _converted(file, status.st_size, status.st_mtime_ns)


@lru_cache
def _converted(file: Path, size: int, changed: int) -> Path:
    """size, changed: of the file, so that a file that was replaced is read again."""
    with file.open("rb") as content:
        if content.read(4) != _MAGIC:
            raise InputError(f"{file} is not a GGUF file, or is corrupted: it does not begin with '{_MAGIC.decode()}'.")
    digest = sha256_of(file)
    folder = cache_folder() / "gguf" / digest
    if folder.is_dir():
        try:
            check_weight_files(folder)
            return folder
        except InputError:
            shutil.rmtree(folder)  # a damaged copy is made again
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"Reading {file} needs the package {' and '.join(missing)}: pip install 'sdbench[gguf]'.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Built beside its place and renamed into it: a copy is there as a whole or not at all.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as scratch:
        made = Path(scratch) / "model"
        _convert(file, made)
        (made / "source.json").write_text(json.dumps({"file": file.name, "bytes": size, "sha256": digest}) + "\n")
        try:
            os.rename(made, folder)
        except OSError:
            if not folder.is_dir():
                raise
            shutil.rmtree(made)  # another process was faster, with the same result
    return folder


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
            # What was read counts as quantised, though its tensors are plain by now, and so will not be saved.
            config = copy.deepcopy(read.config)
            delattr(config, "quantization_config")
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
            model.load_state_dict(read.state_dict(), assign=True)
            model.tie_weights()
            model.generation_config = read.generation_config
            tokenizer.save_pretrained(folder)
            model.save_pretrained(folder)
    except Exception as error:  # the reader, the dequantiser and the tokenizer's builder raise kinds of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"{file} cannot be converted: {reason}.") from error
