"""Load the weights of a model, and refuse a checkpoint that does not fit its config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch

from sdbench.errors import InputError
from sdbench.models.architecture import check_architecture
from sdbench.models.derived import derived
from sdbench.models.family import check_source
from sdbench.models.hub import place_of, read_config, readable
from sdbench.models.quantization import check_quantization, quantization_config
from sdbench.models.quiet import quiet
from sdbench.models.skeleton import attention_of
from sdbench.models.spec import ModelSpec, resolve
from sdbench.models.weight_files import others, sizes_differ

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sdbench.heads.eagle3 import Eagle3
    from sdbench.heads.exit_heads import ExitHeads
    from sdbench.heads.parallel import ParallelHead

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# In image-and-text checkpoints, the names of the language model's tensors have a prefix.
_TEXT_PART = {
    r"^language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}
# Tensors that older versions of transformers saved. Every model computes them itself.
_DERIVED = re.compile(r"(\.inv_freq|\.position_ids|\.masked_bias|\.attn\.bias)$")


def load_weights(spec: ModelSpec, dtype: str = "float32", device: str = "cpu", parts: int = 1) -> PreTrainedModel:
    """Load the model of a spec, in evaluation mode and without gradients.

    dtype, device: those of the hardware profile; the spec's own take precedence. parts: the number of processes of the tensor
    parallelism. Each process is a member of the default process group, and `device` is its own. An image-and-text model loads only
    its language model. A .gguf file is converted once (`sdbench.models.gguf`).

    Errors: InputError if the source is missing, corrupted or not supported. Also if its tensors do not match the model, if a weight
    is not finite, or if this machine lacks the device or the packages of the quantisation.
    """
    if spec.derive is not None:
        return derived(load_weights(replace(spec, derive=None), dtype, device, parts), spec.role, spec.derive)
    dtype, device = spec.dtype or dtype, spec.device or device
    check_device(spec.role, device)
    check_quantization(spec.role, spec.quantization, device)
    torch_dtype = dtype_of(spec.role, dtype)
    source = resolve(spec)
    config = read_config(spec, source)
    model_class = check_architecture(spec.role, config)
    check_source(spec, source, quantized=getattr(config, "quantization_config", None) is not None)
    place, options = place_of(spec, source)
    text = config.get_text_config()
    part = text is not config and model_class.config_class is type(text)
    if part:
        options["key_mapping"] = _TEXT_PART
        config = text
    if spec.quantization is not None:
        options["quantization_config"] = quantization_config(spec.quantization, torch_dtype)
        options["device_map"] = {"": device}
    if parts > 1:
        from transformers.distributed.configuration_utils import DistributedConfig

        options["distributed_config"] = DistributedConfig(tp_size=parts, tp_plan="auto")
    with readable(spec, source, "weights"), quiet():
        model, report = cast(Any, model_class).from_pretrained(
            place,
            config=config,
            dtype=torch_dtype,
            attn_implementation=attention_of(model_class),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `_check_report` refuses them, and names them
            **options,
        )
    _check_report(spec, model, report, part)
    if spec.quantization is None and parts == 1:
        model = model.to(device)
    check_finite(spec, model)
    return model.eval().requires_grad_(False)


def _check_report(spec: ModelSpec, model: PreTrainedModel, report: Mapping[str, Any], part: bool) -> None:
    """Refuse a checkpoint whose tensors do not match the model. part: the model is the text part of the checkpoint."""
    fits = f"config.json does not belong to the weights of {spec.path} ({spec.role})"
    odd = sorted(report["mismatched_keys"], key=str)
    if odd:
        raise InputError(sizes_differ(spec.path, spec.role, odd))
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"{fits}: the checkpoint lacks {missing[0]}{others(missing)}. Take both from the same model, or fetch the checkpoint "
            "again."
        )
    surplus = sorted(name for name in report["unexpected_keys"] if not _DERIVED.search(name))
    if part:  # ignore the image part of the checkpoint
        own = tuple(f"model.{name}." for name, _ in model.base_model.named_children())
        surplus = [name for name in surplus if name.startswith((*own, "lm_head."))]
    if surplus:
        raise InputError(
            f"{fits}: the checkpoint holds {surplus[0]}{others(surplus)}, which {type(model).__name__} with this config does not "
            "use. Take both from the same model."
        )


def check_finite(spec: ModelSpec, model: PreTrainedModel | Eagle3 | ExitHeads | ParallelHead) -> None:
    """Refuse weights with a NaN or an infinity. The message names the tensor."""
    for name, weight in model.named_parameters():
        own = getattr(weight, "_local_tensor", weight)  # with tensor parallelism, the part of this process
        if type(own.data) is torch.Tensor and own.is_floating_point() and not bool(own.isfinite().all()):
            what, kind = "a NaN" if bool(own.isnan().any()) else "an infinity", str(model.dtype).removeprefix("torch.")
            raise InputError(
                f"The weights of {spec.path} ({spec.role}) are not finite in {kind}: {name} holds {what}. Fetch the checkpoint "
                "again, or load it in bfloat16 or float32."
            )


def dtype_of(role: str, name: str) -> torch.dtype:
    """Return the torch dtype of a name such as 'bfloat16'. role: for the message. Errors: InputError if it is unknown."""
    if name not in DTYPES:
        raise InputError(f"The dtype of {role} is '{name}'; it must be one of {', '.join(DTYPES)}.")
    return DTYPES[name]


def check_device(role: str, name: str) -> None:
    """Refuse a device that this machine does not have."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"The device of {role} is '{name}'; it must be cpu, mps, cuda or cuda:N.") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            have = f"has {count} CUDA device{'s' if count > 1 else ''}" if count else "has no CUDA device"
            raise InputError(f"The device of {role} is '{name}', but this machine {have}.")
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"The device of {role} is 'mps', but this machine has no Metal device.")
    elif device.type not in ("cpu", "mps"):
        raise InputError(f"The device of {role} is '{name}'; it must be cpu, mps, cuda or cuda:N.")
