"""Where the numbers of a report come from: the run, its files and their rows, the revision of the code, the weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sdbench.runs.record import Run
from sdbench.runs.schema import TABLES

SOURCES = {
    "speedup": ("sequences",),
    "end_to_end": ("sequences",),
    "tokens_per_target_call": ("sequences",),
    "acceptance": ("rounds",),
    "speed_quality": ("sequences",),
    "round_time": ("sequences", "steps"),
    "predicted": ("sequences", "rounds", "steps"),
    "draft_length": ("sequences",),
    "timeline": ("rounds", "steps"),
    "fan_out": ("rounds",),
    "saguaro": ("rounds",),
}
"""The tables that each figure's numbers are computed from; a figure that is not named here may use all of them."""

SHORT = 12  # digits of a hash that are shown


@dataclass(frozen=True)
class File:
    """A table of a run: its file, how many rows it has, and its SHA-256."""

    name: str
    rows: int
    sha256: str


def files(run: Run) -> list[File]:
    """The tables' files of a run."""
    return [File(f"{name}.parquet", len(run.tables[name]), _digest(run.path / f"{name}.parquet")) for name in TABLES]


def of_figure(name: str, files: list[File]) -> list[File]:
    """The files that a figure was drawn from."""
    tables = SOURCES.get(name, tuple(TABLES))
    return [file for file in files if file.name.removesuffix(".parquet") in tables]


def revision(run: Run) -> str:
    """The revision of the code that made the run, in words."""
    git = run.environment.get("git")
    return f"{git['sha'][:SHORT]}{' with changes' if git['dirty'] else ''}" if git else "no checkout"


def weights(run: Run) -> dict[str, str]:
    """The identity of each role's weights, shortened."""
    return {role: _short(identity) for role, identity in run.environment.get("weights", {}).items()}


def devices(run: Run) -> str:
    """The devices that the arms worked on."""
    used = {device for arm in run.summary["arms"].values() for device in arm["devices"]}
    return ", ".join(sorted(used)) or "unknown devices"


def processor(run: Run) -> str:
    """The processor's name."""
    return run.environment.get("cpu", {}).get("model", "unknown processor")


def _short(identity: str) -> str:
    """A hash at the end of an identity is cut; whatever stands before it stays."""
    kind, colon, digits = str(identity).rpartition(":")
    return kind + colon + digits[:SHORT]


def _digest(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:SHORT]
