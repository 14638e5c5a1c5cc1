"""How figures look: one colour, marker and order per arm everywhere, sizes for a paper, PNG and SVG.

Colours are Paul Tol's "muted" and "bright" schemes (colour-blind safe). An arm that is not known takes its colour
from a hash of its name, so that it too is the same in every figure; members of a grid keep the hue of their arm.
"""

from __future__ import annotations

import hashlib
import io
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sdbench.analysis.marks import titled
from sdbench.runs.files import write_text

KNOWN = {
    "ar": "#555555",
    "sd": "#332288",
    "sd_qualifier": "#88CCEE",
    "lookup": "#999933",
    "early_exit": "#117733",
    "fsd": "#44AA99",
    "pyramid": "#DDAA33",
    "psd_assisted": "#CC6677",
    "psd_fuzzy": "#882255",
    "ssd": "#AA4499",
}
OTHERS = ("#4477AA", "#EE7733", "#228833", "#BB5566", "#009988", "#AA3377", "#997700", "#66CCEE")
PARTS = {
    "target verify": "#332288",
    "draft draft": "#88CCEE",
    "qualifier verify": "#DDCC77",
    "qualifier draft": "#CC6677",
    "host": "#DDDDDD",
}
MARKERS = "osD^vP*Xph<>"

RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "sdbench",
}
DPI = 200
_GRID_MARK = re.compile(r"[^A-Za-z0-9_]")


def family(arm: str) -> str:
    """The arm that a grid member was expanded from: its name up to the first mark that is no letter, digit or `_`."""
    return _GRID_MARK.split(arm, maxsplit=1)[0]


def is_pyramid(arm: str) -> bool:
    """Whether an arm is one of PyramidSD's, or its lossless counterpart: these are highlighted."""
    return arm.startswith(("psd_", "pyramid"))


def colour(arm: str) -> str:
    """The arm's colour, the same in every figure and run."""
    base = family(arm)
    return KNOWN.get(base) or OTHERS[_digest(base) % len(OTHERS)]


def marker(arm: str) -> str:
    """The arm's marker, so that colour is never the only difference."""
    base = family(arm)
    index = list(KNOWN).index(base) if base in KNOWN else _digest(base)
    return MARKERS[index % len(MARKERS)]


def part_colour(part: str) -> str:
    """The colour of a part of a round (`target verify`, ..., `host`), the same in every figure."""
    return PARTS.get(part) or OTHERS[_digest(part) % len(OTHERS)]


def figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, drawn without any display."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Figure, folder: Path, name: str) -> list[Path]:
    """Write `<name>.png` and `<name>.svg`; without a date, so that the same rows give the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    made.savefig(png, dpi=DPI, metadata={"Software": None})
    drawn = io.StringIO()
    made.savefig(drawn, format="svg", metadata={"Date": None})
    write_text(svg, titled(drawn.getvalue()))
    return [png, svg]


def context() -> AbstractContextManager[None]:
    """The style, for a `with`."""
    return mpl.rc_context(RC)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
