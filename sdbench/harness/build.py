"""Build objects from a config. Each mapping with a `_target_` becomes a call of that class.

A config gives a parameter of type `LanguageModel` by the name of its role, such as draft. `target[2]` names the first two layers of
the target and its head. So a new rule, drafter or decoder needs a class and a YAML file. This module needs no change.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from sdbench import validate
from sdbench.errors import InputError
from sdbench.harness.aliases import ALIASES, REPLACED
from sdbench.lm.model import LanguageModel


def build(config: Any, models: Mapping[str, LanguageModel], where: str) -> Any:
    """Return the object that `config` describes. models: by role. where: its key, for messages. Raises: InputError."""
    if isinstance(config, list):
        return [build(item, models, f"{where}[{i}]") for i, item in enumerate(config)]
    if not isinstance(config, dict) or "_target_" not in config:
        return config
    target = config["_target_"]
    made = locate(target, where)
    parameters = inspect.signature(made).parameters
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    hints = hints_of(made)
    arguments = {}
    for name, value in config.items():
        if name == "_target_":
            continue
        if name not in parameters and not free:
            raise validate.unknown(f"{where}: {target} has no knob", name, parameters, "it has")
        hint = hints.get(name, Any)
        if _is_model(hint) and value is not None:
            if not isinstance(value, str):
                raise InputError(f"{where}.{name} is {validate.shown(value)}; it must name a role, such as draft.")
            arguments[name] = models[value]
        elif isinstance(value, list) and _is_model(*get_args(hint)):
            if not all(isinstance(role, str) for role in value):
                raise InputError(
                    f"{where}.{name} is {validate.shown(value)}; it must be a list of roles, such as [qualifier,draft]."
                )
            arguments[name] = [models[role] for role in value]
        else:
            arguments[name] = build(value, models, f"{where}.{name}")
            validate.conforms(f"{where}.{name}", arguments[name], hint)
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and name not in arguments
    ]
    if missing:
        raise InputError(f"{where}: {target} needs {', '.join(missing)}.")
    try:
        return made(**arguments)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except TypeError as error:
        raise InputError(f"{where}: a value has the wrong type ({error}).") from error


def with_token_ids(config: Any, encode: Callable[[str], list[int]], where: str) -> Any:
    """Return a config in which token ids stand for the texts that a class names in `texts`.

    Decoders know no tokenizer, so the harness encodes such texts once. encode: from a text to token ids. Raises: InputError.
    """
    if isinstance(config, list):
        return [with_token_ids(item, encode, f"{where}[{i}]") for i, item in enumerate(config)]
    if not isinstance(config, dict):
        return config
    texts = getattr(locate(config["_target_"], where), "texts", ()) if "_target_" in config else ()
    return {
        name: encode(value)
        if name in texts and isinstance(value, str)
        else with_token_ids(value, encode, f"{where}.{name}")
        for name, value in config.items()
    }


def locate(path: Any, where: str) -> Any:
    """Import the class at a dotted path. An old path of `sdbench.harness.aliases` works too. Raises: InputError."""
    if not isinstance(path, str):
        raise InputError(f"{where}._target_ is {validate.shown(path)}; it must be the dotted path of a class.")
    if path in REPLACED:
        raise InputError(f"{where}: {path} is no longer there: {REPLACED[path]} gives this data set, by lm-eval.")
    module, _, name = ALIASES.get(path, path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{where}: '{path}' cannot be imported ({error}).") from error
    if not callable(found):
        raise InputError(f"{where}: {path} is not a class.")
    return found


def hints_of(made: Any) -> dict[str, Any]:
    """Return the types of a callable's parameters. A name that is unknown at run time counts as any type."""
    function = made.__init__ if inspect.isclass(made) else made
    names = _Names({**getattr(inspect.unwrap(function), "__globals__", {}), LanguageModel.__name__: LanguageModel})
    try:
        return get_type_hints(function, {}, names, include_extras=True)
    except Exception:  # an annotation may be any expression, so its evaluation may raise any error
        return {}


class _Names(dict[str, Any]):
    """Map names in annotations to types. A name that only a type checker imports maps to Any."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, Any)


def _is_model(*hints: Any) -> bool:
    """Say whether one of some type hints is a language model, or a union with one."""
    named = [one for hint in hints for one in (hint, *(() if get_origin(hint) is list else get_args(hint)))]
    return any(isinstance(one, type) and issubclass(one, LanguageModel) for one in named)


_VIEW = re.compile(r"(\w+)\[([1-9]\d*)\]")


class Roles(dict[str, LanguageModel]):
    """Map roles to the models of a family, and ROLE[n] to the first n layers of a model with its head.

    A missing role raises InputError, which names the role and the arm.
    """

    def __init__(self, family: Mapping[str, LanguageModel], arm: str) -> None:
        super().__init__(family)
        self._arm = arm

    def __missing__(self, role: str) -> LanguageModel:
        if view := _VIEW.fullmatch(role):
            return self[view[1]].truncated(int(view[2]))
        what = f"The arm '{self._arm}' needs a model that this family lacks, in the role"
        raise validate.unknown(what, role, self, "it has")
