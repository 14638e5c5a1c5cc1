"""What defines a run, as a short name: two runs with the same `run_id` answer the same question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sdbench.runs.schema import SCHEMA_VERSION

NOT_DEFINING = frozenset({"out", "tracker", "launcher", "hydra"})
"""Top-level keys of a config that change where a run goes, not what it measures."""

_DIGITS = 12


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text.

    Raises:
        TypeError, ValueError: the value has no JSON form (an object, a NaN).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def run_id(config: Mapping[str, Any], weights: Mapping[str, str], prompts_sha256: str) -> str:
    """The first 12 hex digits of the SHA-256 of what defines a run.

    Args:
        config: the resolved config as plain dicts and lists; its output, tracker and launcher keys are left out.
        weights: each role's weights' identity (SHA-256 of local files, revision of hub ones).
        prompts_sha256: the prompts' SHA-256.
    """
    defining = {key: value for key, value in config.items() if key not in NOT_DEFINING}
    document = {"config": defining, "weights": dict(weights), "prompts": prompts_sha256, "schema": SCHEMA_VERSION}
    return hashlib.sha256(canonical(document).encode()).hexdigest()[:_DIGITS]
