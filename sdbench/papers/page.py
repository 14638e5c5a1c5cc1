"""Write what the runs of a paper say, in Markdown: verdicts, published values beside ours, figures, and the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sdbench.analysis.report.grid import MISSING, Column, Grid, estimate, number, percent
from sdbench.analysis.results import Results
from sdbench.papers.claims import DOES_NOT_HOLD, GENERAL, HOLDS, SET_UP, UNDECIDED, Judged
from sdbench.papers.estimate import Estimate
from sdbench.papers.paper import Paper
from sdbench.papers.paper_results import NotRun, PaperResults
from sdbench.papers.plan import experiment_of
from sdbench.papers.set_up import set_ups_of
from sdbench.papers.tables import published

READING = (
    "Brackets hold 95 % bootstrap intervals over prompts; *n* is the number of prompts, or of blocks at larger batches. "
    "*Detectable* is the smallest effect that such a sample finds with 80 % power at the 5 % level."
)
SET_UP_READING = (
    "A figure on named models and hardware is judged only by runs on that set-up. *Predicted here* is the result of the claim's "
    "own formula with the step times and the acceptance that our runs measured. The set-ups (models; hardware; dtype; tasks; "
    "engine, where known):"
)


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
        words = "These should hold on any models and hardware."
        parts += [f"{mark} General claims", words, general_grid(general).markdown()]
    if bound_to:
        words = _set_up_words(bound_to, runs)
        parts += [f"{mark} Claims that belong to a set-up", words, set_up_grid(bound_to).markdown()]
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


def general_grid(judged: Sequence[Judged]) -> Grid:
    """Return the verdicts on general claims as a table."""
    heads = [Column(head) for head in ("claim", "read in", "how sure", "published")]
    heads += [Column("ours [95 %]", shown), Column("n", "d"), Column("detectable", _detectable)]
    rows = []
    for one in judged:
        claim, found = one.claim, one.estimate
        verdict = f"**{one.verdict}**" + (f": {claim.not_tested}" if claim.not_tested else "")
        said = [claim.claim, claim.read_in, claim.sure, claim.published or None]
        rows.append([*said, found, found and found.n, found, claim.bound or None, verdict])
    return Grid([*heads, Column("bound"), Column("verdict")], rows)


def set_up_grid(judged: Sequence[Judged]) -> Grid:
    """Return the verdicts on claims that belong to a set-up as a table. The bound stands there only if it was applied."""
    heads = [Column(head) for head in ("claim", "read in", "set-up", "published")]
    heads += [Column("ours [95 %]", shown), Column("n", "d"), Column("predicted here", _predicted)]
    rows = []
    for one in judged:
        claim, found = one.claim, one.estimate
        applied = one.verdict in (HOLDS, DOES_NOT_HOLD, UNDECIDED)
        verdict = f"**{one.verdict}**" + (f" ({claim.bound})" if applied else "")
        set_ups = ", ".join(f"`{set_up.name}`" for set_up in claim.set_ups)
        said = [claim.claim, f"{claim.read_in} ({claim.sure})", set_ups, claim.published or None]
        rows.append([*said, found, found and found.n, found, verdict])
    return Grid([*heads, Column("verdict")], rows)


def shown(found: Estimate) -> str:
    """Write an estimate with its interval."""
    return estimate(found.value, found.ci95, 3, "x" if found.ratio else "", signed=not found.ratio)


def _detectable(found: Estimate) -> str:
    return percent(found.detectable) if found.ratio else number(found.detectable, ".3f")


def _predicted(found: Estimate) -> str:
    return MISSING if found.predicted is None else f"{found.predicted:.3f}" + ("x" if found.ratio else "")


def _published(paper: Paper, results: PaperResults) -> str:
    """The published values beside ours; '' if the runs lack what stands beside."""
    try:
        beside = published(paper, results)
    except NotRun:
        return ""
    numeric = [beside[name].dtype.kind in "if" for name in beside]
    columns = [
        Column(str(name).replace("_", " "), ".4g" if is_number else None)
        for name, is_number in zip(beside, numeric, strict=True)
    ]
    return Grid(columns, beside.to_numpy(dtype=object).tolist()).markdown()


def _runs(paper: Paper, results: PaperResults) -> str:
    """Experiment, arms, prompts, repeats, sequences and decoding time of each run."""
    rows = [[name, f"experiment={experiment_of(paper, name)}", *size(results[name])] for name in results.names]
    return Grid([Column("run", code=True), Column("experiment", code=True), *SIZES], rows).markdown()


SIZES = (
    *(Column(head, "d") for head in ("arms", "prompts", "repeats", "sequences")),
    Column("decoding time", lambda seconds: f"{seconds / 60:.1f} min"),
)
"""Columns of `size`. The time is that of all arms, prefill included."""


def size(run: Results) -> tuple[int, int, int, int, float]:
    """Return the cells under `SIZES`."""
    blocks = run.sequences.drop_duplicates(["arm", "block", "repeat"])
    seconds = float(run.sequences["prefill_seconds"].sum() + blocks["block_decode_seconds"].sum())
    return len(run.summary["arms"]), run.summary["prompts"], run.summary["repeats"], len(run.sequences), seconds
