"""Write a trained family in the format of transformers, with its training log and its checksums."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

CHECKSUMS = "SHA256SUMS"


def write_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a model in float16, with a config that loads it as float32.

    The file has half the size, and the CPU computes in float32 as in training. An existing folder is replaced.
    """
    if folder.exists():
        shutil.rmtree(folder)
    stored = LlamaForCausalLM(model.config)
    stored.load_state_dict(model.state_dict())
    stored.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text())
    config["dtype"] = "float32"
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_log(logs: Mapping[str, Sequence[Mapping[str, Any]]], file: Path) -> None:
    """Write the rows of the training logs as a JSON list, one row per line. logs: by role."""
    rows = [json.dumps(row) for role in logs for row in logs[role]]
    file.write_text("[\n" + ",\n".join(rows) + "\n]\n")


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every file below `folder`, in the format of `sha256sum`, and let everybody read the files."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != CHECKSUMS)
    for file in files:
        file.chmod(file.stat().st_mode | 0o444)  # safetensors makes a file readable for its owner only
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder).as_posix()}" for file in files
    ]
    (folder / CHECKSUMS).write_text("\n".join(lines) + "\n")
