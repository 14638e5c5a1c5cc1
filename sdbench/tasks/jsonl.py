"""Define the task of the user's own prompts: any JSON-lines file with one prompt per line."""

from __future__ import annotations

from collections.abc import Sequence

from sdbench.errors import InputError
from sdbench.tasks.base import Message, Prompt
from sdbench.tasks.dataset import DatasetTask, reference_of
from sdbench.tasks.rows import Row


class JsonLines(DatasetTask):
    """Read prompts from a file.

    path: the file. prompt_field, reference_field, category_field, id_field: the names of the fields (reference, category
    and id are optional and can be numbers; the default id is the line number). chat: whether a prompt is the user message of a
    chat; if not, the model continues plain text. stop: strings that end an answer. category: one category or a list (None:
    all). max_new_tokens: the longest answer, in tokens. With a reference field, an answer scores 1 if it equals the reference;
    the comparison ignores case and outer blanks. Errors: InputError without a path.
    """

    name = "jsonl"

    def __init__(
        self,
        path: str | None = None,
        prompt_field: str = "prompt",
        reference_field: str | None = None,
        category_field: str | None = None,
        id_field: str | None = None,
        chat: bool = True,
        stop: Sequence[str] = (),
        category: str | Sequence[str] | None = None,
        max_new_tokens: int = 256,
    ) -> None:
        super().__init__(path=path, category=category, stop=stop, max_new_tokens=max_new_tokens)
        if path is None:
            raise InputError("The task jsonl needs a file: tasks.path=FILE.jsonl, one JSON object per line.")
        self.prompt_field = prompt_field
        self.reference_field = reference_field
        self.category_field = category_field
        self.id_field = id_field
        self.chat = chat
        self.scored = reference_field is not None

    def prompt(self, row: Row) -> Prompt:
        text = row.text(self.prompt_field)
        number = row.label(self.id_field) if self.id_field else f"jsonl/{row.number}"
        return Prompt(
            id=number,
            text=text,
            messages=(Message("user", text),) if self.chat else (),
            reference=row.label(self.reference_field) if self.reference_field else None,
            category=row.label(self.category_field) if self.category_field else "",
        )

    def score(self, prompt: Prompt, text: str) -> float | None:
        """Return 1 if the answer equals the reference, else 0; None if the task has no references."""
        if not self.scored:
            return None
        return float(text.strip().casefold() == reference_of(prompt).strip().casefold())
