"""Write tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sdbench.analysis.report.grid import Column, Grid


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a table. left: how many of the first columns hold text; the others are aligned to the right."""
    columns = [Column(head, align="left" if i < left else "right") for i, head in enumerate(heads)]
    return Grid(columns, [list(cells) for cells in rows]).markdown()
