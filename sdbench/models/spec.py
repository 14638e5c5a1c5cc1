"""Describe the source, device and number format of each role's model, as in the files of `conf/models/`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sdbench.errors import InputError
from sdbench.models.derivation import Derivation
from sdbench.models.weight_files import refuse_adapter
from sdbench.paths import expanded, packaged

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ModelSpec:
    """The model of one role.

    role: target, qualifier, draft, ... path: a hub id, a folder, a .gguf file, or `pkg://PACKAGE/FOLDER` for weights in an
    installed package. revision: of a hub id (None: its main branch). device, dtype: None means those of the hardware profile.
    quantization: see `sdbench.models.quantization`. vocabulary: see `sdbench.models.vocabulary`; None for the tokens of the target.
    parameters, cache_values: the published number of parameters, and of cached numbers (keys and values) per token. They are used
    only if the model's config is not available. derive: how the model is made from the one at `path`, which belongs to another
    role. head_of: the role whose hidden states it reads, if it is a head (`sdbench.heads`).
    """

    role: str
    path: str
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    vocabulary: str | Mapping[str, Any] | None = None
    parameters: int | None = None
    cache_values: int | None = None
    derive: Derivation | None = None
    head_of: str | None = None


def family_specs(
    entries: Mapping[str, Mapping[str, Any]], roles: Collection[str] | None = None
) -> dict[str, ModelSpec]:
    """Return the specs of a family, by role. entries: as in the files of `conf/models/`. roles: those to return; None: all.

    A derived role has the path and the revision of the role that it comes from, and its device and dtype where it names none.
    Errors: InputError if a role has no source, or is derived from a role that cannot give its weights.
    """
    return {role: _spec(role, entry, entries) for role, entry in entries.items() if roles is None or role in roles}


def _spec(role: str, entry: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]]) -> ModelSpec:
    given, path = entry.get("derive"), entry.get("path")
    if entry.get("head_of") is not None:
        _check_head(role, entry, entries)
    if (given is None) == (path is None):
        what = (
            "has no source: give path, or derive" if path is None else "has both path and derive: leave one of them out"
        )
        raise InputError(f"models.{role} {what}.")
    if given is None:
        return ModelSpec(role, **entry)
    how = Derivation.of(role, given)
    base = entries.get(how.source)
    if base is None:
        raise InputError(
            f"models.{role}.derive.from is {how.source}, but the family has no such role; it has: {', '.join(entries)}."
        )
    if base.get("path") is None:
        raise InputError(
            f"models.{role}.derive.from is {how.source}, which is derived itself: name a role with a path."
        )
    if how.quantize is not None and entry.get("quantization") is not None:
        raise InputError(f"models.{role} has quantization and derive.quantize: leave one of them out.")
    own = {key: value for key, value in entry.items() if value is not None}
    shared = {key: base.get(key) for key in ("path", "revision", "device", "dtype", "parameters", "cache_values")}
    return ModelSpec(role, **{**shared, **own, "derive": how})


def _check_head(role: str, entry: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a head of no role, of another head, or with fields that belong to whole models. Raises: InputError."""
    base = entries.get(entry["head_of"])
    if base is None:
        raise InputError(
            f"models.{role}.head_of is {entry['head_of']}, but the family has no such role; it has: {', '.join(entries)}."
        )
    if base.get("head_of") is not None or base.get("vocabulary") is not None:
        raise InputError(f"models.{role}.head_of must name a whole model with the family's own tokens, such as target.")
    odd = [field for field in ("derive", "quantization", "vocabulary") if entry.get(field) is not None]
    if odd:
        raise InputError(f"models.{role} is a head, which has no {odd[0]}: leave it at null.")


@dataclass(frozen=True)
class Source:
    """The place that a spec's path refers to.

    location: the hub id, or the absolute path of the folder or .gguf file. packaged: the folder belongs to an installed package.
    """

    kind: Literal["hub", "folder", "gguf"]
    location: str
    packaged: bool = False


def resolve(spec: ModelSpec) -> Source:
    """Find the source that a spec's path refers to. Errors: InputError if there is none."""
    knob = f"models.{spec.role}.path"
    if (folder := packaged(spec.path, knob)) is not None:
        return Source("folder", str(_with_config(spec, folder)), packaged=True)
    path = expanded(spec.path)
    if path.is_dir():
        return Source("folder", str(_with_config(spec, path)))
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"{knob}: there is no file {spec.path}.")
        return Source("gguf", str(path.resolve()))
    if path.is_file():
        raise InputError(f"{knob}: {spec.path} is a file; give a .gguf file, a model folder or a hub id.")
    if not _HUB_ID.fullmatch(spec.path):
        raise InputError(f"{knob}: there is no folder {spec.path}, and it is not a hub id (OWNER/NAME).")
    return Source("hub", spec.path)


def _with_config(spec: ModelSpec, folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        refuse_adapter(folder)
        raise InputError(f"models.{spec.role}.path: the folder {folder} has no config.json, so it holds no model.")
    return folder.resolve()
