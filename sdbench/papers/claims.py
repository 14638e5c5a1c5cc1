"""Judge a paper's claims by our runs.

A claim is general or belongs to a set-up. A general claim (a theorem, an inequality, an ordering) should hold anywhere.
It holds when the whole 95 % interval lies on its side of the bound, less the tolerance. It does not hold here when the
whole interval lies on the other side. Otherwise it is undecided: the bound lies within the interval, fewer than ten
units were measured, or another job ran on the device while a speed was measured.

A claim that belongs to a set-up (a factor on named models and hardware) is judged in the same way, but only by runs on
that set-up. Any other set-up leaves it "not judged". The published figure then stands beside ours and beside the
prediction of the claim's own formula from our measured times and acceptance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sdbench.analysis.stats.intervals import FEWEST_UNITS
from sdbench.papers import measures
from sdbench.papers.estimate import Estimate
from sdbench.papers.paper import Paper
from sdbench.papers.paper_results import NotRun, PaperResults
from sdbench.papers.set_up import SetUp

HOLDS, DOES_NOT_HOLD, UNDECIDED = "holds", "does not hold here", "undecided"
OTHER_SET_UP, NOT_RUN, NOT_TESTED = "other set-up: not judged", "not run", "not tested"
GENERAL, SET_UP = "general", "set-up"
SURE = ("read", "agreed", "one source", "conflicting", "inferred")
"""How sure it is that the paper claims it: its abstract, sources that agree, one source, sources that disagree, our reading."""


@dataclass(frozen=True)
class Claim:
    """What a paper says, and how it is tested.

    scope: general or set-up; set_ups: for the second kind, the set-ups on which the figure was published. measure: the name of a
    function of the runs; arguments: of that function. at_least or at_most: the bound on the measure. tolerance: how far beyond the
    bound still counts, in the measure's unit. formula: what predicts the measure, if something does. not_tested: why there is no
    measure.
    """

    id: str
    claim: str
    read_in: str
    sure: str
    scope: str
    measure: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    published: str = ""
    at_least: float | None = None
    at_most: float | None = None
    tolerance: float = 0.0
    formula: str = ""
    not_tested: str = ""
    set_ups: tuple[SetUp, ...] = ()

    def __post_init__(self) -> None:
        if self.sure not in SURE:
            raise ValueError(f"{self.id}: sure is '{self.sure}', none of {', '.join(SURE)}")
        if self.scope not in (GENERAL, SET_UP):
            raise ValueError(f"{self.id}: scope is '{self.scope}', none of {GENERAL}, {SET_UP}")
        if (self.scope == SET_UP) != bool(self.set_ups):
            raise ValueError(f"{self.id}: a claim of scope {SET_UP} names its set-ups, and no other claim does")
        if bool(self.not_tested) == bool(self.measure):
            raise ValueError(f"{self.id}: give a measure, or say under not_tested why there is none")
        if self.measure and (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"{self.id}: give one of at_least and at_most")

    @property
    def bound(self) -> str:
        """The bound and its tolerance, in words."""
        if not self.measure:
            return ""
        side, bound = ("at least", self.at_least) if self.at_least is not None else ("at most", self.at_most)
        return f"{side} {bound:g}" + (f" ± {self.tolerance:g}" if self.tolerance else "")


@dataclass(frozen=True)
class Judged:
    """A claim and what the runs say of it.

    estimate: None where nothing was measured. runs: the runs that were read. differs: the fields in which their set-up is not the
    claim's; empty for a general claim.
    """

    claim: Claim
    verdict: str
    estimate: Estimate | None = None
    runs: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()


def read_claims(paper: Paper) -> list[Claim]:
    """Return the claims of a paper, in the order of `claims.yaml`.

    Raises:
        ValueError: a claim lacks what its kind needs.
    """
    document = paper.claims
    known = {name: SetUp(name, **_tuples(fields)) for name, fields in document.get("set_ups", {}).items()}
    claims = []
    for entry in document["claims"]:
        named = entry.get("set_ups", [])
        if unknown := [name for name in named if name not in known]:
            raise ValueError(f"{entry['id']}: {', '.join(unknown)} stands not under set_ups")
        claims.append(Claim(**{**entry, "set_ups": tuple(known[name] for name in named)}))
    return claims


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


def measure_of(paper: Paper, name: str) -> Any:
    """Return the function that a claim names: of the paper's own measures, or of those that papers share."""
    return getattr(paper.module("measures"), name, None) or getattr(measures, name)


def decide(estimate: Estimate, claim: Claim) -> str:
    """Compare an interval with the bound. One that contains the bound, or rests on few units, decides nothing."""
    if estimate.ci95 is None or estimate.n < FEWEST_UNITS:
        return UNDECIDED
    low, high = estimate.ci95
    if claim.at_least is not None:
        bound = claim.at_least - claim.tolerance
        return HOLDS if low > bound else DOES_NOT_HOLD if high < bound else UNDECIDED
    assert claim.at_most is not None
    bound = claim.at_most + claim.tolerance
    return HOLDS if high < bound else DOES_NOT_HOLD if low > bound else UNDECIDED


def judge(paper: Paper, results: PaperResults) -> list[Judged]:
    """Judge every claim of a paper by its kept runs."""
    return [_judge(paper, claim, results) for claim in read_claims(paper)]


def _judge(paper: Paper, claim: Claim, results: PaperResults) -> Judged:
    if not claim.measure:
        return Judged(claim, NOT_TESTED)
    results.used.clear()
    try:
        estimate = measure_of(paper, claim.measure)(results, **claim.arguments)
    except NotRun:
        return Judged(claim, NOT_RUN)
    runs = tuple(sorted(results.used))
    if not runs:
        raise ValueError(f"{claim.id}: the measure {claim.measure} read no run, so its set-up is not known")
    differs = min((_differences(set_up, results, runs) for set_up in claim.set_ups), key=len, default=())
    if differs:
        return Judged(claim, OTHER_SET_UP, estimate, runs, differs)
    disturbed = [name for name in runs if results[name].summary.get("shared_device")]
    if estimate.timed and disturbed:
        note = f"{estimate.note}; another job ran on the device during {', '.join(disturbed)}"
        return Judged(claim, UNDECIDED, replace(estimate, note=note), runs)
    return Judged(claim, decide(estimate, claim), estimate, runs)


def _differences(set_up: SetUp, results: PaperResults, runs: tuple[str, ...]) -> tuple[str, ...]:
    """The fields in which some of the runs differ from a set-up, each once."""
    return tuple(dict.fromkeys(name for run in runs for name in set_up.differences(results[run])))
