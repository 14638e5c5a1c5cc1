"""`summary.json`: every metric of every arm, computed from the tables."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np
import pandas as pd

from sdbench.analysis import bounds, degenerate, metrics, speculation, statistics
from sdbench.analysis.multiplicity import holm
from sdbench.analysis.power import detectable_difference
from sdbench.analysis.rows import ERROR, Tables, by_arm, of_arm, target_rounds, usable
from sdbench.errors import InputError
from sdbench.runs.schema import SCHEMA_VERSION
from sdbench.simulate.prediction import host_seconds_per_step, predict


class ArmMeta(TypedDict):
    """What the tables cannot say about an arm.

    lossless: whether its output has the target's law; devices: where its models are; mode: `natural` or `fixed`
    (ignore_eos);
    memory_bytes: weights and pools; config: its resolved knobs; synthetic: the prompts are made up (random, repeated).
    end_to_end_only: its prefill cannot be told from its decoding (a peer); lost_draft_blocks: blocks that went on
    without a draft, whose process was lost; simulated_acceptance: what is accepted was
    forced, not tested; identity: sequences whose greedy tokens are the baseline's, part at a tie, or do not match.
    not_finite: where the arm's numbers first were not finite (None: nowhere).
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


def summarise(
    tables: Tables,
    baseline: str,
    arms_meta: Mapping[str, ArmMeta],
    margin: float = statistics.MARGIN,
    shared_blocks: int = 0,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of `summary.json`.

    Args:
        tables: `sequences`, `rounds`, `steps`, `bare`.
        baseline: the arm that all others are paired with.
        arms_meta: what the tables cannot say, by arm; also the arms' order.
        margin: of the non-inferiority test, in the score's unit.
        shared_blocks: blocks during which another job worked on the same device or cores.
        notes: sentences on the run's models that its reader must know.

    Returns:
        JSON-safe: a metric that cannot be computed is null.

    Raises:
        InputError: the baseline is none of the arms.
    """
    if baseline not in arms_meta:
        raise InputError(f"the baseline {baseline} is none of the arms {', '.join(arms_meta)}; add it or name another")
    clean = usable(tables)
    common = _Common(
        reference=of_arm(clean, baseline)["sequences"],
        host_seconds=host_seconds_per_step(clean, baseline),
        verify_seconds=bounds.verify_seconds(clean["steps"]),
        margin=margin,
    )
    split = by_arm(clean)
    errors = tables["sequences"].loc[tables["sequences"]["finish_reason"] == ERROR, "arm"].value_counts()
    prompts = int(tables["sequences"]["prompt_id"].nunique())
    with warnings.catch_warnings():
        # Said once for the run, not once for each arm.
        warnings.simplefilter("ignore", statistics.FewPrompts)
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
            arm["speculation"]["corollary_9"] = speculation.bounds_over_sd(arm, arms)
    _adjust(arms, baseline)
    if prompts < statistics.FEWEST_PROMPTS:
        message = f"{prompts} prompts are few: intervals are rough below {statistics.FEWEST_PROMPTS}"
        warnings.warn(message, statistics.FewPrompts, stacklevel=2)
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
        stage, verifier = stage.get("proposer") or {}, proposers[verifier]
    return lengths


@dataclass(frozen=True)
class _Common:
    """What all arms are held against: the baseline's sequences and host time per step, and the target's step times."""

    reference: pd.DataFrame
    host_seconds: float
    verify_seconds: pd.Series
    margin: float


def _arm(arm: Tables, name: str, meta: ArmMeta, common: _Common) -> dict[str, Any]:
    """Everything about one arm, from its rows."""
    sequences, rounds = arm["sequences"], arm["rounds"]
    outer = target_rounds(rounds)
    simulated, peer = meta.get("simulated_acceptance", False), meta.get("end_to_end_only", False)
    identity = meta.get("identity")
    # Where acceptance is forced the text is nobody's answer: nothing is said of it.
    repetition = math.nan if simulated else degenerate.degenerate_rate(sequences)
    cache = speculation.speculation(arm)
    knobs = meta["config"]
    beside = speculation.overlapped(arm, knobs.get("pre_verify", True) and knobs.get("post_verify", True))
    if cache is not None:
        predicted = cache["theorem_7_tokens_per_second"]
    elif beside is not None:
        predicted = beside["predicted_tokens_per_second"]
    elif peer or (arm["steps"]["kind"] == "run").any():
        predicted = None  # a peer tells of no steps; and no form is published for a draft that never waits
    else:
        predicted = predict(arm, name, configured_lengths(meta["config"], rounds), common.host_seconds)
    return {
        "tokens_per_second": None if peer else metrics.tokens_per_second(sequences),
        "end_to_end_tokens_per_second": metrics.end_to_end_tokens_per_second(sequences),
        **_speed(sequences, common.reference, whole_only=peer),
        "first_token_seconds": metrics.first_token_seconds(sequences),
        "seconds_per_token": None if peer else metrics.seconds_per_token(sequences),
        "tokens_per_target_call": (metrics.emitted_per_target_call if peer else metrics.tokens_per_target_call)(
            sequences
        ),
        "accepted_per_round": metrics.accepted_per_round(rounds),
        "acceptance_rate": metrics.acceptance_rate(outer),
        "acceptance_by_position": metrics.acceptance_by_position(outer),
        "edges": metrics.edges(rounds),
        "target_calls_per_answer": metrics.target_calls_per_answer(sequences),
        "output_tokens": metrics.output_tokens(sequences),
        "length_rate": metrics.length_rate(sequences),
        **_quality(sequences, common.reference, common.margin),
        "agreement": None if simulated else metrics.agreement(sequences, common.reference),
        "degenerate_rate": repetition,
        "degenerate": repetition >= degenerate.FLAGGED_RATE,
        **_time(arm, common.verify_seconds, meta["config"].get("threads")),
        "predicted_tokens_per_second": predicted,
        "hit_rate": None if cache is None else cache["hit_rate"],
        "speculation": cache,
        "overlapped": beside,
        "ranks": speculation.ranks(rounds),
        "memory_bytes": meta["memory_bytes"],
        "devices": list(meta["devices"]),
        "mode": meta["mode"],
        "lossless": meta["lossless"],
        "synthetic": meta.get("synthetic", False),
        "end_to_end_only": peer,
        "simulated_acceptance": simulated,
        "identity": None if identity is None else dict(identity),
        "lost_draft_blocks": meta.get("lost_draft_blocks", 0),
        "not_finite": meta.get("not_finite"),
        "void": (identity is not None and identity["mismatches"] > 0) or meta.get("not_finite") is not None,
        "prompts": int(sequences["prompt_id"].nunique()),
        "sequences": len(sequences),
        "config": dict(meta["config"]),
    }


def _speed(sequences: pd.DataFrame, reference: pd.DataFrame, whole_only: bool) -> dict[str, Any]:
    """Paired speed ratios; whole_only: end to end alone, the others null."""
    whole = statistics.speedup(sequences, reference, whole=True)
    gain = statistics.speedup(sequences, reference)
    return {
        "speedup": None if whole_only else gain.value,
        "speedup_ci95": None if whole_only else gain.ci95,
        "speedup_units": gain.units,
        "speedup_totals": None if whole_only else statistics.speedup_totals(sequences, reference),
        "speedup_ci95_bca": None if whole_only else gain.ci95_bca,
        "speedup_p": None if whole_only else gain.p,
        "minimum_detectable_effect": None if whole_only else gain.smallest,
        "end_to_end_speedup": whole.value,
        "end_to_end_speedup_ci95": whole.ci95,
    }


def _quality(sequences: pd.DataFrame, reference: pd.DataFrame, margin: float) -> dict[str, Any]:
    scores = metrics.prompt_scores(sequences)
    estimate = statistics.quality(scores)
    test = statistics.non_inferiority(scores, metrics.prompt_scores(reference), margin)
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


def _adjust(arms: dict[str, dict[str, Any]], baseline: str) -> None:
    """Add Holm's adjusted p of speed and of quality: the family is all arms of the run but the baseline."""
    for test in ("speedup_p", "quality_p"):
        adjusted = holm({name: arm[test] for name, arm in arms.items() if name != baseline})
        for name, arm in arms.items():
            arm[f"{test}_holm"] = adjusted.get(name)


def _time(arm: Tables, verify_seconds: pd.Series, threads: int | None) -> dict[str, Any]:
    if threads is not None:
        # Bare forwards are timed with the hardware's threads: they say nothing of an arm that has others.
        arm = {**arm, "bare": arm["bare"].iloc[:0]}
    division = bounds.model_time(arm)
    return {
        "model_time_fraction": division.fraction,
        "step_overhead_fraction": division.step_overhead,
        "host_fraction": division.host,
        "bare_coverage": division.coverage,
        "uncompiled_steps": bounds.uncompiled_steps(arm["steps"]),
        "seconds_per_round": bounds.seconds_per_round(arm),
        "oracle_length_tokens_per_second": bounds.oracle_length_tokens_per_second(arm, verify_seconds),
    }


def _json_safe(value: Any) -> Any:
    """Plain dicts, lists and numbers; NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_safe(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
