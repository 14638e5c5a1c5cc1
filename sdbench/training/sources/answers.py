"""Let the target answer given prompts: the target-generated data of DistillSpec (2310.08461)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sdbench import validate
from sdbench.errors import InputError
from sdbench.models.weight_files import sha256_of
from sdbench.paths import expanded
from sdbench.sampling import Sampling
from sdbench.tasks.base import Message, Prompt
from sdbench.tasks.encode import encode
from sdbench.training.corpus import Sample
from sdbench.training.writer import Writer

CHUNK = 64
PROMPT_KEYS = ("prompt", "question", "instruction", "text")


class Answers:
    """Write answers of the target to prompts of a file.

    prompts: a text file with a prompt in each line, or JSON lines with one of the keys prompt, question, instruction and text.
    temperature: of the answers; 0 is greedy. longest_answer: in tokens. The source ends behind the last prompt.
    """

    def __init__(self, prompts: str, temperature: float = 1.0, longest_answer: int = 320) -> None:
        validate.whole("recipe.data.longest_answer", longest_answer, 1)
        validate.number("recipe.data.temperature", temperature, 0)
        self._file, self._sampling, self._longest = expanded(prompts), Sampling(temperature), longest_answer
        self._prompts = lines_of(self._file, PROMPT_KEYS, "recipe.data.prompts")

    @property
    def identity(self) -> dict[str, Any]:
        """Return the settings, and the SHA-256 of the prompts."""
        settings = {"temperature": self._sampling.temperature, "longest_answer": self._longest}
        return {"kind": "Answers", "prompts": sha256_of(self._file), **settings}

    def chunks(self, writer: Writer, have: Sequence[Sample], seed: int) -> Iterator[list[Sample]]:
        for begin in range(len(have), len(self._prompts), CHUNK):
            texts = self._prompts[begin : begin + CHUNK]
            names = [f"{self._file.name}/{begin + place}" for place in range(len(texts))]
            asked = [
                encode(Prompt(name, text, messages=(Message("user", text),)), writer.tokenizer)
                for name, text in zip(names, texts, strict=True)
            ]
            answers = writer.write(asked, names, self._sampling, self._longest, seed)
            yield [
                Sample([*prompt, *answer], len(prompt), name)
                for name, prompt, answer in zip(names, asked, answers, strict=True)
            ]


def lines_of(file: Path, keys: Sequence[str], knob: str) -> list[str]:
    """Return the texts of a file: its lines, or one value of each JSON line. keys: the names of the value, the first one counts.

    Errors: InputError if there is no file, a line is no JSON object, or it has none of the keys.
    """
    if not file.is_file():
        raise InputError(f"{knob}: there is no file {file}.")
    try:
        lines = [line for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{knob}: {file} is no text in UTF-8 ({error}).") from error
    if not lines:
        raise InputError(f"{knob}: the file {file} is empty.")
    if file.suffix != ".jsonl":
        return lines
    found = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{knob}: line {number} of {file} is no JSON ({error}).") from error
        value = next((row[key] for key in keys if key in row), None) if isinstance(row, dict) else None
        if not isinstance(value, str):
            raise InputError(f"{knob}: line {number} of {file} has no text under one of the keys {', '.join(keys)}.")
        found.append(value)
    return found
