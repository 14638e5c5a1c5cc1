"""Share the common part of the tasks whose prompts are rows of a data set, published or the user's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sdbench.errors import InputError
from sdbench.tasks.base import Prompt, select
from sdbench.tasks.rows import Row, rows_of


class DatasetTask(ABC):
    """Turn each row of a data set into one prompt.

    path: a JSON-lines file (None: see `sdbench.tasks.rows`). hub: arguments of `datasets.load_dataset`, used if no file
    exists. category: one category or a list; only these prompts are used (None: all). stop: strings that end an answer.
    max_new_tokens: the longest answer, in tokens. None for hub, stop or max_new_tokens means the default of the class.
    """

    name: str
    file_name: ClassVar[str | None] = None
    default_hub: ClassVar[Mapping[str, Any] | None] = None
    default_stop: ClassVar[tuple[str, ...]] = ()
    default_max_new_tokens: ClassVar[int] = 256
    scored: bool = False
    synthetic: bool = False

    def __init__(
        self,
        path: str | None = None,
        hub: Mapping[str, Any] | None = None,
        category: str | Sequence[str] | None = None,
        stop: str | Sequence[str] | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        self.path = path
        self.hub = self.default_hub if hub is None else dict(hub)
        self.category = category
        self.stop = self.default_stop if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
        self.max_new_tokens = self.default_max_new_tokens if max_new_tokens is None else max_new_tokens

    @abstractmethod
    def prompt(self, row: Row) -> Prompt | None:
        """Return the prompt of a row, or None to leave the row out. Errors: InputError if the row lacks a field."""

    def prompts(self, limit: int | None = None) -> list[Prompt]:
        """Return the first `limit` prompts (None: all), and alternate between the categories. Errors: InputError."""
        rows = rows_of(self.name, self.path, self.file_name, self.hub)
        found: dict[str, Prompt] = {}
        for row in rows:
            prompt = self.prompt(row)
            if prompt is None:
                continue
            if prompt.id in found:
                raise row.refuse(f"the id '{prompt.id}' was used by an earlier row.")
            found[prompt.id] = prompt
        if not found:
            raise InputError(
                f"The task {self.name} has no prompt of this kind: no row has this turn, and answers before it."
            )
        return select(list(found.values()), self.name, limit, self.category)

    def score(self, prompt: Prompt, text: str) -> float | None:
        """Return None: the task has no score, unless a subclass defines one."""
        return None


def reference_of(prompt: Prompt) -> str:
    """Return the reference of a prompt. Errors: InputError if the prompt has none."""
    if prompt.reference is None:
        raise InputError(f"The prompt {prompt.id} has no reference to score an answer against.")
    return prompt.reference
