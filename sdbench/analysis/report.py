"""`report/`: the table and the figures of finished runs, for reading (Markdown and a page) and for a paper (LaTeX, SVG)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdbench.analysis import crossover, latex, plots, provenance, style, table, webpage
from sdbench.analysis.evidence import evidence
from sdbench.errors import InputError
from sdbench.runs.files import write_text
from sdbench.runs.record import Run, load

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 150  # columns of a table that goes to a file or a pipe

_CSV_METRICS = (
    "tokens_per_second",
    "end_to_end_tokens_per_second",
    "speedup",
    "speedup_totals",
    "speedup_p",
    "speedup_p_holm",
    "minimum_detectable_effect",
    "end_to_end_speedup",
    "tokens_per_target_call",
    "accepted_per_round",
    "acceptance_rate",
    "quality",
    "quality_difference",
    "non_inferior",
    "quality_p",
    "quality_p_holm",
    "quality_test",
    "quality_minimum_detectable_effect",
    "target_calls_per_answer",
    "output_tokens",
    "length_rate",
    "degenerate_rate",
    "model_time_fraction",
    "predicted_tokens_per_second",
    "oracle_length_tokens_per_second",
    "memory_bytes",
    "mode",
    "lossless",
    "simulated_acceptance",
    "void",
    "prompts",
    "failed",
)
_CSV_INTERVALS = (
    "speedup_ci95",
    "speedup_ci95_bca",
    "end_to_end_speedup_ci95",
    "quality_ci95",
    "quality_difference_ci95",
)


def report(run_dirs: Sequence[Path | str], out: Path | str | None = None, page: bool = True) -> Path:
    """Write `report.md`, `report.tex`, `table.csv`, the figures and, as one page of all, `report.html`.

    `batch.json` too, where back-ups can be held against each other.

    Args:
        run_dirs: folders of finished runs. Arms of different runs are shown in separate sections: they were not paired.
        out: where to write; `report/` in the folder of the first run if None.
        page: whether to write `report.html` too, which holds texts of the runs.

    Returns:
        The path of `report.md`.

    Raises:
        InputError: no folder was named, or one is no finished run's.
    """
    if not run_dirs:
        raise InputError("no run was named; name the folder of at least one finished run")
    runs = [load(directory) for directory in run_dirs]
    folder = Path(out) if out is not None else runs[0].path / "report"
    folder.mkdir(parents=True, exist_ok=True)
    several = len(runs) > 1
    # The same run may lie in two folders, measured twice.
    figures = [
        Path("figures") / f"{number}-{run.run_id}" if several else Path("figures") for number, run in enumerate(runs, 1)
    ]
    for place in figures:  # an earlier report's would be shown as this one's
        for old in (folder / place).glob("*.svg"):
            old.unlink()
            old.with_suffix(".png").unlink(missing_ok=True)
    sections = [_section(run, folder, place) for run, place in zip(runs, figures, strict=True)]
    write_text(folder / "report.md", "# Comparison\n\n" + _batches(runs, folder) + "\n".join(sections))
    write_text(folder / "table.csv", _csv(runs))
    write_text(folder / "report.tex", latex.tables(runs))
    if page:
        write_text(folder / "report.html", webpage.page(runs, [folder / place for place in figures]))
    return folder / "report.md"


def show(summary: dict[str, Any], console: Console | None = None) -> None:
    """Print a summary's table to the terminal."""
    from rich.console import Console

    screen = console or Console()
    if console is None and not screen.is_terminal:
        screen = Console(width=WIDE)
    screen.print(table.terminal(summary, screen.width))


def _section(run: Run, folder: Path, figures: Path) -> str:
    """One run in Markdown; its figures are drawn into `folder / figures`."""
    written = {path.stem for path in plots.draw(run.summary, folder / figures)}
    notes = "\n".join(f"- {note}" for note in table.footnotes(run.summary))
    pictures = "\n\n".join(
        f"### {plots.TITLES[name]}\n\n![{plots.TITLES[name]}]({(figures / name).as_posix()}.png)"
        for name in plots.FIGURES
        if name in written
    )
    return (
        "\n\n".join(
            part
            for part in (
                _heading(run),
                table.markdown(run.summary),
                notes,
                evidence(run.summary),
                _lengths(run),
                pictures,
            )
            if part
        )
        + "\n"
    )


def _batches(runs: Sequence[Run], folder: Path) -> str:
    """Batch size against back-up over all of the runs: its data, and, of several runs, its figure in Markdown."""
    found = crossover.crossover([run.summary for run in runs])
    if found is None:
        return ""
    write_text(folder / "batch.json", json.dumps(found, indent=2) + "\n")
    if len(runs) == 1:
        return ""
    with style.context():
        made = crossover.figure(found)
        if made is not None:
            style.save(made, folder / "figures", "batch")
    title = plots.TITLES["batch"]
    return f"## {title}\n\n![{title}](figures/batch.png)\n\n"


def _heading(run: Run) -> str:
    summary = run.summary
    return (
        f"## {run.path.name}\n\n"
        f"Run `{run.run_id}`: {summary['prompts']} prompts, {summary['repeats']} repeat(s), "
        f"baseline `{summary['baseline']}`; {provenance.processor(run)}, on {provenance.devices(run)}; "
        f"revision {provenance.revision(run)}.\n\n{table.READING}{_company(summary)}{_simulated(summary)}"
    )


def _company(summary: dict[str, Any]) -> str:
    if not summary.get("shared_device"):
        return ""
    return (
        f"\n\n**Another job ran on the same device or cores during {summary['shared_blocks']} block(s): the speeds here are "
        "not to be trusted.** Acceptance and quality are not touched by it."
    )


def _simulated(summary: dict[str, Any]) -> str:
    """A paragraph that names the arms whose acceptance was forced; '' where there are none."""
    names = [f"`{name}`" for name, arm in summary["arms"].items() if arm.get("simulated_acceptance")]
    if not names:
        return ""
    return f"\n\n**Simulated acceptance**: {', '.join(names)} kept as many tokens as was forced; no quality is reported of them."


def _lengths(run: Run) -> str:
    """The bounds: what the latency formula predicts, and what an oracle of draft lengths would reach."""
    lines = [
        "| arm | measured tok/s | predicted tok/s | oracle-length bound, within K (tok/s) |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, arm in run.summary["arms"].items():
        keys = ("tokens_per_second", "predicted_tokens_per_second", "oracle_length_tokens_per_second")
        cells = [table.NOTHING if arm[key] is None else f"{arm[key]:.1f}" for key in keys]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    found = {name: (arm.get("speculation") or {}).get("corollary_9") for name, arm in run.summary["arms"].items()}
    between = [
        f"- `{name}` over `{row['over']}`: {row['low']:.2f}× to {row['high']:.2f}× by corollary 9, measured {row['measured']:.2f}× "
        "(ratio of totals)."
        for name, row in found.items()
        if row
    ]
    return "\n".join(["### Bounds", "", *lines, *(["", *between] if between else [])])


def _csv(runs: Sequence[Run]) -> str:
    """Every arm of every run, unrounded; intervals as two columns."""
    ends = [f"{name}_{end}" for name in _CSV_INTERVALS for end in ("low", "high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run_id", "arm", *_CSV_METRICS, *ends, "flags"])
    for run in runs:
        for name, arm in run.summary["arms"].items():
            intervals = [end for key in _CSV_INTERVALS for end in (arm.get(key) or ("", ""))]
            flags = " ".join(table.flags(arm))
            writer.writerow([run.run_id, name, *[arm.get(key) for key in _CSV_METRICS], *intervals, flags])
    return text.getvalue()
