"""Plan a token tree for a machine: time the steps over a tree's nodes, and predict the speed of each size and depth.

T_v(n), the target's time for a verification of n nodes, and the draft's time for a depth of w nodes are measured on steps of these
shapes. The ranks that a greedy run records then say how many rounds each tree needs (`sdbench.theory.trees`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from scipy.stats import quantile_test

from sdbench.device import synchronise
from sdbench.lm.programs.modes import execution_of
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampler, Sampling
from sdbench.simulate.measured import host_seconds
from sdbench.theory.trees import Path, Seconds, acceptance_by_rank, drafting_seconds, planner, rounds_of
from sdbench.topology import Topology

RANKS = 8  # children of a node
DEPTH = 10  # of a tree
DIGITS = 3  # of an acceptance in an override
PROBE_TREES = (
    "arms.sequoia.grid.proposer.budget=[4,16]"  # an override of a probe: two sizes give the host's time by nodes
)


class TreeClock:
    """Time a model's steps over n nodes behind `context` tokens, in a cache of its own. Seconds of one row.

    nodes: the most nodes. mode: the execution mode; by default the model's own. layers: of an early exit; None: the whole model.
    levels: time the steps that draft a depth of n nodes, and not those that verify n nodes. A step of 0 nodes reads the last
    decided token alone.
    """

    def __init__(
        self,
        model: Transformer,
        context: int,
        nodes: int,
        mode: str | None = None,
        layers: int | None = None,
        levels: bool = False,
    ) -> None:
        whole = model.bare()
        if mode is not None:
            whole.execution = execution_of(mode)
        whole.allocate(1, context + nodes)
        self.model = whole if layers is None else whole.truncated(layers)
        self.model.allocate(1, context + nodes)
        self.context, self.levels = context, levels
        self.missed = False  # the mode had no program for some step
        self._tokens = torch.ones(1, whole.slots, dtype=torch.long, device=whole.device)
        whole.read(self._state(), [context - 1], "prefill", row=0)

    def _state(self) -> DecodeState:
        return DecodeState(
            self._tokens, np.array([self.context]), np.array([True]), Sampler(Sampling()), Trace(sequence=[0])
        )

    @torch.inference_mode()
    def time(self, nodes: int) -> float:
        """Return the seconds of one step over `nodes` nodes."""
        state, tree = self._state(), Topology.of([0] * nodes if self.levels else [node // 2 for node in range(nodes)])
        if self.levels and nodes:
            self.model.read(state, [self.context], "draft")
            synchronise(self.model.device)
        begun = perf_counter()
        if nodes == 0:
            self.model.read(state, [self.context], "verify")
        else:
            self.model.read_tree(state, [tree], (int(self.levels), nodes), "verify")
        synchronise(self.model.device)
        seconds = perf_counter() - begun
        self.missed |= any(step.get("missed", False) for step in state.trace.steps)
        self.model.forget(0, self.context - 1)
        return seconds


@dataclass
class Curve:
    """Hold the measured seconds of steps, by their number of nodes."""

    samples: dict[int, list[float]] = field(default_factory=dict)

    def median(self, nodes: int) -> float:
        """Return the median of a measured size."""
        return float(np.median(self.samples[nodes]))

    def interval(self, nodes: int) -> tuple[float, float]:
        """Return the 95 % interval of the median, from order statistics; NaN with too few samples."""
        found = quantile_test(self.samples[nodes], q=0, p=0.5).confidence_interval(0.95)
        return float(found.low), float(found.high)

    def __call__(self, nodes: int) -> float:
        """Return the median seconds of a step, interpolated between measured sizes."""
        known = sorted(self.samples)
        return float(np.interp(nodes, known, [self.median(size) for size in known]))


def time_in_turn(clocks: Mapping[str, TreeClock], sizes: Mapping[str, Sequence[int]], repeats: int) -> dict[str, Curve]:
    """Time each size of each clock once per repeat, so that a slow phase of the machine affects all of them.

    The first steps of each size are not counted: they make the programs. So is the first step of each turn: it brings the clock's
    model back into the processor's caches, where a decode keeps it.
    """
    curves = {name: Curve({size: [] for size in sizes[name]}) for name in clocks}
    for repeat in range(repeats + 2):
        for name, clock in clocks.items():
            clock.time(sizes[name][0])
            for size in sizes[name]:
                seconds = clock.time(size)
                if repeat > 1:
                    curves[name].samples[size].append(seconds)
                elif repeat == 0:
                    clock.missed = False
    return curves


@dataclass(frozen=True)
class TreeSetting:
    """Hold one setting of the arm `sequoia`, and what is predicted of it.

    acceptance, budget, depth: its knobs. paths: its tree. round_seconds: of a round. tokens_per_round: with the target's own.
    """

    acceptance: list[float]
    budget: int
    depth: int
    paths: list[Path]
    round_seconds: float
    tokens_per_round: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_per_round / self.round_seconds

    @property
    def knobs(self) -> dict[str, object]:
        """Return the overrides of the arm, by knob."""
        return {"proposer.acceptance": self.acceptance, "proposer.budget": self.budget, "proposer.depth": self.depth}


def measured_acceptance(strings: Sequence[Sequence[int]], ranks: int = RANKS) -> list[float]:
    """Return the acceptance by rank, with the digits of an override, rounded down. [] if no rank is ever accepted."""
    shares = [np.floor(share * 10**DIGITS) / 10**DIGITS for share in acceptance_by_rank(strings, ranks)]
    while shares and shares[-1] == 0:
        shares.pop()
    return [float(share) for share in shares]


def host_line(tables: Mapping[str, pd.DataFrame], arms: Collection[str]) -> Seconds:
    """Return the seconds of a round around its forwards by the nodes of its tree: the line through some arms with trees.

    The host chooses every node, so a larger tree takes longer. The line never falls, and is nowhere below 0.
    """
    rounds = tables["rounds"]
    nodes = [float(rounds.loc[rounds["arm"] == arm, "nodes"].mean()) for arm in arms]
    seconds = [host_seconds(tables, {arm}) for arm in arms]
    slope = max(0.0, float(np.polyfit(nodes, seconds, 1)[0])) if len(set(nodes)) > 1 else 0.0
    base = float(np.mean(seconds)) - slope * float(np.mean(nodes))
    return lambda size: max(0.0, base + slope * size)


def predictor(
    strings: Sequence[Sequence[int]], draft: Seconds, target: Seconds, host: Seconds
) -> Callable[[list[float], int, int], TreeSetting]:
    """Return the function that predicts the setting (acceptance, budget, depth).

    strings: the ranks of greedy answers. draft: seconds of a depth of so many nodes. target: T_v. host: seconds of a round around
    its forwards, by the nodes of its tree.
    """
    tokens = sum(map(len, strings))
    planners: dict[tuple[float, ...], Callable[[int, int], tuple[float, list[Path]]]] = {}

    def predict(acceptance: list[float], budget: int, depth: int) -> TreeSetting:
        plan = planners.setdefault(tuple(acceptance), planner(acceptance))
        paths = plan(budget, depth)[1]
        seconds = drafting_seconds(paths, draft) + target(len(paths)) + host(len(paths))
        return TreeSetting(acceptance, budget, depth, paths, seconds, tokens / max(rounds_of(strings, paths), 1))

    return predict
