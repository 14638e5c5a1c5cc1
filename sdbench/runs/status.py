"""List the runs in given folders, with the state and progress of each run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdbench.errors import InputError
from sdbench.runs.lock import running
from sdbench.runs.record import RunFolder, open_run

FINISHED, FAILED, PARTIAL, RUNNING = "finished", "failed", "partial", "running"
_HIDDEN = ("journal", "report", "wandb")  # folders of a run that hold no other run


@dataclass(frozen=True)
class State:
    """The state and progress of a run.

    state: finished, running (a live process has locked its folder), failed (`reason` says why), or partial (it was stopped). The
    command that started a failed or partial run continues it. done, planned: numbers of blocks, over all repeats. planned is None
    if it is not known yet.
    """

    path: str
    run_id: str
    state: str
    done: int
    planned: int | None
    reason: str | None = None

    @property
    def line(self) -> str:
        """The state as a line of text."""
        blocks = f"{self.done}/{'?' if self.planned is None else self.planned} blocks"
        return f"{self.state:9s} {blocks:16s} {self.path}" + ("" if self.reason is None else f": {self.reason}")


def run_folders(places: Sequence[Path]) -> list[RunFolder]:
    """Find every run in the given folders or below them. Returns each run once, sorted by path.

    Raises:
        InputError: a path is not a folder, or contains no run.
    """
    found: dict[Path, RunFolder] = {}
    for place in places:
        if not place.is_dir():
            raise InputError(f"{place} is no folder; name runs' folders, or one that holds them.")
        below = list(_below(place))
        if not below:
            raise InputError(f"There is no run in {place}.")
        found.update((path.resolve(), open_run(path)) for path in below)
    return [found[path] for path in sorted(found)]


def state_of(folder: RunFolder) -> State:
    """Determine the state of one run. A damaged run counts as failed."""
    try:
        return _state_of(folder)
    except InputError as error:  # one damaged run must not hide the others
        return State(str(folder.path), folder.run_id, FAILED, 0, None, str(error))


def _state_of(folder: RunFolder) -> State:
    plan = folder.planned
    failure = folder.failure
    if folder.finished:
        state = FINISHED
    elif running(folder.path):
        state = RUNNING
    else:
        state = FAILED if failure else PARTIAL
    done = len(folder.journal.finished()) if state != FINISHED or plan is None else plan
    reason = str(failure["reason"]) if failure and state == FAILED else None
    return State(str(folder.path), folder.run_id, state, done, plan, reason)


def status(places: Sequence[Path]) -> dict[str, Any]:
    """Return the document of `sdbench status`: {"runs": [...], "counts": {state: n}}."""
    states = [state_of(folder) for folder in run_folders(places)]
    counts = {name: sum(state.state == name for state in states) for name in (FINISHED, FAILED, PARTIAL, RUNNING)}
    return {"runs": [asdict(state) for state in states], "counts": counts}


def text(document: dict[str, Any]) -> str:
    """Format the states as text: one line for each run, then the number of runs in each state."""
    lines = [State(**run).line for run in document["runs"]]
    counts = ", ".join(f"{n} {name}" for name, n in document["counts"].items() if n)
    return "\n".join([*lines, counts])


def _below(place: Path) -> Iterator[Path]:
    if (place / "run.json").is_file():
        yield place
        return
    for child in sorted(place.iterdir()):
        if child.is_dir() and not child.name.startswith(".") and child.name not in _HIDDEN:
            yield from _below(child)
