"""Check values of a config. A check raises InputError with one sentence: the value's name, what is wrong, what would be right.

Single values: `whole`, `number`, `switch`, `choice`. For a whole config, or the arguments of a constructor, `conforms` compares a
value with a type hint. Constructors call the first kind, so that a bad value is refused before any weight is loaded.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Collection, Iterable, Mapping, Sequence, Set as AbstractSet
from dataclasses import MISSING, dataclass, fields, is_dataclass
from math import inf, isfinite
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from sdbench.errors import InputError

PLAIN = (str, int, float, bool, list, dict, type(None))  # what YAML gives
LISTS = (list, tuple, set, frozenset, Sequence, Iterable, Collection, AbstractSet)  # hints of a list of values
_LONGEST = 60  # characters of a value that a sentence shows


def whole(name: str, value: Any, least: int = 0, most: float = inf) -> int:
    """Check that `value` is a whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        allowed = f"of at least {least}" if most == inf else f"from {least} to {most}"
        raise InputError(f"{name} is {shown(value)}; it must be a whole number {allowed}.")
    return value


def switch(name: str, value: Any) -> bool:
    """Check that `value` is true or false. Hydra reads `no` and `off` as words, so these are refused."""
    if not isinstance(value, bool):
        raise InputError(f"{name} is {shown(value)}; it must be true or false.")
    return value


def number(name: str, value: Any, low: float = -inf, high: float = inf, bounds: str = "[]") -> float:
    """Check that `value` is a finite number from `low` to `high`.

    bounds: which ends are allowed; "[)" is [low, high).
    """
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if numeric and not isfinite(value):
        raise InputError(f"{name} is {shown(value)}; it must be a finite number.")
    inside = numeric and low <= value <= high
    if not inside or (bounds[0] == "(" and value == low) or (bounds[1] == ")" and value == high):
        raise InputError(f"{name} is {shown(value)}; it must be {_range(low, high, bounds)}.")
    return value


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """Check that `value` is one of `options`."""
    options = list(options)
    if value not in options:
        raise InputError(f"{name} is {shown(value)}; it must be one of {', '.join(options)}.")
    return value


def unknown(what: str, word: str, options: Iterable[str], listed: str = "there are") -> InputError:
    """Return the error for a name that does not exist: the sentence, the name that resembles it most, and the names there are.

    what: the sentence up to the name, such as "There is no arm". listed: what goes before the list.
    """
    return InputError(_unknown(what, word, options, listed))


def _unknown(what: str, word: str, options: Iterable[str], listed: str = "there are") -> str:
    names = [str(option) for option in options]
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return f"{what} '{word}'; did you mean '{near[0]}'? {listed.capitalize()}: {', '.join(names)}."
    return f"{what} '{word}'; {listed}: {', '.join(names) or 'none'}."


@dataclass(frozen=True)
class Range:
    """A range of numbers, for `Annotated[int, Range(1)]` in a schema. bounds: as in `number`."""

    low: float = -inf
    high: float = inf
    bounds: str = "[]"

    def holds(self, value: float) -> bool:
        inside = abs(value) < inf and self.low <= value <= self.high
        return inside and (value, self.bounds[0]) != (self.low, "(") and (value, self.bounds[1]) != (self.high, ")")


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]


def conforms(name: str, value: Any, hint: Any) -> None:
    """Check a value of a config against a type hint: plain types, unions, Literal, lists, mappings and dataclasses.

    A dataclass describes a mapping: its fields are the keys, and a key that is none of them is refused. A field with a default
    may be left out. A hint of another kind, such as a class of this package, only refuses plain values.
    """
    fault = _fault(name, value, hint)
    if fault:
        raise InputError(fault)


