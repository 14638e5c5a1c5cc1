"""Read the prompts and outputs of a finished run: its sequences are a distillation set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from sdbench import validate
from sdbench.errors import InputError
from sdbench.paths import expanded
from sdbench.runs.record import load
from sdbench.training.corpus import Sample
from sdbench.training.sources.answers import CHUNK
from sdbench.training.writer import Writer


class FinishedRun:
    """Take what an arm of a run wrote.

    path: the run's folder. arm: None for its baseline. Errors: InputError if there is no such run or arm.
    """

    def __init__(self, path: str, arm: str | None = None) -> None:
        self._path = path
        run = load(expanded(path))
        self._arm = arm or run.summary["baseline"]
        self._rows = run.sequences[run.sequences["arm"] == self._arm]
        if self._rows.empty:
            raise validate.unknown(
                "recipe.data.arm: the run has no arm", self._arm, list(run.summary["arms"]), "it has"
            )
        self._prompts = {name: prompt["text"] for name, prompt in run.prompts.items()}

    @property
    def identity(self) -> dict[str, Any]:
        """Return the arm, and the SHA-256 of what it wrote."""
        names = zip(self._rows["prompt_id"], self._rows["repeat"], self._rows["tokens"], strict=True)
        written = [[name, int(repeat), list(map(int, tokens))] for name, repeat, tokens in names]
        return {"kind": "FinishedRun", "arm": self._arm, "sequences": sha256(json.dumps(written).encode()).hexdigest()}

    def chunks(self, writer: Writer, have: Sequence[Sample], seed: int) -> Iterator[list[Sample]]:
        for begin in range(len(have), len(self._rows), CHUNK):
            rows = self._rows.iloc[begin : begin + CHUNK]
            yield [
                self._sample(writer, name, repeat, length, list(map(int, tokens)))
                for name, repeat, length, tokens in zip(
                    rows["prompt_id"], rows["repeat"], rows["prompt_tokens"], rows["tokens"], strict=True
                )
            ]

    def _sample(self, writer: Writer, name: str, repeat: int, length: int, tokens: list[int]) -> Sample:
        """Return a sequence of the run. Errors: InputError if the target's tokenizer is not that of the run."""
        text = self._prompts[name]
        ways = [list(writer.tokenizer(text, add_special_tokens=special)["input_ids"]) for special in (False, True)]
        prompt = next((way for way in ways if len(way) == length), None)
        if prompt is None:
            raise InputError(
                f"recipe.data.path: the run {self._path} has another tokenizer than the target; name a run of this target."
            )
        return Sample([*prompt, *tokens], length, f"{self._arm}/{name}/{repeat}")
