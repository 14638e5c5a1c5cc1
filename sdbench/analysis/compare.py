"""Give a verdict between two arms, of one run or of two: is the second faster, and is it as good?

Speed: "faster" or "slower" needs three things. The 95 % interval of the speed ratio lies above or below 1. The paired test is
significant, adjusted by Holm's method for the number of pairs of arms. There are at least ten units. Otherwise the verdict is
"indistinguishable". The speed of a void arm is not compared.
Quality: "as good" if the interval of the difference lies above -margin; "worse" if it lies below 0 and is not "as good";
otherwise "undecided". Two arms of one run decoded the same prompts in turn and are paired. Arms of two runs are paired by
prompt if the prompts have the same SHA-256; otherwise they are compared as two groups. On different hardware their speeds
are not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sdbench.analysis.compare_inputs import Differences, Side, differences, sides
from sdbench.analysis.metrics.quality import prompt_scores
from sdbench.analysis.metrics.speed import log_ratios, log_speeds, ratio_estimate, unit_column
from sdbench.analysis.report.grid import interval as interval_text, probability
from sdbench.analysis.stats.intervals import FEWEST_PROMPTS, FEWEST_UNITS
from sdbench.analysis.stats.power import detectable_difference, detectable_speedup
from sdbench.analysis.stats.tests import holm, non_inferiority, two_sample_difference, two_sample_scores
from sdbench.errors import InputError

FASTER, SLOWER, INDISTINGUISHABLE = "faster", "slower", "indistinguishable"
AS_GOOD, WORSE, UNDECIDED = "as good", "worse", "undecided"
REFUSED = "not compared"
LEVEL = 0.05


def compare(words: Sequence[str], arms: str | None = None, margin: float | None = None) -> dict[str, Any]:
    """Make the document of `sdbench compare`: {"comparisons": [...]}, one for each pair that the words name.

    Args:
        words: folders of runs, or DIR:arm.
        arms: two names, separated by a comma.
        margin: of the non-inferiority test; None: the margin of the first run.

    Raises:
        InputError: the words name no pair, or one that cannot be compared.
    """
    if margin is not None and not 0 < margin < 1:
        raise InputError(f"--margin is {margin}; it must lie between 0 and 1, in points of score.")
    found = [comparison(first, second, margin) for first, second in sides(words, arms)]
    for part in ("speed", "quality"):
        adjusted = holm({str(index): item[part].get("p") for index, item in enumerate(found)})
        for index, item in enumerate(found):
            item[part]["p_holm"] = adjusted[str(index)]
    for speed in (item["speed"] for item in found if "ci95" in item["speed"]):
        least = speed["n"] if isinstance(speed["n"], int) else min(speed["n"])
        speed["verdict"] = speed_verdict(speed["ci95"], least, speed["p_holm"])
    return {"comparisons": found}


def comparison(first: Side, second: Side, margin: float | None = None) -> dict[str, Any]:
    """Compare the second side with the first."""
    apart = differences(first, second)
    notes = list(apart.noted)
    if apart.pairing is not None:
        notes.append(f"unpaired, as {apart.pairing}")
    for side in (first, second):
        if side.summary.get("shared_device"):
            notes.append(f"another job ran on the device of {side.name}: do not trust its speed")
        if side.summary.get("simulated_acceptance"):
            notes.append(f"the acceptance of {side.name} was forced, not tested")
        if side.summary.get("degenerate"):
            notes.append(f"{side.name} repeats itself: its speed is worth nothing")
    if first.summary["mode"] != second.summary["mode"]:
        notes.append("one decoded to a fixed length, the other to its natural stops")
    limit = first.config["margin"] if margin is None else margin
    return {
        "first": {"run": str(first.folder), "arm": first.arm},
        "second": {"run": str(second.folder), "arm": second.arm},
        "paired": apart.pairing is None,
        "speed": _speed(first, second, apart),
        "quality": _quality(first, second, apart, limit),
        "notes": notes,
    }


def _speed(first: Side, second: Side, apart: Differences) -> dict[str, Any]:
    void = [side.name for side in (first, second) if side.summary.get("void")]
    if void:
        why = "other greedy tokens than the baseline's, numbers that are not finite, or an error"
        return {"verdict": REFUSED, "reason": f"{' and '.join(void)} gave {why}: void"}
    if apart.hardware is not None:
        return {"verdict": REFUSED, "reason": apart.hardware}
    base, other = first.sequences.assign(arm="first"), second.sequences.assign(arm="second")
    if apart.pairing is None:
        values = log_ratios(other, base).to_numpy()
        if not len(values):
            return {"verdict": INDISTINGUISHABLE, "reason": "no prompt has a decoding speed under both arms", "n": 0}
        made = ratio_estimate(values)
        value, interval, bca, p, smallest = made.value, made.ci95, made.ci95_bca, made.p, made.smallest
        n: int | list[int] = made.units
    else:
        groups = [log_speeds(rows).to_numpy() for rows in (base, other)]
        if not all(map(len, groups)):
            return {"verdict": INDISTINGUISHABLE, "reason": "an arm has no decoding speed", "n": [*map(len, groups)]}
        gap = two_sample_difference(*groups)
        value, p, bca, smallest = float(np.exp(gap.value)), gap.p, None, detectable_speedup(*groups)
        interval = None if gap.ci95 is None else (float(np.exp(gap.ci95[0])), float(np.exp(gap.ci95[1])))
        n = [len(group) for group in groups]
    return {
        "verdict": INDISTINGUISHABLE,  # `compare` decides when it knows the number of comparisons
        "ratio": value,
        "ci95": interval,
        "ci95_bca": bca,
        "p": p,
        "n": n,
        "unit": unit_column(base),
        "minimum_detectable_effect": smallest,
    }


def _quality(first: Side, second: Side, apart: Differences, margin: float) -> dict[str, Any]:
    if apart.scoring is not None:
        return {"verdict": REFUSED, "reason": apart.scoring, "margin": margin}
    base, other = (prompt_scores(side.sequences) for side in (first, second))
    n: int | list[int]
    if apart.pairing is None:
        pairs = non_inferiority(other, base, margin).pairs
        value, interval, p, test, n = pairs.difference, pairs.ci95, pairs.p, pairs.test, pairs.prompts
        smallest = detectable_difference(pairs.values)
    else:
        groups = base.to_numpy(dtype=float), other.to_numpy(dtype=float)
        gap = two_sample_scores(*groups)
        value, interval, p, test, n = gap.value, gap.ci95, gap.p, gap.test, [len(group) for group in groups]
        smallest = detectable_difference(*groups)
    if np.isnan(value):
        return {"verdict": UNDECIDED, "reason": "the task gives no scores", "margin": margin, "n": n}
    return {
        "verdict": quality_verdict(interval, margin),
        "difference": value,
        "ci95": interval,
        "margin": margin,
        "p": p,
        "test": test,
        "n": n,
        "minimum_detectable_effect": smallest,
    }


def speed_verdict(interval: Sequence[float] | None, units: int, p: float | None) -> str:
    """Decide on speed. interval: of the speed ratio, 95 %; units: their number; p: of no difference, adjusted."""
    if interval is None or interval[0] <= 1 <= interval[1] or units < FEWEST_UNITS:
        return INDISTINGUISHABLE
    if p is not None and p >= LEVEL:
        return INDISTINGUISHABLE
    return FASTER if interval[0] > 1 else SLOWER


def quality_verdict(interval: Sequence[float] | None, margin: float) -> str:
    """Decide on quality from the 95 % interval of the score's difference. A loss that lies within the margin is as good."""
    if interval is None:
        return UNDECIDED
    if interval[0] > -margin:
        return AS_GOOD
    return WORSE if interval[1] < 0 else UNDECIDED


