"""`report.html`: the whole report as one page that opens from disk; it loads nothing, and says so to the browser.

Style, script and template lie in `page/`. Tables and figures are in the page as such; what the script draws, prompt by prompt,
is in it as JSON (see `drilldown`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from sdbench import __version__
from sdbench.analysis import drilldown, origins, plots, provenance, style
from sdbench.analysis.inline import inline, scheme, variable
from sdbench.analysis.report.category_tables import categories, category_tables
from sdbench.analysis.report.comparison_table import READING, comparison
from sdbench.runs.record import Run


def page(runs: Sequence[Run], figures: Sequence[Path]) -> str:
    """The page.

    Args:
        runs: finished runs, each a section of its own.
        figures: for each run the folder that its figures' SVGs were written into.
    """
    sections = [
        _section(run, folder, f"r{number}", drilldown.ROOM // len(runs))
        for number, (run, folder) in enumerate(zip(runs, figures, strict=True))
    ]
    body = _template("page.html").render(
        title=", ".join(run.path.name for run in runs),
        runs=sections,
        reading=READING,
        origins=list(origins.NAMES.items()),
        version=__version__,
        css=Markup(_source("page.css")),
        js=Markup(_source("page.js")),
    )
    return body.replace("/* the figures' colours */", scheme(body), 1)


def _section(run: Run, folder: Path, prefix: str, room: int) -> dict[str, Any]:
    """What the template says of one run."""
    summary = run.summary
    data = drilldown.drilldown(run, room)
    files = provenance.files(run)
    table = replace(comparison(summary), title="")
    swatches = {arm: variable(style.colour(arm)) for arm in summary["arms"]}
    return {
        "prefix": prefix,
        "name": run.path.name,
        "id": run.run_id,
        "summary": summary,
        "processor": provenance.processor(run),
        "devices": provenance.devices(run),
        "revision": provenance.revision(run),
        "weights": provenance.weights(run),
        "files": files,
        "packages": run.environment.get("packages", {}),
        "config": yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
        "table": table.html(swatches, css="summary sortable"),
        "notes": table.notes,
        "figures": [
            {
                "title": plots.TITLES[name],
                "svg": Markup(
                    inline((folder / f"{name}.svg").read_text("utf-8"), f"{prefix}-{name}", plots.TITLES[name])
                ),
                "files": provenance.of_figure(name, files),
            }
            for name in plots.FIGURES
            if (folder / f"{name}.svg").is_file()
        ],
        "categories": categories(run),
        "breakdowns": [(grid.title, grid.html(swatches)) for grid in category_tables(run)],
        "prompts": len(data["prompts"]),
        "with_texts": sum("texts" in prompt for prompt in data["prompts"]),
        "with_pieces": "pieces" in run.sequences,
        "data": Markup(drilldown.embed(data)),
    }


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("sdbench.analysis", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _source(name: str) -> str:
    return (Path(__file__).parent / "page" / name).read_text("utf-8")
