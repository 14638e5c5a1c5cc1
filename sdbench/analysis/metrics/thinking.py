"""Acceptance of a reasoning model, split at the end of its thinking.

Thinking is long, repeats itself and follows other patterns than an answer. So a mean over both says little of either. A round
belongs to the part in which its first token stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from sdbench.analysis.tables import ratio, target_rounds

BEGIN, END = "<think>", "</think>"
_SEQUENCE = ["prompt_id", "repeat"]


def thinking_tokens(pieces: Sequence[str]) -> int | None:
    """Return the number of tokens up to the end of the thinking, `</think>` included. pieces: the text that each token added.

    All tokens, if thinking has begun and not ended. None without thinking.
    """
    text = ""
    for count, piece in enumerate(pieces, 1):
        text = (text + piece)[-len(piece) - len(END) :]
        if END in text:
            return count
    return len(pieces) if BEGIN in "".join(pieces) else None


def thinking(sequences: pd.DataFrame, rounds: pd.DataFrame) -> dict[str, Any] | None:
    """Split the rounds of one arm at the end of the thinking. None if no sequence thinks.

    Returns for `thinking` and `answer`: rounds, tokens_per_target_call (emitted tokens per round) and acceptance_rate (accepted
    per proposed token). sequences: how many think.
    """
    if "pieces" not in sequences:
        return None
    written = {
        (prompt, repeat): list(pieces)
        for prompt, repeat, pieces in zip(sequences["prompt_id"], sequences["repeat"], sequences["pieces"], strict=True)
        if pieces is not None and not isinstance(pieces, float)
    }
    # Some templates open the thinking in the prompt. Then an answer that was cut while it thinks holds neither mark.
    opened = any(END in (text := "".join(pieces)) and BEGIN not in text for pieces in written.values())
    found = {name: thinking_tokens(pieces) for name, pieces in written.items()}
    ends = {
        name: len(written[name]) if count is None else count
        for name, count in found.items()
        if opened or count is not None
    }
    if not ends:
        return None
    outer = target_rounds(rounds)
    outer = outer[[name in ends for name in zip(outer["prompt_id"], outer["repeat"], strict=True)]]
    behind = outer.groupby(_SEQUENCE)["emitted"].cumsum() - outer["emitted"] + 1  # the prefill gives the first token
    end = pd.Series([ends[name] for name in zip(outer["prompt_id"], outer["repeat"], strict=True)], outer.index)
    inside = behind < end
    return {"sequences": len(ends), "thinking": _part(outer[inside]), "answer": _part(outer[~inside])}


def _part(rounds: pd.DataFrame) -> dict[str, Any]:
    return {
        "rounds": len(rounds),
        "tokens_per_target_call": ratio(rounds["emitted"].sum(), len(rounds)),
        "acceptance_rate": ratio(rounds["accepted"].sum(), rounds["proposed"].sum()),
    }
