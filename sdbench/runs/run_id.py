"""Compute the `run_id`, a short name for everything that defines a run. Equal ids mean equal measurements."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sdbench.runs.schema import SCHEMA_VERSION

NOT_DEFINING = frozenset({"out", "tracker", "launcher", "hydra"})
"""Top-level keys of a config that change where a run is written, but not its measurements."""

_DIGITS = 12


def canonical(value: Any) -> str:
    """Write a value as JSON with sorted keys and without spaces, so that equal values give equal text.

    Raises:
        TypeError, ValueError: the value has no JSON form (an object, a NaN).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def run_id(
    config: Mapping[str, Any], weights: Mapping[str, str], prompts_sha256: str, code: Mapping[str, str] | None = None
) -> str:
    """Return the first 12 hex digits of the SHA-256 over the config, weights, prompts, own code and schema version.

    Args:
        config: the resolved config as plain dicts and lists. The keys in NOT_DEFINING are ignored.
        weights: by role, the identity of the model (`sdbench.models.identity`).
        prompts_sha256: the SHA-256 of the prompts.
        code: the SHA-256 of each of the user's own Python files, by module (`sdbench.harness.own_code`).
    """
    defining = {key: value for key, value in config.items() if key not in NOT_DEFINING}
    document = {"config": defining, "weights": dict(weights), "prompts": prompts_sha256, "schema": SCHEMA_VERSION}
    if code:
        document["code"] = dict(code)
    return hashlib.sha256(canonical(document).encode()).hexdigest()[:_DIGITS]
