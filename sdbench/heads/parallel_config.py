"""Read the config.json of a head that predicts several tokens in one pass.

Three formats are read: sdbench's own, with `sdbench_head`; that of FasterDecoding/Medusa, with `medusa_num_heads`; and that of
z-lab/dflash, with `dflash_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdbench.errors import InputError
from sdbench.heads.config import layer_config
from sdbench.heads.kinds import kind_of
from sdbench.heads.parallel import ParallelConfig
from sdbench.heads.parts import layer_like

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def read_parallel_config(
    role: str, document: Mapping[str, Any], target: PreTrainedConfig | None = None
) -> ParallelConfig:
    """Return the config of a head. role: for messages. document: its config.json. target: the config of the model that it reads.

    Raises:
        InputError: it cannot be read, or its sizes are the target's, and this is not given.
    """
    if "sdbench_head" in document:
        return _own(role, document)
    if target is None:
        raise InputError(f"models.{role} is a head whose config.json gives no sizes; they are those of its target.")
    text = target.get_text_config()
    if "medusa_num_heads" in document:
        # Published files hold more heads than their configs say, so the file decides (`sdbench.models.head_files`).
        options = {"blocks": document.get("medusa_num_layers", 1)}
        depth = document["medusa_num_heads"]
        return ParallelConfig(
            layer_like(text), text.vocab_size, text.hidden_size, kind="medusa", depth=depth, options=options
        )
    return _dflash(role, document, text)


def _own(role: str, document: Mapping[str, Any]) -> ParallelConfig:
    kind_of(document["sdbench_head"])
    try:
        layer = layer_config(role, document["layer"], many=True)
        return ParallelConfig(
            layer,
            document.get("draft_vocab_size") or layer.vocab_size,
            document.get("target_hidden_size") or layer.hidden_size,
            tuple(document["target_layers"]),
            kind=document["sdbench_head"],
            depth=document["depth"],
            options=document.get("options") or {},
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"The config.json of models.{role} lacks {error}: write the head again.") from error


def _dflash(role: str, document: Mapping[str, Any], text: PreTrainedConfig) -> ParallelConfig:
    """Return the config of a DFlash checkpoint. Its block size counts the last decided token."""
    own = document["dflash_config"]
    odd = [name for name in ("final_logit_softcapping", "selector_rank") if own.get(name) or document.get(name)]
    odd += [name for name in ("output_multiplier", "input_embedding_scale") if own.get(name, 1.0) != 1.0]
    if odd:
        raise InputError(
            f"models.{role} is a DFlash head with {odd[0]}, which cannot be read: take a first-version head."
        )
    fields = {key: value for key, value in document.items() if key not in ("dflash_config", "block_size")}
    layer = layer_config(role, fields, many=True)
    taps = own.get("target_layer_ids")
    if taps is None or own.get("mask_token_id") is None:
        raise InputError(
            f"The dflash_config of models.{role} lacks target_layer_ids or mask_token_id: fetch the head again."
        )
    return ParallelConfig(
        layer,
        layer.vocab_size,
        text.hidden_size,
        tuple(number + 1 for number in taps),  # DFlash numbers the layers whose output is read
        kind="block_diffusion",
        depth=own.get("block_size", document.get("block_size", 16)) - 1,
        options={"mask_id": own["mask_token_id"]},
    )
