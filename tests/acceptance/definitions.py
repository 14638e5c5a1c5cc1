"""Every rule's definition in plain Python, from the formula of its source: (rule, accept, replace) when sampling.

Written apart from the rules, on lists of floats: accept(place) is the probability that the drafted token is kept,
replace(place) the law of the token in its place.
"""

import math

from sdbench.acceptance import (
    EARS,
    EASD,
    BiLD,
    Cactus,
    Cascade,
    Ensemble,
    Exact,
    Fuzzy,
    Lenience,
    Match,
    RelaxedTopK,
    Thresholds,
    TopBeta,
    Typical,
)

from .enumeration import norm, rest, warped


def kl(p, q):
    return sum(a * (math.log(a / b) if b > 0 else math.inf) for a, b in zip(p, q, strict=True) if a > 0)


def middle(p, q):
    return [(a + b) / 2 for a, b in zip(p, q, strict=True)]


def true_js(p, q):
    m = middle(p, q)
    return (kl(p, m) + kl(q, m)) / 2


def fsd_js(p, q):
    m = middle(p, q)
    return (kl(m, p) + kl(m, q)) / 2


def total_variation(p, q):
    return sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2


def buckets(p, q, k):
    top = sorted(range(len(p)), key=lambda i: -p[i])[:k]
    return tuple([side[i] for i in top] + [sum(side[i] for i in range(len(p)) if i not in top)] for side in (p, q))


def ratio(at):
    return min(1.0, at.p[at.x] / at.q[at.x])


def exact_residual(at):
    return rest(at.p, at.q)


def verifier(at):
    return at.p


def without_x(at):
    return norm([0.0 if i == at.x else a for i, a in enumerate(at.p)])


def fuzzy(divergence, threshold, warped=False):
    def passes(at):
        p, q = (at.p, at.q) if warped else (at.plain_p, at.plain_q)
        return float(divergence(p, q) <= threshold)

    return passes


def fallback(divergence, threshold):
    passes = fuzzy(divergence, threshold)
    return lambda at: max(passes(at), ratio(at))


def lenient(at, leniency):
    return min(1.0, at.p[at.x] / (leniency * at.q[at.x]))


def lenient_residual(leniency):
    def replace(at):
        kept = [min(b, a / leniency) for a, b in zip(at.p, at.q, strict=True)]
        return norm([max(a - f, 0.0) for a, f in zip(at.p, kept, strict=True)])

    return replace


def typical(eps, delta):
    def passes(at):
        entropy = -sum(a * math.log(a + 1e-5) for a in at.p)
        return float(at.p[at.x] > min(eps, delta * math.exp(-entropy)))

    return passes


def relaxed(k, delta):
    def passes(at):
        p = at.plain_p
        top = sorted(range(len(p)), key=lambda i: -p[i])[:k]
        return float(at.x in top and p[at.x] >= max(p) - delta)

    return passes


def top_beta(beta, tau):
    def passes(at):
        p = at.plain_p
        top = sorted(range(len(p)), key=lambda i: -p[i])[:beta]
        return float(at.x in top and math.log(p[at.x] or 1e-300) >= math.log(max(p)) - tau)

    return passes


def two_thresholds(single, acc):
    return lambda at: 1.0 if at.p[at.x] >= single else min(1.0, at.p[at.x] / acc)


def rollback(threshold):
    def passes(at):
        its = at.plain_p[at.x]
        return float(at.x == at.best or (its > 0 and -math.log(its) <= threshold))

    return passes


def bent(at, delta):
    its = at.p[at.x]
    h = min(1.0, its + math.sqrt(2 * delta * its * (1 - its)))
    if its == 1:
        return at.p
    return [h if i == at.x else a * (1 - h) / (1 - its) for i, a in enumerate(at.p)]


def against(law):
    """The exact rule against another distribution than p."""
    return (
        lambda at: min(1.0, law(at)[at.x] / at.q[at.x]),
        lambda at: rest(law(at), at.q),
    )


def cascade(deferral, a):
    def pi(at):
        p, q, P, Q = at.plain_p, at.plain_q, at.p, at.q
        trust = {
            "chow": lambda v: max(q) >= 1 - a,
            "diff": lambda v: max(q) >= max(p) - a,
            "opt": lambda v: max(q) >= max(p) - a * sum(max(0.0, y - x) for x, y in zip(P, Q, strict=True)),
            "token_v1": lambda v: q[v] >= max(p) - a,
            "token_v2": lambda v: p[v] >= max(p) - a,
            "token_v3": lambda v: p[v] >= (1 - a) * max(p),
        }[deferral]
        if deferral in ("chow", "diff", "opt"):
            return Q if trust(0) else P
        trusted = [Q[v] if trust(v) else 0.0 for v in range(len(P))]
        return [t + (1 - sum(trusted)) * x for t, x in zip(trusted, P, strict=True)]

    return pi


def mixture(w):
    return lambda at: [w * a + (1 - w) * b for a, b in zip(at.p, at.q, strict=True)]


def entropy(law):
    return -sum(a * math.log(a) for a in law if a > 0)


def top(law, k):
    return set(sorted(range(len(law)), key=lambda i: -law[i])[:k])


def unsure(h_draft, h_target, k, rho, warped=False):
    """Where EASD refuses a token."""

    def holds(at):
        p, q = (at.p, at.q) if warped else (at.plain_p, at.plain_q)
        return entropy(q) > h_draft and entropy(p) > h_target and len(top(p, k) & top(q, k)) / k >= rho

    return holds


