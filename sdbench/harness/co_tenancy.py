"""Does another job work on the same cores or devices? Speeds that were measured in such company are flagged.

Every run leaves a note of what it uses where the others look, and holds a lock as long as it lives. Whoever comes or goes marks
those whom it disturbs, so company that came and went within one block is seen too. Only jobs of this bench are known, and none
where that place cannot be written.
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
    """What a job uses. cores: those that it may run on; threads: how many of them it keeps busy; devices: other than CPUs."""

    cores: frozenset[int]
    threads: int
    devices: frozenset[str]


def clash(mine: Use, others: Iterable[Use]) -> bool:
    """Whether jobs share a device, or keep more cores busy than those that they share have."""
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
    """The other jobs of this machine, as long as it is entered.

    with CoTenants(use) as company:
        ...
        company.disturbed()
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
            print(f"sdbench: whether other jobs share this machine is not known: {error}", file=sys.stderr)
        return self

    def _enter(self) -> None:
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
        """Whether another job disturbed this one since this was last asked, or does so now."""
        if not self.readable:
            return False
        with self._together():
            met = self._file("met").exists() or clash(self.use, [use for _, use in self._others()])
            self._file("met").unlink(missing_ok=True)
        return met

    def _mark_others(self) -> None:
        others = list(self._others())
        if clash(self.use, [use for _, use in others]):
            for token, use in others:
                near = use.devices & self.use.devices or use.cores & self.use.cores
                if near and self._file("json", token).exists():
                    self._file("met", token).touch()

    def _others(self) -> Iterator[tuple[str, Use]]:
        """The other jobs; one that has died since it was last looked at is seen for the last time."""
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
        lock = FileLock(self._file("lock", token))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:
            return True  # another user's: it cannot be asked
        lock.release()
        return False

    def _forget(self, token: str) -> None:
        for kind in ("json", "met", "lock"):
            with suppress(OSError):
                self._file(kind, token).unlink(missing_ok=True)

    def _file(self, kind: str, token: str | None = None) -> Path:
        return self.folder / f"{token or self.token}.{kind}"

    def _together(self) -> FileLock:
        return FileLock(self.folder / "all", mode=0o666)
