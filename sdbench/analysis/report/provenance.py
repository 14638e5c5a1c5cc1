"""The origin of a report's numbers: the run, its files and their rows, the revision of the code, the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdbench.runs.record import Run
from sdbench.runs.schema import TABLES

SHORT = 12  # digits of a hash that are shown


@dataclass(frozen=True)
class File:
    """A table of a run: its file, its number of rows, and its SHA-256."""

    name: str
    rows: int
    sha256: str


def files(run: Run) -> dict[str, File]:
    """Describe the file of each table of a run."""
    return {
        name: File(f"{name}.parquet", len(run.tables[name]), _digest(run.path / f"{name}.parquet")) for name in TABLES
    }


def revision(run: Run) -> str:
    """Name the revision of the code that made the run."""
    git = run.environment.get("git")
    return f"{git['sha'][:SHORT]}{' with changes' if git['dirty'] else ''}" if git else "no checkout"


def weights(run: Run) -> dict[str, str]:
    """Give the identity of each role's weights, shortened."""
    return {role: _short(identity) for role, identity in run.environment.get("weights", {}).items()}


def devices(run: Run) -> str:
    """List the devices that the arms worked on."""
    used: Sequence[str] = sorted({device for arm in run.summary["arms"].values() for device in arm["devices"]})
    return ", ".join(used) or "unknown devices"


def processor(run: Run) -> str:
    """Name the processor."""
    return run.environment.get("cpu", {}).get("model", "unknown processor")


def _short(identity: str) -> str:
    """Shorten the hash at the end of an identity; the text before it stays."""
    kind, colon, digits = str(identity).rpartition(":")
    return kind + colon + digits[:SHORT]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:SHORT]
