"""The minimum detectable effect: the smallest true effect that a comparison finds with probability 0.8 at level 0.05.

For a mean of n values with standard deviation s it is (t(0.975) + t(0.8)) s / sqrt(n), with n - 1 degrees of freedom
(Bloom 1995; Miller, arXiv 2411.00640, for evaluations). "Indistinguishable" and "undecided" mean little without it.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t

LEVEL = 0.05
POWER = 0.8


def minimum_detectable_effect(*samples: np.ndarray, least_variance: float = 0.0) -> float | None:
    """Compute the smallest detectable mean (one sample) or difference of means (two samples), in the values' unit.

    Args:
        samples: one or two arrays of values.
        least_variance: a lower bound on each variance.

    Returns:
        None with fewer than two values in a sample.
    """
    if any(len(values) < 2 for values in samples):
        return None
    squares = [max(float(values.var(ddof=1)), least_variance) / len(values) for values in samples]
    freedom = sum(len(values) - 1 for values in samples)
    quantiles = t.ppf(1 - LEVEL / 2, freedom) + t.ppf(POWER, freedom)
    return float(quantiles * math.sqrt(sum(squares)))


def detectable_speedup(*samples: np.ndarray) -> float | None:
    """Compute the detectable effect of log speeds, or of log ratios of speeds, as a relative gain: 0.05 is 5 % faster.

    None also for values without spread, as of an arm against itself.
    """
    effect = minimum_detectable_effect(*samples)
    return math.expm1(effect) if effect else None


def detectable_difference(*samples: np.ndarray) -> float | None:
    """Compute the detectable difference of scores, in points of score (0..1).

    Values that all agree do not show that none ever differs. So the variance is at least that of one prompt that does. None
    also where the result exceeds 1, the largest possible difference: so few prompts detect nothing.
    """
    fewest = min(len(values) for values in samples)
    effect = minimum_detectable_effect(*samples, least_variance=1 / fewest) if fewest else None
    return effect if effect is not None and effect <= 1 else None