def easd(*knobs):
    refuses = unsure(*knobs)

    def again(at):
        """The law of the target's second draw, with x forbidden."""
        return warped([-math.inf if i == at.x else a for i, a in enumerate(at.logits_p)], at.sampling)

    return (
        lambda at: 0.0 if refuses(at) else ratio(at),
        lambda at: again(at) if refuses(at) else exact_residual(at),
    )


def ears(beta):
    return lambda at: min(1.0, at.p[at.x] / at.q[at.x] + beta * (1 - max(at.p)))


def _bucketed(divergence, k):
    return lambda p, q: divergence(*buckets(p, q, k))


# name: (rule, accept, replace, a wrong replacement that the proof must reject)
DEFINITIONS = {
    "exact": (Exact(), ratio, exact_residual, verifier),
    "match": (Match(), lambda at: at.p[at.x], without_x, verifier),
    "fuzzy": (Fuzzy(0.1), fuzzy(fsd_js, 0.1), verifier, exact_residual),
    "fuzzy, residual": (Fuzzy(0.1, replacement="residual"), fuzzy(fsd_js, 0.1), exact_residual, verifier),
    "fuzzy, fallback": (Fuzzy(0.1, form="fallback"), fallback(fsd_js, 0.1), exact_residual, verifier),
    "fuzzy, js": (Fuzzy(0.1, divergence="js"), fuzzy(true_js, 0.1), verifier, exact_residual),
    "fuzzy, warped": (
        Fuzzy(0.3, divergence="tv", warped=True),
        fuzzy(total_variation, 0.3, True),
        verifier,
        exact_residual,
    ),
    "fuzzy, kl_pq": (Fuzzy(0.3, divergence="kl_pq"), fuzzy(kl, 0.3), verifier, exact_residual),
    "fuzzy, kl_qp": (Fuzzy(0.3, divergence="kl_qp"), fuzzy(lambda p, q: kl(q, p), 0.3), verifier, exact_residual),
    "fuzzy, top k": (
        Fuzzy(0.2, divergence="tv", top_k=1),
        fuzzy(_bucketed(total_variation, 1), 0.2),
        verifier,
        exact_residual,
    ),
    "fuzzy, js top k": (Fuzzy(0.05, top_k=2), fuzzy(_bucketed(fsd_js, 2), 0.05), verifier, exact_residual),
    "fuzzy, logit": (
        Fuzzy(0.5, divergence="abs_logit"),
        lambda at: float(abs(at.logits_p[at.x] - at.logits_q[at.x]) <= 0.5),
        verifier,
        exact_residual,
    ),
    "fuzzy, logprob": (
        Fuzzy(0.5, divergence="abs_logprob"),
        lambda at: float(at.plain_p[at.x] > 0 and abs(math.log(at.plain_p[at.x] / at.plain_q[at.x])) <= 0.5),
        verifier,
        exact_residual,
    ),
    "lenience": (Lenience(0.5), lambda at: lenient(at, 0.5), lenient_residual(0.5), verifier),
    "lenience, 1": (Lenience(1.0), ratio, exact_residual, verifier),
    "typical": (Typical(), typical(0.09, 0.3), verifier, exact_residual),
    "typical, stricter": (Typical(0.4, 0.9), typical(0.4, 0.9), verifier, exact_residual),
    "relaxed top-k": (RelaxedTopK(2, 0.3), relaxed(2, 0.3), verifier, exact_residual),
    "relaxed top-k, 1": (RelaxedTopK(1, 0.0), relaxed(1, 0.0), verifier, exact_residual),
    "top beta": (TopBeta(2, 0.8), top_beta(2, 0.8), verifier, exact_residual),
    "top beta, 1": (TopBeta(1, 0.0), relaxed(1, 0.0), verifier, exact_residual),
    "thresholds": (Thresholds(0.6, 0.7), two_thresholds(0.6, 0.7), without_x, verifier),
    "thresholds, off": (Thresholds(), two_thresholds(1.0, 1.0), without_x, verifier),
    "bild": (BiLD(1.0), rollback(1.0), verifier, exact_residual),
    "cactus": (Cactus(0.5), *against(lambda at: bent(at, 0.5)), exact_residual),
    "cactus, 0": (Cactus(0.0), ratio, exact_residual, verifier),
    "easd": (EASD(0.5, 0.6, 2, 0.5), *easd(0.5, 0.6, 2, 0.5), exact_residual),
    "easd, same candidates": (EASD(0.2, 0.2, 2, 1.0), *easd(0.2, 0.2, 2, 1.0), without_x),
    "easd, warped": (EASD(0.3, 0.3, 2, 0.5, warped=True), *easd(0.3, 0.3, 2, 0.5, True), exact_residual),
    "ears": (EARS(0.4), ears(0.4), exact_residual, verifier),
    "ears, 0": (EARS(0.0), ratio, exact_residual, verifier),
    "ensemble": (Ensemble(0.4), *against(mixture(0.4)), verifier),
    **{
        f"{deferral}, {a}": (Cascade(deferral, a), *against(cascade(deferral, a)), verifier)
        for deferral, a in [
            ("chow", 0.4),
            ("diff", 0.1),
            ("diff", -1),
            ("opt", 0.3),
            ("opt", -0.5),
            ("token_v1", 0.2),
            ("token_v2", 0.2),
            ("token_v2", -1),
            ("token_v3", 0.5),
            ("token_v3", 0.0),
        ]
    },
}
