"""Folders of models with RANDOM WEIGHTS in the shapes of a published family, whose steps can then be timed without its weights.

python -m experiments.bench.random_family OUT [ROLE ...]

Under OUT, a folder for each role (all of them by default), in bfloat16, with the packaged family's tokenizer. What such models say
means nothing, so they go with forced acceptance (`experiment=forced`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from experiments.script import script
from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.models.memory import count
from sdbench.models.quiet import quiet
from sdbench.models.spec import ModelSpec, resolve

SHAPES = Path(__file__).with_name("llama3.yaml")


def configs(shapes: dict[str, Any], published: dict[str, Any]) -> dict[str, LlamaConfig]:
    """By role. Errors: InputError if one has not as many parameters as was published."""
    found = {}
    for role, shape in shapes.items():
        if role == "all":
            continue
        found[role] = LlamaConfig(**shapes["all"], **shape, bos_token_id=None, eos_token_id=None, pad_token_id=None)
        parameters, stated = count(found[role]).parameters, published[role]["parameters"]
        if parameters != stated:
            raise InputError(f"The shape of {role} has {parameters} parameters; {stated} were published.")
    return found


def main(out_folder: str, *roles: str) -> None:
    found = configs(yaml.safe_load(SHAPES.read_text()), compose(["models=llama3"])["models"])
    for role in roles:
        if role not in found:
            raise InputError(f"{role} is no role of {SHAPES.name}; it has {', '.join(found)}.")
    tokenizer = AutoTokenizer.from_pretrained(resolve(ModelSpec("target", "pkg://sdbench/assets/tiny/target")).location)
    for role in roles or found:
        torch.manual_seed(0)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model: Any = LlamaForCausalLM._from_config(found[role], dtype=torch.bfloat16)
        with quiet():
            model.save_pretrained(Path(out_folder) / role)
        del model
        tokenizer.save_pretrained(Path(out_folder) / role)


if __name__ == "__main__":
    script(main, __doc__, 1, more=True)
