"""The fan-out of a speculation cache for what an arm logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdbench.asynchronous.fan_out import geometric


def fan_out_of(logged: Mapping[str, Any], length: int, budget: int) -> tuple[int, ...]:
    """Theorem 12's fan-out (2603.03251) for the acceptance and the power law of ranks in `logged`."""
    return geometric(min(max(float(logged["acceptance"]), 0.01), 0.99), logged["exponent"], length, budget)
