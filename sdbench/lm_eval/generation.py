"""Translate the generation options of an lm-eval task into the bench's. An option that no decoder supports is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdbench.errors import InputError
from sdbench.sampling import Sampling

DEFAULT_MAX_NEW_TOKENS = 256  # lm-eval's default
_READ = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"})
# Options with the value that has no effect.
_NEUTRAL = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1.0, "use_cache": True, "min_p": 0.0}


@dataclass(frozen=True)
class Generation:
    """How a task generates an answer.

    until: strings that end an answer. max_new_tokens: the maximum length. sampling: greedy unless the task samples.
    """

    until: tuple[str, ...]
    max_new_tokens: int
    sampling: Sampling


def generation(options: Mapping[str, Any] | None, task: str) -> Generation:
    """Read the `gen_kwargs` of a request; lm-eval resolves the aliases. task: for messages. Errors: InputError."""
    from lm_eval.models.utils import normalize_gen_kwargs

    asked: dict[str, Any] = dict(normalize_gen_kwargs(dict(options or {}), DEFAULT_MAX_NEW_TOKENS))
    for name, value in asked.items():
        if name not in _READ and (name not in _NEUTRAL or value != _NEUTRAL[name]):
            raise InputError(
                f"{task} asks for {name}={value!r}, which no decoder here does; set it to null in gen_kwargs."
            )
    if asked["max_gen_toks"] < 1:
        raise InputError(f"{task} asks for max_gen_toks={asked['max_gen_toks']}; it must be at least 1.")
    until = tuple(text for text in asked["until"] if text)
    return Generation(until, asked["max_gen_toks"], _sampling(asked, task))


def _sampling(asked: Mapping[str, Any], task: str) -> Sampling:
    if not asked["do_sample"]:
        return Sampling()
    temperature = float(asked.get("temperature", 0.0))
    if temperature <= 0:
        raise InputError(f"{task} asks for do_sample=true without a temperature above 0; give one, or do_sample=false.")
    return Sampling(temperature, int(asked.get("top_k", 0) or 0), float(asked.get("top_p", 1.0)))
