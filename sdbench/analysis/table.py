"""The comparison as a table: one row per arm, numbers rounded for reading, flags spelled out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdbench.analysis.bounds import WHOLE_COVERAGE
from sdbench.analysis.degenerate import FLAGGED_RATE
from sdbench.analysis.statistics import FEWEST_PROMPTS

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    "arm",
    "speed-up [95 %]",
    "tok/s",
    "tok / target call",
    "acceptance",
    "quality [95 %]",
    "target calls / answer",
    "model time",
    "lossless",
    "flags",
)
# Where an arm is compared end to end only, all of them are: these follow `tok/s`.
END_TO_END = ("end to end [95 %]", "end-to-end tok/s")
FLAGS = {
    "V": "void: greedy tokens that are not the baseline's, ties apart; its speed counts for nothing",
    "A": "SIMULATED ACCEPTANCE: how much is accepted was forced, not tested; it says what the system costs, and nothing of quality",
    "P": "a peer: another library's or a server's loop; compared end to end, prefill included on both sides",
    "D": f"degenerate: {FLAGGED_RATE:.0%} of its answers or more repeat themselves; its speed is worth nothing",
    "L": "lossy: its output is not the target's; read its speed together with its quality",
    "Q": "its quality is not shown to be non-inferior to the baseline's within the margin",
    "S": "synthetic prompts: acceptance and speed on real ones may differ much",
    "F": "fixed length: stops were ignored, and what follows an answer counts",
    "N": f"fewer than {FEWEST_PROMPTS} prompts, or blocks decoded together: the intervals are rough",
    "E": "some of its sequences failed; they are left out together with their block",
    "B": "bare forwards were not timed for all its shapes: its model time is a lower bound",
    "U": "some of its steps ran eagerly for want of a compiled program: it is not the mode that it says",
    "X": "its draft was lost in some blocks, which went on without: its speed is not the method's",
    "C": "company: another job ran on the same device or cores meanwhile; its speed is not to be trusted",
    "2": "uses more than one device",
}
READING = (
    "Speed-up is the geometric mean over prompts of the paired ratio of decode tokens per second, with its "
    "bootstrap 95 % interval. Quality is the task's mean score. Acceptance is accepted / proposed tokens of the "
    "outermost edge. Model time is the share of the wall time that bare forwards of the same shapes take."
)
NOTHING = "–"
# Which columns a narrow terminal does without, the first to go first: the flags say "lossy" too.
_DISPENSABLE = (
    "lossless",
    "model time",
    "target calls / answer",
    "acceptance",
    "tok / target call",
    "end-to-end tok/s",
    "tok/s",
)
_GAP = 3  # a column's padding and its separator
_LONGEST_NAME = 28  # of an arm before it is folded in a narrow terminal


def flags(arm: Mapping[str, Any]) -> list[str]:
    """Keys into `FLAGS` that hold for an arm of a summary."""
    inferior = arm["non_inferior"] is False and not arm["lossless"]
    held = {
        "V": arm.get("void", False),
        "A": arm.get("simulated_acceptance", False),
        "P": arm.get("end_to_end_only", False),
        "D": arm["degenerate"],
        "L": not arm["lossless"],
        "Q": inferior,
        "S": arm["synthetic"],
        "F": arm["mode"] == "fixed",
        "N": _units(arm) < FEWEST_PROMPTS,
        "E": arm["failed"] > 0,
        "B": arm["bare_coverage"] is not None and 0 < arm["bare_coverage"] < WHOLE_COVERAGE,
        "U": bool(arm.get("uncompiled_steps")),
        "X": bool(arm.get("lost_draft_blocks")),
        "C": arm.get("shared_device", False),
        "2": len(set(arm["devices"])) > 1,
    }
    return [flag for flag, holds in held.items() if holds]


def _units(arm: Mapping[str, Any]) -> int:
    """What the intervals are drawn from: prompts, or, where a block is decoded together, blocks."""
    units = arm.get("speedup_units")
    return arm["prompts"] if units is None else min(arm["prompts"], units)


def columns(summary: Mapping[str, Any]) -> list[str]:
    """The heads of a summary's table: `COLUMNS`, and the end-to-end ones where an arm has no other speed."""
    made: list[str] = list(COLUMNS)
    if _end_to_end(summary):
        after = made.index("tok/s") + 1
        made[after:after] = END_TO_END
    return made


def rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """The cells of each arm, in the order of `columns`."""
    end_to_end = _end_to_end(summary)
    return [
        [
            name,
            *_speeds(arm, "speedup", "tokens_per_second"),
            *(_speeds(arm, "end_to_end_speedup", "end_to_end_tokens_per_second") if end_to_end else ()),
            _number(arm["tokens_per_target_call"], 2),
            _percent(arm["acceptance_rate"]),
            _interval(arm["quality"], arm["quality_ci95"], 3),
            _number(arm["target_calls_per_answer"], 1),
            _percent(arm["model_time_fraction"]),
            "yes" if arm["lossless"] else "no",
            " ".join(flags(arm)),
        ]
        for name, arm in summary["arms"].items()
    ]


def _end_to_end(summary: Mapping[str, Any]) -> bool:
    return any(arm.get("end_to_end_only") for arm in summary["arms"].values())


def _speeds(arm: Mapping[str, Any], gain: str, speed: str) -> tuple[str, str]:
    """The cells of a paired ratio and of its tokens per second."""
    if arm.get("void"):
        return "void", "void"
    return _interval(arm[gain], arm[f"{gain}_ci95"], 2, "×"), _number(arm[speed], 1)


def footnotes(summary: Mapping[str, Any]) -> list[str]:
    """What the flags in the table mean: those that occur."""
    raised = {flag for arm in summary["arms"].values() for flag in flags(arm)}
    return [f"{flag}: {meaning}" for flag, meaning in FLAGS.items() if flag in raised]


def markdown(summary: Mapping[str, Any]) -> str:
    """The table in Markdown, without footnotes."""
    heads = columns(summary)
    lines = [heads, ["---", *["---:"] * (len(heads) - 3), "---", "---"], *rows(summary)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def terminal(summary: Mapping[str, Any], width: int) -> Table:
    """The table for a terminal of `width` columns, with its footnotes as the caption (rich).

    A narrow terminal gets fewer columns rather than broken cells; the arm, its speed and its quality always stay.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    cells: dict[str, tuple[str, ...]] = dict(zip(columns(summary), zip(*rows(summary), strict=True), strict=True))
    sizes = {column: max(len(column), *map(len, values)) + _GAP for column, values in cells.items()}
    sizes["arm"] = min(sizes["arm"], _LONGEST_NAME + _GAP)
    for column in _DISPENSABLE:
        if column in sizes and sum(sizes.values()) > width:
            del sizes[column]
    notes = "\n".join(escape(note) for note in footnotes(summary))
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1), caption=notes, caption_justify="left", header_style="bold")
    for column in sizes:
        justify = "left" if column in ("arm", "lossless", "flags") else "right"
        least = sizes["arm"] - _GAP if column == "arm" else None
        made.add_column(escape(column), justify=justify, no_wrap=column != "arm", min_width=least, overflow="fold")
    for row in zip(*(cells[column] for column in sizes), strict=True):
        made.add_row(*[escape(cell) for cell in row])
    return made


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f} %"


def _interval(value: float | None, ends: list[float] | None, digits: int, unit: str = "") -> str:
    if value is None:
        return NOTHING
    between = "" if ends is None else f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
    return f"{value:.{digits}f}{unit}{between}"
