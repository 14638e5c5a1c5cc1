"""What SSD's claims are tested by: functions of its runs, each answering with an estimate and its interval."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from experiments.cells import Cells, NotRun, arms_of
from experiments.found import Found, best, of_logs, of_values
from experiments.measures import fastest_against

BUDGET, PER_LENGTH, C = "proposer.fan_out.budget", "proposer.fan_out.per_length", "proposer.saguaro.c"
COUNTS = {"hit": ("hits", "outcomes"), "acceptance": ("accepted", "proposed")}


def best_task(cells: Cells, arms: list[str], against: list[str]) -> Found:
    """`fastest_against` on the task where it is largest: what "up to" says."""
    found = {name: fastest_against(cells, name, arms, against) for name in cells.starting("table")}
    name = max(found, key=lambda cell: found[cell].value)
    return replace(found[name], note=f"{name.removeprefix('table-')}: {found[name].note}")


def same_length(cells: Cells) -> Found:
    """SSD over speculative decoding of the same draft length, mean over the lengths."""
    run = cells["draft_length"]
    plain = {run.knob(arm, "draft_length"): arm for arm in arms_of(run, "sd")}
    pairs = [
        (arm, plain[run.knob(arm, "draft_length")])
        for arm in arms_of(run, "ssd")
        if run.knob(arm, "draft_length") in plain
    ]
    if not pairs:
        raise NotRun("draft_length")
    logs = pd.concat([run.logs[ours] - run.logs[theirs] for ours, theirs in pairs], axis=1).mean(axis=1)
    return of_logs(logs, f"mean over {len(pairs)} lengths")


def longest_draft(cells: Cells) -> Found:
    """SSD at the longest draft length over SSD at the best shorter one of the run."""
    run = cells["draft_length"]
    by_length = {run.knob(arm, "draft_length"): arm for arm in arms_of(run, "ssd")}
    longest = max(by_length)
    others = [arm for length, arm in by_length.items() if length != longest]
    if not others:
        raise NotRun("draft_length")
    theirs, which = best(run.logs, others)
    return of_logs(run.logs[by_length[longest]] - theirs, f"{by_length[longest]} over {which}")


def rates(cells: Cells, cell: str, of: str) -> pd.DataFrame:
    """Share of outcomes that hit, or of drafted tokens accepted, of each prompt (rows) and arm. of: hit or acceptance."""
    above, below = COUNTS[of]
    sums = cells.counts(cell).groupby(["prompt_id", "arm"])[[above, below]].sum()
    return (sums[above] / sums[below].where(sums[below] > 0)).unstack("arm")


def geometric_against_uniform(cells: Cells, of: str) -> Found:
    """Geometric against uniform fan-out at equal budgets, mean over the budgets. of: hit (a difference of rates) or speed."""
    run = cells["shapes"]
    uniform = {
        run.knob(arm, PER_LENGTH) * (run.knob(arm, "draft_length") + 1): arm for arm in arms_of(run, "ssd_uniform")
    }
    pairs = [(arm, uniform[run.knob(arm, BUDGET)]) for arm in arms_of(run, "ssd") if run.knob(arm, BUDGET) in uniform]
    if not pairs:
        raise NotRun("shapes")
    table = run.logs if of == "speed" else rates(cells, "shapes", of)
    values = pd.concat([table[ours] - table[theirs] for ours, theirs in pairs], axis=1).mean(axis=1)
    return (of_logs if of == "speed" else of_values)(values, f"mean over {len(pairs)} equal budgets of branches")


def highest_hit_rate(cells: Cells, cell: str) -> Found:
    """The hit rate of the arm with the largest one."""
    table = rates(cells, cell, "hit").dropna(axis=1, how="all")
    if table.empty:
        raise NotRun(cell)
    return of_values(*best(table, [str(arm) for arm in table]))


def least_against_one(cells: Cells, of: str) -> Found:
    """Saguaro sampling at the smallest C against C = 1. of: hit, acceptance (differences of rates) or speed (a ratio)."""
    run = cells["saguaro"]
    by_c = {run.knob(arm, C): arm for arm in arms_of(run, "ssd")}
    least = min(by_c)
    if 1.0 not in by_c or least == 1.0:
        raise NotRun("saguaro")
    table = run.logs if of == "speed" else rates(cells, "saguaro", of)
    return (of_logs if of == "speed" else of_values)(
        table[by_c[least]] - table[by_c[1.0]], f"C = {least:g} against C = 1"
    )


def neural_against_fast(cells: Cells, largest: bool) -> Found:
    """Speed with the neural back-up over that with the fast one, at the smallest or the largest batch size."""
    sizes = {run.config["batch_size"]: run for run in cells.starting("batch").values()}
    size = max(sizes) if largest else min(sizes)
    if largest and len(sizes) < 2:
        raise NotRun("batch")
    run = sizes[size]
    ours, theirs = (run.logs[arms_of(run, family)[0]] for family in ("ssd", "ssd_fast_backup"))
    return of_logs(ours - theirs, f"batch size {size}")
