"""Run what a paper's tables and figures need, keep it under `results/`, draw it, and judge the paper's claims by it.

    python -m experiments.reproduce {pyramidsd,ssd} [--profile NAME] [--budget quick|paper] [--dry-run] [overrides]

What was stopped, in whatever way, goes on where it was when the same command is given again. With overrides (`limit=2`) the runs
and what is kept of them go to a folder of their own, under `results/runs/`, so that a trial never replaces results.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from experiments import artifact, claims, quote
from experiments.cells import Cells, keep
from experiments.figures import draw
from experiments.plan import BUDGETS, PAPERS, ROOT, Cell, answer_seconds, cells, estimate
from experiments.tables import write_tables
from sdbench.errors import InputError


@dataclass(frozen=True)
class Place:
    """runs: where the runs work; kept: where their results go."""

    runs: Path
    kept: Path

    @property
    def official(self) -> bool:
        """Whether the results are the ones that ARTIFACT.md reads."""
        return self.kept.parent.parent == ROOT / "results"


def place(paper: str, profile: str, budget: str, overrides: list[str], out: Path | None) -> Place:
    """Where a reproduction lies."""
    name = f"{profile}-{budget}"
    if out is None and not overrides:
        return Place(ROOT / "results" / "runs" / "reproduce" / paper / name, ROOT / "results" / paper / name)
    mark = hashlib.sha256(" ".join(overrides).encode()).hexdigest()[:8]
    folder = out or ROOT / "results" / "runs" / "reproduce" / paper / f"{name}-{mark}"
    return Place(folder / "runs", folder / "kept")


def main(argv: list[str]) -> int:
    options, overrides = _parser().parse_known_args(argv)
    try:
        return reproduce(options, overrides)
    except InputError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2


def reproduce(options: argparse.Namespace, overrides: list[str]) -> int:
    """Every cell that is not finished, then tables, figures and verdicts. 1 if a cell failed: the others are done all the same."""
    from sdbench.harness.config import compose
    from sdbench.harness.plan import prepare
    from sdbench.harness.run import folder_of

    claims.read_claims(options.paper)  # what cannot be judged is refused before hours are spent
    planned = cells(options.paper, options.profile, options.budget)
    where = place(options.paper, options.profile, options.budget, overrides, options.out)
    rates, total, ready = answer_seconds(), 0.0, []
    for cell in planned:
        config = compose([*cell.overrides, *overrides, f"out={where.runs / cell.name}"])
        if options.dry_run and options.profile != "tiny":
            print(f"{cell.name}: sdbench run {' '.join(cell.overrides)}")
            continue
        plan = prepare(config)
        seconds = estimate(config, rates)
        total += seconds
        ready.append((cell, plan))
        print(
            f"{cell.name}: {len(plan.arm_configs)} arms x {len(plan.prompts)} prompts x {config['repeats']}, {_minutes(seconds)}"
        )
    if ready and options.profile == "tiny":
        print(f"{len(ready)} cells, about {_minutes(total)} on the machine of the kept results")
    if options.dry_run:
        return 0
    folders = [folder_of(plan) for _, plan in ready]  # a folder of other content is refused before hours are spent
    failed = [
        cell.name
        for index, ((cell, plan), folder) in enumerate(zip(ready, folders, strict=True), 1)
        if not _run(cell, plan, folder, where, f"{index}/{len(ready)}")
    ]
    kept = Cells(where.kept)
    if kept.names:
        _write(options, kept, where)
    for name in failed:
        print(f"failed: {name} (its folder says why; the same command tries it again)", file=sys.stderr)
    return 1 if failed else 0


def _write(options: argparse.Namespace, kept: Cells, where: Place) -> None:
    """Tables, figures, verdicts, and what quotes them."""
    write_tables(options.paper, kept)
    draw(options.paper, kept)
    claims.write(options.paper, kept, options.profile)
    if where.official:
        artifact.write()
        quote.write()
    print((where.kept / "report.md").read_text(encoding="utf-8"))
    print(f"results: {where.kept}")


def _run(cell: Cell, plan, folder, where: Place, count: str) -> bool:
    """Run or take up one cell and keep it; False if it failed.

    Raises:
        InputError: it cannot be begun (another process is at it); what was kept of it stays.
    """
    from sdbench.harness.run import run

    print(f"[{count}] {cell.name}", flush=True)
    try:
        out, _, fresh = run(plan, folder)
    except InputError:
        raise
    except Exception as error:
        print(f"{cell.name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        shutil.rmtree(
            where.kept / "cells" / cell.name, ignore_errors=True
        )  # another measurement's: not to be shown as this one's
        return False
    print(f"[{count}] {cell.name}: {'done' if fresh else 'was finished before'}", flush=True)
    kept = where.kept / "cells" / cell.name
    if not _same(out / "summary.json", kept / "summary.json"):
        keep(out, kept)
    return True


def _same(measured: Path, kept: Path) -> bool:
    """Whether what is kept is of this very measurement: a clone brings the kept cells of another machine."""
    return kept.is_file() and kept.read_bytes() == measured.read_bytes()


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paper", choices=PAPERS)
    parser.add_argument("--profile", default="tiny", help="the family and the machine: tiny, or a large one")
    parser.add_argument(
        "--budget", default="quick", choices=BUDGETS, help="quick: minutes; paper: the whole grids, hours"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and how long it takes")
    parser.add_argument("--out", type=Path, help="another folder for runs and results")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
