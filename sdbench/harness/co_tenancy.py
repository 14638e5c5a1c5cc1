"""Detect other jobs on the same cores or devices. The summary flags speeds that were measured while such jobs ran.

Every run writes a file with its cores, threads and devices to a shared folder, and holds a lock while it lives. A job that starts
or ends marks the jobs that it disturbs. So a run also notices a job that started and ended within one block. The bench detects its
own jobs only, and none if it cannot write the shared folder.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sdbench.errors import InputError
from sdbench.harness.gpu_lock import registry, shared


@dataclass(frozen=True)
class Use:
    """Hold what a job uses. cores: it may run on these. threads: so many cores are busy. devices: all except CPUs."""

    cores: frozenset[int]
    threads: int
    devices: frozenset[str]


def clash(mine: Use, others: Iterable[Use]) -> bool:
    """Say whether a job shares a device with another job, or its threads and theirs are more than all their cores.

    The second test takes each job on common cores alone, and then all of them together.
    """
    others = list(others)
    if any(mine.devices & other.devices for other in others):
        return True
    near = [other for other in others if mine.cores & other.cores]
    groups = [[other] for other in near] + ([near] if len(near) > 1 else [])
    return any(
        mine.threads + sum(other.threads for other in group) > len(mine.cores.union(*(other.cores for other in group)))
        for group in groups
    )


class CoTenants:
    """Register this job while the context is open, and detect other jobs on this machine.

    with CoTenants(use) as co_tenants:
        ...
        co_tenants.disturbed()
    """

    def __init__(self, use: Use) -> None:
        self.use = use
        self.token = secrets.token_hex(8)
        self.readable = True

    def __enter__(self) -> CoTenants:
        try:
            self._enter()
        except (OSError, InputError) as error:
            self.readable = False
            print(f"sdbench: other jobs on this machine cannot be detected: {error}", file=sys.stderr)
        return self

    def _enter(self) -> None:
        """Write this job's file, take its lock, and mark the jobs that it disturbs."""
        self.folder = shared(registry() / "jobs")
        self.life = FileLock(self._file("lock"), mode=0o666)
        with self._together():
            self.life.acquire()
            document = {
                "cores": sorted(self.use.cores),
                "threads": self.use.threads,
                "devices": sorted(self.use.devices),
            }
            self._file("json").write_text(json.dumps(document))
            self._mark_others()

    def __exit__(self, *exception: object) -> None:
        if not self.readable:
            return
        with self._together():
            self._mark_others()
            self.life.release()
            self._forget(self.token)

    def disturbed(self) -> bool:
        """Say whether another job disturbed this one since the last call, or does so now."""
        if not self.readable:
            return False
        with self._together():
            met = self._file("met").exists() or clash(self.use, [use for _, use in self._others()])
            self._file("met").unlink(missing_ok=True)
        return met

    def _mark_others(self) -> None:
        """Mark the jobs on common cores or devices, if they and this job clash."""
        others = list(self._others())
        if clash(self.use, [use for _, use in others]):
            for token, use in others:
                near = use.devices & self.use.devices or use.cores & self.use.cores
                if near and self._file("json", token).exists():
                    self._file("met", token).touch()

    def _others(self) -> Iterator[tuple[str, Use]]:
        """Return the other jobs. A job that died is returned once more; then its files are deleted."""
        for path in sorted(self.folder.glob("*.json")):
            token = path.stem
            if token == self.token:
                continue
            with suppress(OSError, ValueError, KeyError):
                document = json.loads(path.read_text())
                yield token, Use(frozenset(document["cores"]), document["threads"], frozenset(document["devices"]))
            if not self._lives(token):
                self._forget(token)

    def _lives(self, token: str) -> bool:
        """Say whether a job still holds its lock."""
        lock = FileLock(self._file("lock", token))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:
            return True  # another user's lock: assume that the job lives
        lock.release()
        return False

    def _forget(self, token: str) -> None:
        """Delete the files of a job."""
        for kind in ("json", "met", "lock"):
            with suppress(OSError):
                self._file(kind, token).unlink(missing_ok=True)

    def _file(self, kind: str, token: str | None = None) -> Path:
        return self.folder / f"{token or self.token}.{kind}"

    def _together(self) -> FileLock:
        """Return the lock that a job holds while it reads or changes the shared folder."""
        return FileLock(self.folder / "all", mode=0o666)
