"""Write into the README what it quotes from `results/`: the table of each kept run, between its marks.

`python -m experiments.quote` writes; with `--check` it only says whether the README is what the results say (exit status 1 if not).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from experiments import claims
from experiments.cells import Cells
from experiments.plan import total_seconds
from sdbench.analysis.report.comparison_table import comparison
from sdbench.models.memory import GB

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"<!-- quote: (\S+) -->\n.*?<!-- end quote -->", re.DOTALL)


def quoted(readme: str) -> str:
    """The README with every quotation as the results have it now."""
    return MARK.sub(_quotation, readme)


def _quotation(mark: re.Match[str]) -> str:
    if mark[1].startswith("reproduce-"):
        return f"<!-- quote: {mark[1]} -->\n{_reproduction(mark[1].removeprefix('reproduce-'))}\n<!-- end quote -->"
    parts = []
    for folder in sorted(path.parent for path in (ROOT / "results").glob(f"{mark[1]}/summary.json")):
        summary = json.loads((folder / "summary.json").read_text())
        machine = json.loads((folder / "environment.json").read_text())
        config = yaml.safe_load((folder / "config.yaml").read_text())
        model = config["models"]["target"]["path"].removeprefix("pkg://sdbench/assets/")
        where = f"target {model}; {summary['prompts']} prompts, {_hardware(config['hardware'], machine)}"
        grid = comparison(summary)
        kept = folder.relative_to(ROOT).as_posix()
        parts.append(f"`{kept}` ({where}):\n\n{grid.markdown()}\n\n{'; '.join(grid.notes)}.")
        parts += [note.read_text().strip() for note in sorted(folder.glob("verdict.md"))]
    body = "\n\n".join(part.strip() for part in parts) or "Not measured yet."
    return f"<!-- quote: {mark[1]} -->\n{body}\n<!-- end quote -->"


def _hardware(used: dict[str, Any], machine: dict[str, Any]) -> str:
    """What a run was made on. used: its config's `hardware`."""
    if used["device"].startswith("cuda"):
        taken = "".join(
            f"; {held['peak_bytes'] / GB:.2f} GB at the peak, {held['predicted_bytes'] / GB:.2f} GB reckoned"
            for held in machine.get("memory", {}).values()
            if held["predicted_bytes"] is not None
        )
        names = " and ".join(sorted({gpu["name"] for gpu in machine["gpus"]}))
        return f"{names}, {used['dtype']}, torch {machine['packages']['torch']}{taken}"
    return f"{machine['cpu']['model']}, {machine['torch']['threads']} thread"


def _reproduction(paper: str) -> str:
    """How long reproducing a paper takes, and the verdicts of what was kept of it."""
    count, seconds = total_seconds(paper)
    parts = [
        f"`make reproduce-{paper}`: {count} comparisons, about {seconds / 60:.0f} minutes on the machine of the kept results, "
        "as their seconds per answer tell."
    ]
    for folder in sorted(path.parent for path in (ROOT / "results" / paper).glob("*/cells")):
        cells = Cells(folder)
        judged = claims.judge(paper, cells)
        parts += [
            f"`results/{paper}/{folder.name}` ({claims.where(cells, folder.name.rsplit('-', 1)[0])}):",
            claims.rows(judged),
        ]
    return "\n\n".join(parts)


def write() -> None:
    """Write the README's quotations."""
    path = ROOT / "README.md"
    path.write_text(quoted(path.read_text()))


def main() -> int:
    readme = (ROOT / "README.md").read_text()
    if "--check" in sys.argv[1:]:
        return int(quoted(readme) != readme)
    write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
