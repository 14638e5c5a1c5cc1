"""Make models with RANDOM WEIGHTS in the shapes of Llama 3's triple, to time their steps without the published weights.

    python -m experiments.benchmarks.random_family OUT [ROLE ...]

OUT gets a folder for each role (all of them by default), in bfloat16, with the packaged family's tokenizer. The output
of such models means nothing, so use them with simulated acceptance (`experiment=forced`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.models.memory import count
from sdbench.models.quiet import quiet
from sdbench.models.spec import ModelSpec, resolve

SHAPES = Path(__file__).with_name("llama3.yaml")


def configs(shapes: dict[str, Any], published: dict[str, Any]) -> dict[str, LlamaConfig]:
    """Return the config of each role.

    Args:
        shapes: fields of a LlamaConfig by role, and under `all` those that the roles share.
        published: by role the published number of `parameters`.

    Raises:
        InputError: a shape has another number of parameters than was published.
    """
    found = {}
    for role, shape in shapes.items():
        if role == "all":
            continue
        found[role] = LlamaConfig(**shapes["all"], **shape, bos_token_id=None, eos_token_id=None, pad_token_id=None)
        parameters, stated = count(found[role]).parameters, published[role]["parameters"]
        if parameters != stated:
            raise InputError(f"The shape of {role} has {parameters} parameters; {stated} were published.")
    return found


def make(out: Path, roles: list[str]) -> None:
    """Write the models.

    Raises:
        InputError: there is no such role.
    """
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
            model.save_pretrained(out / role)
        del model
        tokenizer.save_pretrained(out / role)


def main(argv: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("roles", nargs="*", metavar="role")
    options = parser.parse_args(argv)
    try:
        make(options.out, options.roles)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
