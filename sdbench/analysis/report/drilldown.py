"""The page's data on single prompts: each arm's numbers, the arms' texts, token by token, with their origins, and token trees.

The data is packed to keep the page small. The texts of tokens are numbered, arms with the same tokens share them, and
origins are run-length coded. Every prompt has its numbers. Texts are added prompt by prompt, in the run's order, while
there is room.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from sdbench.analysis.metrics.speed import log_ratios, unit_column
from sdbench.analysis.report import round_trees, token_origins
from sdbench.analysis.tables import by_arm, decode_tokens, emitted_tokens, usable
from sdbench.runs.record import Run

ROOM = 3_300_000
"""Bytes of texts in one page."""

LONGEST_PROMPT = 2_400  # characters of a prompt that are shown
Row = Mapping[Any, Any]  # a sequence, as in SEQUENCES
NUMBERS = ("tokens_per_second", "speedup", "score", "tokens", "target_calls")


def drilldown(run: Run, room: int = ROOM) -> dict[str, Any]:
    """Collect the page's data of one run, JSON-safe. room: bytes for texts.

    Returns:
        `arms`, `baseline`, `categories`, `pieces` (the texts of tokens), `shapes` (the parents of token trees) and `prompts`.
        A prompt has `id`, `category` (an index) and `numbers` (NUMBERS per arm, null for an arm without them). While there is
        room it also has `prompt`, `reference`, `texts` (lists of indices into `pieces`) and `arms` (per arm the index of its
        text, its origins and, of an arm that drafts token trees, the tree of each round: `round_trees.packed`).
    """
    arms = list(run.summary["arms"])
    categories = list(dict.fromkeys(run.sequences["category"]))
    numbers = _numbers(run)
    first = run.sequences.sort_values("repeat", kind="stable").drop_duplicates(["arm", "prompt_id"])
    by_prompt: dict[str, dict[str, Row]] = {}
    for row in first.to_dict("records"):
        by_prompt.setdefault(row["prompt_id"], {})[row["arm"]] = row
    coded = {key: encode(rounds) for key, rounds in token_origins.by_sequence(run.rounds)}
    trees = round_trees.by_sequence(run.rounds, run.sequences)
    vocabulary: dict[str, int] = {}
    shapes: dict[tuple[int, ...], int] = {}
    prompts = []
    for prompt in dict.fromkeys(run.sequences["prompt_id"]):
        part = by_prompt[prompt]
        shown: dict[str, Any] = {
            "id": prompt,
            "category": categories.index(next(iter(part.values()))["category"]),
            "numbers": [numbers.get((arm, prompt)) for arm in arms],
        }
        if room > 0:
            before = len(vocabulary), len(shapes)
            texts = _texts(part, arms, prompt, coded, vocabulary) | _question(run.prompts.get(prompt, {}))
            for given, arm in zip(texts["arms"], arms, strict=True):
                if given is not None and (found := trees.get((arm, prompt, part[arm]["repeat"]))):
                    given.append(round_trees.packed(found, shapes, vocabulary))
            room -= _size(texts) + sum(_size(piece) for piece in list(vocabulary)[before[0] :])
            room -= sum(_size(shape) for shape in list(shapes)[before[1] :])
            shown |= texts
        prompts.append(shown)
    return {
        "arms": arms,
        "baseline": run.summary["baseline"],
        "categories": categories,
        "pieces": list(vocabulary),
        "shapes": [list(shape) for shape in shapes],
        "prompts": prompts,
    }


def encode(rounds: list[str]) -> str:
    """Code origins by round: `f|d3c|d4b` is a first token, three drafted and a correction, four drafted and a bonus."""
    return "|".join(
        "".join(letter + (str(count) if count > 1 else "") for letter, count in _runs(tokens)) for tokens in rounds
    )


def embed(data: Mapping[str, Any]) -> str:
    """Write JSON for a script element: no text in it can end the element."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _texts(
    part: Mapping[str, Row],
    arms: list[str],
    prompt: str,
    coded: Mapping[tuple[str, str, int], str],
    vocabulary: dict[str, int],
) -> dict[str, Any]:
    """Collect the texts of one prompt. A sequence without recorded pieces is one piece of unknown origin."""
    texts: dict[tuple[int, ...], int] = {}
    of_arms: list[Any] = []
    for arm in arms:
        if arm not in part:
            of_arms.append(None)
            continue
        row = part[arm]
        pieces = row.get("pieces")
        code = coded.get((arm, prompt, row["repeat"]), "")
        if pieces is None or _length(code) != len(pieces):
            pieces, code = [row["text"]] if pieces is None else list(pieces), ""
        ids = tuple(vocabulary.setdefault(piece, len(vocabulary)) for piece in pieces)
        code = code or encode([token_origins.UNKNOWN * len(ids)])
        of_arms.append([texts.setdefault(ids, len(texts)), code])
    return {"texts": [list(ids) for ids in texts], "arms": of_arms}


def _question(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Give the prompt's text and reference; a long text loses its middle."""
    text = asked.get("text")
    if text is not None and len(text) > LONGEST_PROMPT:
        half = LONGEST_PROMPT // 2
        text = f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"
    return {"prompt": text, "reference": asked.get("reference")}


def _numbers(run: Run) -> dict[tuple[str, str], list[float | None]]:
    """Compute NUMBERS of each arm and prompt, as means over repeats."""
    split = by_arm(usable(run.tables))
    base = split[run.summary["baseline"]]["sequences"] if run.summary["baseline"] in split else None
    made: dict[tuple[str, str], list[float | None]] = {}
    for arm, tables in split.items():
        sequences = tables["sequences"]
        gains = pd.Series(dtype=float) if base is None else log_ratios(sequences, base).map(np.exp)
        unit = unit_column(sequences if base is None else pd.concat([sequences, base]))
        counted = sequences.assign(emitted=emitted_tokens(sequences), decoded=decode_tokens(sequences))
        for prompt, rows in counted.groupby("prompt_id"):
            seconds = rows["decode_seconds"].sum()
            # A peer, which reports no prefill, has only the speed of the whole.
            tokens = rows["decoded" if rows["prefill_seconds"].any() else "emitted"].sum()
            values = [
                tokens / seconds if seconds and tokens else None,
                gains.get(rows[unit].iloc[0]),
                rows["score"].astype(float).mean(),
                rows["emitted"].mean(),
                rows["target_calls"].mean(),
            ]
            made[arm, str(prompt)] = [_rounded(value) for value in values]
    return made


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.4g}")


def _runs(tokens: str) -> list[tuple[str, int]]:
    return [(letter, sum(1 for _ in run)) for letter, run in groupby(tokens)]


def _length(code: str) -> int:
    """Count the tokens of a code."""
    total, digits = 0, ""
    for mark in reversed(code):
        if mark.isdigit():
            digits = mark + digits
        elif mark != "|":
            total, digits = total + int(digits or 1), ""
    return total


def _size(value: Any) -> int:
    """Count the bytes of a value in the page, with the comma behind it."""
    return len(embed(value).encode()) + 1
