"""Write what the runs of a paper say, in Markdown: verdicts, published values beside ours, figures, and the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from sdbench.analysis.results import Results
from sdbench.papers.claims import GENERAL, NOT_RUN, NOT_TESTED, OTHER_SET_UP, SET_UP, Judged
from sdbench.papers.estimate import Estimate
from sdbench.papers.markdown import table
from sdbench.papers.paper import Paper
from sdbench.papers.paper_results import NotRun, PaperResults
from sdbench.papers.plan import experiment_of
from sdbench.papers.set_up import set_ups_of
from sdbench.papers.tables import published

NOTHING = "–"
READING = (
    "Brackets hold 95 % bootstrap intervals over prompts; *n* is the number of prompts, or of blocks at larger batches. "
    "*Detectable* is the smallest effect that such a sample finds with 80 % power at the 5 % level."
)
SET_UP_READING = (
    "A figure on named models and hardware is judged only by runs on that set-up. *Predicted here* is the result of the claim's "
    "own formula with the step times and the acceptance that our runs measured. The set-ups (models; hardware; dtype; tasks; "
    "engine, where known):"
)
_GENERAL_HEADS = ("claim", "read in", "how sure", "published", "ours [95 %]", "n", "detectable", "bound", "verdict")
_SET_UP_HEADS = ("claim", "read in", "set-up", "published", "ours [95 %]", "n", "predicted here", "verdict")


def section(
    paper: Paper, results: PaperResults, judged: Sequence[Judged], figures: Mapping[str, str], level: int = 2
) -> list[str]:
    """Return the paragraphs on one profile and budget.

    Args:
        paper: the paper.
        results: its kept runs.
        judged: its claims, judged by these runs.
        figures: the title of each figure by its path.
        level: of the headings.
    """
    mark = "#" * level
    parts = [f"Runs: {results.where}. {READING}"]
    parts += claim_tables(judged, mark, [results[name] for name in results.names])
    notes = [f"- {one.claim.claim}: {one.estimate.note}." for one in judged if one.estimate and one.estimate.note]
    parts += [f"{mark} What was compared", "\n".join(notes)] if notes else []
    parts += [f"{mark} Published values beside ours", beside] if (beside := _published(paper, results)) else []
    parts += [f"{mark} Figures"] if figures else []
    parts += [f"{title}:\n\n![{title}]({path})" for path, title in figures.items()]
    parts += [f"{mark} Runs", _runs(paper, results)]
    return parts


def claim_tables(judged: Sequence[Judged], mark: str = "##", runs: Sequence[Results] = ()) -> list[str]:
    """Return the verdicts: a table of general claims, and one of claims that belong to a set-up.

    runs: the runs whose set-ups are named.
    """
    general = [one for one in judged if one.claim.scope == GENERAL]
    bound_to = [one for one in judged if one.claim.scope == SET_UP]
    parts = []
    if general:
        rows = [_general_row(one) for one in general]
        parts += [
            f"{mark} General claims",
            "These should hold on any models and hardware.",
            table(_GENERAL_HEADS, rows, 4),
        ]
    if bound_to:
        parts += [f"{mark} Claims that belong to a set-up", _set_up_words(bound_to, runs)]
        parts += [table(_SET_UP_HEADS, [_set_up_row(one) for one in bound_to], 4)]
    return parts


def _set_up_words(judged: Sequence[Judged], runs: Sequence[Results]) -> str:
    """What the second table shows, the set-up of our runs, and the formulas behind its predictions."""
    lines = [
        f"- `{set_up.name}`: {set_up}." for set_up in dict.fromkeys(at for one in judged for at in one.claim.set_ups)
    ]
    lines += [f"- ours: {words_of}." for words_of in set_ups_of(runs)]
    differs = list(dict.fromkeys(name for one in judged for name in one.differs))
    lines += [f"- Our runs differ from the published set-ups in: {', '.join(differs)}."] if differs else []
    formulas = list(dict.fromkeys(one.claim.formula for one in judged if one.claim.formula))
    lines += [f"- Formula: {formula}." for formula in formulas]
    return f"{SET_UP_READING}\n\n" + "\n".join(lines)


def _general_row(one: Judged) -> list[str]:
    claim, found = one.claim, one.estimate
    verdict = f"**{one.verdict}**" + (f": {claim.not_tested}" if one.verdict == NOT_TESTED else "")
    ours = [NOTHING] * 3 if found is None else [shown(found), str(found.n), detectable(found)]
    return [claim.claim, claim.read_in, claim.sure, claim.published or NOTHING, *ours, claim.bound or NOTHING, verdict]


def _set_up_row(one: Judged) -> list[str]:
    claim, found = one.claim, one.estimate
    judged_by = "" if one.verdict in (OTHER_SET_UP, NOT_RUN, NOT_TESTED) else f" ({claim.bound})"
    verdict = f"**{one.verdict}**{judged_by}" + (f": {claim.not_tested}" if one.verdict == NOT_TESTED else "")
    ours = [NOTHING] * 3 if found is None else [shown(found), str(found.n), _predicted(found)]
    set_ups = ", ".join(f"`{set_up.name}`" for set_up in claim.set_ups)
    return [claim.claim, f"{claim.read_in} ({claim.sure})", set_ups, claim.published or NOTHING, *ours, verdict]


def shown(found: Estimate) -> str:
    """Return the estimate with its interval."""
    unit, sign = ("x", "") if found.ratio else ("", "+")
    between = "" if found.ci95 is None else f" [{found.ci95[0]:{sign}.3f}, {found.ci95[1]:{sign}.3f}]"
    return f"{found.value:{sign}.3f}{unit}{between}"


def detectable(found: Estimate) -> str:
    """Return the smallest effect that could have been detected."""
    effect = found.detectable
    return NOTHING if effect is None else f"{100 * effect:.1f} %" if found.ratio else f"{effect:.3f}"


def _predicted(found: Estimate) -> str:
    return NOTHING if found.predicted is None else f"{found.predicted:.3f}" + ("x" if found.ratio else "")


def _published(paper: Paper, results: PaperResults) -> str:
    """The published values beside ours; '' if the runs lack what stands beside."""
    try:
        beside = published(paper, results)
    except NotRun:
        return ""
    rows = [[_cell(value) for value in row] for row in beside.itertuples(index=False)]
    return table([str(column).replace("_", " ") for column in beside], rows)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return NOTHING if pd.isna(value) else f"{value:.4g}"
    return NOTHING if value is None else str(value)


def _runs(paper: Paper, results: PaperResults) -> str:
    """Experiment, arms, prompts, repeats, sequences and decoding time of each run."""
    rows = [[f"`{name}`", f"`experiment={experiment_of(paper, name)}`", *size(results[name])] for name in results.names]
    return table(["run", "experiment", *SIZE_HEADS], rows, 2)


SIZE_HEADS = ("arms", "prompts", "repeats", "sequences", "decoding time")


def size(run: Results) -> list[str]:
    """Return the cells under `SIZE_HEADS`. The time is that of all arms, prefill included."""
    blocks = run.sequences.drop_duplicates(["arm", "block", "repeat"])
    seconds = float(run.sequences["prefill_seconds"].sum() + blocks["block_decode_seconds"].sum())
    numbers = (len(run.summary["arms"]), run.summary["prompts"], run.summary["repeats"], len(run.sequences))
    return [*map(str, numbers), f"{seconds / 60:.1f} min"]
