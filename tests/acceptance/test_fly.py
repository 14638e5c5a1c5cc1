"""FLy against the procedure of its code: draw the target's tokens, mark the matches, forgive, cut at the first token not kept."""

import itertools
import math
from collections import defaultdict

import pytest
import torch

from sdbench.acceptance import FLy, Match, ProposalKind, draw
from sdbench.keyed_random import Key
from sdbench.sampling import Sampler, Sampling

from .definitions import without_x
from .enumeration import SAMPLINGS, WORLDS, Place, chain_law, distance, plain, round_law, tensors, warped

GREEDY = Sampling(temperature=0.0)


def unsure(logits, entropy):
    three = sorted(plain(logits), reverse=True)[:3]
    return -sum(a * math.log(a) for a in three if a > 0) >= entropy


def kept(matches, sure, window, last=None):
    """How many tokens are kept. matches, sure: of each drafted token. last: the tokens at the end that are never forgiven."""
    last = window if last is None else last
    for i, match in enumerate(matches):
        ahead = matches[i + 1 : i + window]
        if not match and (sure[i] or i >= len(matches) - last or len(ahead) < window - 1 or not all(ahead)):
            return i
    return len(matches)


def by_hand(world, K, sampling, window, entropy, draws, instead=without_x, last=None):
    """The law of one round, over all drafts and all patterns of matches."""
    p, q = world
    out = defaultdict(float)
    for chain in itertools.product(range(p.V), repeat=K):
        places = [Place(chain[i], p(chain[:i]), q(chain[:i]), sampling) for i in range(K)]
        chances = [1 - (1 - at.p[at.x]) ** draws for at in places]
        sure = [not unsure(at.logits_p, entropy) for at in places]
        for matches in itertools.product((True, False), repeat=K):
            weight = math.prod(m if match else 1 - m for m, match in zip(chances, matches, strict=True))
            weight *= chain_law(q, chain, sampling)
            if weight == 0:
                continue
            n = kept(matches, sure, window, last)
            following = instead(places[n]) if n < K else warped(p(chain), sampling)
            for token, share in enumerate(following):
                out[(*chain[:n], token)] += weight * share
    return out


CASES = [(1, 0.0, 2), (2, 0.4, 2), (2, 0.9, 1), (3, 0.0, 3)]
SOME = ["random", "near", "overlapping", "certain proposer"]


@pytest.mark.parametrize(("window", "entropy", "draws"), CASES)
def test_the_law_is_that_of_the_procedure(window, entropy, draws):
    for name in SOME:
        said = round_law(FLy(window, entropy, draws), WORLDS[name], 4, SAMPLINGS[0])
        assert distance(said, by_hand(WORLDS[name], 4, SAMPLINGS[0], window, entropy, draws)) < 1e-12
    said = round_law(FLy(window, entropy, draws), WORLDS["random"], 3, SAMPLINGS[1])
    assert distance(said, by_hand(WORLDS["random"], 3, SAMPLINGS[1], window, entropy, draws)) < 1e-12


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": 3},
        {"entropy": 9.0},
        {"entropy": 0.0},
        {"draws": 1},
        {"last": 1},
        {"instead": lambda at: at.p},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_the_proof_rejects_a_wrong_variant(wrong):
    said = round_law(FLy(2, 0.6, 2), WORLDS["random"], 4, SAMPLINGS[0])
    knobs = {"window": 2, "entropy": 0.6, "draws": 2, **wrong}
    assert distance(said, by_hand(WORLDS["random"], 4, SAMPLINGS[0], **knobs)) > 1e-3


def test_without_forgiveness_and_with_one_draw_it_is_the_match_rule():
    for world in WORLDS.values():
        for sampling in SAMPLINGS:
            same = round_law(Match(), world, 2, sampling)
            assert distance(round_law(FLy(2, draws=1), world, 2, sampling), same) < 1e-12
    forgiving, same = (round_law(rule, WORLDS["random"], 2, SAMPLINGS[0]) for rule in (FLy(1, 0.0, 1), Match()))
    assert distance(forgiving, same) > 1e-3


@pytest.mark.parametrize(("window", "entropy"), [(1, 0.0), (2, 0.5), (3, 0.0)])
def test_the_greedy_form(window, entropy):
    """Over every draft of five tokens; where the target is followed throughout, FLy forgives and the match rule does not."""
    p, q = WORLDS["random"]
    drafts = list(itertools.product(range(p.V), repeat=5))
    draft, scored = tensors((p, q), drafts, GREEDY, ProposalKind.RELABELLED)
    verdict = draw(
        FLy(window, entropy).law(draft, scored), Sampler(GREEDY), Key(torch.zeros(0).numpy(), torch.zeros(0).numpy())
    )
    forgiven = 0
    for chain, n, token in zip(drafts, verdict.accepted.tolist(), verdict.next_token.tolist(), strict=True):
        logits = [p(chain[:i]) for i in range(6)]
        best = [line.index(max(line)) for line in logits]
        matches = [chain[i] == best[i] for i in range(5)]
        sure = [not unsure(line, entropy) for line in logits[:5]]
        assert n == kept(matches, sure, window)
        assert token == best[n]
        forgiven += n > kept(matches, [True] * 5, window)
    assert forgiven
