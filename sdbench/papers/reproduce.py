"""Run what a paper's tables and figures need, archive the runs, draw the figures, and judge the paper's claims.

    python -m sdbench.papers reproduce PAPER [--profile NAME] [--budget quick|paper] [--dry-run] [overrides]

The same command takes up an interrupted reproduction where it stopped. With overrides (`limit=2`) the runs and their
results go to a folder of their own under `results/runs/`, so a trial never replaces results.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from sdbench.errors import InputError
from sdbench.papers import page, tables
from sdbench.papers.archive import archive_run
from sdbench.papers.claims import judge, read_claims
from sdbench.papers.figures import draw
from sdbench.papers.paper import Paper, find
from sdbench.papers.paper_results import PaperResults
from sdbench.papers.plan import PlannedRun, answer_seconds, estimate_seconds, planned_runs
from sdbench.runs.files import write_text

RESULTS = Path("results")
BASE_PROFILE = "tiny"
"""The profile that every machine can run; of others a dry run only lists the commands."""


@dataclass(frozen=True)
class Place:
    """runs: where the runs work; kept: where they are archived; report: where tables, figures and verdicts go."""

    runs: Path
    kept: Path
    report: Path


def place(paper: Paper, profile: str, budget: str, overrides: list[str], out: Path | None) -> Place:
    """Return where a reproduction lies. One without overrides is archived in `results/`, which the docs read."""
    name = f"{profile}-{budget}"
    work = RESULTS / "runs" / "reproduce" / paper.name
    if out is None and not overrides:
        return Place(work / name, RESULTS / paper.name / name, work / name / "report")
    mark = hashlib.sha256(" ".join(overrides).encode()).hexdigest()[:8]
    folder = out or work / f"{name}-{mark}"
    return Place(folder / "runs", folder / "kept", folder / "report")


def reproduce(name: str, profile: str, budget: str, overrides: list[str], out: Path | None, dry_run: bool) -> int:
    """Run what is not finished, then write tables, figures and verdicts.

    Returns:
        1 if a run failed (the others are done all the same), else 0.

    Raises:
        InputError: no such paper, profile or budget; an override is wrong; a folder holds something else.
    """
    from sdbench.harness.config import compose
    from sdbench.harness.plan import prepare
    from sdbench.harness.run import folder_of

    paper = find(name)
    read_claims(paper)  # a wrong file is refused before hours are spent
    planned = planned_runs(paper, profile, budget)
    where = place(paper, profile, budget, overrides, out)
    kept = PaperResults(RESULTS / paper.name / f"{BASE_PROFILE}-quick")
    rates = answer_seconds(kept[run] for run in kept.names) if profile == BASE_PROFILE else {}
    total, ready = 0.0, []
    for run in planned:
        config = compose([*run.overrides, *overrides, f"out={where.runs / run.name}"])
        if dry_run and profile != BASE_PROFILE:
            print(f"{run.name}: sdbench run {' '.join(run.overrides)}")
            continue
        plan = prepare(config)
        ready.append((run, plan))
        said = f"{run.name}: {len(plan.arm_configs)} arms x {len(plan.prompts)} prompts x {config['repeats']}"
        if rates:
            seconds = estimate_seconds(config, rates)
            total += seconds
            said += f", {_minutes(seconds)}"
        print(said)
    if total:
        print(f"{len(ready)} runs, about {_minutes(total)} on the machine of the kept results")
    if dry_run:
        return 0
    folders = [folder_of(plan) for _, plan in ready]  # a folder with other content is refused before hours are spent
    failed = [
        run.name
        for index, ((run, plan), folder) in enumerate(zip(ready, folders, strict=True), 1)
        if not _run(run, plan, folder, where, f"{index}/{len(ready)}")
    ]
    results = PaperResults(where.kept)
    if results.names:
        write_report(paper, results, where.report)
        print(f"results: {where.kept}\nreport: {where.report / 'report.md'}")
    for run in failed:
        print(f"failed: {run} (its folder says why; the same command tries it again)", file=sys.stderr)
    return 1 if failed else 0


def write_report(paper: Paper, results: PaperResults, folder: Path) -> None:
    """Write `report.md`, the CSV files and the figures of a paper, and print the verdicts."""
    shutil.rmtree(folder, ignore_errors=True)
    tables.write(paper, results, folder)
    figures = {f"figures/{file}": title for file, title in draw(paper, results, folder / "figures").items()}
    judged = judge(paper, results)
    text = "\n\n".join([f"# {paper.title}", *page.section(paper, results, judged, figures)])
    write_text(folder / "report.md", text + "\n")
    print("\n\n".join(page.claim_tables(judged)))


def _run(run: PlannedRun, plan, folder, where: Place, count: str) -> bool:
    """Run or take up one planned run and archive it; False if it failed.

    Raises:
        InputError: it cannot begin, because another process works on it. Its archive stays.
    """
    from sdbench.harness.run import run as measure

    print(f"[{count}] {run.name}", flush=True)
    kept = where.kept / run.name
    try:
        out, _, fresh = measure(plan, folder)
    except InputError:
        raise
    except Exception as error:
        print(f"{run.name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        shutil.rmtree(kept, ignore_errors=True)  # another measurement must not stand for this one
        return False
    print(f"[{count}] {run.name}: {'done' if fresh else 'was finished before'}", flush=True)
    if not _same(out / "summary.json", kept / "summary.json"):
        archive_run(out, kept)
    return True


def _same(measured: Path, kept: Path) -> bool:
    """Whether the archive is of this very measurement: a clone brings the archive of another machine."""
    return kept.is_file() and kept.read_bytes() == measured.read_bytes()


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"
