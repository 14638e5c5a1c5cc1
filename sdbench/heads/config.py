"""Read the config.json of a head.

Of EAGLE-3 heads, two formats are read. `eagle`: the config of a Llama with `draft_vocab_size`, as SafeAILab/EAGLE and SpecForge
write it. `speculators`: the config of vllm-project/speculators, with `transformer_layer_config`. Heads that predict several tokens
in one pass have formats of their own (`sdbench.heads.parallel_config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdbench.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LAYERS = ("llama", "qwen3")  # the kinds of decoder layers that a head can have
STATES = 3  # hidden states of the target that a head reads
_PARALLEL = ("sdbench_head", "medusa_num_heads", "dflash_config")  # fields of such a config.json
_REFUSED = ("norm_before_fc", "norm_output", "parallel_drafting")  # switches of other kinds of heads


@dataclass(frozen=True)
class HeadConfig:
    """The config of an EAGLE-3 head.

    layer: the config of its decoder layer; its vocab_size is V, that of the target. draft_vocab: the number of tokens that it
    proposes. target_width: the width of the target's hidden states. layers: those that it reads, numbered as transformers'
    `hidden_states` (None: the published choice, `tapped`). norm_before_residual: the residual is the normed feature.
    """

    layer: PreTrainedConfig
    draft_vocab: int
    target_width: int
    layers: tuple[int, ...] | None = None
    norm_before_residual: bool = False

    def tapped(self, role: str, depth: int) -> tuple[int, ...]:
        """Return the layers of a target of `depth` layers that the head reads: 2, the middle and the last but two by default.

        These are the inputs of these layers, as SafeAILab/EAGLE and vLLM choose them. role: for messages. Raises: InputError.
        """
        layers = self.layers or (2, depth // 2, depth - 3)
        if len(layers) != STATES or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] <= depth:
            raise InputError(
                f"{role} is a head that reads the hidden states {list(layers)} of a target with {depth} layers, but {STATES} "
                f"ascending numbers up to {depth} are needed: name them in eagle_aux_hidden_state_layer_ids of its config.json, or "
                "in recipe.head.reads of a training."
            )
        return layers

    def check(self, role: str, target: PreTrainedConfig) -> None:
        """Refuse a head that does not belong to a target. role: of the head. target: its config. Raises: InputError."""
        text = target.get_text_config()
        if self.target_width != text.hidden_size:
            raise InputError(
                f"The head {role} reads hidden states of width {self.target_width}, but its target has width {text.hidden_size}: "
                "take the head that belongs to the target."
            )
        if self.layer.vocab_size != text.vocab_size:
            raise InputError(
                f"The head {role} was made for {self.layer.vocab_size} tokens, but its target has {text.vocab_size}: take the head "
                "that belongs to the target."
            )
        self.tapped(role, text.num_hidden_layers)


def is_head(document: Mapping[str, Any]) -> bool:
    """Tell whether a config.json is that of a head."""
    names = document.get("architectures") or ()
    marks = ("speculators_model_type", "draft_vocab_size", "exit_layers", *_PARALLEL)
    return any(mark in document for mark in marks) or any("Eagle3" in name for name in names)


def is_parallel(document: Mapping[str, Any]) -> bool:
    """Tell whether a config.json is that of a head that predicts several tokens in one pass."""
    return any(mark in document for mark in _PARALLEL)


def read_head_config(role: str, document: Mapping[str, Any]) -> HeadConfig:
    """Return the config of an EAGLE-3 head. role: for messages. document: its config.json.

    Raises:
        InputError: it is no head, or one of a kind that is not supported.
    """
    if not is_head(document):
        raise InputError(
            f"models.{role} has head_of, but its config.json describes no head: leave head_of out, or take a head."
        )
    kind = document.get("speculators_model_type", "eagle3")
    asked = [name for name in _REFUSED if document.get(name)]
    if kind != "eagle3" or asked:
        raise InputError(
            f"models.{role} is a head of the kind '{kind}'{f' with {asked[0]}' if asked else ''}; only EAGLE-3 heads can "
            "be read in this format."
        )
    nested = document.get("transformer_layer_config")
    layer = layer_config(role, document if nested is None else nested)
    ids = document.get("eagle_aux_hidden_state_layer_ids")
    if ids is None:
        # SpecForge and SGLang number the layers whose output is read.
        output = (document.get("eagle_config") or {}).get("eagle_aux_hidden_state_layer_ids")
        ids = None if output is None else [number + 1 for number in output]
    return HeadConfig(
        layer,
        document.get("draft_vocab_size") or layer.vocab_size,
        document.get("target_hidden_size") or layer.hidden_size,
        None if ids is None else tuple(ids),
        bool(document.get("norm_before_residual", False)),
    )


def layer_config(role: str, fields: Mapping[str, Any], many: bool = False) -> PreTrainedConfig:
    """Return the config of the decoder layers. many: more than one is allowed. Raises: InputError."""
    from transformers import AutoConfig

    name, count = fields.get("model_type", "llama"), fields.get("num_hidden_layers", 1)
    if name not in LAYERS or (count != 1 and not many):
        raise InputError(
            f"models.{role} is a head with {count} layers of the kind '{name}'; {'' if many else 'one layer of '}the kind "
            f"{' or '.join(LAYERS)} can be read."
        )
    own = {
        key: value
        for key, value in fields.items()
        if key not in ("model_type", "architectures", "torch_dtype", "dtype", "auto_map")
    }
    try:
        config = AutoConfig.for_model(name, **{"num_hidden_layers": 1, **own})
    except Exception as error:  # a config class checks its fields in ways of its own
        raise InputError(f"The config.json of models.{role} cannot be read ({error}): fetch the head again.") from error
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        raise InputError(f"models.{role} is a head whose layer has a sliding window; only full attention can be read.")
    config._attn_implementation = "sdpa"
    return config
