"""Write and read the folder of a run. A run claims the folder, adds block after block, and writes `summary.json` last.

`run.json` names the run that the folder belongs to. A folder with `summary.json` is a finished run. `load` reads it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sdbench.errors import InputError
from sdbench.paths import refuse_file
from sdbench.runs.files import write_text
from sdbench.runs.journal import Journal
from sdbench.runs.schema import SCHEMA_VERSION, TABLES
from sdbench.runs.tables import read_parquet, write_parquet

_OWNER, _SUMMARY, _FAILED, _CONFIG, _ENVIRONMENT, _PROMPTS, _PLAN, _SHARED = (
    "run.json",
    "summary.json",
    "failed.json",
    "config.yaml",
    "environment.json",
    "prompts.json",
    "plan.json",
    "shared.json",
)


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, finished or not.

    path: the folder; run_id: the run that it belongs to.
    """

    path: Path
    run_id: str

    @property
    def journal(self) -> Journal:
        """The finished blocks."""
        return Journal(self.path / "journal")

    @property
    def finished(self) -> bool:
        """Whether the run has its summary."""
        return (self.path / _SUMMARY).is_file()

    @property
    def failure(self) -> dict[str, Any] | None:
        """The content of `failed.json`; None if the run did not fail."""
        return _read_json(self.path / _FAILED) if (self.path / _FAILED).is_file() else None

    @property
    def measurement(self) -> str:
        """A name of this measurement. It differs between two folders of the same run, and stays as long as the folder."""
        token = _read_json(self.path / _OWNER).get("measurement")
        return f"{self.run_id}-{token}" if token else self.run_id

    @property
    def planned(self) -> int | None:
        """The number of blocks that the whole run has, over all repeats; None if it is not known yet."""
        return _read_json(self.path / _PLAN)["blocks"] if (self.path / _PLAN).is_file() else None

    def plan(self, blocks: int) -> None:
        """Write `plan.json`: the number of blocks, over all repeats."""
        write_text(self.path / _PLAN, _json({"blocks": blocks}))

    @property
    def shared_blocks(self) -> list[list[int]]:
        """The (block, repeat) pairs during which another job worked on the same device or cores."""
        return _read_json(self.path / _SHARED)["blocks"] if (self.path / _SHARED).is_file() else []

    def note_shared(self, block: int, repeat: int) -> None:
        """Add a block to `shared.json`. The file lists a block once, even if a crashed run decodes it again."""
        others = [pair for pair in self.shared_blocks if pair != [block, repeat]]
        write_text(self.path / _SHARED, _json({"blocks": [*others, [block, repeat]]}))

    def describe(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write `config.yaml` (the resolved config, plain dicts and lists) and `environment.json`."""
        write_text(self.path / _CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        write_text(self.path / _ENVIRONMENT, _json(environment))

    @property
    def environment(self) -> dict[str, Any]:
        """The content of `environment.json`; empty if there is none yet."""
        return _read_json(self.path / _ENVIRONMENT) if (self.path / _ENVIRONMENT).is_file() else {}

    def add_to_environment(self, **facts: Any) -> None:
        """Add facts to `environment.json` that become known during the run."""
        file = self.path / _ENVIRONMENT
        write_text(file, _json({**_read_json(file), **facts}))

    @property
    def faults(self) -> list[dict[str, Any]]:
        """The blocks that continued without a draft: arm, block, repeat, and the reason (`said`)."""
        return self.environment.get("faults") or []

    def note_fault(self, arm: str, block: int, repeat: int, said: str) -> None:
        """Record that a block continued without a draft. said: the reason."""
        where = {"arm": arm, "block": block, "repeat": repeat}
        others = [fault for fault in self.faults if {**fault, **where} != fault]
        self.add_to_environment(faults=[*others, {**where, "said": said}])

    @property
    def not_finite(self) -> dict[str, str]:
        """For each arm with numbers that are not finite: the first place where they occurred."""
        return self.environment.get("not_finite") or {}

    def note_not_finite(self, arm: str, said: str) -> None:
        """Record where an arm's numbers were not finite, unless an earlier place is recorded. said: the place."""
        self.add_to_environment(not_finite={arm: said, **self.not_finite})

    @property
    def arm_failures(self) -> dict[str, str]:
        """For each arm that an error stopped: the error."""
        return self.environment.get("arm_failures") or {}

    def note_arm_failure(self, arm: str, said: str) -> None:
        """Record the error that stopped an arm. The other arms continue."""
        self.add_to_environment(arm_failures={**self.arm_failures, arm: said})

    def ask(self, prompts: Mapping[str, Mapping[str, Any]]) -> None:
        """Write `prompts.json`. prompts: by id, the `text` that the models read and the `reference` (None if there is none)."""
        write_text(self.path / _PROMPTS, _json(prompts))

    def finish(self, tables: Mapping[str, pd.DataFrame], summary: Mapping[str, Any]) -> None:
        """Write the tables, then the summary. A run with a summary is finished.

        Args:
            tables: DataFrames by table name, as `Journal.tables` returns them.
            summary: JSON-safe, from `sdbench.analysis.metrics.summary.summarise`.
        """
        for name in TABLES:
            write_parquet(self.path, name, tables[name])
        (self.path / _FAILED).unlink(missing_ok=True)
        write_text(self.path / _SUMMARY, _json(summary))

    def fail(self, reason: str, **details: Any) -> None:
        """Write `failed.json`, if the disk has room. The finished blocks remain, and a restart continues from them."""
        with suppress(OSError):  # a full disk may be the reason
            write_text(self.path / _FAILED, _json({"run_id": self.run_id, "reason": reason, **details}))


@dataclass(frozen=True)
class Run:
    """A finished run.

    path: its folder. config: the resolved config. environment: machine, versions and weights. summary: the content of
    `summary.json`. tables: `sequences`, `rounds`, `steps` and `bare`. prompts: `text` and `reference` by prompt id; empty if the
    run wrote no prompts.
    """

    path: Path
    run_id: str
    config: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    prompts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def sequences(self) -> pd.DataFrame:
        """One row per finished sequence."""
        return self.tables["sequences"]

    @property
    def rounds(self) -> pd.DataFrame:
        """One row per verification."""
        return self.tables["rounds"]

    @property
    def steps(self) -> pd.DataFrame:
        """One row per forward of a batch."""
        return self.tables["steps"]

    @property
    def bare(self) -> pd.DataFrame:
        """One row per timing of a reference forward."""
        return self.tables["bare"]


def claim(directory: Path | str, run_id: str) -> RunFolder:
    """Claim a folder for a run: make it and record the run's id. If the same run has claimed it before, keep its blocks.

    Raises:
        InputError: the folder belongs to another run, or contains files that are not a run. The folder is unchanged.
    """
    path = Path(directory)
    try:
        return _claim(path, run_id)
    except OSError as error:
        raise InputError(f"out={path} cannot be written ({error.strerror}); choose another folder") from error


def _claim(path: Path, run_id: str) -> RunFolder:
    refuse_file("out", path)
    if (path / _OWNER).is_file():
        other = _owner(path)
        if other != run_id:
            raise InputError(f"out={path} belongs to run {other}; choose another folder or delete it")
        return RunFolder(path, run_id)
    # Ignore the hidden files of other programs (.hydra, .DS_Store) and the temporary files of a killed process.
    if path.is_dir() and any(not entry.name.startswith(".") and entry.suffix != ".tmp" for entry in path.iterdir()):
        raise InputError(f"out={path} is not empty and is no run; choose another folder")
    owner = {"schema_version": SCHEMA_VERSION, "run_id": run_id, "measurement": secrets.token_hex(4)}
    path.mkdir(parents=True, exist_ok=True)
    write_text(path / _OWNER, _json(owner))
    return RunFolder(path, run_id)


def open_run(directory: Path | str) -> RunFolder:
    """Open the folder of a run, finished or not.

    Raises:
        InputError: the folder contains no run, or a run of another schema version.
    """
    path = Path(directory)
    if not path.is_dir():
        raise InputError(f"{path} is no folder; name the folder of a run (what `out` was)")
    return RunFolder(path, _owner(path))


def load(directory: Path | str) -> Run:
    """Read a finished run.

    Raises:
        InputError: the folder contains no run, or the run is not finished, is damaged, or has another schema version.
    """
    folder = open_run(directory)
    if not folder.finished:
        failure = folder.failure
        why = f"it failed: {failure['reason']}" if failure else "it was interrupted"
        raise InputError(f"{folder.path} is not finished ({why}); run it again to take it up")
    summary = _read_json(folder.path / _SUMMARY)
    _check_version(folder.path / _SUMMARY, summary)
    return Run(
        path=folder.path,
        run_id=folder.run_id,
        config=_read_config(folder.path / _CONFIG),
        environment=_read_json(folder.path / _ENVIRONMENT),
        summary=summary,
        tables={name: read_parquet(folder.path, name) for name in TABLES},
        prompts=_read_json(folder.path / _PROMPTS) if (folder.path / _PROMPTS).is_file() else {},
    )


def _owner(path: Path) -> str:
    """Read the id of the run that a folder belongs to."""
    if not (path / _OWNER).is_file():
        raise InputError(f"{path} is not the folder of a run: it has no {_OWNER}")
    owner = _read_json(path / _OWNER)
    _check_version(path / _OWNER, owner)
    if not isinstance(owner.get("run_id"), str):
        raise InputError(f"{path / _OWNER} names no run_id; it is damaged")
    return owner["run_id"]


def _check_version(path: Path, document: Mapping[str, Any]) -> None:
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} has schema version {version}, this sdbench reads {SCHEMA_VERSION}; run it again")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read ({error}); the run record is damaged") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no config; the run record is damaged")
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); the run record is damaged") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} holds no JSON object; the run record is damaged")
    return document


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
