"""Estimate the memory that a family needs, and whether the devices have enough. No weight is loaded.

The estimate includes the weights and the KV cache of each role. A model without storage gives the number of parameters. One forward
of this model gives the size of each layer's cache (`sdbench.models.skeleton`). So the estimate is right for latent attention, for
multi-query attention, and for layers that share keys and values. If the config is not on this machine, the published numbers of the
spec replace it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdbench.device import takes_blocked_weights
from sdbench.errors import InputError
from sdbench.heads.config import STATES, HeadConfig
from sdbench.heads.exit_config import ExitConfig
from sdbench.heads.parallel import ParallelHead
from sdbench.models.head_files import head_config, unfilled
from sdbench.models.hub import read_config
from sdbench.models.masked_diffusion import mask_token_of
from sdbench.models.quantization import scheme_of
from sdbench.models.skeleton import KEPT_STATES, skeleton, try_out
from sdbench.models.spec import ModelSpec, resolve
from sdbench.models.weight_files import weight_files
from sdbench.models.weights import dtype_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GB = 1e9
# Memory of a process on a device besides weights and slots: the CUDA context, libraries, workspaces, activations.
RESERVED_BYTES = 2**30


@dataclass(frozen=True)
class Size:
    """The size of a model.

    parameters: of the whole model. quantizable: the parameters in linear layers other than the head. quantizable_rows: the number
    of output features of these layers; a quantised layer has a scale for each. cache_values: the numbers (keys and values) cached
    per token. vocab: the number of logits (0: not known). stored_bytes: the bytes of the weight files, for a quantised checkpoint
    only. state_values: the numbers of the recurrent states of a row.
    """

    parameters: int
    quantizable: int
    cache_values: int
    vocab: int = 0
    quantizable_rows: int = 0
    stored_bytes: int | None = None
    state_values: int = 0


@dataclass(frozen=True)
class RoleMemory:
    """The memory of one role on its device, in bytes; None if the model's size is not known."""

    role: str
    device: str
    weight_bytes: int | None
    cache_bytes: int | None


@dataclass(frozen=True)
class DeviceMemory:
    """The memory that the roles on one device need together, and the memory that the device has, in bytes.

    needed: includes RESERVED_BYTES. needed, available: None if not known. fits: None if either is not known.
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
        """False if one device lacks memory; else None if one device's answer is not known; else True."""
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
    prepack: bool = False,
) -> Fit:
    """Estimate the memory of a family.

    slots: the number of cache slots per row. batch: the number of rows. dtype, device: those of the hardware profile, for specs
    without their own. memory: the bytes that each device has (one number for all, or one per device; None: measure the machine).
    trees: by role, the number of speculated tokens per row. Each needs a cache slot and logits. prepack: weights on the CPU
    are kept twice (`sdbench.lm.prepacked`).
    """
    tokens = {role: (slots, (trees or {}).get(role, 0)) for role in specs}
    roles = tuple(
        _role_memory(role, spec, *tokens[role], batch, dtype, device, prepack) for role, spec in specs.items()
    )
    devices = []
    for name in dict.fromkeys(role.device for role in roles):
        parts = [part for role in roles if role.device == name for part in (role.weight_bytes, role.cache_bytes)]
        needed = None if None in parts else RESERVED_BYTES + sum(part for part in parts if part is not None)
        given = memory.get(name) if isinstance(memory, Mapping) else memory
        devices.append(DeviceMemory(name, needed, device_memory(name) if given is None else given))
    return Fit(roles, tuple(devices))


def size_of(spec: ModelSpec) -> Size | None:
    """Return the size of a spec's model, from its config or else from the published numbers; None if neither is known."""
    try:
        source = resolve(spec)
        if spec.head_of is not None:
            size = head_size(head_config(spec, source))
            return size if spec.parameters is None else replace(size, parameters=spec.parameters)
        config = read_config(spec, source)
        size = count(config)
        if source.kind == "folder" and getattr(config, "quantization_config", None) is not None:
            files = weight_files(Path(source.location))
            return replace(size, stored_bytes=sum(file.stat().st_size for file in files))
        return size
    except InputError:
        if spec.parameters is None:
            return None
        # Almost all parameters of a large model are in its linear layers.
        return Size(spec.parameters, spec.parameters, spec.cache_values or 0)


def count(config: PreTrainedConfig) -> Size:
    """Return the size of the text model that a config describes. Errors: InputError if transformers cannot build it."""
    model = skeleton(config)
    text, head = config.get_text_config(), model.get_output_embeddings()
    linear = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part is not head]
    trial = try_out(model)
    kept = trial.cache_values
    if kept is None:  # the meta device cannot run this model: assume grouped-query attention in every layer
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        kept = 2 * text.num_hidden_layers * heads * width
    return Size(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        quantizable=sum(part.weight.numel() for part in linear),
        cache_values=0 if mask_token_of("the model", text) is not None else kept,
        vocab=text.vocab_size,
        quantizable_rows=sum(part.out_features for part in linear),
        state_values=trial.state_values,
    )


def head_size(config: HeadConfig | ExitConfig) -> Size:
    """Return the size of a head without an embedding of its own. Its cache includes the hidden states that the target keeps."""
    if isinstance(config, ExitConfig):
        exits = len(config.layers)
        return Size(exits * config.width**2, 0, exits * config.width)
    with torch.device("meta"):
        module: Any = unfilled(config, {})[1]
    layer, taps = module.config, STATES if config.layers is None else len(config.layers)
    held = {name: weight.numel() for name, weight in module.named_parameters() if name != "embed_tokens.weight"}
    cached = 2 * layer.num_key_value_heads * layer.head_dim
    if isinstance(module, ParallelHead):
        taps = 1 if config.layers is None else taps
        layers = getattr(module, "layers", ())
        cached *= len(layers) if layers else int(module.stateful)
        shared = config.draft_vocab < layer.vocab_size and "lm_head.weight" in module.borrows
        held["lm_head.weight"] = config.draft_vocab * layer.hidden_size if shared else 0
    else:
        cached += layer.hidden_size  # its features
    return Size(
        parameters=sum(held.values()),
        quantizable=0,
        cache_values=cached + taps * config.target_width,
        vocab=layer.vocab_size,
    )


def device_memory(name: str) -> int | None:
    """Return the free bytes of a CUDA device, or the machine's total memory for CPU and Metal; None if not known."""
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


def _role_memory(
    role: str, spec: ModelSpec, slots: int, tree: int, batch: int, dtype: str, device: str, prepack: bool
) -> RoleMemory:
    device = spec.device or device
    size = size_of(spec)
    if size is None:
        return RoleMemory(role, device, None, None)
    precision = dtype_of(role, spec.dtype or dtype)
    item = precision.itemsize
    weights = size.parameters * item
    if spec.quantization is not None:
        scheme = scheme_of(role, spec.quantization)
        scales = size.quantizable_rows * (item + scheme.row_bytes) if scheme.row_bytes else 0
        weights = (size.parameters - size.quantizable) * item + int(size.quantizable * scheme.weight_bytes) + scales
    elif size.stored_bytes is not None:
        weights = size.stored_bytes
    elif prepack and device == "cpu" and takes_blocked_weights(precision):
        weights *= 2
    # A row keeps some of its earlier states, most of them in float32.
    states = size.state_values * (1 + KEPT_STATES) * torch.float32.itemsize
    cached = (size.cache_values * (slots + tree) + size.vocab * tree) * item + states
    return RoleMemory(role, device, weights, cached * batch)
