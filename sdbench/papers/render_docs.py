"""Write the generated parts of the docs from `results/`: docs/results/, ARTIFACT.md, and the README's table and figure.

    python -m sdbench.papers.render_docs [--check]

With `--check` nothing is written: the exit status is 1 if a generated file is not what the kept results give, and standard error
names each such file. Figures are checked for presence only, since another version of matplotlib draws other bytes.

In the README, `<!-- table: default -->` ... `<!-- /table -->` holds the table of the kept run of that name, and
`<!-- figure: default/speedup -->` ... `<!-- /figure -->` a figure of it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import yaml

from sdbench.analysis import plots, style
from sdbench.analysis.report.comparison_table import comparison, footnotes
from sdbench.analysis.results import Results, read
from sdbench.models.memory import GB
from sdbench.papers import FOLDER, benchmark_tables, claims, figures, page, paper, sections, tables
from sdbench.papers.markdown import table
from sdbench.papers.paper_results import PaperResults

FIGURES = "figures"
TABLES = "tables"
BANNER = "<!-- Written by `python -m sdbench.papers.render_docs` from results/. Do not edit. -->"
TABLE_MARK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- /table -->)", re.DOTALL)
FIGURE_MARK = re.compile(r"(<!-- figure: (\S+)/(\w+) -->\n).*?(<!-- /figure -->)", re.DOTALL)


class Docs:
    """Renders into a folder. results: the kept runs; out: what becomes docs/results."""

    def __init__(self, results: Path, out: Path) -> None:
        self.results, self.out = results, out
        self.contents: list[tuple[str, str]] = []  # file and title of each page, in order

    def write(self) -> None:
        """Write all pages, figures and tables."""
        for one in yaml.safe_load((FOLDER / "pages.yaml").read_text(encoding="utf-8")):
            self._page(one["name"], one["title"], self._shown(one))
        for name in paper.names():
            self._page(name, paper.find(name).title, self._paper(paper.Paper(name)))
        self._page("engine", "The engine", self._engine())
        self._page("verification", "Losslessness", self._verification())
        self._page("tiny-family", "The tiny family, trained again", self._tiny_family())
        self._write("index.md", "Results", self._index())

    def _page(self, name: str, title: str, parts: list[str]) -> None:
        self._write(f"{name}.md", title, parts)
        self.contents.append((f"{name}.md", title))

    def _write(self, file: str, title: str, parts: Iterable[str]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        text = "\n\n".join([BANNER, f"# {title}", *parts]) + "\n"
        (self.out / file).write_text(text, encoding="utf-8")

    def _shown(self, one: dict[str, Any]) -> list[str]:
        parts = [one["words"], f"`{one['made_by']}` measures these runs again."]
        for shown in one["shown"]:
            for folder in self._folders(shown["runs"]):
                parts += self._run(folder, shown)
        return parts

    def _folders(self, runs: str) -> list[Path]:
        return sorted(path.parent for path in self.results.glob(f"{runs}/summary.json"))

    def _run(self, folder: Path, shown: dict[str, Any]) -> list[str]:
        run, name = read(folder), folder.relative_to(self.results).as_posix()
        parts = [f"## {name}", where(run), summary_table(run)]
        for section in shown.get("sections", []):
            parts += getattr(sections, section)(run)
        for figure in shown.get("figures", []):
            if file := draw(run, figure, self.out / FIGURES / name):
                parts.append(f"![{plots.TITLES[figure]}]({FIGURES}/{name}/{file})")
        return parts

    def _paper(self, one: paper.Paper) -> list[str]:
        parts = [
            f"`make reproduce-{one.name}` runs the plan in `experiments/{one.name}/plan.yaml` and judges the claims. The column "
            "*read in* names sources that [these notes](../references/notes.md) describe. They also define *how sure* a source is."
        ]
        kept = kept_results(self.results, one)
        for results in kept:
            profile, budget = results.folder.name.rsplit("-", 1)
            drawn_in, made_in = (f"{kind}/{one.name}/{results.folder.name}" for kind in (FIGURES, TABLES))
            drawn = figures.draw(one, results, self.out / drawn_in)
            made = tables.write(one, results, self.out / made_in)
            parts += [
                f"## Profile {profile}, budget {budget}",
                *page.section(
                    one,
                    results,
                    claims.judge(one, results),
                    {f"{drawn_in}/{file}": title for file, title in drawn.items()},
                    level=3,
                ),
                "As CSV: " + ", ".join(f"[{file}]({made_in}/{file})" for file in made) + ".",
            ]
        if not kept:
            parts += [
                "Not run yet.",
                *page.claim_tables(claims.judge(one, PaperResults(self.results / one.name / "none"))),
            ]
        return parts

    def _engine(self) -> list[str]:
        parts = ["What a step of the engine costs, where the time of a round goes, and what changes of the engine did."]
        return [*parts, *self._scaling(), *self._rounds(), *self._shortcuts(), *self._changes()]

    def _scaling(self) -> list[str]:
        file = self.results / "bench" / "scaling" / "scaling.csv"
        if not file.is_file():
            return []
        rows = pd.read_csv(file)
        with style.context():
            drawn = figures.save(benchmark_tables.scaling_figure(rows), self.out / FIGURES, "scaling")
        return [
            "## The time of a step",
            "`make bench-scaling` times steps of the tiny family against new tokens, sequences, context and branches. Grey rings "
            "mark contexts longer than those of the training; the weights are random there.",
            f"![The time of a step]({FIGURES}/{drawn})",
            "Straight lines through the curves of the target:",
            benchmark_tables.fits_table(rows),
        ]

    def _rounds(self) -> list[str]:
        files = sorted((self.results / "rounds").glob("*.json"))
        words = ["## The time of a round", "`make bench-rounds` measures medians over the rounds of finished runs."]
        return [*words, *(benchmark_tables.rounds_table(_json(file)) for file in files)] if files else []

    def _shortcuts(self) -> list[str]:
        folder = self.results / "cleverness"
        if not (folder / "rows.csv").is_file():
            return []
        machine = _json(folder / "environment.json")["cpu"]["model"]
        return [
            "## The gain of shortcuts on a real size",
            "Each shortcut of the engine was switched off in turn on SmolLM2-135M, interleaved over prompts, on one thread of an "
            f"{machine}. A ratio above 1 means that the shortcut helped. A shortcut that gains less than 5 % is removed.",
            benchmark_tables.shortcuts_table(pd.read_csv(folder / "rows.csv")),
        ]

    def _changes(self) -> list[str]:
        files = sorted((self.results / "change").glob("*.json"))
        parts = [
            "## Speed after a change against before",
            "`experiments/benchmarks/change.py` runs two revisions in turn on the same prompts. The tables show decode tokens per "
            "second, after / before.",
        ]
        for file in files:
            found = _json(file)
            before, after = (str(found["revisions"][side])[:8] for side in ("before", "after"))
            words = f"`{' '.join(found['overrides'])}`; {before} before, {after} after; {found['machine']}."
            parts += [f"### {file.stem}", words, benchmark_tables.change_table(found)]
        return parts if files else []

    def _verification(self) -> list[str]:
        parts = [
            "`make results-verify` checks two things. The exactness oracle enumerates a method's output law on tabular models. The "
            "total variation between this law and the target's must be below 1e-12. On real weights, greedy output must be that of "
            "`transformers`' own `generate`, token for token, apart from ties of rounding. Sampled output is tested by its "
            "distribution."
        ]
        for file in sorted((self.results / "verify").glob("*.json")):
            rows = [[f"`{arm}`", *_verdict(found)] for arm, found in _json(file)["arms"].items()]
            heads = ["arm", "lossless", "total variation", "identical", "ties", "mismatches", "largest z (limit)"]
            parts += [f"## {file.stem}", table(heads, rows)]
        return parts

    def _tiny_family(self) -> list[str]:
        files = {
            "packaged": Path(__file__).parents[1] / "assets" / "tiny" / "ladder.json",
            "trained again": self.results / "retrained" / "ladder.json",
        }
        ladders = {name: _json(file) for name, file in files.items() if file.is_file()}
        exact = {name: ladder["exact"] for name, ladder in ladders.items()}
        words = (
            "Shares of exact answers of the packaged models, and of models that the recipe `conf/train/tiny.yaml` trained again "
            f"from nothing, on {ladders['packaged']['texts']} held-out texts of each kind."
        )
        kinds = dict.fromkeys((kind, role) for one in exact.values() for kind, roles in one.items() for role in roles)
        rows = [
            [kind, role, *(f"{one.get(kind, {}).get(role, float('nan')):.3f}" for one in exact.values())]
            for kind, role in kinds
        ]
        return [words, table(["texts", "role", *exact], rows, 2)]

    def _index(self) -> list[str]:
        folders = [*self._folders("*"), *self._folders("bench/*"), *self._folders("bench/cuda/*")]
        rows = []
        for folder in sorted(folders):
            run = read(folder)
            target = run.config["models"]["target"]["path"].removeprefix(ASSETS)
            rows.append([f"`{folder.relative_to(self.results).as_posix()}`", target, *page.size(run)])
        return [
            "Every number on these pages is computed from a file in `results/`. `make docs-results` writes the pages; "
            "`make verify-docs` says which of them are stale.",
            "\n".join(f"- [{title}]({file})" for file, title in self.contents),
            "## Kept runs",
            "`sdbench.analysis.results.read` reads each of these folders. Decoding time is that of all arms, prefill included.",
            table(["results/", "target", *page.SIZE_HEADS], rows, 2),
        ]


ASSETS = "pkg://sdbench/assets/"


def where(run: Results) -> str:
    """Say what a kept run was made with: target, prompts, machine, execution mode, temperature, revision."""
    config, machine = run.config, run.environment
    used, git = config["hardware"], machine.get("git") or {}
    temperature = config["sampling"]["temperature"]
    parts = [
        f"Target {config['models']['target']['path'].removeprefix(ASSETS)}",
        f"{run.summary['prompts']} prompts",
        f"temperature {temperature}" if temperature else "greedy",
        f"{used['dtype']}, {used.get('execution', 'eager')}",
    ]
    if str(used["device"]).startswith("cuda"):
        parts.append(" and ".join(sorted({gpu["name"] for gpu in machine["gpus"]})))
        parts += [
            f"{held['peak_bytes'] / GB:.2f} GB at the peak, {held['predicted_bytes'] / GB:.2f} GB predicted"
            for held in machine.get("memory", {}).values()
            if held["predicted_bytes"] is not None
        ]
    else:
        parts.append(f"{machine['cpu']['model']}, {machine['torch']['threads']} thread(s)")
    parts.append(f"torch {machine['packages']['torch']}")
    parts.append(f"revision {git['sha'][:8]}" if git else "revision unknown")
    return "; ".join(parts) + "."


def summary_table(run: Results) -> str:
    """Return the table of a run with its footnotes."""
    notes = footnotes(run.summary)
    return comparison(run.summary).markdown() + (f"\n\n{'; '.join(notes)}." if notes else "")


def draw(run: Results, figure: str, folder: Path) -> str | None:
    """Draw a figure of a run; the file's name, or None if the run has no numbers for it."""
    with style.context():
        made = plots.FIGURES[figure](run.summary)
        return None if made is None else figures.save(made, folder, figure)


