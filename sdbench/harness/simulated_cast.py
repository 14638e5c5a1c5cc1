"""Prepare the simulation of an arm whose draft is another role than `draft`, such as the MXFP4 cast of the target.

A simulated cast computes in the dtype of the model, so its measured times are those of the target. Decoding a single sequence is
bound by reading weights. So a step of the stored cast takes the target's measured time, times the share of the bytes that it reads.
A MODEL, not a measurement: `latency.draft=MILLISECONDS` replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sdbench import validate
from sdbench.errors import InputError
from sdbench.models.derived import stored_share
from sdbench.models.hub import read_config
from sdbench.models.skeleton import skeleton
from sdbench.models.spec import ModelSpec, family_specs, resolve
from sdbench.models.weights import dtype_of
from sdbench.simulate.events import Latencies
from sdbench.simulate.pyramid import InnerStage, pyramid_speed

INNER, OUTER = range(1, 7), (4, 6, 8, 10, 12, 16)  # draft lengths of three levels


def draft_role(words: Sequence[str], config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the role that drafts, from the word `draft=ROLE`, and the other words. Raises: InputError."""
    named = [word.removeprefix("draft=") for word in words if word.startswith("draft=")]
    role = named[-1] if named else "draft"
    if role != "draft" and role not in config["models"]:
        raise validate.unknown("The run has no role", role, config["models"], "it has")
    return role, [word for word in words if not word.startswith("draft=")]


def as_draft(tables: Mapping[str, pd.DataFrame], role: str) -> dict[str, pd.DataFrame]:
    """Return the tables of the arms that draft with `role` alone or not at all, with the role renamed to `draft`.

    Raises: InputError if the role drafts for the target in no arm.
    """
    rounds = tables["rounds"]
    by = rounds[rounds["verifier"] == "target"].groupby("arm")["proposer"].first()
    nested = set(rounds.loc[rounds["verifier"] != "target", "arm"])
    drafting = {arm for arm, proposer in by.items() if proposer == role and arm not in nested}
    if not drafting:
        raise InputError(f"In no arm of this run {role} alone drafts for the target, so there is nothing to simulate.")
    arms = drafting | {arm for arm, proposer in by.items() if proposer == ""}
    found = {key: table if key == "bare" else table[table["arm"].isin(arms)] for key, table in tables.items()}
    found["rounds"] = found["rounds"].assign(proposer=found["rounds"]["proposer"].replace(role, "draft"))
    found["steps"] = found["steps"].assign(role=found["steps"]["role"].replace(role, "draft"))
    return found


def cast_seconds(config: Mapping[str, Any], role: str, target_seconds: Sequence[float]) -> float | None:
    """Return the seconds of a step of the stored cast; None if the role is no cast of the target.

    config: of the run. target_seconds: of the target's forwards over one token. Raises: InputError if there is no config of the
    model.
    """
    spec = family_specs(config["models"], [role])[role]
    if spec.derive is None or spec.derive.quantize is None or spec.derive.source != "target":
        return None
    return share_of(spec, spec.dtype or config["hardware"]["dtype"]) * float(np.mean(target_seconds))


def three_levels(
    tables: Mapping[str, pd.DataFrame], role: str, strings: Sequence[np.ndarray], latencies: Latencies
) -> list[dict[str, Any]]:
    """Return a row for each pair of lengths of the three levels draft > role > target; none if no arm of the run has them.

    tables: of the run. strings, latencies: of the simulation of `role` alone. A forward of the role takes the share of the target's
    time that one drafted token of the role takes.
    """
    inner = tables["rounds"].query("verifier == @role and proposer == 'draft'")
    if inner.empty:
        return []
    steps = tables["steps"].query("role == 'draft' and kind == 'draft'")
    kept, refused = int(inner["accepted"].sum()), int((inner["accepted"] < inner["proposed"]).sum())
    share = float(np.mean(latencies.draft)) / float(np.mean(latencies.verify[1]))
    verify = {n: [share * float(np.mean(times))] for n, times in latencies.verify.items()}
    drafted = steps.loc[steps["arm"].isin(set(inner["arm"])), "seconds"].tolist()
    stage = InnerStage(kept / max(kept + refused, 1), drafted, verify, latencies.host)
    return [
        {
            "method": "pyramid",
            "draft_length": outer,
            "inner_length": length,
            "tokens_per_second": pyramid_speed(strings, latencies, stage, length, outer),
        }
        for length in INNER
        for outer in OUTER
        if length <= outer
    ]


def share_of(spec: ModelSpec, dtype: str) -> float:
    """Return the bytes of a stored cast as a share of those of its source. dtype: of the source."""
    assert spec.derive is not None
    whole = family_specs({spec.derive.source: {"path": spec.path, "revision": spec.revision}})[spec.derive.source]
    model = skeleton(read_config(whole, resolve(whole)))
    kept = skeleton(read_config(spec, resolve(spec)))
    layers = sum(weight.numel() for weight in kept.parameters()) / sum(weight.numel() for weight in model.parameters())
    return layers * stored_share(kept, spec.role, spec.derive, dtype_of(spec.role, dtype).itemsize)
