"""Find a paper's folder, read its plan, and import its Python files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from sdbench.errors import InputError
from sdbench.papers import FOLDER

PLAN = "plan.yaml"


@dataclass(frozen=True)
class Paper:
    """A paper that can be reproduced. name: its folder's name, which the command line takes."""

    name: str

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @cached_property
    def plan(self) -> dict[str, Any]:
        """`plan.yaml`: title, profiles and parts."""
        return yaml.safe_load((self.folder / PLAN).read_text(encoding="utf-8"))

    @property
    def title(self) -> str:
        return self.plan["title"]

    @cached_property
    def claims(self) -> dict[str, Any]:
        """`claims.yaml`: set-ups and claims."""
        return yaml.safe_load((self.folder / "claims.yaml").read_text(encoding="utf-8"))

    def module(self, name: str) -> ModuleType:
        """Import a Python file of the paper, such as `measures`."""
        return import_module(f"sdbench.papers.{self.name}.{name}")


def names() -> list[str]:
    """List the papers that have a plan."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{PLAN}"))


def find(name: str) -> Paper:
    """Return the paper of that name.

    Raises:
        InputError: there is no such paper.
    """
    if name not in names():
        raise InputError(f"There is no plan for '{name}'; there are: {', '.join(names())}.")
    return Paper(name)
