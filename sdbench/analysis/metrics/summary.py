"""Compute the content of `summary.json`: every metric of every arm, from the tables."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np
import pandas as pd

from sdbench.analysis.metrics import acceptance, model_time, order, quality, repetition, speed, ssd
from sdbench.analysis.metrics.bandwidth import Reads, bandwidth_share
from sdbench.analysis.metrics.thinking import thinking
from sdbench.analysis.stats.intervals import FEWEST_PROMPTS, FewPrompts
from sdbench.analysis.stats.power import detectable_difference
from sdbench.analysis.stats.tests import MARGIN, holm, non_inferiority
from sdbench.analysis.tables import ERROR, Tables, by_arm, decode_seconds, of_arm, target_rounds, usable
from sdbench.errors import InputError
from sdbench.runs.schema import SCHEMA_VERSION
from sdbench.simulate.prediction import host_seconds_per_step, predict


class ArmMeta(TypedDict):
    """The facts about an arm that the tables do not hold.

    lossless: whether its output has the target's law; devices: the devices of its models; mode: `natural` or `fixed`
    (ignore_eos); memory_bytes: weights and pools; config: its resolved knobs; synthetic: whether the prompts are random or
    repeated; end_to_end_only: whether it cannot tell prefill from decoding (a peer); lost_draft_blocks: number of blocks
    that went on without a draft because its process failed; simulated_acceptance: whether acceptance was forced, not
    tested; identity: number of sequences whose greedy tokens equal the baseline's, part at a tie, or do not match.
    not_finite: where the arm's numbers first were not finite (None: nowhere). failure: the error that stopped the arm.
    reads: by model, what its steps must read.
    """

    lossless: bool
    devices: Sequence[str]
    mode: str
    memory_bytes: int | None
    config: Mapping[str, Any]
    synthetic: NotRequired[bool]
    end_to_end_only: NotRequired[bool]
    lost_draft_blocks: NotRequired[int]
    simulated_acceptance: NotRequired[bool]
    identity: NotRequired[Mapping[str, int] | None]
    not_finite: NotRequired[str | None]
    failure: NotRequired[str | None]
    reads: NotRequired[Mapping[str, Reads]]


def summarise(
    tables: Tables,
    baseline: str,
    arms_meta: Mapping[str, ArmMeta],
    margin: float = MARGIN,
    shared_blocks: int = 0,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Compute the content of `summary.json`.

    Args:
        tables: `sequences`, `rounds`, `steps`, `bare`.
        baseline: the arm that all others are paired with.
        arms_meta: the facts that the tables do not hold, by arm; also the arms' order.
        margin: of the non-inferiority test, in the score's unit.
        shared_blocks: number of blocks during which another job worked on the same device or cores.
        notes: sentences on the run's models that its reader must know.

    Returns:
        A JSON-safe document. A metric without data is null.

    Raises:
        InputError: the baseline is none of the arms.
    """
    if baseline not in arms_meta:
        raise InputError(f"the baseline {baseline} is none of the arms {', '.join(arms_meta)}; add it or name another")
    clean = usable(tables)
    common = _Common(
        reference=of_arm(clean, baseline)["sequences"],
        host_seconds=host_seconds_per_step(clean, baseline),
        verify_seconds=model_time.verify_seconds(clean["steps"]),
        margin=margin,
    )
    split = by_arm(clean)
    errors = tables["sequences"].loc[tables["sequences"]["finish_reason"] == ERROR, "arm"].value_counts()
    prompts = int(tables["sequences"]["prompt_id"].nunique())
    with warnings.catch_warnings():
        # One warning for the run is enough.
        warnings.simplefilter("ignore", FewPrompts)
        arms = {
            name: {
                **_arm(split.get(name) or of_arm(clean, name), name, meta, common),
                "failed": int(errors.get(name, 0)),
                "shared_device": shared_blocks > 0,
            }
            for name, meta in arms_meta.items()
        }
    for arm in arms.values():
        if arm["speculation"]:
            arm["speculation"]["corollary_9"] = ssd.bounds_over_sd(arm, arms)
    _adjust(arms, baseline)
    if prompts < FEWEST_PROMPTS:
        message = f"{prompts} prompts are few: intervals are rough below {FEWEST_PROMPTS}"
        warnings.warn(message, FewPrompts, stacklevel=2)
    return _json_safe(
        {
            "schema_version": SCHEMA_VERSION,
            "baseline": baseline,
            "prompts": prompts,
            "repeats": int(tables["sequences"]["repeat"].nunique()),
            "shared_device": shared_blocks > 0,
            "shared_blocks": shared_blocks,
            "notes": list(notes),
            "arms": arms,
        }
    )


