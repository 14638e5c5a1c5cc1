"""Write the pages of docs/results, with their figures and CSV files, from the kept runs in `results/`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sdbench.analysis.figures import draw, style
from sdbench.analysis.report.comparison_table import comparison
from sdbench.analysis.report.grid import Column, Grid
from sdbench.analysis.results import Results, read
from sdbench.models.memory import GB
from sdbench.papers import (
    FOLDER,
    benchmark_tables,
    claims,
    figures,
    page,
    paper,
    recipe_tables,
    sections,
    tables,
    tree_tables,
)
from sdbench.papers.findings import findings
from sdbench.papers.paper_results import PaperResults

FIGURES, TABLES = "figures", "tables"
ASSETS = "pkg://sdbench/assets/"
BANNER = "<!-- Written by `python -m sdbench.papers.render_docs` from results/. Do not edit. -->"

FINDINGS = (
    "What the papers do not say. Each number is that of the model, the task and the machine of its run. "
    "Ranges are 95 % intervals."
)
RECIPES = (
    "Drafters for SmolLM2-135M-Instruct, made by [`sdbench train`](../training.md) with the same text and as many tokens. "
    "Each is measured on the answers that the target itself wrote to prompts of GSM8K, HumanEval, Spec-Bench and MT-Bench. No "
    "training read these prompts. The cards in `results/training/recipes/` have the minutes of each training, which other work on "
    "the machine has lengthened. `make results-recipes` trains and measures them again."
)


class Docs:
    """Renders into a folder. results: the kept runs; out: what becomes docs/results."""

    def __init__(self, results: Path, out: Path) -> None:
        self.results, self.out = results, out
        self.contents: list[tuple[str, str]] = []  # file and title of each page, in order

    def write(self) -> None:
        """Write all pages, figures and tables."""
        self._page("findings", "Findings", [FINDINGS, *findings(self.results)])
        for one in yaml.safe_load((FOLDER / "pages.yaml").read_text(encoding="utf-8")):
            self._page(one["name"], one["title"], self._shown(one))
        for name in paper.names():
            self._page(name, paper.find(name).title, self._paper(paper.Paper(name)))
        self._page("recipes", "Training recipes at equal budgets", self._recipes())
        self._page("engine", "The engine", self._engine())
        self._page("trees", "Token trees on a machine", self._trees())
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
            for file in draw.draw(run.summary, self.out / FIGURES / name, only=[figure]):
                parts.append(f"![{draw.FIGURES[figure].title}]({FIGURES}/{name}/{file.name})")
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
        return [*parts, *self._scaling(), *self._rounds(), *self._prepacked(), *self._shortcuts(), *self._changes()]

    def _scaling(self) -> list[str]:
        file = self.results / "bench" / "scaling" / "scaling.csv"
        if not file.is_file():
            return []
        rows = pd.read_csv(file)
        with style.context():
            style.save(benchmark_tables.scaling_figure(rows), self.out / FIGURES, "scaling")
        return [
            "## The time of a step",
            "`make bench-scaling` times steps of the tiny family against new tokens, sequences, context and branches. Grey rings "
            "mark contexts longer than those of the training; the weights are random there.",
            f"![The time of a step]({FIGURES}/scaling.svg)",
            "Straight lines through the curves of the target:",
            benchmark_tables.fits_table(rows).markdown(),
        ]

    def _rounds(self) -> list[str]:
        files = sorted((self.results / "rounds").glob("*.json"))
        words = ["## The time of a round", "`make bench-rounds` measures medians over the rounds of finished runs."]
        return [*words, *(benchmark_tables.rounds_table(_json(file)).markdown() for file in files)] if files else []

    def _prepacked(self) -> list[str]:
        files = sorted((self.results / "bench" / "prepacked").glob("*.json"))
        parts = [
            "## The gain of blocked weights",
            "`experiments/benchmarks/prepacked.py` times the same step with plain and with "
            "[blocked weights](../execution-modes.md#blocked-weights), in turn. A cost is the time of a step over n tokens, in "
            "steps over one token.",
        ]
        for file in files:
            found = _json(file)
            words = (
                f"{found['model']} in {found['dtype']}, {found['context']} tokens of context, {found['repeats']} timings; "
                f"{found['machine']}, "
            )
            parts += [
                f"{words}{found['threads']} thread(s); torch {found['torch']}.",
                benchmark_tables.prepacked_table(found).markdown(),
            ]
        return parts if files else []

    def _shortcuts(self) -> list[str]:
        folder = self.results / "cleverness"
        if not (folder / "rows.csv").is_file():
            return []
        machine = _json(folder / "environment.json")["cpu"]["model"]
        return [
            "## The gain of shortcuts on a real size",
            "Each shortcut of the engine was switched off in turn on SmolLM2-135M, interleaved over prompts, on one thread of an "
            f"{machine}. A ratio above 1 means that the shortcut helped. A shortcut that gains less than 5 % is removed.",
            benchmark_tables.shortcuts_table(pd.read_csv(folder / "rows.csv")).markdown(),
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
            parts += [f"### {file.stem}", words, benchmark_tables.change_table(found).markdown()]
        return parts if files else []

    def _trees(self) -> list[str]:
        parts = [
            "T_v(n) is the target's time for a verification of n nodes. `make bench-trees` measures it for each precision and "
            "execution mode, all sizes in turn. Bands are 95 % intervals of the medians. A ring marks the tree of least predicted "
            "time per token. The same target then decodes with this tree. The table compares the prediction with that run."
        ]
        files = sorted((self.results / "bench" / "trees").glob("*.json"))
        for file in files:
            found = _json(file)
            with style.context():
                style.save(tree_tables.curves_figure(found), self.out / FIGURES / "trees", file.stem)
            parts += [
                f"## {file.stem}",
                f"Target {found['target']}; draft {found['draft']}; {found['prompts']} prompts of {found['task']}; "
                f"{found['context']} tokens of context; {found['repeats']} timings of each size; {found['machine']}, "
                f"{found['threads']} thread(s); torch {found['torch']}; revision {str(found['revision'])[:8]}.",
                f"![The time of a verification]({FIGURES}/trees/{file.stem}.svg)",
                tree_tables.trees_table(found).markdown(),
            ]
        return parts if files else [*parts, "Not measured yet."]

    def _recipes(self) -> list[str]:
        cards = {file.stem: _json(file) for file in sorted((self.results / "training" / "recipes").glob("*.json"))}
        if not cards:
            return [RECIPES, "Not measured yet."]
        return [
            RECIPES,
            recipe_tables.conditions(cards),
            "## The probability that a drafted token is accepted",
            "This is `alpha` at temperature 1, with a bootstrap interval over sequences. It is a lower bound, because only the "
            "most likely tokens of the target are known. At depth d the drafter predicts the token d places ahead, behind the "
            "target's own tokens. The budget is small, so compare the rows with each other, not with published drafters.",
            recipe_tables.compared(cards, "alpha").markdown(),
            "## The share of places with the same most likely token",
            "This is acceptance in greedy decoding.",
            recipe_tables.compared(cards, "greedy").markdown(),
        ]

    def _verification(self) -> list[str]:
        parts = [
            "`make results-verify` checks two things. The exactness oracle enumerates a method's output law on tabular models. The "
            "total variation between this law and the target's must be below 1e-12. On real weights, greedy output must be that of "
            "`transformers`' own `generate`, token for token, apart from ties of rounding. Sampled output is tested by its "
            "distribution."
        ]
        for file in sorted((self.results / "verify").glob("*.json")):
            rows = [[arm, *_verdict(found)] for arm, found in _json(file)["arms"].items()]
            counts = [Column(head, "d") for head in ("identical", "ties", "mismatches")]
            columns = [Column("arm", code=True), Column("lossless"), Column("total variation", ".1e"), *counts]
            parts += [f"## {file.stem}", Grid([*columns, Column("largest z (limit)", align="right")], rows).markdown()]
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
        rows = [[kind, role, *(one.get(kind, {}).get(role) for one in exact.values())] for kind, role in kinds]
        columns = [Column("texts"), Column("role"), *(Column(name, ".3f") for name in exact)]
        return [words, Grid(columns, rows).markdown()]

    def _index(self) -> list[str]:
        folders = [*self._folders("*"), *self._folders("bench/*"), *self._folders("bench/cuda/*")]
        rows = []
        for folder in sorted(folders):
            run = read(folder)
            target = run.config["models"]["target"]["path"].removeprefix(ASSETS)
            rows.append([folder.relative_to(self.results).as_posix(), target, *page.size(run)])
        return [
            "Every number on these pages is computed from a file in `results/`. `make docs-results` writes the pages; "
            "`make verify-docs` says which of them are stale.",
            "\n".join(f"- [{title}]({file})" for file, title in self.contents),
            "## Kept runs",
            "`sdbench.analysis.results.read` reads each of these folders. Decoding time is that of all arms, prefill included.",
            Grid([Column("results/", code=True), Column("target"), *page.SIZES], rows).markdown(),
        ]


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
    return comparison(run.summary).markdown(notes=True)


def kept_results(results: Path, one: paper.Paper) -> list[PaperResults]:
    """List the kept reproductions of a paper: one for each profile and budget."""
    folders = sorted(path for path in (results / one.name).glob("*") if path.is_dir())
    return [found for found in map(PaperResults, folders) if found.names]


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _verdict(found: dict[str, Any]) -> list[Any]:
    scores, limit = found.get("z_scores"), found.get("z_limit")
    largest = f"{max(map(abs, scores.values())):.2f} ({limit:.2f})" if scores else None
    counts = [found[key] for key in ("identical", "ties", "mismatches")]
    return ["yes" if found["lossless"] else "no", found["oracle_tv"], *counts, largest]
