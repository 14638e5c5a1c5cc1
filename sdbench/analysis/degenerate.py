"""Output that repeats itself. A repetition loop is the easiest text to draft: such an arm is fast and worthless.

Two signs, either is enough: a stretch of tokens that repeats with a short period and fills much of the answer, or a
text that zlib shrinks far more than it does language. The thresholds are set so that lists, records and worked
arithmetic, which share much of their form, stay below them.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pandas as pd

LONGEST_PERIOD = 32  # tokens: longer loops are left to zlib
FEWEST_REPEATS = 4  # a phrase said three times may be style
FEWEST_LOOP_TOKENS = 24  # a short answer of few digits is no loop
LOOP_SHARE = 0.4  # of the answer's tokens
FEWEST_BYTES = 256  # zlib's ratio says nothing about less
COMPRESSION_RATIO = 5.0  # prose has 1.5 to 2.5, records up to 4; Whisper's decoder discards speech above 2.4
FLAGGED_RATE = 0.05  # of an arm's sequences


def loop_tokens(tokens: Any) -> int:
    """Length in tokens of the longest stretch that has a short period, `FEWEST_REPEATS` times or more."""
    ids = np.asarray(tokens)
    longest = 0
    for period in range(1, min(LONGEST_PERIOD, len(ids) // FEWEST_REPEATS) + 1):
        same = ids[period:] == ids[:-period]
        # The longest run of True: the greatest distance between two False, counting both ends as such.
        breaks = np.flatnonzero(np.concatenate(([True], ~same, [True])))
        stretch = int(np.diff(breaks).max()) - 1 + period
        if stretch >= FEWEST_REPEATS * period:
            longest = max(longest, stretch)
    return longest


def compression_ratio(text: str) -> float:
    """Bytes of the text / bytes of it under zlib; 1.0 where it is too short to say."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if len(raw) >= FEWEST_BYTES else 1.0


def is_degenerate(tokens: Any, text: str) -> bool:
    """Whether an answer repeats itself."""
    needed = max(FEWEST_LOOP_TOKENS, LOOP_SHARE * len(tokens))
    return (len(tokens) >= needed and loop_tokens(tokens) >= needed) or compression_ratio(text) > COMPRESSION_RATIO


def degenerate_rate(sequences: pd.DataFrame) -> float:
    """Share of an arm's sequences that repeat themselves; the arm is flagged from `FLAGGED_RATE` on."""
    flags = [is_degenerate(tokens, text) for tokens, text in zip(sequences["tokens"], sequences["text"], strict=True)]
    return float(np.mean(flags)) if flags else float("nan")
