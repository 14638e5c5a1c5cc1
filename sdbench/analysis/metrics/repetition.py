"""Find output that repeats itself. A repetition loop is the easiest text to draft: such an arm is fast and worthless.

One of two signs is enough. A stretch of tokens repeats with a short period and fills much of the answer. Or zlib shrinks the text
far more than it shrinks language. Lists, records and worked arithmetic stay below the thresholds, although they share much of
their form.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pandas as pd

LONGEST_PERIOD = 32  # tokens; zlib finds longer loops
FEWEST_REPEATS = 4  # three times the same phrase may be style
FEWEST_LOOP_TOKENS = 24  # a short answer of few digits is no loop
LOOP_SHARE = 0.4  # of the answer's tokens
FEWEST_BYTES = 256  # zlib's ratio of a shorter text carries no information
COMPRESSION_RATIO = 5.0  # prose has 1.5 to 2.5, records up to 4; Whisper's decoder discards speech above 2.4
FLAGGED_RATE = 0.05  # of an arm's sequences


def loop_tokens(tokens: Any) -> int:
    """Find the longest stretch, in tokens, that has a short period `FEWEST_REPEATS` times or more."""
    ids = np.asarray(tokens)
    longest = 0
    for period in range(1, min(LONGEST_PERIOD, len(ids) // FEWEST_REPEATS) + 1):
        same = ids[period:] == ids[:-period]
        # The longest run of True: the greatest distance between two False, where both ends count as False.
        breaks = np.flatnonzero(np.concatenate(([True], ~same, [True])))
        stretch = int(np.diff(breaks).max()) - 1 + period
        if stretch >= FEWEST_REPEATS * period:
            longest = max(longest, stretch)
    return longest


def compression_ratio(text: str) -> float:
    """Divide the bytes of the text by its bytes under zlib; 1.0 for a short text."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if len(raw) >= FEWEST_BYTES else 1.0


def is_degenerate(tokens: Any, text: str) -> bool:
    """Tell whether an answer repeats itself."""
    needed = max(FEWEST_LOOP_TOKENS, LOOP_SHARE * len(tokens))
    return (len(tokens) >= needed and loop_tokens(tokens) >= needed) or compression_ratio(text) > COMPRESSION_RATIO


def degenerate_rate(sequences: pd.DataFrame) -> float:
    """Compute the share of an arm's sequences that repeat themselves. A report flags the arm from `FLAGGED_RATE` on."""
    flags = [is_degenerate(tokens, text) for tokens, text in zip(sequences["tokens"], sequences["text"], strict=True)]
    return float(np.mean(flags)) if flags else float("nan")
