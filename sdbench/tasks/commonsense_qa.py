"""Define the task CommonsenseQA: questions with five choices (Talmor et al. 2019), zero-shot. PyramidSD evaluates on it.

The chat form lists the choices and asks for a short reason before the answer. The reason gives the draft model text to draft.
The score is 1 if the chosen letter is the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sdbench.tasks.answers import chosen_letter
from sdbench.tasks.base import Message, Prompt
from sdbench.tasks.dataset import DatasetTask, reference_of
from sdbench.tasks.rows import Row

_LETTERS = "ABCDE"
_CHAT = (
    "{question}\n\n{choices}\n\nThink briefly, then end with a line of the form: The answer is (X), where X is the "
    "letter of the best choice."
)
_PLAIN = "Question: {question}\n{choices}\nAnswer: Let's think briefly, then state the answer as (X)."


class CommonsenseQA(DatasetTask):
    """Read the 1,221 questions of the development split. The test split has no public key."""

    name = "commonsense_qa"
    file_name = "commonsense_qa_dev.jsonl"
    default_hub: ClassVar[Mapping[str, Any] | None] = {"path": "tau/commonsense_qa", "split": "validation"}
    default_max_new_tokens = 192
    scored = True
    default_stop = ("\nQuestion:",)

    def prompt(self, row: Row) -> Prompt:
        # The published file nests the choices in the question. The hub's copy has separate columns of labels and texts.
        if isinstance(row.fields.get("question"), dict):
            nested = row.inner("question")
            question, choices = nested.text("stem"), _listed(nested)
        else:
            question, choices = row.text("question"), _columns(row)
        key = row.text("answerKey")
        if key not in choices:
            raise row.refuse(f"the field 'answerKey' is '{key}'; the choices are {', '.join(choices)}.")
        lines = "\n".join(f"({label}) {text}" for label, text in choices.items())
        chat = (Message("user", _CHAT.format(question=question, choices=lines)),)
        return Prompt(row.text("id"), _PLAIN.format(question=question, choices=lines), chat, key)

    def score(self, prompt: Prompt, text: str) -> float:
        """Return 1 if the chosen letter is the key, else 0."""
        return float(chosen_letter(text, _LETTERS) == reference_of(prompt))


def _listed(row: Row) -> dict[str, str]:
    choices = row.get("choices", list)
    try:
        return _checked(row, {choice["label"]: choice["text"] for choice in choices})
    except (KeyError, TypeError) as error:
        raise row.refuse("each entry of 'choices' should have a 'label' and a 'text'.") from error


def _columns(row: Row) -> dict[str, str]:
    choices = row.inner("choices")
    return _checked(row, dict(zip(choices.get("label", list), choices.get("text", list), strict=False)))


def _checked(row: Row, choices: dict[str, str]) -> dict[str, str]:
    unknown = [label for label in choices if label not in _LETTERS]
    if unknown or not choices:
        raise row.refuse(f"the labels of 'choices' should be among {', '.join(_LETTERS)}.")
    return choices
