"""Write the generated parts of the docs from `results/`: docs/results/, ARTIFACT.md, and the README's table and figure.

    python -m sdbench.papers.render_docs [--check]

With `--check` nothing is written: the exit status is 1 if a generated file is not what the kept results give, and standard error
names each such file. Figures are checked for presence only, since another version of matplotlib draws other bytes.

In the README, `<!-- table: default -->` ... `<!-- /table -->` holds the table of the kept run of that name, and
`<!-- figure: default -->` ... `<!-- /figure -->` its figure of speed-ups, or another one that is named behind the run.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from sdbench.analysis.figures.draw import FIGURES
from sdbench.analysis.report.grid import Column, Grid
from sdbench.analysis.results import read
from sdbench.papers import claims, paper
from sdbench.papers.docs_pages import BANNER, Docs, kept_results, summary_table, where

TABLE_MARK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- /table -->)", re.DOTALL)
FIGURE_MARK = re.compile(r"(<!-- figure: (\S+)(?: (\w+))? -->\n).*?(<!-- /figure -->)", re.DOTALL)
FIRST_FIGURE = "speedup"


def fill(text: str, results: Path, figures_at: str) -> str:
    """Fill the marked table and figure of a document. figures_at: the folder of the figures, seen from the document."""

    def filled_table(mark: re.Match[str]) -> str:
        run = read(results / mark[2])
        return f"{mark[1]}\n`results/{mark[2]}`: {where(run)}\n\n{summary_table(run)}\n\n{mark[3]}"

    def filled_figure(mark: re.Match[str]) -> str:
        name = mark[3] or FIRST_FIGURE
        return f"{mark[1]}![{FIGURES[name].title}]({figures_at}/{mark[2]}/{name}.svg)\n{mark[4]}"

    return FIGURE_MARK.sub(filled_figure, TABLE_MARK.sub(filled_table, text))


def artifact(results: Path) -> str:
    """Return ARTIFACT.md: what the verdicts are, how many there are of each kind, and the commands that make them anew."""
    rows = []
    for name in paper.names():
        one = paper.find(name)
        for kept in kept_results(results, one):
            found = [judged.verdict for judged in claims.judge(one, kept)]
            counts = [found.count(verdict) for verdict in VERDICTS]
            rows.append([f"[{one.title}](docs/results/{name}.md)", kept.where, f"make reproduce-{name}", *counts])
    columns = [Column("paper"), Column("runs"), Column("command", code=True), *(Column(head, "d") for head in VERDICTS)]
    return "\n\n".join([BANNER, ARTIFACT.strip(), Grid(columns, rows).markdown()]) + "\n"


VERDICTS = (
    claims.HOLDS,
    claims.DOES_NOT_HOLD,
    claims.UNDECIDED,
    claims.OTHER_SET_UP,
    claims.NOT_RUN,
    claims.NOT_TESTED,
)

ARTIFACT = """
# What was claimed, how it was tested, and what came out

Set-up: `make setup` (Python 3.11, no GPU, no account). Each paper is a folder in `experiments/`. It holds a plan of runs,
the claims with their sources, and the measures that test them. `make reproduce-PAPER` runs the plan, archives the runs in
`results/`, and judges the claims. The same command takes up an interrupted reproduction.

A *general* claim (a theorem, an inequality, an ordering) should hold anywhere. Its 95 % interval decides: it holds, does not hold
here, or is undecided. A claim that *belongs to a set-up* (a factor on named models and hardware) is judged only by runs on that
set-up. For runs on another set-up the page shows the published figure, ours, and the prediction of the claim's own formula from our
measured times and acceptance.

All other kept results are listed in [docs/results](docs/results/index.md). `make verify-docs` says whether this page and those are
what `results/` gives. The number of claims by verdict:
"""


def render(root: Path, out: Path) -> dict[str, str]:
    """Write docs/results into `out`, and return the text of ARTIFACT.md and of README.md."""
    results, readme = root / "results", root / "README.md"
    Docs(results, out).write()
    return {
        "ARTIFACT.md": artifact(results),
        "README.md": fill(readme.read_text(encoding="utf-8"), results, "docs/results/figures"),
    }


def stale(root: Path) -> list[str]:
    """List the generated files that are not what the kept results give."""
    found = []
    with TemporaryDirectory() as scratch:
        made, there = Path(scratch) / "results", root / "docs" / "results"
        for name, text in render(root, made).items():
            path = root / name
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                found.append(name)
        files = {path.relative_to(folder) for folder in (made, there) for path in folder.rglob("*") if path.is_file()}
        for file in sorted(files):
            new, old = made / file, there / file
            drawn = file.suffix == ".svg"
            if not (new.is_file() and old.is_file()) or not (drawn or new.read_bytes() == old.read_bytes()):
                found.append(f"docs/results/{file.as_posix()}")
    return found


def write(root: Path) -> None:
    """Write all generated files."""
    out = root / "docs" / "results"
    shutil.rmtree(out, ignore_errors=True)
    for name, text in render(root, out).items():
        (root / name).write_text(text, encoding="utf-8")


def main(argv: list[str]) -> int:
    """Run the command line, from the root of a checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; say which files are stale")
    options = parser.parse_args(argv)
    if not options.check:
        write(Path())
        return 0
    found = stale(Path())
    for name in found:
        print(f"{name} is not what results/ gives: run `make docs-results`", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
