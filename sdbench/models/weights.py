"""Loading weights, and saying which weights they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from sdbench.errors import InputError
from sdbench.models.architecture import check_architecture
from sdbench.models.family import check_source
from sdbench.models.hub import place_of, read_config, readable
from sdbench.models.quantization import check_quantization, quantization_config
from sdbench.models.quiet import quiet
from sdbench.models.spec import ModelSpec, resolve
from sdbench.models.weight_files import folder_sha256, sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Image-and-text checkpoints keep their language model under a prefix of their own.
_TEXT_PART = {
    r"^language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}


def load_weights(spec: ModelSpec, dtype: str = "float32", device: str = "cpu", parts: int = 1) -> PreTrainedModel:
    """The model of a spec, ready to be stepped: sdpa attention, evaluation mode, no gradients.

    dtype, device: the hardware's; the spec's own go before them. Of an image-and-text model only the language model is
    loaded. parts: processes that share the model, by transformers' tensor parallelism; this is one of them, in their
    default group, and `device` its own. A .gguf file is converted once (`sdbench.models.gguf`). Errors: InputError if the
    source is missing, corrupted or unsuited, or the device or the quantisation is not to be had here.
    """
    dtype, device = spec.dtype or dtype, spec.device or device
    check_device(spec.role, device)
    check_quantization(spec.role, spec.quantization, device)
    torch_dtype = dtype_of(spec.role, dtype)
    source = resolve(spec)
    config = read_config(spec, source)
    model_class = check_architecture(spec.role, config)
    check_source(spec, source)
    place, options = place_of(spec, source)
    text = config.get_text_config()
    if text is not config and model_class.config_class is type(text):
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
            attn_implementation="sdpa",
            output_loading_info=True,
            **options,
        )
    if report["missing_keys"]:
        absent = sorted(report["missing_keys"])
        raise InputError(f"The weights of {spec.path} ({spec.role}) lack {len(absent)} tensors, such as {absent[0]}.")
    if spec.quantization is None and parts == 1:
        model = model.to(device)
    return model.eval().requires_grad_(False)


def weights_identity(spec: ModelSpec) -> str:
    """Which weights these are: `sha256:` of local files, or the hub id with the commit that its revision stands for."""
    source = resolve(spec)
    if source.kind == "gguf":
        return f"sha256:{sha256_of(Path(source.location))}"
    if source.kind == "folder":
        return f"sha256:{folder_sha256(Path(source.location))}"
    with readable(spec, source, "config"):
        from huggingface_hub import hf_hub_download

        # The cache keeps each file in a folder that the commit gives its name to.
        config = hf_hub_download(source.location, "config.json", revision=spec.revision)
    return f"{source.location}@{Path(config).parent.name}"


def dtype_of(role: str, name: str) -> torch.dtype:
    """The torch dtype of a name such as 'bfloat16'."""
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
