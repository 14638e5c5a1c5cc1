"""How much memory a family needs, and whether the devices have it. Nothing is loaded, and no network is needed.

Per role: the weights (parameters counted on a model without storage, from the config), and the slot pool
(2 x layers x key-value heads x head width, for each slot of each row). Where the config cannot be had, the published
numbers of the spec stand in.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdbench.errors import InputError
from sdbench.models.architecture import causal_lm_class
from sdbench.models.hub import read_config
from sdbench.models.quantization import scheme_of
from sdbench.models.quiet import quiet
from sdbench.models.spec import ModelSpec, resolve
from sdbench.models.weights import dtype_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GB = 1e9
# What a process takes on a device beside weights and slots: the CUDA context, libraries, workspaces, activations.
RESERVED_BYTES = 2**30


@dataclass(frozen=True)
class Size:
    """How large a model is: parameters in all; those that can be quantised, in linear layers other than the head; numbers (keys and
    values) kept per token; and its vocabulary (0: not known).
    """

    parameters: int
    quantizable: int
    cache_values: int
    vocab: int = 0


@dataclass(frozen=True)
class RoleMemory:
    """What one role takes on its device, in bytes; None where the model's size is not known."""

    role: str
    device: str
    weight_bytes: int | None
    cache_bytes: int | None


@dataclass(frozen=True)
class DeviceMemory:
    """What the roles on one device take together, in bytes (RESERVED_BYTES included), and what it has.

    needed, available: None where not known; fits: None where either is not.
    """

    device: str
    needed: int | None
    available: int | None

    @property
    def fits(self) -> bool | None:
        if self.needed is None or self.available is None:
            return None
        return self.needed <= self.available

    def __str__(self) -> str:
        needs = "an unknown amount" if self.needed is None else f"{self.needed / GB:.1f} GB"
        has = "unknown memory" if self.available is None else f"{self.available / GB:.1f} GB"
        verdict = {True: "fits", False: "does not fit", None: "cannot say whether it fits"}[self.fits]
        return f"{self.device}: needs {needs}, has {has}: {verdict}"


@dataclass(frozen=True)
class Fit:
    """The memory of a family, by role and by device."""

    roles: tuple[RoleMemory, ...]
    devices: tuple[DeviceMemory, ...]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights whose size is known."""
        return sum(role.weight_bytes or 0 for role in self.roles)

    @property
    def fits(self) -> bool | None:
        """Whether every device has what it needs; None if that is not known and nothing is known not to fit."""
        verdicts = [device.fits for device in self.devices]
        return False if False in verdicts else None if None in verdicts else True


def fit(
    specs: Mapping[str, ModelSpec],
    slots: int,
    batch: int = 1,
    dtype: str = "float32",
    device: str = "cpu",
    memory: int | Mapping[str, int] | None = None,
    trees: Mapping[str, int] | None = None,
) -> Fit:
    """Reckon what a family takes.

    trees: by role, how many tokens of speculations a row holds: a slot, and logits, for each.
    slots: of each row's pool, in tokens. batch: rows. dtype, device: the hardware's, for specs without their own.
    memory: bytes that each device has (a number for all, or one per device; None: asked of the machine).
    """
    tokens = {role: (slots, (trees or {}).get(role, 0)) for role in specs}
    roles = tuple(_role_memory(role, spec, *tokens[role], batch, dtype, device) for role, spec in specs.items())
    devices = []
    for name in dict.fromkeys(role.device for role in roles):
        parts = [part for role in roles if role.device == name for part in (role.weight_bytes, role.cache_bytes)]
        needed = None if None in parts else RESERVED_BYTES + sum(part for part in parts if part is not None)
        given = memory.get(name) if isinstance(memory, Mapping) else memory
        devices.append(DeviceMemory(name, needed, device_memory(name) if given is None else given))
    return Fit(roles, tuple(devices))


def size_of(spec: ModelSpec) -> Size | None:
    """How large a spec's model is: from its config, else as published; None if neither is to be had."""
    try:
        return count(read_config(spec, resolve(spec)))
    except InputError:
        if spec.parameters is None:
            return None
        # Next to all parameters of a large model are in its linear layers.
        return Size(spec.parameters, spec.parameters, spec.cache_values or 0)


def count(config: PreTrainedConfig) -> Size:
    """The size of the text model that a config describes, from a model without storage."""
    model_class = causal_lm_class(config)
    if model_class is None:
        raise InputError(f"{config.model_type} is not a causal language model that transformers knows.")
    text = config.get_text_config()
    with torch.device("meta"), quiet():
        model = model_class._from_config(text if model_class.config_class is type(text) else config)
    model.tie_weights()
    head = model.get_output_embeddings()
    linear = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part is not head]
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Size(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        quantizable=sum(part.weight.numel() for part in linear),
        cache_values=2 * text.num_hidden_layers * heads * width,
        vocab=text.vocab_size,
    )


def device_memory(name: str) -> int | None:
    """Bytes that a device can still give (CUDA), or that the machine has (CPU and Metal); None: not known."""
    if name.startswith("cuda"):
        if not torch.cuda.is_available() or (torch.device(name).index or 0) >= torch.cuda.device_count():
            return None
        return torch.cuda.mem_get_info(torch.device(name))[0]
    if "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:  # macOS
        asked = subprocess.run(["sysctl", "-n", "hw.memsize"], capture_output=True, text=True, check=True)
        return int(asked.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


def _role_memory(role: str, spec: ModelSpec, slots: int, tree: int, batch: int, dtype: str, device: str) -> RoleMemory:
    device = spec.device or device
    size = size_of(spec)
    if size is None:
        return RoleMemory(role, device, None, None)
    item = dtype_of(role, spec.dtype or dtype).itemsize
    weights = size.parameters * item
    if spec.quantization is not None:
        packed = scheme_of(role, spec.quantization).weight_bytes
        weights = (size.parameters - size.quantizable) * item + int(size.quantizable * packed)
    return RoleMemory(role, device, weights, (size.cache_values * (slots + tree) + size.vocab * tree) * batch * item)
