"""Identify the model of a run by one line of text, which is part of the `run_id`."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from sdbench.models.hub import readable
from sdbench.models.spec import ModelSpec, resolve
from sdbench.models.weight_files import sha256_of, weight_files

# Patterns of the files, other than the weights, that can change a token.
DEFINING = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "tokenizer*",
    "*.model",
    "*.tiktoken",
    "*vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "tekken.json",
    "chat_template*",
    "additional_chat_templates/*",
)


def model_identity(spec: ModelSpec) -> str:
    """Identify a model: its weights, its config, its generation config, its tokenizer and its chat template.

    For local files, returns `sha256:` and a digest. For a .gguf file, this is the SHA-256 of the file, which contains all of these.
    For a model of the hub, returns the hub id and the commit of its revision. For a derived model, the recipe follows the identity
    of its source. Errors: InputError.
    """
    if spec.derive is not None:
        return f"{model_identity(replace(spec, derive=None))} {spec.derive.recipe}"
    source = resolve(spec)
    if source.kind == "gguf":
        return f"sha256:{sha256_of(Path(source.location))}"
    if source.kind == "folder":
        return f"sha256:{folder_sha256(Path(source.location))}"
    with readable(spec, source, "config"):
        from huggingface_hub import hf_hub_download

        # In the hub's cache, the folder of a file is named after the commit.
        config = hf_hub_download(source.location, "config.json", revision=spec.revision)
    return f"{source.location}@{Path(config).parent.name}"


def folder_sha256(folder: Path) -> str:
    """Return a SHA-256 over the names and contents of the files in a model folder that can change a token."""
    beside = {file for pattern in DEFINING for file in folder.glob(pattern) if file.is_file()}
    files = sorted({*beside, *weight_files(folder)})
    lines = "".join(f"{sha256_of(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
