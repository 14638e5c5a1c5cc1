"""Choose a chain of levels for a machine, and predict its speed.

The planner of `sdbench.theory.hierarchies` gives each set of levels its lengths, from the acceptance of each pair of neighbours.
`sdbench.simulate.chain_replay` then counts the passes of the chain over the target's answers. The passes cost the measured seconds
of their widths, and the host's seconds around them. Lengths near the planner's are replayed too, and the fastest ones are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from sdbench.harness.level_probe import LONGEST, LevelProbe
from sdbench.simulate.chain_replay import LOOKUP, TARGET, ChainReplay, Pass
from sdbench.theory.hierarchies import Chain, Edge, Level, chains

STEPS = (-2, -1, 1, 2)  # changes of one length that the search tries
SWEEPS = 3  # over the lengths of a chain, at most
PLAIN = ("ar", "lookup", "sd", "sd_qualifier", "pyramid")  # the probe's arms whose steps read chains


@dataclass(frozen=True)
class Host:
    """Hold the host's seconds outside all passes.

    alone: of a round in which the target decodes alone. verdict: in addition, if it verifies a draft. drafted: of a token that a
    model drafts. inner: of a verification by a level below the target. search: of a look-up.
    """

    alone: float
    verdict: float
    drafted: float
    inner: float
    search: float


def host_times(tables: Mapping[str, pd.DataFrame], search: float) -> Host:
    """Return the host's seconds that explain the arms of a probe best: least squares, no share below 0.

    search: the seconds of a look-up, measured by itself. Without an arm that has inner verifications, they cost the host what a
    verification of the target costs.
    """
    counts, spent = [], []
    steps = tables["steps"][tables["steps"]["kind"] != "prefill"]
    for arm in PLAIN:
        own = steps[steps["arm"] == arm]
        rounds = tables["rounds"][tables["rounds"]["arm"] == arm]
        if own.empty:
            continue
        once = tables["sequences"].query("arm == @arm").drop_duplicates(["block", "repeat"])
        verify = own["kind"] == "verify"
        outer = int((verify & (own["role"] == TARGET)).sum())
        drafts = rounds[(rounds["verifier"] == TARGET) & (rounds["proposed"] > 0)]
        searches = int((rounds["proposer"] == LOOKUP).sum())
        row = [outer, len(drafts), int((own["kind"] == "draft").sum()), int(verify.sum()) - outer]
        counts.append(np.array(row) / outer)
        spent.append((once["block_decode_seconds"].sum() - own["seconds"].sum() - searches * search) / outer)
    alone, verdict, drafted, inner = nnls(np.array(counts), np.maximum(spent, 0.0))[0].tolist()
    known = any(row[3] for row in counts)
    return Host(alone, verdict, drafted, inner if known else alone + verdict, search)


def anchored(
    times: Mapping[str, Mapping[int, float]], steps: pd.DataFrame, views: frozenset[str]
) -> dict[str, dict[int, float]]:
    """Scale the times of each level, so that the steps of the probe's arms take their measured total.

    The arms decode as a chain does, with several models in turn. A level without steps there gets the factor of the target.
    """
    own = steps[steps["arm"].isin(PLAIN) & steps["kind"].isin(["draft", "verify"])]
    factors = {}
    for level, curve in times.items():
        part = own[own["role"] == level]
        if len(part) and level not in views:
            expected = np.interp(part["tokens"], list(curve), list(curve.values()))
            factors[level] = float(part["seconds"].sum() / expected.sum())
    return {
        level: {width: seconds * factors.get(level, factors[TARGET]) for width, seconds in curve.items()}
        for level, curve in times.items()
    }


class Clock:
    """Price passes. times: by level, the seconds of a pass by its new tokens. host: around the passes."""

    def __init__(self, times: Mapping[str, Mapping[int, float]], host: Host) -> None:
        self.times, self.host = times, host

    def forward(self, level: str, width: int) -> float:
        """Return the seconds of a pass: between measured widths on a line, and beyond the last on the line of the last two."""
        known = list(self.times[level])
        values = [self.times[level][n] for n in known]
        if width <= known[-1]:
            return float(np.interp(width, known, values))
        return values[-1] + max(0.0, (values[-1] - values[-2]) / (known[-1] - known[-2])) * (width - known[-1])

    def __call__(self, one: Pass) -> float:
        """Return the seconds of a pass and of the host around it."""
        level, kind, width = one
        if level == LOOKUP:
            return self.host.search
        around = self.host.drafted if kind == "draft" else self.host.inner
        if level == TARGET:
            around = self.host.alone + self.host.verdict * (width > 1)
        return self.forward(level, width) + around


def planned(probe: LevelProbe, clock: Clock) -> list[Chain]:
    """Return every chain of levels with the planner's lengths and prediction, the fastest first."""
    names, answers = list(probe.times), probe.answers
    picked = {**answers.choices, TARGET: answers.tokens}
    flat = {name: np.array(picked[name]) for name in names}
    levels = [Level(name, _seconds(clock, name)) for name in names]
    edges = {(low, high): Edge(float(np.mean(flat[low] == flat[high]))) for low, high in combinations(names, 2)}
    first = np.array([tokens[0] if tokens else -1 for tokens in answers.copied])
    if (first >= 0).any():
        offered = float(np.mean(first >= 0))
        edges |= {(LOOKUP, name): Edge(float(np.mean((first == flat[name])[first >= 0])), offered) for name in names}
        levels.insert(0, Level(LOOKUP, lambda n: probe.search, verifies=False))
    return chains(levels, edges)


def _seconds(clock: Clock, name: str) -> Callable[[int], float]:
    kind = "verify" if name == TARGET else "draft"
    return lambda n: clock((name, "verify" if n else kind, n + 1))


def replayed(plans: Sequence[Chain], replay: ChainReplay, clock: Clock) -> list[tuple[Chain, Chain]]:
    """Return each chain with its best lengths near the planned ones and its replayed speed, the fastest first, and its plan."""
    prices: dict[Pass, float] = {}

    def price(one: Pass) -> float:
        if one not in prices:
            prices[one] = clock(one)
        return prices[one]

    def seconds(levels: tuple[str, ...], lengths: tuple[int, ...]) -> float:
        passes = replay.passes(levels, lengths)
        return sum(count * price(one) for one, count in passes.items()) / max(replay.decoded, 1)

    alone = seconds((TARGET,), ())
    found = []
    for plan in plans:
        known: dict[tuple[int, ...], float] = {}

        def spent(lengths: tuple[int, ...], levels: tuple[str, ...] = plan.levels, known: dict = known) -> float:
            if lengths not in known:
                known[lengths] = seconds(levels, lengths)
            return known[lengths]

        best = _near(plan.lengths, spent)
        found.append((Chain(plan.levels, best, spent(best), alone / spent(best)), plan))
    return sorted(found, key=lambda pair: pair[0].seconds)


def _near(lengths: tuple[int, ...], spent: Callable[[tuple[int, ...]], float]) -> tuple[int, ...]:
    """Change one length at a time, as long as that saves seconds."""
    best = lengths
    for _ in range(SWEEPS):
        before = best
        for place, length in enumerate(before):
            others = [length + step for step in STEPS if 1 <= length + step <= LONGEST]
            best = min([best, *((*best[:place], other, *best[place + 1 :]) for other in others)], key=spent)
        if best == before:
            break
    return best
