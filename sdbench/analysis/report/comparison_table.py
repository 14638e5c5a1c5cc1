"""The tables of one run, made from its summary: the comparison of its arms, the bounds on their speed, and every metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdbench.analysis.metrics.model_time import WHOLE_COVERAGE
from sdbench.analysis.metrics.repetition import FLAGGED_RATE
from sdbench.analysis.report.grid import MISSING, Column, Grid, estimate, number, percent
from sdbench.analysis.stats.intervals import FEWEST_PROMPTS

if TYPE_CHECKING:
    from sdbench.runs.record import Run

FLAGS = {
    "V": "void: its greedy tokens are not the baseline's, apart from ties, or its numbers were not finite, or an error stopped it; "
    "its speed counts for nothing",
    "A": "SIMULATED ACCEPTANCE: the number of accepted tokens was forced, not tested; this shows the cost of the system, not its "
    "quality",
    "P": "a peer: the loop of another library or of a server; compared end to end, prefill included on both sides",
    "D": f"degenerate: at least {FLAGGED_RATE:.0%} of its answers repeat themselves; its speed is worth nothing",
    "L": "lossy: its output is not the target's; read its speed together with its quality",
    "Q": "its quality is not shown to be non-inferior to the baseline's within the margin",
    "S": "synthetic prompts: acceptance and speed on real prompts may differ much",
    "F": "fixed length: stops were ignored, and the tokens after an answer count",
    "O": "acceptance rises over the order of the prompts: its drafter learns from earlier prompts, or later prompts are easier; "
    "its speed belongs to this list of prompts",
    "N": f"fewer than {FEWEST_PROMPTS} prompts, or blocks of prompts decoded together: the intervals are rough",
    "E": "some of its sequences failed; they are left out together with their blocks",
    "B": "reference forwards were not timed for all its shapes: its model time is a lower bound",
    "U": "some of its steps ran in eager mode because no compiled program fitted them",
    "X": "its draft process failed in some blocks, which went on without a draft: its speed is not the method's",
    "C": "another job ran on the same device or cores at the same time: do not trust its speed",
    "2": "uses more than one device",
}
READING = (
    "Speed-up is the geometric mean over prompts of the paired ratio of decode tokens per second, with its bootstrap 95 % "
    "interval. Quality is the mean score of the task. Nats over the baseline: how much less likely the target finds an arm's "
    "answers, per token. Acceptance is accepted / proposed tokens of the outermost edge. Model time is the time of reference "
    "forwards of the same shapes / the wall time. A dash means that there is no data."
)

_METRICS = (
    "tokens_per_second",
    "end_to_end_tokens_per_second",
    "speedup",
    "speedup_totals",
    "speedup_p",
    "speedup_p_holm",
    "minimum_detectable_effect",
    "end_to_end_speedup",
    "tokens_per_target_call",
    "accepted_per_round",
    "acceptance_rate",
    "quality",
    "quality_difference",
    "non_inferior",
    "quality_p",
    "quality_p_holm",
    "quality_test",
    "quality_minimum_detectable_effect",
    "nats_per_token",
    "nats_difference",
    "target_calls_per_answer",
    "output_tokens",
    "length_rate",
    "degenerate_rate",
    "model_time_fraction",
    "predicted_tokens_per_second",
    "oracle_length_tokens_per_second",
    "oracle_length_open_rounds",
    "memory_bytes",
    "joules_per_token",
    "mode",
    "lossless",
    "simulated_acceptance",
    "void",
    "prompts",
    "failed",
)
_INTERVALS = (
    "speedup_ci95",
    "speedup_ci95_bca",
    "end_to_end_speedup_ci95",
    "quality_ci95",
    "quality_difference_ci95",
    "nats_difference_ci95",
)

Summary = Mapping[str, Any]
Arm = Mapping[str, Any]


def comparison(summary: Summary) -> Grid:
    """One row per arm, rounded for reading; metrics that no arm has are left out. The notes explain the flags.

    End-to-end speeds are shown where an arm has no other speed: a peer, or answers of one token.
    """
    end_to_end = any(arm.get("tokens_per_second") is None for arm in summary["arms"].values())
    whole: list[tuple[Column, Callable[[Arm], str]]] = [
        (_number("end to end [95 %]"), lambda arm: _gain(arm, "end_to_end_speedup")),
        (_number("end-to-end tok/s", 2), lambda arm: _speed(arm, "end_to_end_tokens_per_second")),
    ]
    made: list[tuple[Column, Callable[[Arm], str]]] = [
        (_number("speed-up [95 %]"), lambda arm: _gain(arm, "speedup")),
        (_number("tok/s", 1), lambda arm: _speed(arm, "tokens_per_second")),
        *(whole if end_to_end else []),
        (_number("tok / target call", 3), lambda arm: number(arm.get("tokens_per_target_call"), ".2f")),
        (_number("acceptance", 4), lambda arm: percent(arm.get("acceptance_rate"))),
        (_number("quality [95 %]"), lambda arm: estimate(arm.get("quality"), arm.get("quality_ci95"), 3)),
        (_number("nats / tok over baseline [95 %]"), _unlikelier),
        (_number("target calls / answer", 5), lambda arm: number(arm.get("target_calls_per_answer"), ".1f")),
        (_number("J / tok", 6), lambda arm: number(arm.get("joules_per_token"), ".3g")),
        (_number("model time", 6), lambda arm: percent(arm.get("model_time_fraction"))),
        (Column("lossless", priority=7), lambda arm: "yes" if arm["lossless"] else "no"),
        (Column("flags"), lambda arm: " ".join(flags(arm))),
    ]
    grid = Grid(
        [Column("arm"), *(column for column, _ in made)],
        [[name, *(cell(arm) for _, cell in made)] for name, arm in summary["arms"].items()],
        title=f"{summary['prompts']} prompts, {summary['repeats']} repeat(s), baseline {summary['baseline']}"
        if "prompts" in summary
        else "",
        notes=footnotes(summary),
    )
    return grid.without_empty_columns()


def flags(arm: Arm) -> list[str]:
    """Keys into `FLAGS` that hold for an arm of a summary."""
    inferior = arm["non_inferior"] is False and not arm["lossless"]
    raised = {
        "V": arm.get("void", False),
        "A": arm.get("simulated_acceptance", False),
        "P": arm.get("end_to_end_only", False),
        "D": arm["degenerate"],
        "L": not arm["lossless"],
        "Q": inferior,
        "S": arm["synthetic"],
        "F": arm["mode"] == "fixed",
        "O": bool((arm.get("order_trend") or {}).get("rises")),
        "N": _units(arm) < FEWEST_PROMPTS,
        "E": arm["failed"] > 0,
        "B": arm["bare_coverage"] is not None and 0 < arm["bare_coverage"] < WHOLE_COVERAGE,
        "U": bool(arm.get("uncompiled_steps")),
        "X": bool(arm.get("lost_draft_blocks")),
        "C": arm.get("shared_device", False),
        "2": len(set(arm["devices"])) > 1,
    }
    return [flag for flag, holds in raised.items() if holds]


def footnotes(summary: Summary) -> list[str]:
    """The meaning of each flag, why an arm is void, its ties, its rise over the prompts, and the notes on the run's models."""
    raised = {flag for arm in summary["arms"].values() for flag in flags(arm)}
    meanings = [f"{flag}: {meaning}" for flag, meaning in FLAGS.items() if flag in raised]
    reasons = ((name, arm.get(reason)) for name, arm in summary["arms"].items() for reason in ("not_finite", "failure"))
    broken = [f"{name}: {said}" for name, said in reasons if said]
    ties = [f"{name}: {said}" for name, arm in summary["arms"].items() if (said := _ties(arm.get("identity") or {}))]
    rising = [f"{name}: {_rise(arm['order_trend'])}" for name, arm in summary["arms"].items() if "O" in flags(arm)]
    return [*meanings, *broken, *ties, *rising, *summary.get("notes", [])]