def text(document: dict[str, Any]) -> str:
    """Write the verdicts for reading."""
    blocks = []
    for item in document["comparisons"]:
        first, second = (f"{item[side]['arm']} ({item[side]['run']})" for side in ("first", "second"))
        lines = [
            f"{second} against {first}",
            f"  speed    {_speed_text(item)}",
            f"  quality  {_quality_text(item)}",
        ]
        blocks.append("\n".join([*lines, *(f"  note     {note}." for note in item["notes"])]))
    return "\n".join(blocks)


def _speed_text(item: dict[str, Any]) -> str:
    speed = item["speed"]
    if "reason" in speed:
        return f"{speed['verdict']}: {speed['reason']}."
    effect = speed["minimum_detectable_effect"]
    return (
        f"{speed['verdict']}: {speed['ratio']:.3f}× {interval_text(speed['ci95'], 3)}, BCa {interval_text(speed['ci95_bca'], 3)}, "
        f"p {probability(speed['p_holm'])}, n = {_count(speed['n'])} {_unit(speed['unit'], item)}"
        f"{_few(speed['n'])}" + ("" if effect is None else f", detectable from {100 * effect:.1f} %")
    )


def _quality_text(item: dict[str, Any]) -> str:
    quality = item["quality"]
    if "reason" in quality:
        return f"{quality['verdict']}: {quality['reason']}."
    effect = quality["minimum_detectable_effect"]
    return (
        f"{quality['verdict']} (margin {quality['margin']}): {quality['difference']:+.3f} "
        f"{interval_text(quality['ci95'], 3, True)}, "
        f"{quality['test']} p {probability(quality['p_holm'])}, n = {_count(quality['n'])} {_unit('prompt_id', item)}"
        f"{_few(quality['n'])}" + ("" if effect is None else f", detectable from {effect:.3f}")
    )


def _unit(unit: str, item: dict[str, Any]) -> str:
    return ("pairs of " if item["paired"] else "") + ("prompts" if unit == "prompt_id" else "blocks")


def _count(n: int | list[int]) -> str:
    return str(n) if isinstance(n, int) else " and ".join(map(str, n))


def _few(n: int | list[int]) -> str:
    least = n if isinstance(n, int) else min(n)
    return f" (few: rough below {FEWEST_PROMPTS})" if least < FEWEST_PROMPTS else ""
