"""Simulate a nested pyramid over recorded outcomes: target over (qualifier over draft), all rules exact, greedy.

An outer round asks the verified pair for l_Q tokens. The pair runs inner rounds until it has them. An inner round takes l_D drafted
tokens and one forward of the qualifier, and yields n tokens. Each drafted token passes the qualifier with probability a:

    P(n) = a^(n-1) (1 - a)   for n <= l_D,        P(l_D + 1) = a^l_D.

The pair hands on all its tokens, also those beyond l_Q. The target keeps them as long as they are the qualifier's first choice,
which the ranks of the qualifier tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sdbench.simulate.events import Latencies, Times

_SEED = 0


@dataclass(frozen=True)
class InnerStage:
    """Describe the pair below the target.

    passed: a. draft: seconds of a drafted token. verify: seconds of the qualifier's forward, by its new tokens. host: seconds of
    a round.
    """

    passed: float
    draft: Times
    verify: Mapping[int, Times]
    host: Times = (0.0,)

    def seconds(self, length: int) -> float:
        """Return the mean seconds of an inner round with `length` drafted tokens."""
        known = sorted(self.verify)
        verify = float(np.interp(length + 1, known, [float(np.mean(self.verify[n])) for n in known]))
        return length * float(np.mean(self.draft)) + verify + float(np.mean(self.host))


def pyramid_speed(
    strings: Sequence[np.ndarray], target: Latencies, stage: InnerStage, length: int, outer: int
) -> float:
    """Return the tokens per second of the pyramid.

    Args:
        strings: the qualifier's ranks along the target's answers (`events.places`).
        target: its `verify` and `host`.
        stage: the pair below it.
        length, outer: l_D and l_Q.
    """
    rng = np.random.default_rng(_SEED)
    inner, known = stage.seconds(length), sorted(target.verify)
    means, host = [float(np.mean(target.verify[n])) for n in known], float(np.mean(target.host))
    seconds, tokens = 0.0, 0
    for string in strings:
        at = 0
        while at < len(string):
            buffered = 0
            while buffered < outer:
                refused = rng.random(length) >= stage.passed
                buffered += (int(np.argmax(refused)) if refused.any() else length) + 1
                seconds += inner
            drafted = string[at : at + buffered]
            accepted = int(np.argmax(drafted > 1)) if (drafted > 1).any() else len(drafted)
            seconds += float(np.interp(buffered + 1, known, means)) + host
            at += accepted + 1
        tokens += len(string)
    return tokens / seconds