def kept_results(results: Path, one: paper.Paper) -> list[PaperResults]:
    """List the kept reproductions of a paper: one for each profile and budget."""
    folders = sorted(path for path in (results / one.name).glob("*") if path.is_dir())
    return [found for found in map(PaperResults, folders) if found.names]


def fill(text: str, results: Path, figures_at: str) -> str:
    """Fill the marked table and figure of a document. figures_at: the folder of the figures, seen from the document."""

    def filled_table(mark: re.Match[str]) -> str:
        return f"{mark[1]}{summary_table(read(results / mark[2]))}\n{mark[3]}"

    def filled_figure(mark: re.Match[str]) -> str:
        return f"{mark[1]}![{plots.TITLES[mark[3]]}]({figures_at}/{mark[2]}/{mark[3]}.svg)\n{mark[4]}"

    return FIGURE_MARK.sub(filled_figure, TABLE_MARK.sub(filled_table, text))


def artifact(results: Path) -> str:
    """Return ARTIFACT.md: what the verdicts are, how many there are of each kind, and the commands that make them anew."""
    rows = []
    for name in paper.names():
        one = paper.find(name)
        for kept in kept_results(results, one):
            found = [judged.verdict for judged in claims.judge(one, kept)]
            counts = [str(found.count(verdict)) for verdict in VERDICTS]
            rows.append([f"[{one.title}](docs/results/{name}.md)", kept.where, f"`make reproduce-{name}`", *counts])
    return "\n\n".join([BANNER, ARTIFACT.strip(), table(["paper", "runs", "command", *VERDICTS], rows, 3)]) + "\n"


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

