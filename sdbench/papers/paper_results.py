"""Read the kept runs of a paper: one folder each under `results/<paper>/<profile>-<budget>/`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sdbench.analysis.results import Results, read
from sdbench.papers.archive import COUNTS


class NotRun(LookupError):  # noqa: N818 - no error: some runs are not there yet
    """The runs lack what a measure needs."""


class PaperResults:
    """The kept runs of a paper, read as they are needed.

    folder: where they lie; used: the names of the runs that were read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.used: set[str] = set()
        self._read: dict[str, Results] = {}

    @property
    def names(self) -> list[str]:
        """List the kept runs. A folder that an interrupted archiving left, which begins with a dot, is none."""
        kept = [path.parent.name for path in self.folder.glob("*/summary.json")]
        return sorted(name for name in kept if not name.startswith("."))

    @property
    def profile(self) -> str:
        """The family and the machine, from the folder's name."""
        return self.folder.name.rsplit("-", 1)[0]

    def __getitem__(self, name: str) -> Results:
        if name not in self._read:
            if name not in self.names:
                raise NotRun(name)
            self._read[name] = read(self.folder / name)
        self.used.add(name)
        return self._read[name]

    def part(self, name: str) -> dict[str, Results]:
        """Return the run of a part, or all runs of a part that varies something, by name.

        Raises:
            NotRun: there is none.
        """
        found = [run for run in self.names if run == name or run.startswith(f"{name}-")]
        if not found:
            raise NotRun(name)
        return {run: self[run] for run in found}

    def counts(self, name: str) -> pd.DataFrame:
        """Return `counts.parquet` of a run.

        Raises:
            NotRun: there is none.
        """
        path = self[name].path / COUNTS
        if not path.is_file():
            raise NotRun(name)
        return pd.read_parquet(path)

    @property
    def where(self) -> str:
        """Say on which family and machine the runs were made."""
        machine = self[self.names[0]].environment
        gpus = ", ".join(gpu["name"] for gpu in machine["gpus"])
        return f"family {self.profile}, {gpus or machine['cpu']['model']}"


def arms_of(run: Results, family: str) -> list[str]:
    """List the arms of a family that count. A void arm, whose tokens are wrong, does not.

    Raises:
        NotRun: there is none.
    """
    arms = [arm for arm in run.members(family) if not run.summary["arms"][arm].get("void")]
    if not arms:
        raise NotRun(family)
    return arms
