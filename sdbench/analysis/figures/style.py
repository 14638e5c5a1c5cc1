"""The look of figures: one colour and marker per arm, sizes for a paper, SVG files (PNG on request).

Arms get colours and markers in their order of appearance, and the members of a grid share those of their arm. No arm is
known by name. Colours are Paul Tol's "muted" and "bright" schemes (colour-blind safe).

    with style.context(summary["arms"]):
        axes.plot(x, y, style.marker("sd"), color=style.colour("sd"))
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sdbench.analysis.figures.svg_titles import titled
from sdbench.runs.files import write_text

COLOURS = (
    "#555555",
    "#332288",
    "#CC6677",
    "#117733",
    "#DDAA33",
    "#88CCEE",
    "#AA4499",
    "#44AA99",
    "#882255",
    "#999933",
    "#4477AA",
    "#EE7733",
    "#228833",
    "#BB5566",
    "#009988",
    "#AA3377",
    "#997700",
    "#66CCEE",
)
MARKERS = "osD^vP*Xph<"  # 11, so that 18 colours and these repeat together only after 198 arms
HOST = "#DDDDDD"

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


class Palette:
    """Colours and markers of the arms of one comparison.

    Args:
        arms: names in their order; an arm that is not among them gets the next free place when it is first drawn.
        highlight: arms, or arms of grids, that figures draw larger and with a dark rim.
    """

    def __init__(self, arms: Iterable[str] = (), highlight: Collection[str] = ()) -> None:
        self._places: dict[str, int] = {}
        self._highlight = frozenset(highlight)
        for arm in arms:
            self._place(arm)

    def colour(self, arm: str) -> str:
        """Give the arm's colour, `#rrggbb`."""
        return COLOURS[self._place(arm) % len(COLOURS)]

    def marker(self, arm: str) -> str:
        """Give the arm's marker, so that colour is never the only difference."""
        return MARKERS[self._place(arm) % len(MARKERS)]

    def highlighted(self, arm: str) -> bool:
        """Tell whether the user asked for this arm to be highlighted."""
        return arm in self._highlight or family(arm) in self._highlight

    def _place(self, arm: str) -> int:
        return self._places.setdefault(family(arm), len(self._places))


_current = Palette()


@contextmanager
def context(arms: Iterable[str] = (), highlight: Collection[str] = ()) -> Iterator[Palette]:
    """Draw in this style, with a palette for these arms, which `colour`, `marker` and `highlighted` then use."""
    global _current
    before, _current = _current, Palette(arms, highlight)
    try:
        with mpl.rc_context(RC):
            yield _current
    finally:
        _current = before


def family(arm: str) -> str:
    """Name the arm that a grid member was expanded from: its name up to the first mark that is no letter, digit or `_`."""
    return _GRID_MARK.split(arm, maxsplit=1)[0]


def colour(arm: str) -> str:
    """Give the arm's colour in the current palette."""
    return _current.colour(arm)


def marker(arm: str) -> str:
    """Give the arm's marker in the current palette."""
    return _current.marker(arm)


def highlighted(arm: str) -> bool:
    """Tell whether the current palette highlights the arm."""
    return _current.highlighted(arm)


def part_colours(parts: Sequence[str]) -> dict[str, str]:
    """Give each part of a round (`target verify`, ..., `host`) a colour, in their order; the host is grey."""
    models = [part for part in parts if part != "host"]
    return {**{part: COLOURS[(i + 1) % len(COLOURS)] for i, part in enumerate(models)}, "host": HOST}


def figure(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches, which needs no display."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Figure, folder: Path, name: str, png: bool = False) -> list[Path]:
    """Write `<name>.svg`, and `<name>.png` on request; without a date, so that the same rows give the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{name}.svg"]
    drawn = io.StringIO()
    made.savefig(drawn, format="svg", metadata={"Date": None})
    write_text(written[0], titled(drawn.getvalue()))
    if png:
        written.append(folder / f"{name}.png")
        made.savefig(written[-1], dpi=DPI, metadata={"Software": None})
    return written
