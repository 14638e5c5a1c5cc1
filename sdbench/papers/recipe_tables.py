"""Compare training recipes by the cards of the drafters that they made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sdbench.analysis.report.grid import Column, Grid, estimate

_DEPTH = re.compile(r"(alpha|greedy)(?:_(\d+))?$")


def conditions(cards: Mapping[str, Mapping[str, Any]]) -> str:
    """Say what all trainings have in common. cards: by the name of the training.

    Raises: ValueError if two of them read other texts or have other budgets, since these cannot be compared.
    """
    common = {_common(card) for card in cards.values()}
    if len(common) != 1:
        raise ValueError(f"the trainings {', '.join(cards)} have other data, budgets or machines: compare equal ones.")
    first = next(iter(cards.values()))
    data, recipe, made = first["data"], first["recipe"], first["made_with"]
    return (
        f"Every training reads {recipe['tokens']:,} answer tokens, from {data['answer_tokens']:,} different ones in "
        f"{data['sequences']} sequences, at a learning rate of {recipe['learning_rate']:g}. {made['dtype']}, {made['threads']} "
        f"thread(s), {made['processor']}; torch {made['torch']}."
    )


def _common(card: Mapping[str, Any]) -> tuple[Any, ...]:
    made = {key: value for key, value in card["made_with"].items() if key != "revision"}
    recipe = [card["recipe"][key] for key in ("tokens", "learning_rate", "vocabulary")]
    return (card["data"]["sha256"], card["target"], *recipe, *made.values(), *sorted(card["held_out"]))


def compared(cards: Mapping[str, Mapping[str, Any]], measure: str) -> Grid:
    """Show a measure of each drafter on each held-out set, by depth. measure: alpha or greedy.

    A draft model has one row, because it reads its own tokens at each depth alike.
    """
    sets = list(dict.fromkeys(name for card in cards.values() for name in card["held_out"]))
    rows: list[Sequence[Any]] = []
    for name, card in cards.items():
        found = card["held_out"]
        depths = dict.fromkeys(match[2] for key in found[sets[0]] if (match := _DEPTH.match(key)))
        for depth in depths:
            key = f"{measure}_{depth}" if depth else measure
            shown = [estimate(found[one].get(key), found[one].get(f"{key}_ci95"), 3) for one in sets]
            rows.append([name, depth or "all", *shown])
    columns = [Column(one, align="right") for one in sets]
    return Grid([Column("recipe", code=True), Column("depth", align="right"), *columns], rows)
