"""Read a model's config, generation config and tokenizer with `transformers`. An error says how to get the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdbench.errors import InputError
from sdbench.hub_access import reachable
from sdbench.models.gguf import converted
from sdbench.models.quiet import quiet, reason_of
from sdbench.models.spec import ModelSpec, Source

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerFast


# Advice for a local file that cannot be read.
_ADVICE = {
    "config": "fetch its config.json again, or take a transformers that knows the model",
    "generation config": "fetch its generation_config.json again, or delete it",
    "tokenizer": "fetch its tokenizer files again",
    "weights": "fetch its weight files again",
}
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def place_of(spec: ModelSpec, source: Source) -> tuple[str, dict[str, Any]]:
    """Return the arguments of `from_pretrained` for a model: the folder or hub id, and the options."""
    if source.kind == "gguf":
        return str(converted(Path(source.location))), {}
    if source.kind != "hub":
        return source.location, {}
    return source.location, {"revision": spec.revision or "main", "local_files_only": not reachable()}


def read_config(spec: ModelSpec, source: Source) -> PreTrainedConfig:
    """Read the model's config. Errors: InputError."""
    place, options = place_of(spec, source)
    if source.kind == "hub":
        config_file(spec, source)
    from transformers import AutoConfig

    with readable(spec, source, "config"), quiet():
        config = AutoConfig.from_pretrained(place, trust_remote_code=False, **options)
    return config if spec.derive is None else spec.derive.of_config(spec.role, config)


def config_file(spec: ModelSpec, source: Source) -> Path:
    """Return the path of the config.json of a folder or of a model of the hub. This imports no reader, so it answers at once.

    Errors: InputError if neither the hub nor its cache gives the file.
    """
    place, options = place_of(spec, source)
    if source.kind != "hub":
        return Path(place) / "config.json"
    from huggingface_hub import hf_hub_download

    with readable(spec, source, "config"):
        return Path(hf_hub_download(place, "config.json", **options))


def config_document(spec: ModelSpec, source: Source) -> dict[str, Any]:
    """Return the content of the config.json, without an import of `transformers`. Errors: InputError."""
    file = config_file(spec, source)
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"The file {file} ({spec.role}) cannot be read ({reason_of(error)}): fetch it again."
        ) from error


def read_tokenizer(spec: ModelSpec, source: Source) -> PreTrainedTokenizerFast:
    """Read the model's tokenizer. Errors: InputError."""
    from transformers import AutoTokenizer

    place, options = place_of(spec, source)
    folder = Path(place)
    if source.kind != "hub" and folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZERS):
        # Some tokenizer classes would make an empty tokenizer.
        raise InputError(f"{place} ({spec.role}) holds no tokenizer: it needs one of {', '.join(TOKENIZERS)}.")
    with readable(spec, source, "tokenizer"), quiet():
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)


def read_generation(spec: ModelSpec, source: Source, config: PreTrainedConfig) -> GenerationConfig:
    """Read the generation config that the model's `generate` uses. Without a file, it is derived from the config."""
    from transformers import GenerationConfig

    place, options = place_of(spec, source)
    with readable(spec, source, "generation config"), quiet():
        try:
            return GenerationConfig.from_pretrained(place, **options)
        except OSError:
            # A missing file and a malformed file raise the same type.
            if (Path(place) / "generation_config.json").is_file():
                raise
            return GenerationConfig.from_model_config(config)


@contextmanager
def readable(spec: ModelSpec, source: Source, what: str) -> Iterator[None]:
    """Turn any exception while a model is read into an InputError that says what to do. what: the part that is read."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the hub, the network, JSON and the readers raise different types
        raise InputError(_sentence(spec, source, what, error)) from error


def _sentence(spec: ModelSpec, source: Source, what: str, error: Exception) -> str:
    import httpx  # the hub's client is built on it
    from huggingface_hub import errors

    name, role = source.location, spec.role
    causes = list(_chain(error))
    elsewhere = f"or give models.{role}.path=FOLDER"
    if any(isinstance(cause, errors.GatedRepoError) for cause in causes):
        return (
            f"The model {name} ({role}) is gated: accept its licence at https://huggingface.co/{name} and run "
            f"`hf auth login`, {elsewhere}."
        )
    if any(isinstance(cause, errors.RevisionNotFoundError) for cause in causes):
        return f"The model {name} ({role}) has no revision '{spec.revision}' on the hub."
    if any(isinstance(cause, errors.RepositoryNotFoundError) for cause in causes):
        return (
            f"There is no public model {name} ({role}) on the hub: check the name, run `hf auth login` if it is "
            f"private, {elsewhere}."
        )
    unreachable = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, httpx.TransportError)
    if any(isinstance(cause, unreachable) for cause in causes):
        return _not_at_hand(name, role)
    known = _known(name, role, error)
    if known is not None:
        return known
    fetch = f"run `hf download {name}` where there is a network, {elsewhere}" if source.kind == "hub" else _ADVICE[what]
    return f"The {what} of {name} ({role}) cannot be read ({reason_of(error)}): {fetch}."


def _not_at_hand(name: str, role: str) -> str:
    return (
        f"The model {name} ({role}) is not in the local cache and the hub cannot be reached: run `hf download {name}` where there "
        f"is a network, or give models.{role}.path=FOLDER."
    )


def _known(name: str, role: str, error: Exception) -> str | None:
    """Return advice for an error of a reader with a known cause; None for other errors."""
    import pickle

    import transformers

    text = str(error)
    if isinstance(error, ImportError):
        return (
            f"The model {name} ({role}) needs a package that is not installed ({reason_of(error)}); install it, or take an "
            "unquantised checkpoint."
        )
    if "custom code" in text or "trust_remote_code" in text:
        return (
            f"The model {name} ({role}) brings Python code of its own, which sdbench does not run; take a model whose "
            "architecture is part of transformers."
        )
    unknown = re.search(r"model type `(.+?)` but Transformers does not recognize", text)
    if unknown:
        return (
            f"The model {name} ({role}) has the model type '{unknown[1]}', which transformers {transformers.__version__} does "
            "not know; upgrade transformers, or take another model."
        )
    if isinstance(error, pickle.UnpicklingError):
        return (
            f"The weights of {name} ({role}) hold Python objects, not tensors alone, so they are not opened; take the model in "
            "safetensors."
        )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