def shown(value: Any) -> str:
    """A value as a config writes it, cut after some characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _fault(name: str, value: Any, hint: Any) -> str | None:
    """The sentence that says why a value does not fit a hint; None if it fits."""
    origin = get_origin(hint)
    if origin is Annotated:
        base, *ranges = get_args(hint)
        inside = all(one.holds(value) for one in ranges) if _fault(name, value, base) is None else False
        return None if inside else _wrong(name, value, hint)
    if origin in (Union, types.UnionType):
        faults = [_fault(name, value, option) for option in get_args(hint)]
        if None in faults:
            return None
        deeper = [fault for fault in faults if fault and not fault.startswith(f"{name} is ")]
        return deeper[0] if deeper else _wrong(name, value, hint)
    if is_dataclass(hint) and isinstance(value, Mapping):
        return _fields_fault(name, value, hint)
    if _is_mapping(hint) and isinstance(value, Mapping):
        kinds = get_args(hint)
        named = ((f"{name}.{key}", item) for key, item in value.items())
        return next((fault for key, item in named if (fault := _fault(key, item, kinds[1]))), None) if kinds else None
    if _is_list(hint) and isinstance(value, list | tuple):
        kinds = [kind for kind in get_args(hint) if kind is not Ellipsis]
        named = ((f"{name}[{place}]", item) for place, item in enumerate(value))
        return next((fault for key, item in named if (fault := _fault(key, item, kinds[0]))), None) if kinds else None
    return None if _fits(value, hint) else _wrong(name, value, hint)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value without parts fits a hint without parts."""
    if hint in (Any, object) or isinstance(hint, str):
        return True
    if hint is None or hint is type(None):
        return value is None
    if get_origin(hint) is Literal:
        return any(value is option or (type(value) is type(option) and value == option) for option in get_args(hint))
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float)
    if hint in (int, str):
        return isinstance(value, hint)
    if _is_mapping(hint) or _is_list(hint) or is_dataclass(hint):
        return not isinstance(value, PLAIN)
    if not isinstance(hint, type) or not isinstance(value, PLAIN):
        return True
    return not getattr(hint, "_is_protocol", False) and isinstance(value, hint)


def _fields_fault(name: str, value: Mapping[str, Any], schema: Any) -> str | None:
    hints = get_type_hints(schema, include_extras=True)
    inside = f"{name}." if name else ""
    for key in value:
        if key not in hints:
            return _unknown(f"{name or 'The config'} has no", str(key), hints, "it has")
    for field in fields(schema):
        if field.name in value:
            fault = _fault(f"{inside}{field.name}", value[field.name], hints[field.name])
            if fault:
                return fault
        elif field.default is MISSING and field.default_factory is MISSING:
            return f"{inside}{field.name} is missing; it must be {_described(hints[field.name])}."
    return None


def _wrong(name: str, value: Any, hint: Any) -> str:
    advice = ""
    if isinstance(value, bool | int | float) and _fault(name, "", hint) is None:
        word = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
        key, entry, _ = name.partition("[")
        word = f'["{word}"]' if entry else f'"{word}"'
        advice = f" (as a text it is written '{key}={word}')"
    return f"{name} is {shown(value)}; it must be {_described(hint)}{advice}."


def _described(hint: Any) -> str:
    """What a hint asks for, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        low, high, bounds = arguments[1].low, arguments[1].high, arguments[1].bounds
        return f"a whole number of at least {low:g}" if arguments[0] is int else _range(low, high, bounds)
    if origin in (Union, types.UnionType):
        words = [_described(option) for option in arguments if option is not type(None)]
        return " or ".join(words) + (", or null" if type(None) in arguments else "")
    if origin is Literal:
        return f"one of {', '.join(str(option) for option in arguments)}"
    if _is_list(hint):
        return "a list" if not arguments or arguments[0] is Any else f"a list, each entry {_described(arguments[0])}"
    if _is_mapping(hint) or is_dataclass(hint):
        return "a mapping of names to values"
    plain = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    return plain.get(hint) or f"a mapping whose _target_ names a {getattr(hint, '__name__', hint)}"


def _range(low: float, high: float, bounds: str) -> str:
    if (low, high) == (-inf, inf):
        return "a number"
    left, right = "(" if low == -inf else bounds[0], ")" if high == inf else bounds[1]
    return f"a number in {left}{low:g}, {high:g}{right}"


def _is_list(hint: Any) -> bool:
    return (get_origin(hint) or hint) in LISTS


def _is_mapping(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, Mapping)
