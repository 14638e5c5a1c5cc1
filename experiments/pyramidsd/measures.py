"""What PyramidSD's claims are tested by: functions of its runs, each answering with an estimate and its interval."""

from __future__ import annotations

import pandas as pd

from experiments.cells import Cells, NotRun, arms_of
from experiments.found import Found, best, of_logs, of_statistic, of_values
from sdbench.analysis.results import Results

QUALIFIER, TARGET = "proposer.rule.threshold", "rule.threshold"
LQ, LD = "draft_length", "proposer.draft_length"


def _grid(run: Results, family: str, first: str, second: str) -> dict[tuple[float, float], str]:
    """The arms of a family by two of their knobs."""
    return {(run.knob(arm, first), run.knob(arm, second)): arm for arm in arms_of(run, family)}


def mirrored_thresholds(cells: Cells, of: str) -> Found:
    """The fuzzy variant with tau_Q < tau_T against the same two thresholds the other way round, mean over the pairs of the grid.
    of: speed (a ratio) or quality (a difference)."""
    run = cells["thresholds"]
    grid = _grid(run, "psd_fuzzy", QUALIFIER, TARGET)
    pairs = [(grid[a, b], grid[b, a]) for a, b in grid if a < b and (b, a) in grid]
    if not pairs:
        raise NotRun("thresholds")
    return _over_pairs(run, pairs, of, f"mean over {len(pairs)} mirrored pairs of thresholds")


def beyond_threshold(cells: Cells, inside: float, beyond: float, of: str) -> Found:
    """A looser tau_T against a tighter one, mean over both variants and every tau_Q. of: speed or quality."""
    run = cells["thresholds"]
    parts = []
    for family in ("psd_fuzzy", "psd_assisted"):
        grid = {(run.knob(arm, TARGET), run.knob(arm, QUALIFIER)): arm for arm in arms_of(run, family)}
        parts += [(grid[beyond, q], grid[inside, q]) for t, q in grid if t == inside and (beyond, q) in grid]
    if not parts:
        raise NotRun("thresholds")
    return _over_pairs(run, parts, of, f"tau_T {beyond} against {inside}, mean over {len(parts)} pairs")


def _over_pairs(run: Results, pairs: list[tuple[str, str]], of: str, said: str) -> Found:
    """The first arm of each pair against the second, prompt by prompt, mean over the pairs. of: speed or quality."""
    table = run.logs if of == "speed" else run.scores
    differences = pd.concat([table[first] - table[second] for first, second in pairs], axis=1).mean(axis=1)
    return (of_logs if of == "speed" else of_values)(differences, said)


def lengths_ratio(cells: Cells, family: str, low: float, high: float) -> Found:
    """The fastest arm whose l_D / l_Q lies within [low, high] against the fastest whose does not."""
    run = cells["lengths"]
    ratios = {arm: run.knob(arm, LD) / run.knob(arm, LQ) for arm in arms_of(run, family)}
    within = [arm for arm, value in ratios.items() if low - 1e-9 <= value <= high + 1e-9]
    without = [arm for arm in ratios if arm not in within]
    if not within or not without:
        raise NotRun("lengths")
    (ours, which), (theirs, other) = best(run.logs, within), best(run.logs, without)
    return of_logs(ours - theirs, f"{which} over {other}")


def longest_against_shorter(cells: Cells, family: str) -> Found:
    """The fastest arm with the longest buffer l_Q against the fastest with a shorter one."""
    run = cells["lengths"]
    by_length = {arm: run.knob(arm, LQ) for arm in arms_of(run, family)}
    if len(set(by_length.values())) < 2:
        raise NotRun("lengths")
    longest = max(by_length.values())
    (ours, which), (theirs, other) = (
        best(run.logs, [arm for arm, length in by_length.items() if (length == longest) is wanted])
        for wanted in (True, False)
    )
    return of_logs(ours - theirs, f"{which} over {other}")


def spread_over_seeds(cells: Cells, arm: str, other: str) -> Found:
    """Standard deviation of an arm's quality over seeds, less that of another."""
    run = cells["seeds"]
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


def spread_over_thresholds(cells: Cells, family: str, other: str) -> Found:
    """Standard deviation of a family's quality over its thresholds, less that of another: unlike the range, it does not grow with
    how many thresholds there are."""
    run = cells["thresholds"]
    ours, theirs = arms_of(run, family), arms_of(run, other)
    if min(len(ours), len(theirs)) < 2 or run.scores.empty:
        raise NotRun("thresholds")

    def spread(table: pd.DataFrame) -> float:
        means = table.mean()
        return float(means[ours].std() - means[theirs].std())

    return of_statistic(run.scores[[*ours, *theirs]], spread, f"over {len(ours)} and {len(theirs)} thresholds")


def quality_against(cells: Cells, cell: str, family: str, against: str) -> Found:
    """Quality of a family, mean over its grid, less that of another."""
    scores = cells[cell].scores
    ours, theirs = (scores[arms_of(cells[cell], name)].mean(axis=1) for name in (family, against))
    return of_values(ours - theirs, f"mean over the grid of {family}, against {against}")
