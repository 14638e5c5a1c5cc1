"""A table and its renderers: Markdown, LaTeX (booktabs), CSV, HTML and the terminal (rich).

    grid = Grid([Column("arm", code=True), Column("tok/s", ".1f")], [("sd", 31.4), ("ar", None)], title="Speed")
    print(grid.markdown())

Every table of a report is a `Grid`. A cell holds the value, its column knows how the value is written.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MISSING = "–"
"""The text of a cell without a value."""

FILE_WIDTH = 150
"""Characters of a table that `Grid.show` prints to a file or a pipe."""

_SEPARATION = 3  # characters between two columns in a terminal
_LONGEST_NAME = 28  # characters of a row's name before a narrow terminal folds it
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "×": r"$\times$",
        "–": "--",
    }
)


@dataclass(frozen=True)
class Column:
    """One column of a `Grid`.

    Args:
        head: the heading.
        format: a format specification (".2f"), or a function that writes a value that is present; None: `str`.
        align: None: `right` for a column with a format, else `left`.
        code: whether the cells are names from configs or code, set in a typewriter face.
        priority: which columns a narrow terminal drops: the largest priority first, those with 0 never.
    """

    head: str
    format: str | Callable[[Any], str] | None = None
    align: Literal["left", "right"] | None = None
    code: bool = False
    priority: int = 0

    @property
    def right(self) -> bool:
        """Whether the cells are aligned to the right."""
        return self.format is not None if self.align is None else self.align == "right"

    def text(self, value: Any) -> str:
        """Write one value; `MISSING` for None and NaN."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return MISSING
        if callable(self.format):
            return self.format(value)
        return format(value, self.format) if self.format else str(value)


