"""Which model a run was made with, as one line of text: it enters the `run_id`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sdbench.models.hub import readable
from sdbench.models.spec import ModelSpec, resolve
from sdbench.models.weight_files import sha256_of, weight_files

# The files beside the weights that can change a token, as patterns within a model folder.
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

    Returns `sha256:` and a digest for local files (of a .gguf file its own SHA-256, for it holds all of these), or the hub id with
    the commit that its revision stands for.
    """
    source = resolve(spec)
    if source.kind == "gguf":
        return f"sha256:{sha256_of(Path(source.location))}"
    if source.kind == "folder":
        return f"sha256:{folder_sha256(Path(source.location))}"
    with readable(spec, source, "config"):
        from huggingface_hub import hf_hub_download

        # The hub's cache keeps each file in a folder that is named after the commit.
        config = hf_hub_download(source.location, "config.json", revision=spec.revision)
    return f"{source.location}@{Path(config).parent.name}"


def folder_sha256(folder: Path) -> str:
    """The SHA-256 over the names and SHA-256 of the files of a model folder that can change a token."""
    beside = {file for pattern in DEFINING for file in folder.glob(pattern) if file.is_file()}
    files = sorted({*beside, *weight_files(folder)})
    lines = "".join(f"{sha256_of(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
