"""Turn the words of a command line into overrides in Hydra's grammar.

The grammar gives `~ = ! # , ( [ {`, quotes, blanks and letters beyond ASCII a special meaning. This module quotes a word that the
grammar cannot read, such as a path. Text in double quotes may hold the escapes of YAML (`"\\n"` is a line break). In single quotes,
and without quotes, a backslash is a plain character.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Sequence
from typing import Any

import yaml

from sdbench.errors import InputError
from sdbench.harness.simulated_acceptance import KNOB
from sdbench.paths import expanded

_WORD = re.compile(r"(?P<sign>\+\+|\+|~)?(?P<key>[^=]*)=(?P<value>.*)", re.DOTALL)
# No config file has these keys: the axes of a grid, and forced acceptance. Hydra must add them.
_ADDED = re.compile(rf"arms\.[^.=]+\.(grid\.|{KNOB}$)")
_STRINGS = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
# The values of these keys are text, with any first character.
_TEXT_KEY = re.compile(r"(^|\.)(out|name|path|url|command|\w+_field|project|entity|group)$")
_OPENING, _CLOSING = "[{(", "]})"


def as_overrides(words: Sequence[str], lm_eval_tasks: Collection[str] = (), sweep: bool = False) -> list[str]:
    """Turn the words of a user into overrides that Hydra reads with the user's meaning.

    lm_eval_tasks: the tasks of lm-eval that have a config file. `tasks=lm_eval/NAME` with another name becomes `lm_eval/any`.
    sweep: whether commas separate values. Raises: InputError, which shows how to quote the word.
    """
    found = []
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None:
            if not re.fullmatch(r"~[\w./@-]+", word):
                raise InputError(f"'{word}' is no override: write KEY=VALUE, such as limit=10.")
            found.append(word)
            continue
        sign, key, value = match["sign"] or "", match["key"], match["value"]
        named = re.fullmatch(r"lm_eval/([\w.-]+)", value) if key == "tasks" else None
        if named and value not in lm_eval_tasks:
            found += ["tasks=lm_eval/any", f"tasks.task={quote(named[1])}"]
            continue
        if not sign and _ADDED.match(key):
            sign = "++"
        if not _parses(f"{sign}{key}=1"):
            raise InputError(
                f"The word '{word}' cannot be read: a key has letters from a to z, digits and _ . / @ only, without blanks."
            )
        found.append(f"{sign}{key}={_readable(key, value, sweep)}")
    return found


def quote(text: str, interpolate: bool = True) -> str:
    """Return a text as a quoted value in Hydra's grammar. interpolate: whether Hydra may resolve `${...}` in it."""
    if not interpolate:
        text = text.replace("${", "\\${")
    # In Hydra's grammar a backslash counts as an escape only before a quote.
    text = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", text)
    return "'" + re.sub(r"(\\+)\Z", lambda found: found[1] * 2, text) + "'"


def _readable(key: str, value: str, sweep: bool) -> str:
    """Return a value in a form that Hydra's grammar can read. Raises: InputError."""
    plain_path = _exists(value)
    if plain_path and "${" in value:
        return quote(value, interpolate=False)
    value = _STRINGS.sub(_unescaped, value)
    parsed = _parses(f"{key}={value}")
    if parsed is not None and not parsed.is_sweep_override():
        return value
    if plain_path:
        return quote(value)
    if parsed is not None:
        if sweep:
            return value
        plain = f"{key}=[{value}]" if key in ("arms", "tracker.tags", "tasks.stop") else f'{key}="{value}"'
        raise InputError(
            f"'{key}={value}' gives several values, which only a sweep (-m) takes; as one value it is written "
            f"{shlex.quote(plain)}."
        )
    parts = _split(value) if sweep else [value]
    if len(parts) > 1:
        return ",".join(_readable(key, part, sweep=False) for part in parts)
    if value[:1] in "[{" and value[-1:] in "]}":
        document = _yaml(value)
        if isinstance(document, list | dict):
            return _literal(document)
    if value[:1] in (*_OPENING, "'", '"') and not _TEXT_KEY.search(key):
        raise InputError(
            f"The word {key}={value} cannot be read: its brackets or quotes do not match; write a list without blanks, such as "
            "arms=[ar,sd]; as plain text it is written "
            f"{shlex.quote(f'{key}={json.dumps(value, ensure_ascii=False)}')}."
        )
    return quote(value)


def _exists(value: str) -> bool:
    """Tell whether a value is a path that exists, or a new path in a folder whose name holds special signs."""
    path = expanded(value)
    try:
        return path.exists() or any(set(str(folder)) & set(",${") and folder.exists() for folder in path.parents)
    except (OSError, ValueError):  # the value cannot be the name of a file
        return False


def _unescaped(found: re.Match[str]) -> str:
    """Return a quoted string. In a double-quoted string, resolve the escapes as in YAML."""
    text = found[0]
    if text[0] == "'" or "\\" not in text:
        return text
    read = _yaml(text)
    return quote(read) if isinstance(read, str) else text


def _yaml(text: str) -> Any:
    """Return the value of a YAML text; None if it is not YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _literal(value: Any) -> str:
    """Return a value of YAML, written in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}: {_literal(item)}' for key, item in value.items())}}}"
    return quote(value) if isinstance(value, str) else json.dumps(value)


def _split(value: str) -> list[str]:
    """Split a value at the commas outside brackets and quotes."""
    parts, depth, start = [], 0, 0
    hidden = _STRINGS.sub(lambda found: "x" * len(found[0]), value)
    for place, sign in enumerate(hidden):
        depth += (sign in _OPENING) - (sign in _CLOSING)
        if sign == "," and depth <= 0:
            parts.append(value[start:place])
            start = place + 1
    return [*parts, value[start:]]


def _parses(word: str) -> Any:
    """Parse a word with Hydra. Return None if its grammar cannot read the word."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(word)
        override.value()
        return override
    except HydraException:
        return None