def _rise(trend: Mapping[str, float]) -> str:
    """Say how acceptance and the order of the prompts go together."""
    return f"tokens per target call against the prompt's place: Spearman's rho {trend['rho']:.2f}, p {trend['p']:.1g}"


def _ties(identity: Mapping[str, int]) -> str:
    """Say how many answers differ from the baseline's at ties of rounding. Runs of earlier versions did not count the tokens."""
    if not identity.get("ties"):
        return ""
    answers = sum(identity[kind] for kind in ("identical", "ties", "mismatches"))
    tokens = f" ({identity['tie_positions']} tied tokens)" if "tie_positions" in identity else ""
    return f"{identity['ties']} of {answers} answers differ from the baseline's at ties of rounding only{tokens}"


def bounds(summary: Summary) -> Grid | None:
    """Measured speed, the prediction of the latency formula, and the bound of an oracle that knows the best draft lengths.

    None where no arm has a prediction or a bound.
    """
    keys = ("tokens_per_second", "predicted_tokens_per_second", "oracle_length_tokens_per_second")
    heads = ("measured tok/s", "predicted tok/s", "oracle-length bound, within K (tok/s)")
    arms = {name: arm for name, arm in summary["arms"].items() if any(arm.get(key) is not None for key in keys[1:])}
    if not arms:
        return None
    grid = Grid(
        [Column("arm"), *(Column(head, ".1f") for head in heads)],
        [(name, *(arm.get(key) for key in keys)) for name, arm in arms.items()],
        notes=[
            f"{name}: {share:.0%} of the rounds kept a whole draft below draft_length, so an oracle might gain more"
            for name, arm in arms.items()
            if (share := arm.get("oracle_length_open_rounds"))
        ]
        + [
            f"{name} over {row['over']}: {row['low']:.2f}× to {row['high']:.2f}× by corollary 9, measured "
            f"{row['measured']:.2f}× (ratio of totals)"
            for name, arm in arms.items()
            if (row := (arm.get("speculation") or {}).get("corollary_9"))
        ],
    )
    return grid.without_empty_columns()


