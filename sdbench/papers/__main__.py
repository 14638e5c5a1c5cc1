"""Reproduce a paper, or archive a finished run: `python -m sdbench.papers {reproduce,archive} --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sdbench.errors import InputError
from sdbench.papers.archive import archive_run
from sdbench.papers.paper import names
from sdbench.papers.plan import BUDGETS
from sdbench.papers.reproduce import BASE_PROFILE, RESULTS, reproduce


def main(argv: list[str]) -> int:
    """Run the command line; the exit status is 2 if the input was refused."""
    options, overrides = _parser().parse_known_args(argv)
    try:
        if options.command == "archive":
            if overrides:
                raise InputError(f"archive takes a run's folder and a name, and nothing else: {' '.join(overrides)}.")
            archive_run(options.run, options.results / options.name)
            return 0
        return reproduce(options.paper, options.profile, options.budget, overrides, options.out, options.dry_run)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sdbench.papers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("reproduce", help="run a paper's plan and judge its claims")
    make.add_argument("paper", help=f"one of: {', '.join(names())}")
    make.add_argument("--profile", default=BASE_PROFILE, help="the family and the machine (default: %(default)s)")
    make.add_argument("--budget", default=BUDGETS[0], help="quick: minutes; paper: the whole grids, hours")
    make.add_argument("--dry-run", action="store_true", help="say what would run, and how long it takes")
    make.add_argument("--out", type=Path, help="another folder for runs and results")
    keep = commands.add_parser("archive", help="keep a finished run without its traces")
    keep.add_argument("run", type=Path, help="the folder of a finished run")
    keep.add_argument("name", help="the name under which results/ keeps it")
    keep.add_argument("--results", type=Path, default=RESULTS, help="the folder of kept runs (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
