"""PyramidSD's results (CommonsenseQA, Llama 3, one RTX 4090), ours beside them: other models, another task, another machine."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from experiments.cells import Cells, arms_of
from experiments.measures import fastest_against

ARMS = {"SD": "sd", "FSD": "fsd", "PSD_A": "psd_assisted", "PSD_F": "psd_fuzzy"}


def beside(cells: Cells) -> pd.DataFrame:
    """The published rows, and of our arms: the fastest against the fastest `sd` (chosen and read on different prompts), and the
    lowest and highest quality over the grid."""
    run = cells["thresholds"]
    table = pd.read_csv(Path(__file__).with_name("published.csv"))
    rows = []
    for method in table["method"]:
        quality = [run.summary["arms"][arm]["quality"] for arm in arms_of(run, ARMS[method])]
        found = fastest_against(cells, "thresholds", [ARMS[method]], ["sd"])
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