Set-up: `make setup` (Python 3.11, no GPU, no account). Each paper is a folder in `experiments/`: its README, its plan of runs, its
claims with the source of each and how sure that source is, and the measures that test them. `make reproduce-PAPER` runs the plan,
archives the runs in `results/`, and judges the claims. The same command takes up an interrupted reproduction.

A *general* claim (a theorem, an inequality, an ordering) should hold anywhere. Its 95 % interval decides: it holds, does not hold
here, or is undecided. A claim that *belongs to a set-up* (a factor on named models and hardware) is judged only by runs on that
set-up. For runs on another set-up the page shows the published figure, ours, and the prediction of the claim's own formula from our
measured times and acceptance.

All other kept results are listed in [docs/results](docs/results/index.md). `make verify-docs` says whether this page and those are
what `results/` gives. The number of claims by verdict:
"""


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _verdict(found: dict[str, Any]) -> list[str]:
    scores, limit = found.get("z_scores"), found.get("z_limit")
    values = list(scores.values()) if isinstance(scores, dict) else scores
    largest = f"{max(map(abs, values)):.2f} ({limit:.2f})" if values else page.NOTHING
    counts = [page.NOTHING if found[key] is None else str(found[key]) for key in ("identical", "ties", "mismatches")]
    variation = page.NOTHING if found["oracle_tv"] is None else f"{found['oracle_tv']:.1e}"
    return ["yes" if found["lossless"] else "no", variation, *counts, largest]


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
