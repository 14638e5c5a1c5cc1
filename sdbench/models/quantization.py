"""Define the quantisation schemes: what each scheme requires, and how many bytes a weight takes.

torchao-int8 and torchao-int4 are torchao's weight-only quantisation. bitsandbytes-8bit and bitsandbytes-4bit are LLM.int8() and
NF4, on CUDA. All schemes quantise linear layers. Embeddings and the head keep the model's dtype.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

from sdbench.errors import InputError


@dataclass(frozen=True)
class Scheme:
    """A quantisation scheme.

    package: the required package. needs_cuda: whether the scheme needs CUDA. weight_bytes: bytes per weight, including the scales
    of groups of weights. row_bytes: bytes per output feature, in addition to a scale in the model's dtype (0: no such scales).
    """

    package: str
    needs_cuda: bool
    weight_bytes: float
    row_bytes: int = 0


SCHEMES = {
    "torchao-int8": Scheme("torchao", needs_cuda=False, weight_bytes=1.0, row_bytes=1),
    "torchao-int4": Scheme("torchao", needs_cuda=True, weight_bytes=0.5 + 4 / 128),
    "bitsandbytes-8bit": Scheme("bitsandbytes", needs_cuda=True, weight_bytes=1.0),
    "bitsandbytes-4bit": Scheme("bitsandbytes", needs_cuda=True, weight_bytes=0.5 + 4 / 64),
}


def scheme_of(role: str, name: str) -> Scheme:
    """Return the scheme of a name. role: for the message. Errors: InputError if the name is unknown."""
    if name not in SCHEMES:
        raise InputError(f"models.{role}.quantization is '{name}'; it must be null or one of {', '.join(SCHEMES)}.")
    return SCHEMES[name]


def check_quantization(role: str, name: str | None, device: str) -> None:
    """Refuse a quantisation if its package is not installed, or if it needs CUDA and the device is another one."""
    if name is None:
        return
    scheme = scheme_of(role, name)
    missing = [package for package in (scheme.package, "accelerate") if importlib.util.find_spec(package) is None]
    if missing:
        packages = " ".join(missing)
        raise InputError(f"models.{role}.quantization={name} needs {packages}: pip install {packages}.")
    if scheme.needs_cuda and not device.startswith("cuda"):
        raise InputError(f"models.{role}.quantization={name} runs on CUDA only, and the {role} is on {device}.")


def quantization_config(name: str, dtype: Any) -> Any:
    """Return the quantisation config of a scheme for `from_pretrained`. dtype: the type that the model computes in."""
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if name == "bitsandbytes-8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if name == "bitsandbytes-4bit":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig  # pyright: ignore[reportMissingImports]

    return TorchAoConfig(Int8WeightOnlyConfig() if name == "torchao-int8" else Int4WeightOnlyConfig(group_size=128))
