"""A draft model made from layers of the target. It trains these layers, and borrows the target's embedding and head.

The weights that it writes are those that differ from the target's. So a draft of two layers of SmolLM2-135M takes 14 MB, and
`derive.weights` of a role in `conf/models/` puts them back (`sdbench.models.derivation`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import linear

from sdbench import validate
from sdbench.errors import InputError
from sdbench.lm.recurrent import language_model
from sdbench.lm.transformer import Transformer
from sdbench.models.derivation import LAYERS_FILE, WEIGHTS_FILE, Derivation, layers_beside, trained_weights
from sdbench.models.derived import derived, put_weight, shared_copy
from sdbench.models.token_map import keep_head_rows
from sdbench.models.vocabulary import IDS_FILE, reduced
from sdbench.training.network_calls import body_of


class Student:
    """Some layers of a model, with its embedding and the rows of its head for the tokens that the draft may propose.

    It trains in float32, whatever the type of the target.

    target: stays as it is. layers: numbers of the layers, ascending, each once; also all of them. ids: [R] the target's ids that
    the draft proposes, ascending; None: all. weights: the trained ones, by name. own: [V] the draft's index of each id of the
    target, -1 where it has none; None without ids.
    """

    def __init__(self, target: Any, layers: Sequence[int], ids: Sequence[int] | None = None) -> None:
        some = len(layers) < target.config.get_text_config().num_hidden_layers
        self.model: Any = derived(target, "draft", Derivation("target", tuple(layers) if some else None))
        self.layers, self.ids = list(layers), None if ids is None else list(ids)
        shared = {
            id(weight)
            for part in (target.get_input_embeddings(), target.get_output_embeddings())
            for weight in part.parameters()
        }
        for name, weight in list(self.model.named_parameters()):
            if id(weight) not in shared:
                put_weight(self.model, name, nn.Parameter(weight.detach().clone().float()))
        self.names = [name for name, weight in self.model.named_parameters() if id(weight) not in shared]
        head = target.get_output_embeddings()
        self._vocab, device = len(head.weight), head.weight.device
        rows = slice(None) if ids is None else torch.tensor(self.ids, device=device)
        self._head = head.weight.detach()[rows].float()
        self._bias = None if head.bias is None else head.bias.detach()[rows].float()
        self.own: Int[Tensor, " V"] | None = None
        if self.ids is not None:
            self.own = torch.full((self._vocab,), -1, device=device)
            self.own[rows] = torch.arange(len(self.ids), device=device)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Return the weights that are trained, by name."""
        named = dict(self.model.named_parameters())
        return {name: named[name] for name in self.names}

    def logits(self, tokens: Int[Tensor, "B T"], wanted: Tensor) -> Float[Tensor, "N R"]:
        """Return the logits behind the wanted positions. tokens: padded on the right. wanted: [B, T] boolean."""
        device = self._head.device
        embedded = self.model.get_input_embeddings()(tokens.to(device)).float()
        hidden = body_of(self.model)(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return self.head(hidden[wanted.to(device)])

    def head(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N R"]:
        """Return the logits of some hidden states behind the last norm."""
        return linear(hidden, self._head, self._bias)

    def deployed(self) -> Transformer:
        """Return the draft as it serves: its weights in the target's type, and a head of R rows."""
        model = shared_copy(self.model)
        dtype = self.model.get_input_embeddings().weight.dtype
        for name, weight in self.weights.items():
            put_weight(model, name, nn.Parameter(weight.detach().to(dtype), requires_grad=False))
        maps = None
        if self.ids is not None:
            maps = reduced(self.ids, self._vocab, self._vocab)
            keep_head_rows("draft", model, maps.rows)
        return language_model("draft", model.eval(), ids=maps)

    @property
    def head_weights(self) -> int:
        """Return the number of weights of the head, over the tokens that the draft proposes."""
        return self._head.numel()

    def copy(self) -> Student:
        """Return a second student with the same weights. Embedding and head stay shared."""
        other = copy.copy(self)
        kept = {id(weight): weight for name, weight in self.model.named_parameters() if name not in self.names}
        other.model = copy.deepcopy(self.model, kept)
        return other

    def write(self, folder: Path) -> None:
        """Write the weights in bfloat16, and the ids that the draft proposes."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: weight.detach().to(torch.bfloat16).contiguous() for name, weight in self.weights.items()},
            folder / WEIGHTS_FILE,
            metadata={"format": "pt"},
        )
        (folder / LAYERS_FILE).write_text(json.dumps(self.layers) + "\n")
        if self.ids is not None:
            (folder / IDS_FILE).write_text(json.dumps(self.ids) + "\n")

    def load_folder(self, folder: str) -> None:
        """Take over the weights of an earlier training. Errors: InputError if they are not of these layers of this target."""
        file = trained_weights("recipe.start", folder)
        layers, held = layers_beside("recipe.start", file), load_file(file)
        if layers != self.layers:
            raise InputError(f"recipe.start: {folder} holds the layers {layers}, and recipe.layers is {self.layers}.")
        if {name: one.shape for name, one in held.items()} != {name: one.shape for name, one in self.weights.items()}:
            raise InputError(f"recipe.start: the weights in {folder} were trained for another target.")
        self.load(held)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over trained weights, by name."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(weights[name])


def check_layers(layers: Sequence[int], depth: int, knob: str = "recipe.layers") -> None:
    """Check the numbers of a draft's layers. depth: how many the target has. Errors: InputError."""
    for layer in layers:
        validate.whole(knob, layer)
    if not layers or sorted(set(layers)) != list(layers) or layers[-1] >= depth:
        raise InputError(
            f"{knob} is {list(layers)}; it must list some of the target's layers 0 to {depth - 1} in ascending order, each once."
        )
