"""Do the intervals hold what they promise? Runs with a known true speed-up, and how often the interval contains it.

A synthetic run has prompts that differ in their true log speed-up (skewed, as real ones are), repeats that scatter around
their prompt, and an interval from the very functions that a run's summary uses. Bad intervals, such as one over sequences as
though repeats were prompts, fail this check.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

TRUE_LOG_SPEEDUP = 0.6
BETWEEN, WITHIN = 0.15, 0.1  # standard deviations of the log ratio: between prompts, and between repeats of one
_SHAPE = 8.0  # of the gamma law of prompts: a skewness of 0.7

Intervals = Callable[[np.ndarray], np.ndarray]


def synthetic_log_ratios(simulations: int, prompts: int, repeats: int, seed: int = 0) -> np.ndarray:
    """Log ratios [simulations, prompts, repeats] whose expectation is TRUE_LOG_SPEEDUP."""
    generator = np.random.default_rng(seed)
    skewed = (generator.gamma(_SHAPE, size=(simulations, prompts, 1)) - _SHAPE) / np.sqrt(_SHAPE)
    noise = generator.normal(size=(simulations, prompts, repeats))
    return TRUE_LOG_SPEEDUP + BETWEEN * skewed + WITHIN * noise


def coverage(log_ratios: np.ndarray, intervals: Intervals) -> float:
    """Share of simulations whose interval contains the truth.

    Args:
        log_ratios: [simulations, prompts, repeats].
        intervals: units' means [simulations, prompts] -> ends [simulations, 2]. A prompt carries its repeats: it is one unit.
    """
    ends = intervals(log_ratios.mean(axis=2))
    return float(np.mean((ends[:, 0] <= TRUE_LOG_SPEEDUP) & (ends[:, 1] >= TRUE_LOG_SPEEDUP)))
