"""How sure each difference to the baseline is, as a table in Markdown: both intervals, p after Holm, what could be detected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "–"
_HEAD = (
    "| arm | speed-up, percentile | BCa | p (Holm) | detectable | quality difference | p (Holm) | test | detectable |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
)
_NOTE = (
    "Detectable: the smallest true difference that this many prompts find with probability 0.8 at level 0.05. p is of no "
    "difference, adjusted by Holm for all arms of the run."
)


def evidence(summary: Mapping[str, Any]) -> str:
    """The table; empty for a summary that was written without these numbers, and for a baseline alone."""
    others = {name: arm for name, arm in summary["arms"].items() if name != summary["baseline"]}
    if not others or not all("speedup_p_holm" in arm for arm in others.values()):
        return ""
    lines = [f"| {name} | {' | '.join(_cells(arm))} |" for name, arm in others.items()]
    return "\n".join(("### Evidence\n", *_HEAD, *lines, "", _NOTE))


def probability(p: float | None) -> str:
    """A p value for reading."""
    return NOTHING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def ends(interval: Sequence[float] | None, digits: int, signed: bool = False) -> str:
    """An interval for reading."""
    sign = "+" if signed else ""
    return NOTHING if interval is None else f"[{interval[0]:{sign}.{digits}f}, {interval[1]:{sign}.{digits}f}]"


def _cells(arm: Mapping[str, Any]) -> list[str]:
    speed, points = arm["minimum_detectable_effect"], arm["quality_minimum_detectable_effect"]
    difference = arm["quality_difference"]
    quality = NOTHING if difference is None else f"{difference:+.3f} {ends(arm['quality_difference_ci95'], 3, True)}"
    return [
        ends(arm["speedup_ci95"], 2),
        ends(arm["speedup_ci95_bca"], 2),
        probability(arm["speedup_p_holm"]),
        NOTHING if speed is None else f"{100 * speed:.1f} %",
        quality,
        probability(arm["quality_p_holm"]),
        arm["quality_test"] or NOTHING,
        NOTHING if points is None else f"{points:.3f}",
    ]