@dataclass(frozen=True)
class Grid:
    """A table: columns, rows of values, and what a reader needs to understand it.

    Args:
        columns: one per value of a row.
        rows: the values. The first value of a row is the row's name.
        title: the caption; "" for none.
        notes: sentences below the table.
        label: the name of the table in LaTeX (`tab:label`); "" for none.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    notes: Sequence[str] = ()
    label: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row has {len(row)} values, the table {len(self.columns)} columns: {row}")

    @property
    def heads(self) -> list[str]:
        """The headings."""
        return [column.head for column in self.columns]

    def cells(self) -> list[list[str]]:
        """The text of every cell, row by row."""
        return [[column.text(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]

    def without_empty_columns(self) -> Grid:
        """The same table without the columns that have no value in any row."""
        texts = self.cells()
        kept = [i for i in range(len(self.columns)) if not texts or any(row[i] not in (MISSING, "") for row in texts)]
        return replace(
            self, columns=[self.columns[i] for i in kept], rows=[[row[i] for i in kept] for row in self.rows]
        )

    def markdown(self, notes: bool = False) -> str:
        """The table as GitHub's Markdown; notes: with the notes as a list below."""
        rule = ["---:" if column.right else "---" for column in self.columns]
        rows = [[self._code(text, column, "`{}`") for column, text in self._zip(row)] for row in self.cells()]
        lines = [
            "| " + " | ".join(_one_line(text).replace("|", "\\|") for text in line) + " |"
            for line in (self.heads, rule, *rows)
        ]
        below = ["", *[f"- {note}" for note in self.notes]] if notes and self.notes else []
        return "\n".join([*lines, *below])

    def latex(self) -> str:
        """A `table` environment with booktabs' rules; the title and the notes are its caption."""
        caption = " ".join([self.title, *[note if note.endswith(".") else f"{note}." for note in self.notes]]).strip()
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering\small",
                *([rf"\caption{{{latex_escape(caption)}}}"] if caption else []),
                *([rf"\label{{tab:{self.label}}}"] if self.label else []),
                rf"\begin{{tabular}}{{{''.join('r' if column.right else 'l' for column in self.columns)}}}",
                r"\toprule",
                _latex_row(map(latex_escape, self.heads)),
                r"\midrule",
                *[
                    _latex_row(
                        self._code(latex_escape(text), column, r"\texttt{{{}}}") for column, text in self._zip(row)
                    )
                    for row in self.cells()
                ],
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )

    def csv(self) -> str:
        """Comma-separated values, numbers unrounded; a missing value is an empty field."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.heads)
        for row in self.rows:
            writer.writerow([_raw(column, value) for column, value in self._zip(row)])
        return text.getvalue()

    def html(self, swatches: Mapping[str, str] | None = None, css: str = "") -> Markup:
        """A `<table>`; every text in it is escaped.

        Args:
            swatches: a CSS colour by the name of a row, shown before the name.
            css: the class of the table.
        """
        colours = swatches or {}
        caption = Markup("<caption>{}</caption>").format(self.title) if self.title else Markup("")
        heads = Markup("").join(
            Markup('<th scope="col"{}>{}</th>').format(_number_class(column), column.head) for column in self.columns
        )
        body = Markup("\n").join(self._html_row(row, colours) for row in self.cells())
        return Markup('<table class="{}">{}\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n</table>').format(
            css or "grid", caption, heads, body
        )

    def terminal(self, width: int) -> Table:
        """The table for a terminal of `width` characters, with the notes as its caption.

        A narrow terminal gets fewer columns, in the order of their priority, rather than broken cells.
        """
        from rich import box
        from rich.markup import escape as literal
        from rich.table import Table

        texts = self.cells()
        sizes = [max(len(head), *(len(row[i]) for row in texts), 0) for i, head in enumerate(self.heads)]
        sizes[0] = min(sizes[0], max(_LONGEST_NAME, len(self.heads[0])))
        kept = list(range(len(self.columns)))
        for i in sorted(kept, key=lambda i: -self.columns[i].priority):
            if self.columns[i].priority and sum(sizes[j] + _SEPARATION for j in kept) > width:
                kept.remove(i)
        made = Table(
            box=box.SIMPLE_HEAD,
            padding=(0, 1),
            title=literal(self.title) or None,
            caption=literal("\n".join(self.notes)) or None,
            caption_justify="left",
            header_style="bold",
        )
        for i in kept:
            column = self.columns[i]
            made.add_column(
                literal(column.head),
                justify="right" if column.right else "left",
                no_wrap=i > 0,
                min_width=sizes[0] if i == 0 else None,
                overflow="fold",
            )
        for row in texts:
            made.add_row(*[literal(row[i]) for i in kept])
        return made

    def show(self, console: Console | None = None) -> None:
        """Print the table to the terminal."""
        from rich.console import Console

        screen = console or Console()
        if console is None and not screen.is_terminal:
            screen = Console(width=FILE_WIDTH)
        screen.print(self.terminal(screen.width))

    def _zip(self, row: Sequence[Any]) -> Iterable[tuple[Column, Any]]:
        return zip(self.columns, row, strict=True)

    def _html_row(self, row: Sequence[str], colours: Mapping[str, str]) -> Markup:
        parts = []
        for i, (column, text) in enumerate(self._zip(row)):
            shown = Markup(self._code(escape(text), column, "<code>{}</code>"))
            if i == 0:
                swatch = (
                    Markup('<i class="swatch" style="background: {}"></i>').format(colours[text])
                    if text in colours
                    else Markup("")
                )
                parts.append(Markup('<th scope="row">{}{}</th>').format(swatch, shown))
            else:
                parts.append(Markup("<td{}>{}</td>").format(_number_class(column), shown))
        return Markup('<tr data-row="{}">{}</tr>').format(row[0], Markup("").join(parts))

    @staticmethod
    def _code(text: str, column: Column, wrapped: str) -> str:
        return wrapped.format(text) if column.code and text not in (MISSING, "--", "") else text


def number(value: float | None, spec: str = ".2f") -> str:
    """A number in a sentence or a cell; `MISSING` for None."""
    return MISSING if value is None else format(value, spec)


def percent(value: float | None, digits: int = 1) -> str:
    """A share of 1 as a percentage."""
    return MISSING if value is None else f"{100 * value:.{digits}f} %"


def interval(ends: Sequence[float] | None, digits: int, signed: bool = False) -> str:
    """The two ends of an interval."""
    sign = "+" if signed else ""
    return MISSING if ends is None else f"[{ends[0]:{sign}.{digits}f}, {ends[1]:{sign}.{digits}f}]"


def estimate(
    value: float | None, ends: Sequence[float] | None, digits: int, unit: str = "", signed: bool = False
) -> str:
    """A value with its interval, where it has one."""
    if value is None:
        return MISSING
    between = "" if ends is None else f" {interval(ends, digits, signed)}"
    return f"{value:{'+' if signed else ''}.{digits}f}{unit}{between}"


def probability(p: float | None) -> str:
    """A p value."""
    return MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def latex_escape(text: str) -> str:
    """A text whose every character LaTeX prints."""
    return text.translate(_LATEX)


def _latex_row(cells: Iterable[str]) -> str:
    # LaTeX would read a cell that starts with a bracket as an argument of the \\ before it.
    return " & ".join(f"{{{cell}}}" if cell.startswith("[") else cell for cell in cells) + r" \\"


def _raw(column: Column, value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, (str, int, float)) else column.text(value)


def _number_class(column: Column) -> Markup:
    return Markup(' class="number"') if column.right else Markup("")


def _one_line(text: str) -> str:
    return " ".join(text.split("\n"))
