"""Find the tasks of lm-eval and of this package by name. Only the folders that can hold a name are indexed.

lm-eval needs twenty seconds to index all of its fourteen thousand tasks. One folder takes almost no time. The name of nearly every
task begins with the name of its folder. Every task is loaded with the sandbox for generated code, and with the local copy of its
data set if there is one.
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
from sdbench.lm_eval.copies import check_at_hand, with_copy

OWN = Path(__file__).with_name("tasks")
SHIPPED = Path(str(lm_eval.tasks.__file__)).parent


class Factory(TaskFactory):
    """Loads the config of a task. settings: values that replace those of the task's file, by key."""

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
        config["metadata"].pop("config_source", None)  # a local path, which must not enter the record
        config = with_copy({**config, **self.settings})
        if config.get("dataset_path") and not config.get("custom_dataset"):
            check_at_hand(str(config["dataset_path"]))
        return config


class Catalogue(TaskManager):
    """lm-eval's task manager over the folders that can hold the names, or over all folders if these are not enough.

    include_path: the user's folders, which take precedence over lm-eval's. metadata, settings: passed to every loaded task.
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
        """Tell whether the index has a name and, for a group or tag, all of its members."""
        entry = self._entry(name)
        if entry is None:
            return name.endswith(".yaml")
        if entry.kind is Kind.TAG:  # tasks of any folder may have a tag, unless the tag begins with a folder's name
            return _folder(name) is not None
        return entry.kind is not Kind.GROUP or self._members((entry.cfg or {}).get("task"))

    def _members(self, members: Any) -> bool:
        """Tell whether the index has all members of a group: names, or inner groups."""
        if isinstance(members, str):
            return self._complete(members)
        if isinstance(members, dict):
            return self._members(members.get("task", members.get("group")))
        return all(self._members(member) for member in members or [])

    def dataset(self, name: str) -> str:
        """Return the hub's name of a task's data set; an empty text if the task's file does not state it."""
        entry = self._entry(name)
        return str(_raw(entry).get("dataset_path") or "") if entry is not None else ""

    def tasks(self, name: str) -> dict[str, Task]:
        """Load the task of a name, or the tasks of a group. Errors: InputError if lm-eval has no such name."""
        if self._entry(name) is None and not Path(name).is_file():
            raise InputError(f"lm-eval has no task '{name}'; `python -m sdbench.lm_eval ls tasks` lists what there is.")
        return self.load([name])["tasks"]


def is_unsafe(entry: Entry) -> bool:
    """Tell whether a task's file declares that it runs generated code. This imports no function of the task."""
    if entry.kind is not Kind.TASK:
        return False
    return bool(_raw(entry).get("unsafe_code"))


def _raw(entry: Entry) -> Mapping[str, Any]:
    """Return the keys of a task's file, with those of the files that it includes."""
    return load_yaml(entry.yaml_path, resolve_func=False) if entry.yaml_path else entry.cfg or {}


def _folder(name: str) -> Path | None:
    """Return the folder of lm-eval with the longest name that a task's name begins with; None if no folder matches."""
    words = name.split("_")
    prefixes = ("_".join(words[:count]) for count in range(len(words), 0, -1))
    return next((SHIPPED / prefix for prefix in prefixes if (SHIPPED / prefix).is_dir()), None)