def configured_lengths(config: Mapping[str, Any], rounds: pd.DataFrame) -> dict[str, int]:
    """Read the configured draft length of each stage, by its verifier, off an arm's nesting: `draft_length`,
    `proposer.draft_length`, ...

    A stage whose length is not a plain number has no entry.
    """
    stages = rounds[["verifier", "proposer"]].drop_duplicates()
    proposers = dict(zip(stages["verifier"], stages["proposer"], strict=True))
    lengths: dict[str, int] = {}
    stage, verifier = config, "target"
    while verifier in proposers and isinstance(stage, Mapping):
        length = stage.get("draft_length")
        if isinstance(length, int):
            lengths[verifier] = length
        stage, verifier = stage.get("proposer") or {}, proposers.pop(verifier)
    return lengths


@dataclass(frozen=True)
class _Common:
    """The values that all arms share: the baseline's sequences and host time per step, and the target's step times."""

    reference: pd.DataFrame
    host_seconds: float
    verify_seconds: pd.Series
    margin: float


def _arm(arm: Tables, name: str, meta: ArmMeta, common: _Common) -> dict[str, Any]:
    """Compute every metric of one arm from its rows."""
    sequences, rounds = arm["sequences"], arm["rounds"]
    outer = target_rounds(rounds)
    simulated, peer = meta.get("simulated_acceptance", False), meta.get("end_to_end_only", False)
    identity = meta.get("identity")
    # Forced acceptance makes the text meaningless, so it gets no quality.
    repetition_rate = math.nan if simulated else repetition.degenerate_rate(sequences)
    cache = ssd.speculation(arm)
    knobs = meta["config"]
    overlap = ssd.overlapped(arm, knobs.get("pre_verify", True) and knobs.get("post_verify", True))
    if cache is not None:
        predicted = cache["theorem_7_tokens_per_second"]
    elif overlap is not None:
        predicted = overlap["predicted_tokens_per_second"]
    elif peer or (arm["steps"]["kind"] == "run").any():
        predicted = None  # a peer records no steps; no published formula covers a draft that never waits
    else:
        predicted = predict(arm, name, configured_lengths(knobs, rounds), common.host_seconds)
    return {
        "tokens_per_second": None if peer else speed.tokens_per_second(sequences),
        "end_to_end_tokens_per_second": speed.end_to_end_tokens_per_second(sequences),
        **_speedups(sequences, common.reference, whole_only=peer),
        "first_token_seconds": speed.first_token_seconds(sequences),
        "seconds_per_token": None if peer else speed.seconds_per_token(sequences),
        "tokens_per_target_call": (speed.emitted_per_target_call if peer else speed.tokens_per_target_call)(sequences),
        "accepted_per_round": acceptance.accepted_per_round(rounds),
        "acceptance_rate": acceptance.acceptance_rate(outer),
        "acceptance_by_position": acceptance.acceptance_by_position(outer),
        "edges": acceptance.edges(rounds),
        "thinking": None if peer else thinking(sequences, rounds),
        "order_trend": order.order_trend(sequences),
        "updates": order.updates(rounds, decode_seconds(sequences)),
        "target_calls_per_answer": speed.target_calls_per_answer(sequences),
        "output_tokens": quality.output_tokens(sequences),
        "length_rate": quality.length_rate(sequences),
        **_quality(sequences, common.reference, common.margin),
        **_likelihood(sequences, common.reference),
        "agreement": None if simulated else quality.agreement(sequences, common.reference),
        "degenerate_rate": repetition_rate,
        "degenerate": repetition_rate >= repetition.FLAGGED_RATE,
        **_time(arm, common.verify_seconds, knobs.get("threads"), configured_lengths(knobs, rounds).get("target")),
        "predicted_tokens_per_second": predicted,
        "hit_rate": None if cache is None else cache["hit_rate"],
        "speculation": cache,
        "overlapped": overlap,
        "ranks": ssd.ranks(rounds),
        "memory_bytes": meta["memory_bytes"],
        "bandwidth_share": bandwidth_share(arm["steps"], meta.get("reads") or {}),
        "joules_per_token": speed.joules_per_token(sequences),
        "devices": list(meta["devices"]),
        "mode": meta["mode"],
        "lossless": meta["lossless"],
        "synthetic": meta.get("synthetic", False),
        "end_to_end_only": peer,
        "simulated_acceptance": simulated,
        "identity": None if identity is None else dict(identity),
        "lost_draft_blocks": meta.get("lost_draft_blocks", 0),
        "not_finite": meta.get("not_finite"),
        "failure": meta.get("failure"),
        "void": (identity is not None and identity["mismatches"] > 0)
        or any(meta.get(reason) is not None for reason in ("not_finite", "failure")),
        "prompts": int(sequences["prompt_id"].nunique()),
        "sequences": len(sequences),
        "config": dict(knobs),
    }


