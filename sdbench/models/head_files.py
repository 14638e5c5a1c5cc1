"""Find, check and load the files of a head (`sdbench.heads`), which belongs to another role of its family."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sdbench.errors import InputError
from sdbench.heads.config import HeadConfig, is_parallel, read_head_config
from sdbench.heads.exit_config import ExitConfig, is_exit_heads, read_exit_config
from sdbench.models.hub import config_document, place_of, readable
from sdbench.models.spec import ModelSpec, Source
from sdbench.models.weight_files import MEDUSA_FILES, sizes_differ, tensors_of, weight_files

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

    from sdbench.heads.eagle3 import Eagle3
    from sdbench.heads.exit_heads import ExitHeads
    from sdbench.heads.parallel import ParallelHead

T = TypeVar("T")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin", *MEDUSA_FILES)


def head_config(spec: ModelSpec, source: Source, target: PreTrainedConfig | None = None) -> HeadConfig | ExitConfig:
    """Read the config of a head. target: the config of the model that it reads. Raises: InputError if it cannot be read."""
    if source.kind == "gguf":
        raise InputError(f"models.{spec.role} is a head, which cannot be a .gguf file: give a folder or a hub id.")
    document = config_document(spec, source)
    if is_exit_heads(document):
        return read_exit_config(spec.role, document)
    if is_parallel(document):
        from sdbench.heads.parallel_config import read_parallel_config

        return read_parallel_config(spec.role, document, target)
    return read_head_config(spec.role, document)


def check_head_sizes(spec: ModelSpec, source: Source, config: HeadConfig | ExitConfig) -> None:
    """Refuse a folder whose tensors have other sizes than its config says, from the headers of the files. Raises: InputError."""
    import torch

    stored = tensors_of(Path(source.location)) if source.kind == "folder" else None
    given = {name: entry["shape"] for name, entry in (stored or {}).items()}
    if isinstance(config, ExitConfig):
        shapes, made = given, config.shapes
    else:
        with torch.device("meta"):
            shapes, module = unfilled(config, given)
        made = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    both = [(name, shapes[name], made[name]) for name in sorted(shapes.keys() & made.keys())]
    odd = [entry for entry in both if math.prod(entry[1]) != math.prod(entry[2])]
    if odd:
        raise InputError(sizes_differ(spec.path, spec.role, odd))


def unfilled(config: HeadConfig, tensors: Mapping[str, T]) -> tuple[dict[str, T], Eagle3 | ParallelHead]:
    """Return the tensors of a checkpoint, or what is known of them, under the names of its module, and the module."""
    from sdbench.heads.eagle3 import Eagle3
    from sdbench.heads.files import named
    from sdbench.heads.kinds import kind_of
    from sdbench.heads.parallel import ParallelConfig
    from sdbench.heads.parallel_files import as_stored, parallel_names

    if not isinstance(config, ParallelConfig):
        return named(tensors), Eagle3(config)
    renamed = parallel_names(tensors)
    return renamed, kind_of(config.kind)(as_stored(config, renamed))


def load_any_head(
    spec: ModelSpec, source: Source, config: HeadConfig, target: Any, dtype: Any, device: str
) -> Eagle3 | ParallelHead:
    """Load a head of any kind, in evaluation mode and without gradients. The arguments and errors are those of `load_head`.

    A head that predicts in one pass shares the embedding and the head of the target, if its kind uses them.
    """
    from sdbench.heads.parallel import ParallelConfig, ParallelHead
    from sdbench.heads.parallel_files import fill_parallel

    if not isinstance(config, ParallelConfig):
        return load_head(spec, source, config, target, dtype, device)
    with readable(spec, source, "weights"):
        tensors, head = unfilled(config, _tensors(spec, source))
    assert isinstance(head, ParallelHead)
    fill_parallel(head, tensors, f"{spec.path} ({spec.role})")
    head.to(device, dtype)
    head.lend(target)
    return head.eval().requires_grad_(False)


def load_head(spec: ModelSpec, source: Source, config: HeadConfig, target: Any, dtype: Any, device: str) -> Eagle3:
    """Load a head, in evaluation mode and without gradients.

    Without an embedding of its own it shares the target's weight. Without `lm_head` it takes the rows of the target's head.

    target: the `transformers` model whose hidden states it reads. dtype, device: of the head.

    Raises:
        InputError: its files are missing, damaged or not those of its config, or it needs an embedding that is not there.
    """
    import torch

    from sdbench.heads.eagle3 import Eagle3
    from sdbench.heads.files import EMBEDDING, HEAD, fill, named

    with readable(spec, source, "weights"):
        tensors = named(_tensors(spec, source))
    embedding = None
    if EMBEDDING not in tensors:
        weight = target.get_input_embeddings().weight
        if type(weight.data) is not torch.Tensor or weight.shape != (config.layer.vocab_size, config.layer.hidden_size):
            raise InputError(
                f"The head {spec.path} ({spec.role}) has no embedding, and that of its target is not of the same size or is "
                "quantised: take a head with its own."
            )
        embedding = torch.nn.Parameter(weight.data.to(device, dtype), requires_grad=False)
    module = Eagle3(config, embedding).to(device, dtype)
    if HEAD not in tensors and "d2t" in tensors:
        rows = target.get_output_embeddings().weight
        ids = tensors["d2t"] + torch.arange(len(tensors["d2t"]))
        if (
            type(rows.data) is not torch.Tensor
            or rows.shape[1] != config.layer.hidden_size
            or int(ids.max()) >= len(rows)
        ):
            raise InputError(
                f"The head {spec.path} ({spec.role}) has no lm_head, and that of its target is not of the same size or is "
                "quantised: take a head with its own."
            )
        tensors[HEAD], module.own_head = rows.data[ids.to(rows.device)], False
    fill(module, tensors, f"{spec.path} ({spec.role})")
    return module.eval().requires_grad_(False)


def load_exits(spec: ModelSpec, source: Source, config: ExitConfig) -> ExitHeads:
    """Load exit heads, in evaluation mode and without gradients. Raises: InputError if their files are missing or damaged."""
    from sdbench.heads.exit_heads import ExitHeads, fill_exits

    with readable(spec, source, "weights"):
        tensors = _tensors(spec, source)
    module = ExitHeads(config)
    fill_exits(module, tensors, f"{spec.path} ({spec.role})")
    return module.eval().requires_grad_(False)


def _tensors(spec: ModelSpec, source: Source) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint, by name."""
    import torch
    from safetensors.torch import load_file

    files = weight_files(Path(source.location)) if source.kind == "folder" else [_fetched(spec, source)]
    found: dict[str, Tensor] = {}
    for file in files:
        whole = file.suffix == ".safetensors"
        found |= load_file(file) if whole else torch.load(file, map_location="cpu", weights_only=True)
    return found


def _fetched(spec: ModelSpec, source: Source) -> Path:
    """Return the path of the weights of a head of the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    place, options = place_of(spec, source)
    for name in _HUB_FILES[:-1]:
        try:
            return Path(hf_hub_download(place, name, **options))
        except EntryNotFoundError:
            continue
    return Path(hf_hub_download(place, _HUB_FILES[-1], **options))
