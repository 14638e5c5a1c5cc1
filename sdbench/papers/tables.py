"""The tables of a paper from its kept runs: every arm of every run, the claims, and the published values beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from sdbench.papers.claims import Judged, judge
from sdbench.papers.paper import Paper
from sdbench.papers.paper_results import NotRun, PaperResults

METRICS = (
    "tokens_per_second",
    "speedup",
    "speedup_totals",
    "tokens_per_target_call",
    "accepted_per_round",
    "acceptance_rate",
    "quality",
    "quality_difference",
    "non_inferior",
    "target_calls_per_answer",
    "output_tokens",
    "degenerate_rate",
    "hit_rate",
    "predicted_tokens_per_second",
    "model_time_fraction",
    "lossless",
    "prompts",
    "sequences",
    "failed",
)
TIMED = (
    "tokens_per_second",
    "speedup",
    "speedup_totals",
    "predicted_tokens_per_second",
    "model_time_fraction",
    "speedup_low",
    "speedup_high",
)
"""Columns that come from a clock. All others are the same whenever the plan is run."""


def arms(results: PaperResults) -> pd.DataFrame:
    """Return a row per run and arm: metrics, ends of intervals, acceptance of each edge, forwards of each role per answer."""
    rows = []
    for name in results.names:
        run, counts = results[name], results.counts(name)
        forwards = counts.filter(like="forwards_").groupby(counts["arm"]).mean()
        for arm, found in run.summary["arms"].items():
            low, high = found["speedup_ci95"] or (None, None)
            worst, most = found["quality_ci95"] or (None, None)
            rows.append(
                {
                    "run": name,
                    "arm": arm,
                    **{key: found.get(key) for key in METRICS},
                    "speedup_low": low,
                    "speedup_high": high,
                    "quality_low": worst,
                    "quality_high": most,
                    **{f"acceptance {edge}": part["acceptance_rate"] for edge, part in found["edges"].items()},
                    **(forwards.loc[arm].to_dict() if arm in forwards.index else {}),
                }
            )
    return pd.DataFrame(rows)


def claims(judged: Sequence[Judged]) -> pd.DataFrame:
    """Return a row per claim: what is claimed, where, what we measured, what the formula predicts, and the verdict."""
    rows = []
    for one in judged:
        claim, found = one.claim, one.estimate
        low, high = (found and found.ci95) or (None, None)
        rows.append(
            {
                "id": claim.id,
                "claim": claim.claim,
                "scope": claim.scope,
                "set_up": " | ".join(str(set_up) for set_up in claim.set_ups),
                "published": claim.published,
                "read_in": claim.read_in,
                "sure": claim.sure,
                "runs": " ".join(one.runs),
                "value": found and found.value,
                "low": low,
                "high": high,
                "units": found and found.n,
                "detectable": found and found.detectable,
                "formula": claim.formula,
                "predicted": found and found.predicted,
                "bound": claim.bound,
                "verdict": one.verdict,
                "differs_in": " ".join(one.differs),
                "compared": (found and found.note) or claim.not_tested,
            }
        )
    return pd.DataFrame(rows)


def published(paper: Paper, results: PaperResults) -> pd.DataFrame:
    """Return the paper's table with ours beside each value; the paper's `measures.beside_published` makes it.

    Raises:
        NotRun: the runs lack what stands beside.
    """
    return paper.module("measures").beside_published(results)


def write(paper: Paper, results: PaperResults, folder: Path) -> list[str]:
    """Write arms, claims and published values as CSV files. Return the files' names."""
    tables = {"arms": arms(results), "claims": claims(judge(paper, results))}
    with suppress(NotRun):  # the part that the table needs may be missing
        tables["published"] = published(paper, results)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    return [f"{name}.csv" for name in tables]
