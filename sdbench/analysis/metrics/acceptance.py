"""Acceptance: how many drafted tokens the verifiers keep, by edge and by position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sdbench.analysis.metrics.calibration import calibration
from sdbench.analysis.tables import ratio, target_rounds
from sdbench.topology import Topology


def accepted_per_round(rounds: pd.DataFrame) -> float:
    """Divide accepted drafted tokens by rounds of the outermost edge, bonus excluded. A round that drafted nothing counts."""
    outer = target_rounds(rounds)
    return ratio(outer["accepted"].sum(), len(outer))


def acceptance_rate(rounds: pd.DataFrame) -> float:
    """Divide accepted by proposed drafted tokens of the given rounds; NaN where nothing was proposed, and for token trees.

    A tree proposes alternatives, so most of its tokens cannot be kept. Its depth reached and its nodes per call tell more.
    """
    if "nodes" in rounds and rounds["nodes"].notna().any():
        return float("nan")
    return ratio(rounds["accepted"].sum(), rounds["proposed"].sum())


def trees(rounds: pd.DataFrame) -> dict[str, Any] | None:
    """Describe the token trees of the given rounds; None if there are none.

    nodes_per_call: drafted tokens per verification. depth_reached: accepted tokens per verification.
    width_by_depth: the mean number of nodes at each depth, from 1 on.
    """
    if "nodes" not in rounds or rounds["nodes"].isna().all():
        return None
    part = rounds[rounds["nodes"].notna()]
    shapes = [Topology(tuple(parents)).widths for parents in part["parents"]]
    deepest = max(map(len, shapes))
    widths = np.array([[*shape, *[0] * (deepest - len(shape))] for shape in shapes])
    return {
        "nodes_per_call": float(part["nodes"].mean()),
        "depth_reached": float(part["accepted"].mean()),
        "width_by_depth": widths.mean(0).tolist(),
    }


def read_per_round(rounds: pd.DataFrame) -> float | None:
    """Return the mean number of tokens read behind the decided ones; None if the verifier read nothing but drafts."""
    if "read" not in rounds or rounds["read"].isna().all():
        return None
    return float(rounds["read"].fillna(rounds["proposed"]).mean())


def acceptance_by_position(rounds: pd.DataFrame) -> list[float]:
    """Compute P(accepted >= k), k = 1 .. the longest draft, over all the given rounds: unconditional, falling (vLLM's)."""
    accepted = rounds["accepted"].to_numpy()
    return [float(np.mean(accepted >= k)) for k in range(1, _longest(rounds) + 1)]


def conditional_acceptance_by_position(rounds: pd.DataFrame) -> list[float]:
    """Compute P(accepted >= k | token k was drafted and all before it accepted): EAGLE's n-alpha. NaN where never tried."""
    accepted, proposed = rounds["accepted"].to_numpy(), rounds["proposed"].to_numpy()
    tried = [(accepted >= k - 1) & (proposed >= k) for k in range(1, _longest(rounds) + 1)]
    return [ratio((accepted >= k)[mask].sum(), mask.sum()) for k, mask in enumerate(tried, start=1)]


def edges(rounds: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Describe each edge: rounds, proposed, accepted, emitted, their rates, both acceptances by position, and histograms.

    trees: of token trees. read_per_round: of a verifier that reads more than the draft. calibration: of a draft model.
    histogram[n]: rounds that accepted n tokens. proposed_histogram[n]: rounds that drafted n.
    """
    return {str(edge): _edge(part) for edge, part in rounds.groupby("edge") if part["proposed"].any()}


def _edge(rounds: pd.DataFrame) -> dict[str, Any]:
    return {
        "rounds": len(rounds),
        "proposed": int(rounds["proposed"].sum()),
        "accepted": int(rounds["accepted"].sum()),
        "acceptance_rate": acceptance_rate(rounds),
        "accepted_per_round": ratio(rounds["accepted"].sum(), len(rounds)),
        "emitted_per_round": ratio(rounds["emitted"].sum(), len(rounds)),
        "acceptance_by_position": acceptance_by_position(rounds),
        "conditional_acceptance_by_position": conditional_acceptance_by_position(rounds),
        "trees": trees(rounds),
        "read_per_round": read_per_round(rounds),
        "calibration": calibration(rounds),
        "histogram": np.bincount(rounds["accepted"]).tolist(),
        "proposed_histogram": np.bincount(rounds["proposed"]).tolist(),
    }


def _longest(rounds: pd.DataFrame) -> int:
    return int(rounds["proposed"].max()) if len(rounds) else 0
