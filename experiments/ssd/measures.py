"""Measures that test SSD's claims. Each takes the kept runs and returns an estimate with its interval."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from sdbench.papers.estimate import Estimate, best_of, fastest_ratio, of_logs, of_values
from sdbench.papers.measures import fastest_against
from sdbench.papers.paper_results import NotRun, PaperResults, arms_of

PUBLISHED = Path(__file__).with_name("published.csv")
BUDGET, PER_LENGTH, C = "proposer.fan_out.budget", "proposer.fan_out.per_length", "proposer.saguaro.c"
COUNTS = {"hit": ("hits", "outcomes"), "acceptance": ("accepted", "proposed")}


def best_task(results: PaperResults, arms: list[str], against: list[str]) -> Estimate:
    """Return `fastest_against` on the task where it is largest, as "up to" says."""
    found = {name: fastest_against(results, name, arms, against) for name in results.part("table")}
    name = max(found, key=lambda run: found[run].value)
    return replace(found[name], note=f"{name.removeprefix('table-')}: {found[name].note}")


def same_length(results: PaperResults) -> Estimate:
    """Return SSD over speculative decoding of the same draft length, as a mean over the lengths."""
    run = results["draft_length"]
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


def longest_draft(results: PaperResults) -> Estimate:
    """Return SSD at the longest draft length over SSD at the best shorter one of the run."""
    run = results["draft_length"]
    by_length = {run.knob(arm, "draft_length"): arm for arm in arms_of(run, "ssd")}
    longest = max(by_length)
    others = [arm for length, arm in by_length.items() if length != longest]
    if not others:
        raise NotRun("draft_length")
    logs, predicted, note = fastest_ratio(run, [by_length[longest]], others)
    return of_logs(logs, note, predicted)


def rates(results: PaperResults, run: str, of: str) -> pd.DataFrame:
    """Return the share of outcomes that hit, or of drafted tokens that were accepted, by prompt (rows) and arm.

    of: hit or acceptance.
    """
    above, below = COUNTS[of]
    sums = results.counts(run).groupby(["prompt_id", "arm"])[[above, below]].sum()
    return (sums[above] / sums[below].where(sums[below] > 0)).unstack("arm")


def geometric_against_uniform(results: PaperResults, of: str) -> Estimate:
    """Compare geometric with uniform fan-out at equal budgets, as a mean over the budgets.

    of: hit (a difference of rates) or speed (a ratio).
    """
    run = results["shapes"]
    uniform = {
        run.knob(arm, PER_LENGTH) * (run.knob(arm, "draft_length") + 1): arm for arm in arms_of(run, "ssd_uniform")
    }
    pairs = [(arm, uniform[run.knob(arm, BUDGET)]) for arm in arms_of(run, "ssd") if run.knob(arm, BUDGET) in uniform]
    if not pairs:
        raise NotRun("shapes")
    table = run.logs if of == "speed" else rates(results, "shapes", of)
    values = pd.concat([table[ours] - table[theirs] for ours, theirs in pairs], axis=1).mean(axis=1)
    return (of_logs if of == "speed" else of_values)(values, f"mean over {len(pairs)} equal budgets of branches")


def highest_hit_rate(results: PaperResults, part: str) -> Estimate:
    """Return the hit rate of the arm with the largest one."""
    table = rates(results, part, "hit").dropna(axis=1, how="all")
    if table.empty:
        raise NotRun(part)
    best = best_of(table, [str(arm) for arm in table])
    return of_values(best.values, best.names)


def least_against_one(results: PaperResults, of: str) -> Estimate:
    """Compare Saguaro sampling at the smallest C with C = 1. of: hit, acceptance (differences of rates) or speed (a ratio)."""
    run = results["saguaro"]
    by_c = {run.knob(arm, C): arm for arm in arms_of(run, "ssd")}
    least = min(by_c)
    if 1.0 not in by_c or least == 1.0:
        raise NotRun("saguaro")
    note = f"C = {least:g} against C = 1"
    if of == "speed":
        logs, predicted, _ = fastest_ratio(run, [by_c[least]], [by_c[1.0]])
        return of_logs(logs, note, predicted)
    table = rates(results, "saguaro", of)
    return of_values(table[by_c[least]] - table[by_c[1.0]], note)


def neural_against_fast(results: PaperResults, largest: bool) -> Estimate:
    """Return the speed with the neural back-up over that with the fast one, at the smallest or the largest batch size."""
    sizes = {run.config["batch_size"]: run for run in results.part("batch").values()}
    size = max(sizes) if largest else min(sizes)
    if largest and len(sizes) < 2:
        raise NotRun("batch")
    run = sizes[size]
    ours, theirs = (run.logs[arms_of(run, family)[0]] for family in ("ssd", "ssd_fast_backup"))
    return of_logs(ours - theirs, f"batch size {size}")


def beside_published(results: PaperResults) -> pd.DataFrame:
    """Return the published throughputs with their ratios, then ours by task, which come from other models and another machine.

    Ours: the fastest arm of each method, chosen and read on different prompts.
    """
    table = pd.read_csv(PUBLISHED)
    ssd = table["ssd_tokens_per_second"]
    table["ssd_over_sd"] = ssd / table["sd_tokens_per_second"]
    table["ssd_over_ar"] = ssd / table["ar_tokens_per_second"]
    rows = []
    for name, run in results.part("table").items():
        over = {other: fastest_against(results, name, ["ssd"], [other]) for other in ("sd", "ar")}
        fastest = {
            family: max(arms_of(run, family), key=lambda arm: run.logs[arm].mean()) for family in ("ar", "sd", "ssd")
        }
        rows.append(
            {
                "family": Path(run.config["models"]["target"]["path"]).parent.name,
                "task": name.removeprefix("table-"),
                **{
                    f"{family}_tokens_per_second": run.summary["arms"][arm]["tokens_per_second"]
                    for family, arm in fastest.items()
                },
                "source": f"ours: run {name}",
                **{f"ssd_over_{other}": found.value for other, found in over.items()},
                **{f"ssd_over_{other}_low": (found.ci95 or (None, None))[0] for other, found in over.items()},
                **{f"ssd_over_{other}_high": (found.ci95 or (None, None))[1] for other, found in over.items()},
            }
        )
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
