"""What reproducing a paper means: its cells (comparisons), as the overrides that `sdbench run` takes, and how long they will take.

`experiments/<paper>/plan.yaml` names the parts; a part that varies something gives one cell per value.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sdbench.analysis import style
from sdbench.analysis.results import read
from sdbench.errors import InputError
from sdbench.harness.config import compose, expand_grids

ROOT = Path(__file__).resolve().parents[1]
PAPERS = {"pyramidsd": "PyramidSD (2510.12966)", "ssd": "SSD / Saguaro (2603.03251)"}
BUDGETS = ("quick", "paper")

# Seconds beside decoding: to load, warm up, summarise and draw a cell; to start a draft process; for the bare forwards behind an
# arm's part of a block.
CELL_SECONDS, PROCESS_SECONDS, BARE_SECONDS = 10.0, 8.0, 0.05
RATES = (
    "ssd/tiny-quick/cells/table-wordproblems",
    "ssd-speed",
    "default",
    "front",
)  # kept runs that say how long an answer takes


@dataclass(frozen=True)
class Cell:
    """name; overrides: the words of `sdbench run`."""

    name: str
    overrides: tuple[str, ...]


def document(paper: str) -> dict[str, Any]:
    """The paper's plan as written.

    Raises:
        InputError: no such paper.
    """
    if paper not in PAPERS:
        raise InputError(f"There is no plan for '{paper}'; there are: {', '.join(PAPERS)}.")
    return yaml.safe_load((ROOT / "experiments" / paper / "plan.yaml").read_text(encoding="utf-8"))


def cells(paper: str, profile: str, budget: str) -> list[Cell]:
    """The cells of a paper under a profile and a budget.

    Raises:
        InputError: no such paper, profile or budget.
    """
    plan = document(paper)
    if profile not in plan["profiles"]:
        raise InputError(f"PROFILE is '{profile}'; for {paper} there are: {', '.join(plan['profiles'])}.")
    if budget not in BUDGETS:
        raise InputError(f"BUDGET is '{budget}'; there are: {', '.join(BUDGETS)}.")
    found = []
    for name, part in plan["parts"].items():
        words = (f"experiment={part['experiment']}", "tracker=none", *plan["profiles"][profile], *part[budget])
        if "vary" in part:
            found += [Cell(f"{name}-{value}", (*words, f"{part['vary']}={value}")) for value in part["values"][profile]]
        else:
            found.append(Cell(name, words))
    return found


def answer_seconds() -> dict[str, float]:
    """Seconds per answer of each family of arms, from kept runs of the tiny family; '' for those that no run had."""
    rates: dict[str, float] = {}
    for folder in RATES:
        table = read(ROOT / "results" / folder).sequences
        seconds = (table["prefill_seconds"] + table["decode_seconds"]).groupby(table["arm"].map(style.family)).mean()
        rates = {**{str(key): float(value) for key, value in seconds.items()}, **rates}
    return {**rates, "": max(rates.values())}


def estimate(config: dict[str, Any], rates: dict[str, float]) -> float:
    """Seconds that a cell takes on the machine of the kept runs; no gain from batches is counted on."""
    arms = expand_grids(config["arms"])
    prompts, repeats = config["limit"] or config["tasks"]["count"], config["repeats"]
    decoding = sum(rates.get(style.family(name), rates[""]) for name in arms) * prompts * repeats
    processes = sum(bool((arm.get("proposer") or {}).get("process")) for arm in arms.values())
    blocks = -(-prompts // config["batch_size"]) * repeats
    return CELL_SECONDS + PROCESS_SECONDS * processes + BARE_SECONDS * blocks * len(arms) + decoding


def total_seconds(paper: str) -> tuple[int, float]:
    """How many cells the quick budget has on the tiny family, and the seconds that they take."""
    found, rates = cells(paper, "tiny", "quick"), answer_seconds()
    return len(found), sum(estimate(compose(cell.overrides), rates) for cell in found)
