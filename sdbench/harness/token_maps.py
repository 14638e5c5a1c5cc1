"""Make the maps of models with another vocabulary than the target's, before any weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdbench.errors import InputError
from sdbench.models.family import Family
from sdbench.models.token_map import MappedIds
from sdbench.models.vocabulary import intersection, listed, most_frequent, reduced
from sdbench.paths import expanded, packaged
from sdbench.runs.record import load
from sdbench.tasks.rows import texts_in


def token_maps(family: Family) -> dict[str, MappedIds]:
    """Return, by role, the maps of the members with an intersection or a reduced vocabulary. Errors: InputError."""
    maps, tokenizer = {}, family.tokenizer
    for role, member in family.members.items():
        asked = member.vocabulary
        if asked is None or asked.kind == "reencode":
            continue
        if asked.kind == "intersection":
            maps[role] = intersection(tokenizer, member.tokenizer, family.vocab, member.width, role)
        elif asked.ids:
            knob, width = f"models.{role}.vocabulary.ids", min(family.vocab, member.width)
            ids = listed(packaged(asked.ids, knob) or expanded(asked.ids), width, knob)
            maps[role] = reduced(ids, family.vocab, member.width)
        else:
            sequences = _sequences(asked.text, tokenizer, f"models.{role}.vocabulary.text")
            width = min(family.vocab, member.width)
            ids = most_frequent(sequences, asked.size, family.eos, width, role)
            maps[role] = reduced(ids, family.vocab, member.width)
    return maps


def map_notes(maps: dict[str, MappedIds]) -> list[str]:
    """Return one sentence for each map."""
    return [
        f"{role} proposes {len(ids.rows)} of the {ids.vocab} tokens of the target (models.{role}.vocabulary)."
        for role, ids in maps.items()
    ]


def _sequences(path: str, tokenizer: Any, knob: str) -> Iterator[list[int]]:
    """Yield token sequences: the outputs of a finished run, or the encoded lines of a text or JSON-lines file."""
    place = expanded(path)
    if place.is_dir():
        run = load(place).sequences
        if len(run):
            tokens, text = run["tokens"].iloc[0], run["text"].iloc[0]
            if not str(tokenizer.decode(tokens, skip_special_tokens=True)).startswith(text):
                raise InputError(
                    f"{knob}: the run {path} has another tokenizer than the target; name a run of this one."
                )
        yield from (list(map(int, tokens)) for tokens in run["tokens"])
        return
    if not place.is_file():
        raise InputError(f"{knob}: there is no file or run folder {path}.")
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
        texts = [text for line in lines if line.strip() for text in _texts(line, place)]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{knob}: {path} is neither text in UTF-8 nor JSON lines ({error}).") from error
    if texts:
        yield from tokenizer(texts, add_special_tokens=False)["input_ids"]


def _texts(line: str, file: Path) -> list[str]:
    """Return the texts of a line: the line with its end, or all texts of a JSON value."""
    return texts_in(json.loads(line)) if file.suffix in (".jsonl", ".json") else [line + "\n"]
