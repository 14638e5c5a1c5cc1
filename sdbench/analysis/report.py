"""`report/`: the table and the figures of finished runs, for reading and for a paper."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdbench.analysis import crossover, plots, style, table
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
    "tokens_per_target_call",
    "accepted_per_round",
    "acceptance_rate",
    "quality",
    "quality_difference",
    "non_inferior",
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
    "prompts",
    "failed",
)
_CSV_INTERVALS = ("speedup_ci95", "quality_ci95", "quality_difference_ci95")


def report(run_dirs: Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Write `report.md`, `table.csv` and the figures; `batch.json` where back-ups can be held against each other.

    Args:
        run_dirs: folders of finished runs. Arms of different runs are shown in separate sections: they were not paired.
        out: where to write; `report/` in the folder of the first run if None.

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
    sections = [_section(run, folder, Path("figures") / run.run_id if several else Path("figures")) for run in runs]
    write_text(folder / "report.md", "# Comparison\n\n" + _batches(runs, folder) + "\n".join(sections))
    write_text(folder / "table.csv", _csv(runs))
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
            part for part in (_heading(run), table.markdown(run.summary), notes, _lengths(run), pictures) if part
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
    summary, environment = run.summary, run.environment
    git = environment.get("git")
    revision = f"{git['sha'][:12]}{' with changes' if git['dirty'] else ''}" if git else "no checkout"
    cpu = environment.get("cpu", {}).get("model", "unknown processor")
    devices = ", ".join(sorted({device for arm in summary["arms"].values() for device in arm["devices"]}))
    return (
        f"## {run.path.name}\n\n"
        f"Run `{run.run_id}`: {summary['prompts']} prompts, {summary['repeats']} repeat(s), "
        f"baseline `{summary['baseline']}`; {cpu}, on {devices or 'unknown devices'}; revision {revision}.\n\n"
        "Speed-up is the geometric mean over prompts of the paired ratio of decode tokens per second, with its "
        "bootstrap 95 % interval. Quality is the task's mean score. Acceptance is accepted / proposed tokens of the "
        "outermost edge. Model time is the share of the wall time that bare forwards of the same shapes take."
    )


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
    return "### Bounds\n\n" + "\n".join(lines)


def _csv(runs: Sequence[Run]) -> str:
    """Every arm of every run, unrounded; intervals as two columns."""
    ends = [f"{name}_{end}" for name in _CSV_INTERVALS for end in ("low", "high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run_id", "arm", *_CSV_METRICS, *ends, "flags"])
    for run in runs:
        for name, arm in run.summary["arms"].items():
            intervals = [end for key in _CSV_INTERVALS for end in (arm[key] or ("", ""))]
            flags = " ".join(table.flags(arm))
            writer.writerow([run.run_id, name, *[arm[key] for key in _CSV_METRICS], *intervals, flags])
    return text.getvalue()
