"""The test vectors on the pages of references, computed again from the formulas beside them."""

import re

import numpy as np
import pytest

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