def every_metric(runs: Sequence[Run]) -> Grid:
    """Every arm of every run with its metrics, unrounded; an interval takes two columns."""
    ends = [f"{name}_{end}" for name in _INTERVALS for end in ("low", "high")]
    rows = [
        [
            run.run_id,
            name,
            *[arm.get(key) for key in _METRICS],
            *[end for key in _INTERVALS for end in (arm.get(key) or (None, None))],
            " ".join(flags(arm)),
        ]
        for run in runs
        for name, arm in run.summary["arms"].items()
    ]
    return Grid([Column(head) for head in ("run_id", "arm", *_METRICS, *ends, "flags")], rows)


def _number(head: str, priority: int = 0) -> Column:
    """A column of numbers that are written with their intervals."""
    return Column(head, align="right", priority=priority)


def _gain(arm: Arm, metric: str) -> str:
    return "void" if arm.get("void") else estimate(arm.get(metric), arm.get(f"{metric}_ci95"), 2, "×")


def _speed(arm: Arm, metric: str) -> str:
    return "void" if arm.get("void") else number(arm.get(metric), ".1f")


def _unlikelier(arm: Arm) -> str:
    """How much less likely the target finds a lossy arm's answers than the baseline's; nothing for an exact arm."""
    return (
        MISSING
        if arm["lossless"]
        else estimate(arm.get("nats_difference"), arm.get("nats_difference_ci95"), 3, signed=True)
    )


def _units(arm: Arm) -> int:
    """The number of units that the intervals are computed from: prompts, or blocks where a block is decoded together."""
    units = arm.get("speedup_units")
    return arm["prompts"] if units is None else min(arm["prompts"], units)
