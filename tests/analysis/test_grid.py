"""One table, five renderers: each escapes what would break it, and shows a missing value as such."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from sdbench.analysis.report import grid as grid_module
from sdbench.analysis.report.grid import MISSING, Column, Grid

ODD = "sd[a_b=50%]&$#{x}~^\\|<b>"


@pytest.fixture
def grid():
    return Grid(
        [
            Column("arm", code=True),
            Column("tok/s", ".1f"),
            Column("share", grid_module.percent),
            Column("interval", align="right", priority=1),
        ],
        [("ar", 10.04, None, ""), (ODD, float("nan"), 0.5, "[1.0, 2.0]")],
        title="Speed & <quality>",
        notes=["n: a note"],
        label="speed",
    )


def test_cells_follow_their_columns(grid):
    assert grid.cells() == [["ar", "10.0", MISSING, ""], [ODD, MISSING, "50.0 %", "[1.0, 2.0]"]]


def test_markdown(grid):
    lines = grid.markdown(notes=True).splitlines()
    assert lines[0] == "| arm | tok/s | share | interval |"
    assert lines[1] == "| --- | ---: | ---: | ---: |"
    assert lines[2] == f"| `ar` | 10.0 | {MISSING} |  |"
    assert lines[3].count("|") - lines[3].count(r"\|") == 5
    assert lines[4:] == ["", "- n: a note"]
    assert len(grid.markdown().splitlines()) == 4


def test_latex_prints_every_character(grid):
    text = grid.latex()
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 1
    assert r"\begin{tabular}{lrrr}" in text
    assert r"\caption{Speed \& \textless{}quality\textgreater{} n: a note.}" in text
    assert r"\label{tab:speed}" in text
    (row,) = [line for line in text.splitlines() if "sd[" in line]
    name = r"sd[a\_b=50\%]\&\$\#\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}\textbar{}\textless{}b\textgreater{}"
    # The cell that starts with a bracket is in braces: LaTeX would read it as an argument of the line break before it.
    assert row == rf"\texttt{{{name}}} & -- & 50.0 \% & {{[1.0, 2.0]}} \\"


def test_csv_keeps_every_digit(grid):
    lines = list(csv.reader(io.StringIO(grid.csv())))
    assert lines[0] == grid.heads
    assert lines[1] == ["ar", "10.04", "", ""]
    assert lines[2][0] == ODD


def test_csv_has_no_nan():
    assert Grid([Column("x", ".1f")], [(float("nan"),)]).csv() == 'x\n""\n'


class _Cells(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[str | None] = []
        self.text = ""
        self.feed(str(text))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.rows += [value for name, value in attrs if name == "data-row"]

    def handle_data(self, data):
        self.text += data


def test_html_escapes_every_text(grid):
    made = _Cells(grid.html(swatches={"ar": "#123456"}))
    assert "b" not in made.tags
    assert made.rows == ["ar", ODD]
    assert ODD in made.text
    assert "Speed & <quality>" in made.text
    assert made.tags.count("i") == 1  # one arm has a colour
    assert made.tags.count("td") == 6


@pytest.mark.parametrize(("width", "shown"), [(200, True), (50, False)])
def test_a_narrow_terminal_has_fewer_columns(grid, width, shown):
    screen = Console(width=width, file=io.StringIO(), color_system=None)
    grid.show(screen)
    text = screen.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert ("interval" in text) is shown
    assert "tok/s" in text
    assert "n: a note" in text
    assert max(map(len, text.splitlines())) <= width


def test_columns_without_a_value_can_be_left_out(grid):
    assert grid.without_empty_columns().heads == grid.heads
    thin = Grid(grid.columns, [("ar", None, float("nan"), "")]).without_empty_columns()
    assert thin.heads == ["arm"]
    assert re.fullmatch(r"\| arm \|\n\| --- \|\n\| `ar` \|", thin.markdown())


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a row has 1 values, the table 2 columns"):
        Grid([Column("a"), Column("b")], [("x",)])


def test_estimates_are_written_with_their_intervals():
    assert grid_module.estimate(1.234, (1.1, 1.3), 2, "×") == "1.23× [1.10, 1.30]"
    assert grid_module.estimate(-0.01, (-0.02, 0.0), 3, signed=True) == "-0.010 [-0.020, +0.000]"
    assert grid_module.estimate(1.0, None, 1) == "1.0"
    assert grid_module.estimate(None, None, 1) == MISSING
    assert [grid_module.probability(p) for p in (None, 0.0001, 0.25)] == [MISSING, "< 0.001", "0.250"]
