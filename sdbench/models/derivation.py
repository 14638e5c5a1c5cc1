"""Describe a model that is made from the weights of another role: `derive` of a role in `conf/models/`.

    draft: {derive: {from: target, quantize: mxfp4}}            the target itself, with its linear layers cast to MXFP4
    draft: {derive: {from: target, layers: 4}}                  its first four layers and its head
    draft: {derive: {from: target, layers: [0, 1, 14, 15]}}     these layers and its head
    draft: {derive: {from: target, weights: FOLDER}}            layers of it that `sdbench train` has trained

Unlike an early exit, a derived model has a KV cache of its own, so no other model must read its tokens.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdbench import validate
from sdbench.errors import InputError
from sdbench.models.weight_files import check_weight_files, sha256_of
from sdbench.paths import expanded, packaged

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CASTS = ("mxfp4",)
HEAD = "head"
WEIGHTS_FILE, LAYERS_FILE = "model.safetensors", "layers.json"  # of a folder with trained weights
_KEYS = ("from", "layers", "quantize", "skip", "weights")
_PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")  # lists of a config with one entry for each layer


@dataclass(frozen=True)
class Derivation:
    """Say how a model is made from another role.

    source: the other role. layers: the numbers of the kept layers from 0, or how many of the first ones (None: all).
    quantize: the cast of the linear layers (None: none). skip: modules that are not cast, each by its name, by its last name or by
    a pattern such as `*.layers.0.*`. `head` is the model's head, whatever its name. weights: a file of trained weights, which
    replace those of the same name; a file beside it says of which layers they are.
    """

    source: str
    layers: int | tuple[int, ...] | None = None
    quantize: str | None = None
    skip: tuple[str, ...] = (HEAD,)
    weights: Path | None = None

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
        weights = None if entry.get("weights") is None else _weights(where, entry["weights"])
        if weights is not None:
            if layers is not None:
                raise InputError(
                    f"{where} has weights and layers: leave layers out, the weights say of which layers they are."
                )
            layers = _layers_beside(where, weights)
        if layers is None and quantize is None and weights is None:
            raise InputError(f"{where} changes nothing: give layers, weights=FOLDER, or quantize=mxfp4.")
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
        return Derivation(source, layers, quantize, tuple(skip), weights)

    @property
    def recipe(self) -> str:
        """Return one line of text, which identifies the derivation in the `run_id`."""
        kept = (
            ""
            if self.layers is None
            else f" layers={self.layers if isinstance(self.layers, int) else list(self.layers)}"
        )
        cast = "" if self.quantize is None else f" quantize={self.quantize} skip={','.join(self.skip)}"
        trained = "" if self.weights is None else f" weights={sha256_of(self.weights)}"
        return f"derived{kept}{cast}{trained}"

    def kept(self, role: str, depth: int) -> list[int]:
        """Return the numbers of the kept layers. role: for messages. depth: of the source. Errors: InputError."""
        if self.layers is None:
            return list(range(depth))
        kept = list(range(self.layers)) if isinstance(self.layers, int) else list(self.layers)
        changed = len(kept) < depth or self.weights is not None  # trained weights may be of all layers
        if not changed or kept[-1] >= depth:
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


def _weights(where: str, path: Any) -> Path:
    """Return the file of trained weights. path: its folder, or `pkg://PACKAGE/FOLDER`. Errors: InputError if it cannot be used."""
    if not isinstance(path, str):
        raise InputError(f"{where}.weights is {validate.shown(path)}; it must be the path of a folder.")
    folder = packaged(path, f"{where}.weights") or expanded(path)
    for name in (WEIGHTS_FILE, LAYERS_FILE):
        if not (folder / name).is_file():
            raise InputError(
                f"{where}.weights: the folder {path} holds no {name}; `sdbench train` writes such a folder."
            )
    check_weight_files(folder)
    return folder / WEIGHTS_FILE


def _layers_beside(where: str, weights: Path) -> list[int]:
    """Return the numbers of the layers that trained weights were made from. Errors: InputError."""
    file = weights.with_name(LAYERS_FILE)
    try:
        layers = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{where}.weights: {file} is no JSON ({error}): train the draft again.") from error
    validate.conforms(f"{where}.weights: {file}", layers, list[int])
    return layers
