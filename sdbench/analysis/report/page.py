"""Write `report.html`: the whole report on one page that opens from disk and loads nothing from the network.

Style, script and template lie in `assets/`. Tables and figures are elements of the page. The script shows single prompts
from JSON that the page holds (`drilldown`).
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
from sdbench.analysis.figures.draw import FIGURES
from sdbench.analysis.figures.style import Palette
from sdbench.analysis.report import drilldown, provenance, token_origins
from sdbench.analysis.report.bandwidth_table import bandwidth_table
from sdbench.analysis.report.calibration_table import calibration_table
from sdbench.analysis.report.category_tables import categories, category_tables
from sdbench.analysis.report.comparison_table import READING, bounds, comparison
from sdbench.analysis.report.order_table import order_table
from sdbench.analysis.report.origins_table import origins_table
from sdbench.analysis.report.significance_table import significance
from sdbench.analysis.report.svg_inline import inline
from sdbench.analysis.report.thinking_table import thinking_table
from sdbench.runs.record import Run


def page(runs: Sequence[Run], figures: Sequence[Path]) -> str:
    """Write the page.

    Args:
        runs: finished runs, each a section of its own.
        figures: for each run the folder of its figures' SVG files.
    """
    sections = [
        _section(run, folder, f"r{number}", drilldown.ROOM // len(runs))
        for number, (run, folder) in enumerate(zip(runs, figures, strict=True))
    ]
    return _template("page.html").render(
        title=", ".join(run.path.name for run in runs),
        runs=sections,
        reading=READING,
        origins=list(token_origins.NAMES.items()),
        version=__version__,
        css=Markup(_source("page.css")),
        js=Markup(_source("page.js")),
    )


def _section(run: Run, folder: Path, prefix: str, room: int) -> dict[str, Any]:
    """Collect the values of one run for the template."""
    summary = run.summary
    data = drilldown.drilldown(run, room)
    files = provenance.files(run)
    table = replace(comparison(summary), title="")
    below = [("Significance", significance(summary)), ("Bounds", bounds(summary))]
    below.append(("Bandwidth", bandwidth_table(summary)))
    below.append(("Calibration of the drafts", calibration_table(summary)))
    below.append(("Thinking and answer", thinking_table(summary)))
    below.append(("Origins and survival", origins_table(run)))
    below.append(("The order of the prompts", order_table(run)))
    palette = Palette(summary["arms"])
    swatches = {arm: palette.colour(arm) for arm in summary["arms"]}
    return {
        "prefix": prefix,
        "name": run.path.name,
        "id": run.run_id,
        "summary": summary,
        "processor": provenance.processor(run),
        "devices": provenance.devices(run),
        "revision": provenance.revision(run),
        "weights": provenance.weights(run),
        "files": list(files.values()),
        "packages": run.environment.get("packages", {}),
        "config": yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
        "table": table.html(swatches, css="summary sortable"),
        "notes": table.notes,
        "tables": [(heading, grid.html(swatches), grid.notes) for heading, grid in below if grid is not None],
        "figures": [
            {
                "title": kind.title,
                "svg": Markup(inline((folder / f"{name}.svg").read_text("utf-8"), f"{prefix}-{name}", kind.title)),
                "files": [files[table] for table in kind.tables],
            }
            for name, kind in FIGURES.items()
            if (folder / f"{name}.svg").is_file()
        ],
        "categories": categories(run),
        "breakdowns": [(grid.title, grid.html(swatches)) for grid in category_tables(run)],
        "prompts": len(data["prompts"]),
        "with_texts": sum("texts" in prompt for prompt in data["prompts"]),
        "with_trees": bool(data["shapes"]),
        "with_pieces": "pieces" in run.sequences,
        "data": Markup(drilldown.embed(data)),
    }


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("sdbench.analysis.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _source(name: str) -> str:
    return (Path(__file__).parent / "assets" / name).read_text("utf-8")
