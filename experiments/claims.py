"""A paper's claims, judged by our runs: holds, fails or undecided, whichever way it falls.

`experiments/<paper>/claims.yaml` says what is claimed, where that was read and how sure it is, and which measure tests it: the name
of a function of the runs. A claim holds when the whole 95 % interval lies on its side of the bound (less the tolerance), fails when
the whole interval lies on the other side, and is undecided when the bound lies within it or fewer than ten units were measured, and
where it is about a speed that was measured while another job ran on the device. A claim that no run of ours can test says why.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from experiments.cells import Cells, NotRun
from experiments.found import Found
from experiments.plan import PAPERS, ROOT
from sdbench.analysis.statistics import FEWEST_UNITS

HOLDS, FAILS, UNDECIDED, NOT_RUN, NOT_TESTED = "holds", "fails", "undecided", "not run", "not tested"
SURE = ("read", "agreed", "one source", "conflicting", "inferred")
"""How sure it is that the paper claims it: its abstract, notes that agree, one note, notes that disagree, our own reading."""


@dataclass(frozen=True)
class Claim:
    """What a paper says, and how it is tested. at_least or at_most: the bound on the measure; tolerance: how much short of it will
    do, in the measure's unit."""

    id: str
    claim: str
    read_in: str
    sure: str
    measure: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    published: str = ""
    at_least: float | None = None
    at_most: float | None = None
    tolerance: float = 0.0
    not_tested: str = ""

    def __post_init__(self) -> None:
        if self.sure not in SURE:
            raise ValueError(f"{self.id}: sure is '{self.sure}', none of {', '.join(SURE)}")
        if bool(self.not_tested) == bool(self.measure):
            raise ValueError(f"{self.id}: give a measure, or say under not_tested why there is none")
        if self.measure and (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"{self.id}: give one of at_least and at_most")

    @property
    def test(self) -> str:
        """The bound and its tolerance, in words."""
        if not self.measure:
            return "–"
        side, bound = ("at least", self.at_least) if self.at_least is not None else ("at most", self.at_most)
        return f"{side} {bound:g}" + (f" ± {self.tolerance:g}" if self.tolerance else "")


@dataclass(frozen=True)
class Judged:
    """A claim and what the runs say of it. found: None where nothing was measured."""

    claim: Claim
    verdict: str
    found: Found | None = None


def read_claims(paper: str) -> list[Claim]:
    """The claims of a paper, in the order of the file."""
    text = (ROOT / "experiments" / paper / "claims.yaml").read_text(encoding="utf-8")
    return [Claim(**entry) for entry in yaml.safe_load(text)]


def measure_of(paper: str, name: str) -> Any:
    """The function that a claim names: of the paper's own measures, or of those that papers share."""
    own = importlib.import_module(f"experiments.{paper}.measures")
    return getattr(own, name, None) or getattr(importlib.import_module("experiments.measures"), name)


def decide(found: Found, claim: Claim) -> str:
    """The verdict on a bound, from the interval alone. One that touches the bound, or rests on few units, decides nothing."""
    if found.ci95 is None or found.n < FEWEST_UNITS:
        return UNDECIDED
    low, high = found.ci95
    if claim.at_least is not None:
        bound = claim.at_least - claim.tolerance
        return HOLDS if low > bound else FAILS if high < bound else UNDECIDED
    assert claim.at_most is not None
    bound = claim.at_most + claim.tolerance
    return HOLDS if high < bound else FAILS if low > bound else UNDECIDED


def judge(paper: str, cells: Cells) -> list[Judged]:
    """Every claim of a paper, judged by the kept cells."""
    judged = []
    for claim in read_claims(paper):
        if not claim.measure:
            judged.append(Judged(claim, NOT_TESTED))
            continue
        cells.used.clear()
        try:
            found = measure_of(paper, claim.measure)(cells, **claim.arguments)
        except NotRun:
            judged.append(Judged(claim, NOT_RUN))
            continue
        disturbed = [name for name in sorted(cells.used) if cells[name].summary.get("shared_device")]
        if found.timed and disturbed:
            note = f"{found.note}; another job ran on the device during {', '.join(disturbed)}"
            judged.append(Judged(claim, UNDECIDED, replace(found, note=note)))
        else:
            judged.append(Judged(claim, decide(found, claim), found))
    return judged


def where(cells: Cells, profile: str) -> str:
    """On which family and machine."""
    machine = cells[cells.names[0]].environment
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"])
    return f"family {profile}, {gpus or machine['cpu']['model']}"


def row(judged: Judged) -> list[str]:
    """Cells of the table: claim, published, sure, ours, n, detectable, test, verdict."""
    claim, found = judged.claim, judged.found
    return [
        claim.claim,
        claim.published or "–",
        claim.sure,
        "–" if found is None else shown(found),
        "–" if found is None else str(found.n),
        "–" if found is None else detectable(found),
        claim.test,
        f"**{judged.verdict}**",
    ]


def shown(found: Found) -> str:
    """The estimate with its interval."""
    unit = "x" if found.ratio else ""
    sign = "" if found.ratio else "+"
    between = "" if found.ci95 is None else f" [{found.ci95[0]:{sign}.3f}, {found.ci95[1]:{sign}.3f}]"
    return f"{found.value:{sign}.3f}{unit}{between}"


def detectable(found: Found) -> str:
    """The minimum detectable effect."""
    effect = found.detectable
    return "–" if effect is None else f"{100 * effect:.1f} %" if found.ratio else f"{effect:.3f}"


HEAD = ("claim", "published", "how sure", "ours [95 %]", "n", "detectable", "test", "verdict")


def rows(judged: list[Judged]) -> str:
    """The verdicts in Markdown."""
    lines = [list(HEAD), ["---", "---", "---", "---:", "---:", "---:", "---", "---"], *map(row, judged)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table(judged: list[Judged]) -> str:
    """The verdicts in Markdown, and under them what was compared."""
    notes = [f"- {one.claim.claim}: {one.found.note}." for one in judged if one.found is not None and one.found.note]
    return rows(judged) + ("\n\nWhat was compared:\n\n" + "\n".join(notes) if notes else "")


def report(paper: str, cells: Cells, profile: str) -> str:
    """`report.md`: verdicts, published values beside ours, figures."""
    figures = sorted((cells.folder / "figures").glob("*.svg"))
    parts = [
        f"# {PAPERS[paper]}: what our runs say",
        f"On {where(cells, profile)}. Intervals are 95 % bootstrap intervals over prompts; 'detectable' is the smallest effect "
        "that such a sample finds with 80 % power.",
        table(judge(paper, cells)),
        "Published beside ours: [`published.csv`](published.csv); every arm of every cell: [`arms.csv`](arms.csv).",
        *(f"![{path.stem}](figures/{path.name})" for path in figures),
    ]
    return "\n\n".join(parts) + "\n"


def write(paper: str, cells: Cells, profile: str) -> None:
    """Write `report.md` beside the cells."""
    path: Path = cells.folder / "report.md"
    path.write_text(report(paper, cells, profile), encoding="utf-8")
