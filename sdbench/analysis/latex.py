"""The comparison as LaTeX tables (booktabs), for a paper: `\\input{report.tex}` in a document that loads booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from sdbench.analysis import table
from sdbench.runs.record import Run

_ESCAPES = {
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
_TRANSLATION = str.maketrans(_ESCAPES)
_LEFT = ("arm", "lossless", "flags")


def tables(runs: Sequence[Run]) -> str:
    """A table for each run, with what its flags mean below it."""
    return "% Needs \\usepackage{booktabs}.\n" + "\n".join(_table(run) for run in runs)


def escape(text: str) -> str:
    """A text whose every character LaTeX prints."""
    return text.translate(_TRANSLATION)


def _table(run: Run) -> str:
    summary = run.summary
    heads = table.columns(summary)
    columns = "".join("l" if column in _LEFT else "r" for column in heads)
    caption = (
        f"Run {run.run_id}: {summary['prompts']} prompts, {summary['repeats']} repeat(s), "
        f"baseline {summary['baseline']}."
    )
    notes = " ".join(f"{note}." for note in table.footnotes(summary))
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{escape(f'{caption} {notes}'.strip())}}}",
        rf"\label{{tab:{run.run_id}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _row(heads),
        r"\midrule",
        *[_row(cells) for cells in table.rows(summary)],
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    # A cell that opens with a bracket would be read as an argument of the \\ before it.
    return " & ".join(f"{{{escape(cell)}}}" if cell.startswith("[") else escape(cell) for cell in cells) + r" \\"
