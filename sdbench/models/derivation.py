"""Describe a model that is made from the weights of another role: `derive` of a role in `conf/models/`.

    draft: {derive: {from: target, quantize: mxfp4}}            the target itself, with its linear layers cast to MXFP4
    draft: {derive: {from: target, layers: 4}}                  its first four layers and its head
    draft: {derive: {from: target, layers: [0, 1, 14, 15]}}     these layers and its head

Unlike an early exit, a derived model has a KV cache of its own, so no other model must read its tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdbench import validate
from sdbench.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CASTS = ("mxfp4",)
HEAD = "head"
_KEYS = ("from", "layers", "quantize", "skip")
_PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")  # lists of a config with one entry for each layer


@dataclass(frozen=True)
class Derivation:
    """Say how a model is made from another role.

    source: the other role. layers: the numbers of the kept layers from 0, or how many of the first ones (None: all).
    quantize: the cast of the linear layers (None: none). skip: modules that are not cast, each by its name, by its last name or by
    a pattern such as `*.layers.0.*`. `head` is the model's head, whatever its name.
    """

    source: str
    layers: int | tuple[int, ...] | None = None
    quantize: str | None = None
    skip: tuple[str, ...] = (HEAD,)

    @staticmethod
    def of(role: str, entry: Mapping[str, Any]) -> Derivation:
        """Read the `derive` entry of a role. Errors: InputError."""
        where = f"models.{role}.derive"
        for key in entry:
            if key not in _KEYS:
                raise validate.unknown(f"{where} has no", str(key), _KEYS, "it has")
        source, layers, quantize = entry.get("from"), entry.get("layers"), entry.get("quantize")
        if not isinstance(source, str):
            raise InputError(f"{where}.from is {validate.shown(source)}; it must name a role, such as target.")
        if layers is None and quantize is None:
            raise InputError(f"{where} changes nothing: give layers, or quantize=mxfp4.")
        if isinstance(layers, list):
            for layer in layers:
                validate.whole(f"{where}.layers", layer)
            if not layers or sorted(set(layers)) != layers:
                raise InputError(f"{where}.layers is {layers}; it must list layers in ascending order, each once.")
            layers = tuple(layers)
        elif layers is not None:
            validate.whole(f"{where}.layers", layers, 1)
        if quantize is not None:
            validate.choice(f"{where}.quantize", quantize, CASTS)
        skip = entry.get("skip", [HEAD])
        validate.conforms(f"{where}.skip", skip, list[str])
        return Derivation(source, layers, quantize, tuple(skip))

    @property
    def recipe(self) -> str:
        """Return one line of text, which identifies the derivation in the `run_id`."""
        kept = (
            ""
            if self.layers is None
            else f" layers={self.layers if isinstance(self.layers, int) else list(self.layers)}"
        )
        cast = "" if self.quantize is None else f" quantize={self.quantize} skip={','.join(self.skip)}"
        return f"derived{kept}{cast}"

    def kept(self, role: str, depth: int) -> list[int]:
        """Return the numbers of the kept layers. role: for messages. depth: of the source. Errors: InputError."""
        if self.layers is None:
            return list(range(depth))
        kept = list(range(self.layers)) if isinstance(self.layers, int) else list(self.layers)
        if len(kept) >= depth or kept[-1] >= depth:
            what = "1 to" if isinstance(self.layers, int) else "some of 0 to"
            raise InputError(
                f"models.{role}.derive.layers is {validate.shown(self.layers)}, but {self.source} has {depth} layers: choose "
                f"{what} {depth - 1}."
            )
        return kept

    def of_config(self, role: str, config: PreTrainedConfig) -> PreTrainedConfig:
        """Return the config of the derived model. config: of the source. Errors: InputError."""
        config = copy.deepcopy(config)
        text: Any = config.get_text_config()
        depth = text.num_hidden_layers
        kept = self.kept(role, depth)
        for name in _PER_LAYER:
            values = getattr(text, name, None)
            if isinstance(values, list) and len(values) == depth:
                setattr(text, name, [values[layer] for layer in kept])
        text.num_hidden_layers = len(kept)
        return config
