"""The share of a device's bandwidth that the steps of a model use.

A step must read the weights once, and the keys and values of its context. The share is what it must read, per second, over what
the device reads (`sdbench.runs.bandwidth`). A small share means that something else than memory takes the time: the host, small
kernels, or products over many tokens. Weights that fit a processor's caches are read faster than from memory, so a share can
exceed 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import pandas as pd


class Reads(TypedDict):
    """What a step of a model must read.

    weight_bytes: of the weights, each once. token_bytes: of the keys and values of one token. bytes_per_second: of its device.
    """

    weight_bytes: int
    token_bytes: float
    bytes_per_second: float


def bandwidth_share(steps: pd.DataFrame, reads: Mapping[str, Reads]) -> dict[str, float] | None:
    """Return the share of each model, over the steps of one arm behind the prefill. None if no step has a known model."""
    found = {}
    for role, part in steps[steps["round"] >= 0].groupby("role"):
        about = reads.get(str(role))
        seconds = float(part["seconds"].sum())
        if about is None or seconds <= 0:
            continue
        tokens = float((part["context"] * part["rows"]).sum())
        must = about["weight_bytes"] * len(part) + about["token_bytes"] * tokens
        found[str(role)] = must / (seconds * about["bytes_per_second"])
    return found or None
