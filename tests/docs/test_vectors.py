"""The test vectors on the pages of references, computed again from the formulas beside them."""

import math
import re

import numpy as np
import pytest

from sdbench.acceptance import Exact, KSeq, Match, SpecHub
from sdbench.sampling import Sampling
from sdbench.topology import Topology
from tests.acceptance.enumeration import Table, distance, verifiers_own
from tests.acceptance.test_trees import SameLawAgain, not_renormalised
from tests.acceptance.trees import round_law, transport_bound

from .test_references import DOCS

P, Q = np.array([0.5, 0.25, 0.15, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
CANDIDATES = 3


def table(page: str, header: str) -> list[list[str]]:
    """Return the rows of the table whose first line begins with `header`."""
    lines = (DOCS / "references" / page).read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(header))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    assert rows
    return rows


def numbers(cell: str) -> list[float]:
    return [float(word) for word in re.findall(r"\d+(?:\.\d+)?", cell)]


def tokens(a: float, K: int) -> float:
    return (1 - a ** (K + 1)) / (1 - a)


def test_theorem_7():
    rows = table("asynchronous.md", "| a, K, c | E_SD")
    for setting, expected, over, ssd, free in rows:
        a, K, c = numbers(setting)
        e, t = tokens(a, int(K)), c * K
        assert e == pytest.approx(float(expected), abs=6e-4)
        assert e / (1 + t) == pytest.approx(float(over), abs=6e-4)
        for p, printed in zip((0.5, 0.8, 0.9, 1.0), numbers(ssd), strict=True):
            assert e / (p * max(1, t) + (1 - p) * (1 + t)) == pytest.approx(printed, abs=1.5e-3)
        for p, printed in zip((0.5, 0.8, 0.9), numbers(free), strict=True):
            assert p * e + 1 - p == pytest.approx(printed, abs=1.5e-3)


def test_theorem_12():
    for setting, real, whole, hits in table("asynchronous.md", "| K, a, r, B"):
        K, a, r, budget = numbers(setting)
        law = np.array([(1 - a) * a**k for k in range(int(K))] + [a**K])
        best = law ** (1 / (1 + r))
        best *= budget / best.sum()
        assert numbers(real) == pytest.approx(best, abs=6e-3)
        counts = np.ones(len(law))
        while counts.sum() < budget:
            counts[np.argmax(law * (counts**-r - (counts + 1) ** -r))] += 1
        printed = numbers(whole)
        assert not printed or printed == counts.tolist()
        found = [float((law * (1 - f**-r)).sum()) for f in (best, counts, np.full(len(law), budget / (K + 1)))]
        assert numbers(hits) == pytest.approx(found, abs=6e-5)


def test_pearl():
    for chance, *printed in table("asynchronous.md", "| a | g = 3"):
        a = float(chance)
        for window, cell in zip((3, 5, 8), printed, strict=True):
            assert (1 / (1 - a)) / (1 + a / (1 - a**window)) == pytest.approx(float(cell), abs=6e-4)


def norm(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum() if weights.sum() > 0 else weights


def one_node(replacement: bool, renormalised: bool = True, p_again: bool = False) -> tuple[float, np.ndarray]:
    """Return the chance that a candidate is kept at one node, and the law of the token that comes out."""
    kept, out = 0.0, np.zeros(len(P))

    def visit(depth: int, weight: float, left: np.ndarray, q: np.ndarray) -> None:
        nonlocal kept, out
        if depth == CANDIDATES:
            out = out + weight * left
            return
        for x in np.flatnonzero(q):
            drawn = weight * norm(q)[x]
            passes = min(1.0, left[x] / q[x])
            kept += drawn * passes
            out[x] += drawn * passes
            fewer = q.copy()
            fewer[x] = 0
            behind = q if replacement else norm(fewer) if renormalised else fewer
            if passes < 1:
                visit(depth + 1, drawn * (1 - passes), P if p_again else norm(np.maximum(left - q, 0)), behind)

    visit(0, 1.0, P, Q)
    return kept, out


def k_seq() -> tuple[float, float, np.ndarray]:
    """Return rho, the chance that a candidate is kept, and the law of the token that comes out."""

    def excess(rho: float) -> float:
        beta = np.minimum(Q, P / rho).sum()
        return 1 - (1 - beta) ** CANDIDATES - rho * beta

    low, high = 1.0, float(CANDIDATES)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    held = np.minimum(Q, P / low)
    kept = 1 - (1 - held.sum()) ** CANDIDATES
    return low, kept, held / held.sum() * kept + (1 - kept) * norm(np.maximum(P - held * kept / held.sum(), 0))


def test_rules_at_one_node():
    rho, kept, law = k_seq()
    best = np.argsort(-Q)[:CANDIDATES]
    wanted = {
        "with replacement": one_node(True),
        "without replacement": one_node(False),
        "without replacement, q not renormalised": one_node(False, renormalised=False),
        "without replacement, p again after a refusal": one_node(False, p_again=True),
        "delta rule over q's best three tokens": (P[best].sum(), P),
        "match over i.i.d. candidates": (float((P * (1 - (1 - Q) ** CANDIDATES)).sum()), P),
        f"K-SEQ, rho = {rho:.4f}": (kept, law),
    }
    rows = {name: (float(kept), float(apart)) for name, kept, apart in table("families.md", "| rule | P(some")}
    assert set(rows) == set(wanted)
    for name, (chance, out) in wanted.items():
        assert rows[name] == pytest.approx((chance, np.abs(out - P).sum() / 2), abs=6e-5), name


WORLD = Table(4, lambda context: [math.log(x) for x in P]), Table(4, lambda context: [math.log(x) for x in Q])


def by_the_project(rule, siblings: str, count: int = CANDIDATES, order=None) -> tuple[float, float]:
    """Return the chance that one of the project's rule's candidates is kept, and the distance of its first token from P."""
    emitted = round_law(rule, WORLD, Topology.branching([count]), siblings, Sampling(1.0), order)
    first: dict[tuple[int, ...], float] = {}
    for tokens, mass in emitted.items():
        first[tokens[:1]] = first.get(tokens[:1], 0.0) + mass
    kept = sum(mass for tokens, mass in emitted.items() if len(tokens) > 1)
    return kept, distance(first, verifiers_own(WORLD[0], 1, Sampling(1.0)))


def test_the_projects_rules_at_one_node():
    """What `sdbench.acceptance` does has the printed digits too."""
    found = {
        "with replacement": by_the_project(Exact(), "with"),
        "without replacement": by_the_project(Exact(), "without"),
        "without replacement, q not renormalised": by_the_project(Exact(), "without", order=unnormalised),
        "without replacement, p again after a refusal": by_the_project(SameLawAgain(), "without"),
        "delta rule over q's best three tokens": by_the_project(Exact(), "top"),
        "match over i.i.d. candidates": by_the_project(Match(), "with"),
        "K-SEQ, rho = 2.1000": by_the_project(KSeq(), "with"),
    }
    rows = {name: (float(kept), float(apart)) for name, kept, apart in table("families.md", "| rule | P(some")}
    assert set(rows) == set(found)
    for name, printed in rows.items():
        assert found[name] == pytest.approx(printed, abs=6e-5), name


unnormalised = not_renormalised(Topology.branching([CANDIDATES]))


def test_rules_over_two_candidates():
    found = {
        "with replacement": ("with", Exact()),
        "K-SEQ": ("with", KSeq()),
        "without replacement": ("without", Exact()),
        "exact rule over SpecHub's pairs": ("hub", Exact()),
        "SpecHub": ("hub", SpecHub()),
    }
    rows = {name: (float(kept), float(most)) for name, kept, most in table("families.md", "| rule, two candidates")}
    assert set(rows) == set(found)
    for name, (siblings, rule) in found.items():
        kept, apart = by_the_project(rule, siblings, 2)
        assert apart < 1e-12
        bound = transport_bound(WORLD, Topology.branching([2]), siblings, Sampling(1.0))
        assert rows[name] == pytest.approx((kept, bound), abs=6e-5), name
