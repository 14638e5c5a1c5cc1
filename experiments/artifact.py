"""ARTIFACT.md: every claim of the papers and every kept run, with config, command, time, rows, tolerance and verdict.

    python -m experiments.artifact [--check]

Everything is computed from the rows committed under `results/`. With `--check` nothing is written: the exit status is 1 if
ARTIFACT.md, a paper's tables or the README's quotations are not what the rows give.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from experiments import claims, quote
from experiments.cells import Cells
from experiments.plan import PAPERS, ROOT, document
from experiments.tables import write_tables
from sdbench.analysis.results import read

PATH = ROOT / "ARTIFACT.md"
MADE = ("arms.csv", "published.csv", "report.md")

HEAD = """# What was claimed, how it was tested, and what came out

Written by `make readme` and the `make reproduce-*` targets from the rows under `results/`, not by hand; `make verify-docs`
checks it. *Time* is the time spent decoding, prefill included, over all arms; *rows* are finished answers. Set-up: `make setup`
(Python 3.11, no GPU, no account).
*Detectable* is the smallest effect that such a sample finds with 80 % power at the 5 % level.
"""


def text() -> str:
    """The whole of ARTIFACT.md."""
    parts = [HEAD.strip(), *(section(paper) for paper in PAPERS), kept_runs()]
    return "\n\n".join(parts) + "\n"


def section(paper: str) -> str:
    """A paper's claims, for each profile and budget whose results are kept; where there are none, the claims alone."""
    done = sorted(path.parent for path in (ROOT / "results" / paper).glob("*/cells"))
    parts = [f"## {PAPERS[paper]}"]
    for folder in done:
        profile, budget = folder.name.rsplit("-", 1)
        cells = Cells(folder)
        command = f"`make reproduce-{paper} PROFILE={profile} BUDGET={budget}`"
        parts += [
            f"{command}, on {claims.where(cells, profile)}: `results/{paper}/{folder.name}`",
            claim_table(paper, cells),
            cell_table(paper, cells),
        ]
    if not done:
        parts += [
            f"Not run yet: `make reproduce-{paper}`.",
            claim_table(paper, Cells(ROOT / "results" / paper / "none")),
        ]
    return "\n\n".join(parts)


def claim_table(paper: str, cells: Cells) -> str:
    """claim, where it was read, how sure, config, published, ours, n, detectable, bound with tolerance, verdict."""
    configs = {name: part["experiment"] for name, part in document(paper)["parts"].items()}
    lines = [
        [
            "claim",
            "read in",
            "how sure",
            "config",
            "published",
            "ours [95 %]",
            "n",
            "detectable",
            "bound ± tolerance",
            "verdict",
        ]
    ]
    lines.append(["---"] * 5 + ["---:"] * 3 + ["---"] * 2)
    for one in claims.judge(paper, cells):
        what, published, sure, ours, n, effect, test, verdict = claims.row(one)
        config = ", ".join(f"`{configs[part]}`" for part in parts_of(one.claim)) or "–"
        if one.claim.not_tested:
            verdict += f": {one.claim.not_tested}"
        lines.append([what, one.claim.read_in, sure, config, published, ours, n, effect, test, verdict])
    return _markdown(lines)


def parts_of(claim: claims.Claim) -> list[str]:
    """The parts of the plan whose cells a claim's measure reads."""
    if not claim.measure:
        return []
    given = claim.arguments
    return given["parts"] if "parts" in given else [given["cell"] if "cell" in given else PARTS[claim.measure]]


PARTS = {
    "mirrored_thresholds": "thresholds",
    "beyond_threshold": "thresholds",
    "spread_over_thresholds": "thresholds",
    "lengths_ratio": "lengths",
    "longest_against_shorter": "lengths",
    "spread_over_seeds": "seeds",
    "best_task": "table",
    "same_length": "draft_length",
    "longest_draft": "draft_length",
    "geometric_against_uniform": "shapes",
    "least_against_one": "saguaro",
    "neural_against_fast": "batch",
}
"""Which part each measure reads that is not told so by its arguments."""


def cell_table(paper: str, cells: Cells) -> str:
    """config, arms, prompts, repeats, time, rows of every cell."""
    configs = {name: part["experiment"] for name, part in document(paper)["parts"].items()}
    lines = [["cell", "config", "arms", "prompts", "repeats", "rows", "time"], ["---", "---", *["---:"] * 5]]
    for name in cells.names:
        part = max((part for part in configs if name == part or name.startswith(f"{part}-")), key=len)
        lines.append([f"`{name}`", f"`experiment={configs[part]}`", *_size(cells.folder / "cells" / name)])
    return _markdown(lines)


def kept_runs() -> str:
    """The kept runs that the README quotes."""
    lines = [["results", "target", "arms", "prompts", "repeats", "rows", "time"], ["---", "---", *["---:"] * 5]]
    for folder in sorted(path.parent for path in (ROOT / "results").glob("*/summary.json")):
        config: Any = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        model = config["models"]["target"]["path"].removeprefix("pkg://sdbench/assets/")
        lines.append([f"`{folder.name}`", model, *_size(folder)])
    return "## Other kept runs\n\nMade by `make results`.\n\n" + _markdown(lines)


def _size(folder: Path) -> list[str]:
    """arms, prompts, repeats, rows, minutes of decoding."""
    run = read(folder)
    blocks = run.sequences.drop_duplicates(["arm", "block", "repeat"])
    seconds = float(run.sequences["prefill_seconds"].sum() + blocks["block_decode_seconds"].sum())
    numbers = (len(run.summary["arms"]), run.summary["prompts"], run.summary["repeats"], len(run.sequences))
    return [*map(str, numbers), f"{seconds / 60:.1f} min"]


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def stale() -> list[str]:
    """The files that are not what the committed rows give."""
    found = [] if PATH.is_file() and PATH.read_text(encoding="utf-8") == text() else [PATH.name]
    readme = ROOT / "README.md"
    if quote.quoted(readme.read_text(encoding="utf-8")) != readme.read_text(encoding="utf-8"):
        found.append("README.md")
    for paper in PAPERS:
        for folder in sorted(path.parent for path in (ROOT / "results" / paper).glob("*/cells")):
            with tempfile.TemporaryDirectory() as made:
                again = Path(made)
                for part in ("cells", "figures"):
                    (again / part).symlink_to(folder / part)
                _write(paper, Cells(again), folder.name.rsplit("-", 1)[0])
                found += [
                    f"results/{paper}/{folder.name}/{file}"
                    for file in MADE
                    if _bytes(again / file) != _bytes(folder / file)
                ]
    return found


def _write(paper: str, cells: Cells, profile: str) -> None:
    write_tables(paper, cells)
    claims.write(paper, cells, profile)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def write() -> None:
    """Write ARTIFACT.md."""
    PATH.write_text(text(), encoding="utf-8")


def main(argv: list[str]) -> int:
    if "--check" not in argv:
        write()
        return 0
    found = stale()
    for name in found:
        print(f"{name} is not what the rows under results/ give: run `make readme`", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
