"""Finding lm-eval's tasks, and this package's, by name: only the folders that can hold a name are indexed.

To index all of lm-eval's fourteen thousand tasks takes twenty seconds; a folder of them takes none, and nearly every task lies in
a folder whose name its own begins with. All are loaded with the sandbox for generated code and with the copies of their
sets that are here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml

from sdbench.errors import InputError
from sdbench.lm_eval.code_eval import check_unsafe, in_sandbox
from sdbench.lm_eval.copies import with_copy

OWN = Path(__file__).with_name("tasks")
SHIPPED = Path(str(lm_eval.tasks.__file__)).parent


class Factory(TaskFactory):
    """Loads a task's config; settings: keys of it that are to be other than in its file."""

    def __init__(self, meta: Mapping[str, Any] | None, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(meta=dict(meta or {}))
        self.settings = dict(settings or {})

    def _load_full_config(self, entry: Entry, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        if is_unsafe(entry):
            check_unsafe(entry.name, entry.yaml_path)
            assert entry.yaml_path is not None
            with in_sandbox(entry.yaml_path):
                config = super()._load_full_config(entry, overrides)
        else:
            config = super()._load_full_config(entry, overrides)
        if entry.kind is Kind.GROUP:
            return config
        config["metadata"].pop("config_source", None)  # a path of this machine
        return with_copy({**config, **self.settings})


class Catalogue(TaskManager):
    """lm-eval's task manager over the folders that can hold the names, and over all where that does not do.

    include_path: the user's own folders, which go before lm-eval's. metadata, settings: for every task that is loaded.
    """

    def __init__(
        self,
        names: Sequence[str],
        include_path: Sequence[str | Path] = (),
        metadata: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        folders = {folder for name in names if (folder := _folder(name))}
        super().__init__(
            include_path=[*sorted(folders), OWN, *include_path], include_defaults=False, metadata=dict(metadata or {})
        )
        if not names or not all(self._complete(name) for name in names):
            super().__init__(include_path=[OWN, *include_path], metadata=dict(metadata or {}))
        self._factory = Factory(metadata, settings)

    def _complete(self, name: str) -> bool:
        """Whether a name, and all that it stands for, is in the index."""
        entry = self._entry(name)
        if entry is None:
            return name.endswith(".yaml")
        if entry.kind is Kind.TAG:  # tasks of any folder may carry it, unless it is named for its own
            return _folder(name) is not None
        return entry.kind is not Kind.GROUP or self._members((entry.cfg or {}).get("task"))

    def _members(self, members: Any) -> bool:
        """The same for what a group lists: names, or groups within it."""
        if isinstance(members, str):
            return self._complete(members)
        if isinstance(members, dict):
            return self._members(members.get("task", members.get("group")))
        return all(self._members(member) for member in members or [])

    def unsafe(self, name: str) -> bool:
        """Whether a task of this name runs generated code."""
        entry = self._entry(name)
        return entry is not None and is_unsafe(entry)

    def tasks(self, name: str) -> dict[str, Task]:
        """The tasks that a name stands for: itself, or a group's. Errors: InputError if there is none."""
        if self._entry(name) is None and not Path(name).is_file():
            raise InputError(f"lm-eval has no task '{name}'; `python -m sdbench.lm_eval ls tasks` lists what there is.")
        return self.load([name])["tasks"]


def is_unsafe(entry: Entry) -> bool:
    """Whether a task's file says that it runs generated code; asked before any of its functions is imported."""
    if entry.kind is not Kind.TASK:
        return False
    raw = load_yaml(entry.yaml_path, resolve_func=False) if entry.yaml_path else entry.cfg or {}
    return bool(raw.get("unsafe_code"))


def _folder(name: str) -> Path | None:
    """lm-eval's folder whose name a task's own begins with, the longest such."""
    words = name.split("_")
    prefixes = ("_".join(words[:count]) for count in range(len(words), 0, -1))
    return next((SHIPPED / prefix for prefix in prefixes if (SHIPPED / prefix).is_dir()), None)
