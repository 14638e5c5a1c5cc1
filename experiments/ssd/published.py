"""SSD's table by data set (Llama 3.1 70B and Qwen3 32B on H100s) and ours: other models, other tasks, another machine, so rows of
their own, never mixed into one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from experiments.cells import Cells, arms_of
from experiments.measures import fastest_against


def beside(cells: Cells) -> pd.DataFrame:
    """The published throughputs with their ratios, then ours by task: the fastest of each method, chosen and read on different
    prompts."""
    table = pd.read_csv(Path(__file__).with_name("published.csv"))
    ssd = table["ssd_tokens_per_second"]
    table["ssd_over_sd"] = ssd / table["sd_tokens_per_second"]
    table["ssd_over_ar"] = ssd / table["ar_tokens_per_second"]
    rows = []
    for name, run in cells.starting("table").items():
        over = {other: fastest_against(cells, name, ["ssd"], [other]) for other in ("sd", "ar")}
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
                "source": f"ours: cell {name}",
                **{f"ssd_over_{other}": found.value for other, found in over.items()},
                **{f"ssd_over_{other}_low": (found.ci95 or (None, None))[0] for other, found in over.items()},
                **{f"ssd_over_{other}_high": (found.ci95 or (None, None))[1] for other, found in over.items()},
            }
        )
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
