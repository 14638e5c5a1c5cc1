"""Measures that test PyramidSD's claims. Each takes the kept runs and returns an estimate with its interval."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sdbench.analysis.results import Results
from sdbench.papers.estimate import Estimate, fastest_ratio, of_logs, of_statistic, of_values
from sdbench.papers.measures import fastest_against
from sdbench.papers.paper_results import NotRun, PaperResults, arms_of

PUBLISHED = Path(__file__).with_name("published.csv")
QUALIFIER, TARGET = "proposer.rule.threshold", "rule.threshold"
LQ, LD = "draft_length", "proposer.draft_length"
METHODS = {"SD": "sd", "FSD": "fsd", "PSD_A": "psd_assisted", "PSD_F": "psd_fuzzy"}
"""Our family of arms for each method of `published.csv`."""


def _grid(run: Results, family: str, first: str, second: str) -> dict[tuple[float, float], str]:
    """Return the arms of a family by two of their knobs."""
    return {(run.knob(arm, first), run.knob(arm, second)): arm for arm in arms_of(run, family)}


def mirrored_thresholds(results: PaperResults, of: str) -> Estimate:
    """Compare the fuzzy variant at tau_Q < tau_T with the same two thresholds exchanged, as a mean over the pairs of the grid.

    of: speed (a ratio) or quality (a difference).
    """
    run = results["thresholds"]
    grid = _grid(run, "psd_fuzzy", QUALIFIER, TARGET)
    pairs = [(grid[a, b], grid[b, a]) for a, b in grid if a < b and (b, a) in grid]
    if not pairs:
        raise NotRun("thresholds")
    return _over_pairs(run, pairs, of, f"mean over {len(pairs)} mirrored pairs of thresholds")


def beyond_threshold(results: PaperResults, inside: float, beyond: float, of: str) -> Estimate:
    """Compare a looser tau_T with a tighter one, as a mean over both variants and every tau_Q. of: speed or quality."""
    run = results["thresholds"]
    parts = []
    for family in ("psd_fuzzy", "psd_assisted"):
        grid = {(run.knob(arm, TARGET), run.knob(arm, QUALIFIER)): arm for arm in arms_of(run, family)}
        parts += [(grid[beyond, q], grid[inside, q]) for t, q in grid if t == inside and (beyond, q) in grid]
    if not parts:
        raise NotRun("thresholds")
    return _over_pairs(run, parts, of, f"tau_T {beyond} against {inside}, mean over {len(parts)} pairs")


def _over_pairs(run: Results, pairs: list[tuple[str, str]], of: str, said: str) -> Estimate:
    """Compare the first arm of each pair with the second, prompt by prompt, as a mean over the pairs. of: speed or quality."""
    table = run.logs if of == "speed" else run.scores
    differences = pd.concat([table[first] - table[second] for first, second in pairs], axis=1).mean(axis=1)
    return (of_logs if of == "speed" else of_values)(differences, said)


def lengths_ratio(results: PaperResults, family: str, low: float, high: float) -> Estimate:
    """Compare the fastest arm with l_D / l_Q within [low, high] with the fastest of the other arms."""
    run = results["lengths"]
    ratios = {arm: run.knob(arm, LD) / run.knob(arm, LQ) for arm in arms_of(run, family)}
    within = [arm for arm, value in ratios.items() if low - 1e-9 <= value <= high + 1e-9]
    without = [arm for arm in ratios if arm not in within]
    if not within or not without:
        raise NotRun("lengths")
    logs, predicted, note = fastest_ratio(run, within, without)
    return of_logs(logs, note, predicted)


def longest_against_shorter(results: PaperResults, family: str) -> Estimate:
    """Compare the fastest arm with the longest buffer l_Q with the fastest arm with a shorter one."""
    run = results["lengths"]
    by_length = {arm: run.knob(arm, LQ) for arm in arms_of(run, family)}
    if len(set(by_length.values())) < 2:
        raise NotRun("lengths")
    longest = max(by_length.values())
    ours, others = ([arm for arm, length in by_length.items() if (length == longest) is it] for it in (True, False))
    logs, predicted, note = fastest_ratio(run, ours, others)
    return of_logs(logs, note, predicted)


def spread_over_seeds(results: PaperResults, arm: str, other: str) -> Estimate:
    """Return the standard deviation of an arm's quality over seeds, minus that of another arm."""
    run = results["seeds"]
    tables = []
    for family in (arm, other):
        name = arms_of(run, family)[0]
        scores = run.of(name).pivot_table(index="prompt_id", columns="repeat", values="score")
        tables.append(scores.add_prefix(f"{name}/"))
    if any(table.shape[1] < 2 for table in tables):
        raise NotRun("seeds")
    both, width = pd.concat(tables, axis=1), tables[0].shape[1]

    def spread(table: pd.DataFrame) -> float:
        means = table.to_numpy().mean(axis=0)
        return float(means[:width].std(ddof=1) - means[width:].std(ddof=1))

    return of_statistic(both, spread, f"{width} seeds")


def spread_over_thresholds(results: PaperResults, family: str, other: str) -> Estimate:
    """Return the standard deviation of a family's quality over its thresholds, minus that of another family.

    Unlike the range, a standard deviation does not grow with the number of thresholds.
    """
    run = results["thresholds"]
    ours, theirs = arms_of(run, family), arms_of(run, other)
    if min(len(ours), len(theirs)) < 2 or run.scores.empty:
        raise NotRun("thresholds")

    def spread(table: pd.DataFrame) -> float:
        means = table.mean()
        return float(means[ours].std() - means[theirs].std())

    return of_statistic(run.scores[[*ours, *theirs]], spread, f"over {len(ours)} and {len(theirs)} thresholds")


def quality_against(results: PaperResults, part: str, family: str, against: str) -> Estimate:
    """Return the mean quality of a family over its grid, minus that of another family."""
    scores = results[part].scores
    ours, theirs = (scores[arms_of(results[part], name)].mean(axis=1) for name in (family, against))
    return of_values(ours - theirs, f"mean over the grid of {family}, against {against}")


def beside_published(results: PaperResults) -> pd.DataFrame:
    """Return the published rows with ours beside each (other models, another task, another machine).

    Ours: the fastest arm of the family over the fastest `sd`, chosen and read on different prompts, and the lowest and highest
    quality over the grid.
    """
    run = results["thresholds"]
    table = pd.read_csv(PUBLISHED)
    rows = []
    for method in table["method"]:
        quality = [run.summary["arms"][arm]["quality"] for arm in arms_of(run, METHODS[method])]
        found = fastest_against(results, "thresholds", [METHODS[method]], ["sd"])
        low, high = found.ci95 or (None, None)
        known = [value for value in quality if value is not None]
        rows.append(
            {
                "our_speedup_over_sd": found.value,
                "our_low": low,
                "our_high": high,
                "our_quality_low": min(known, default=None),
                "our_quality_high": max(known, default=None),
                "our_arms": found.note,
            }
        )
    return pd.concat([table, pd.DataFrame(rows)], axis=1)
