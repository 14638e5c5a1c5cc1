"""Turn a paper's plan into runs of `sdbench run`, and estimate how long they take.

`plan.yaml` names the parts. A part gives one run, or one run per value of what it varies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sdbench.analysis.figures import style
from sdbench.analysis.results import Results
from sdbench.errors import InputError
from sdbench.papers.paper import Paper

BUDGETS = ("quick", "paper")

# Seconds of a run beside decoding: to load, warm up and summarise; to start a draft process; for the reference forwards behind
# an arm's part of a block.
RUN_SECONDS, PROCESS_SECONDS, REFERENCE_SECONDS = 10.0, 8.0, 0.05


@dataclass(frozen=True)
class PlannedRun:
    """name: the part, or part-value; overrides: the words of `sdbench run`."""

    name: str
    overrides: tuple[str, ...]


def planned_runs(paper: Paper, profile: str, budget: str) -> list[PlannedRun]:
    """List the runs of a paper under a profile and a budget.

    Raises:
        InputError: no such profile or budget.
    """
    plan = paper.plan
    if profile not in plan["profiles"]:
        raise InputError(f"PROFILE is '{profile}'; for {paper.name} there are: {', '.join(plan['profiles'])}.")
    if budget not in BUDGETS:
        raise InputError(f"BUDGET is '{budget}'; there are: {', '.join(BUDGETS)}.")
    limits = plan.get("limits", {}).get(profile, {})
    sized = (f"limit={limits[budget]}",) if budget in limits else ()
    found = []
    for name, part in plan["parts"].items():
        also = part.get("also", {}).get(profile, ())
        words = (
            f"experiment={part['experiment']}",
            "tracker=none",
            *plan["profiles"][profile],
            *part[budget],
            *sized,
            *also,
        )
        if "vary" in part:
            values = part["values"][profile]
            found += [PlannedRun(f"{name}-{value}", (*words, f"{part['vary']}={value}")) for value in values]
        else:
            found.append(PlannedRun(name, words))
    return found


def experiment_of(paper: Paper, run: str) -> str:
    """Return the `experiment=` name of a run by the run's name."""
    parts = paper.plan["parts"]
    part = max((part for part in parts if run == part or run.startswith(f"{part}-")), key=len)
    return parts[part]["experiment"]


def answer_seconds(runs: Iterable[Results]) -> dict[str, float]:
    """Return the mean seconds per answer of each family of arms in kept runs; '' for a family that no run had."""
    rates: dict[str, float] = {}
    for run in runs:
        table = run.sequences
        seconds = (table["prefill_seconds"] + table["decode_seconds"]).groupby(table["arm"].map(style.family)).mean()
        rates = {**{str(key): float(value) for key, value in seconds.items()}, **rates}
    return {**rates, "": max(rates.values())} if rates else {}


def estimate_seconds(config: dict[str, Any], rates: dict[str, float]) -> float:
    """Estimate the seconds that a run takes on the machine of the kept runs. It counts on no gain from batches.

    Args:
        config: the run's resolved config.
        rates: seconds per answer by family of arms (`answer_seconds`), not empty.
    """
    arms = config["arms"]
    prompts, repeats = config["limit"] or config["tasks"]["count"], config["repeats"]
    decoding = sum(rates.get(style.family(name), rates[""]) for name in arms) * prompts * repeats
    processes = sum(bool((arm.get("proposer") or {}).get("process")) for arm in arms.values())
    blocks = -(-prompts // config["batch_size"]) * repeats
    return RUN_SECONDS + PROCESS_SECONDS * processes + REFERENCE_SECONDS * blocks * len(arms) + decoding