def stopped_arms(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return why each arm ended early that did: the error that it raised, or where its numbers first were not finite."""
    reasons = {name: arm.get("failure") or arm.get("not_finite") for name, arm in summary["arms"].items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _speedups(sequences: pd.DataFrame, reference: pd.DataFrame, whole_only: bool) -> dict[str, Any]:
    """Compute the paired speed ratios. whole_only: end to end alone, the others are null."""
    whole = speed.speedup(sequences, reference, whole=True)
    gain = speed.speedup(sequences, reference)
    return {
        "speedup": None if whole_only else gain.value,
        "speedup_ci95": None if whole_only else gain.ci95,
        "speedup_units": gain.units,
        "speedup_totals": None if whole_only else speed.speedup_totals(sequences, reference),
        "speedup_ci95_bca": None if whole_only else gain.ci95_bca,
        "speedup_p": None if whole_only else gain.p,
        "minimum_detectable_effect": None if whole_only else gain.smallest,
        "end_to_end_speedup": whole.value,
        "end_to_end_speedup_ci95": whole.ci95,
    }


def _quality(sequences: pd.DataFrame, reference: pd.DataFrame, margin: float) -> dict[str, Any]:
    scores = quality.prompt_scores(sequences)
    estimate = quality.quality(scores)
    test = non_inferiority(scores, quality.prompt_scores(reference), margin)
    return {
        "quality": estimate.value,
        "quality_ci95": estimate.ci95,
        "quality_difference": test.difference,
        "quality_difference_ci95": test.ci95,
        "non_inferior": test.non_inferior if test.prompts else None,
        "margin": margin,
        "quality_p": test.pairs.p,
        "quality_test": test.pairs.test if test.prompts else None,
        "quality_minimum_detectable_effect": detectable_difference(test.pairs.values),
    }


def _likelihood(sequences: pd.DataFrame, reference: pd.DataFrame) -> dict[str, Any]:
    own, difference = quality.likelihood(sequences, reference)
    return {
        "nats_per_token": own.value,
        "nats_per_token_ci95": own.ci95,
        "nats_difference": difference.value,
        "nats_difference_ci95": difference.ci95,
        "as_likely": quality.as_likely(difference),
    }


def _adjust(arms: dict[str, dict[str, Any]], baseline: str) -> None:
    """Add Holm's adjusted p of speed and of quality. The family of tests is all arms of the run but the baseline."""
    for test in ("speedup_p", "quality_p"):
        adjusted = holm({name: arm[test] for name, arm in arms.items() if name != baseline})
        for name, arm in arms.items():
            arm[f"{test}_holm"] = adjusted.get(name)


def _time(arm: Tables, verify_seconds: pd.Series, threads: int | None, length: int | None) -> dict[str, Any]:
    if threads is not None:
        # Reference forwards run with the hardware's threads, so they do not fit an arm with another number of threads.
        arm = {**arm, "bare": arm["bare"].iloc[:0]}
    division = model_time.model_time(arm)
    return {
        "model_time_fraction": division.fraction,
        "step_overhead_fraction": division.step_overhead,
        "host_fraction": division.host,
        "bare_coverage": division.coverage,
        "uncompiled_steps": model_time.uncompiled_steps(arm["steps"]),
        "seconds_per_round": model_time.seconds_per_round(arm),
        "oracle_length_tokens_per_second": speed.oracle_length_tokens_per_second(arm, verify_seconds),
        "oracle_length_open_rounds": speed.open_rounds(arm["rounds"], length),
    }


def _json_safe(value: Any) -> Any:
    """Convert to plain dicts, lists and numbers; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_safe(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
