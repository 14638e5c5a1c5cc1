"""From a config to objects: each mapping with a `_target_` becomes a call of that class.

A parameter that is annotated as a `LanguageModel` is given by the name of its role. So a new rule, drafter or decoder is a class
and a YAML file; nothing here has to know it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from sdbench.errors import InputError
from sdbench.harness.aliases import ALIASES
from sdbench.lm.model import LanguageModel


def build(config: Any, models: Mapping[str, LanguageModel], where: str) -> Any:
    """The object that `config` describes. where: its place in the config, for messages."""
    if isinstance(config, list):
        return [build(item, models, f"{where}[{i}]") for i, item in enumerate(config)]
    if not isinstance(config, dict) or "_target_" not in config:
        return config
    made = locate(config["_target_"], where)
    parameters = inspect.signature(made).parameters
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments = {}
    for name, value in config.items():
        if name == "_target_":
            continue
        if name not in parameters and not free:
            known = ", ".join(parameters)
            raise InputError(f"{where}: {config['_target_']} has no knob '{name}'; it has: {known}.")
        if isinstance(value, str) and name in parameters and _is_model(parameters[name]):
            arguments[name] = models[value]
        else:
            arguments[name] = build(value, models, f"{where}.{name}")
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and name not in arguments
    ]
    if missing:
        raise InputError(f"{where}: {config['_target_']} needs {', '.join(missing)}.")
    try:
        return made(**arguments)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except TypeError as error:
        raise InputError(f"{where}: a value has the wrong type ({error}).") from error


def locate(path: str, where: str) -> Any:
    """Import the class at a dotted path, which may be an old one (`sdbench.harness.aliases`)."""
    module, _, name = ALIASES.get(path, path).rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{where}: there is no '{path}' to import ({error}).") from error


def _is_model(parameter: inspect.Parameter) -> bool:
    note = parameter.annotation
    return note is LanguageModel or (isinstance(note, str) and "LanguageModel" in note)


class Roles(dict[str, LanguageModel]):
    """The models of a family by role; a role that it lacks is refused by name."""

    def __init__(self, family: Mapping[str, LanguageModel], arm: str) -> None:
        super().__init__(family)
        self._arm = arm

    def __missing__(self, role: str) -> LanguageModel:
        known = ", ".join(self) or "none"
        raise InputError(
            f"The arm '{self._arm}' needs a model in the role '{role}', which this family lacks (has: {known})."
        )
