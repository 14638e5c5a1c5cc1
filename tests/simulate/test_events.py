"""The simulator against the closed forms, on outcomes that follow their laws."""

import numpy as np
import pandas as pd
import pytest

from sdbench.errors import InputError
from sdbench.simulate.events import Latencies, Simulation, kept, places
from sdbench.theory import pearl
from sdbench.theory.speculative import expected_tokens
from sdbench.theory.ssd import Rounds, geometric_fan_out, theorem_7
from tests.theory.forms import dsi_segment, hit_probability

A, R = 0.8, 1.0


def strings(a=A, r=R, tokens=60_000, seed=0):
    """Places of tokens: 1 with chance a; else one more than a rank with P(rank > F) = F^-r."""
    rng = np.random.default_rng(seed)
    ranks = np.floor(rng.random(tokens) ** (-1 / r)).clip(max=1e6).astype(int) + 1
    return [np.where(rng.random(tokens) < a, 1, ranks + 1)]


def machine(**times):
    return Latencies("test", "made up", verify={1: [1.0]}, draft=times.pop("draft", [0.1]), **times)


@pytest.mark.parametrize("K", [1, 4, 6])
def test_sd(K):
    assert Simulation(strings(), machine()).sd(K) == pytest.approx(expected_tokens(A, K) / (1 + 0.1 * K), rel=0.01)


def test_ar():
    assert Simulation(strings(), machine()).ar() == pytest.approx(1.0)


@pytest.mark.parametrize(("K", "budget", "tree"), [(4, 15, 0.1), (6, 24, 0.12), (6, 24, 0.3)])
def test_ssd_is_theorem_7(K, budget, tree):
    counts = geometric_fan_out(A, R, K, budget)
    # A bonus passes with chance a, whatever the power law says of the refused: held if it is among the first F_K.
    law = hit_probability([*counts[:-1], 0], A, R)
    bonus = A**K * (A + (1 - A) * (1 - max(counts[-1] - 1, 1) ** -R))
    simulation = Simulation(strings(), machine(tree={1: [tree]}, glue=[0.05]))
    rounds = Rounds(law + bonus, 1.0, 1.0, 0.05 + K * tree, 0.1 * K)
    wanted = theorem_7(rounds) * expected_tokens(A, K)
    if rounds.t_primary > 1:
        # A server that cannot be interrupted is waited for after a miss too, which the theorem does not count.
        wanted = expected_tokens(A, K) / (rounds.t_primary + (1 - rounds.p_hit) * rounds.t_backup)
    assert simulation.ssd(K, counts) == pytest.approx(wanted, rel=0.02)


def test_ssd_without_hits_is_sd_and_with_all_hides_the_draft():
    simulation = Simulation(strings(), machine(tree={1: [0.1]}))
    assert simulation.ssd(4, (0,) * 5) == pytest.approx(simulation.sd(4))
    assert simulation.ssd(4, (10**7,) * 5) == pytest.approx(expected_tokens(A, 4), rel=0.01)


@pytest.mark.parametrize(
    ("counts", "seconds"),
    [
        # By 0.4 a back-up, by 1.4 the verdict, by 1.6 the second depth, and by 1.7, 1.8 the last two of the branch alone.
        ((1,) * 5, 0.4 + 1 + 0.4 + 1),
        # No branch: what was begun is ended, by 1.6, and the back-up drafts.
        ((0,) * 5, 0.4 + 1 + 0.2 + 0.4 + 1),
    ],
)
def test_a_tree_is_left_for_the_branch_that_came_true(counts, seconds):
    latencies = Latencies("test", "made up", verify={1: [1.0]}, draft=[0.1], tree={5: [0.6], 0: [0.6]}, leaves=True)
    assert Simulation([np.array([1] * 10)], latencies).ssd(4, counts) == pytest.approx(10 / seconds)


@pytest.mark.parametrize(("place", "first_fan_out", "spared"), [(3, 3, 0.4), (4, 3, 0.0), (0, 3, 0.0), (1, 0, 0.0)])
def test_a_first_token_that_the_cache_holds_needs_no_back_up(place, first_fan_out, spared):
    latencies = Latencies("test", "made up", verify={1: [1.0]}, draft=[0.1], tree={1: [0.1]})
    simulation = Simulation([np.array([], int), np.array([1] * 10)], latencies, first=[9, place])
    assert simulation.ssd(4, (1,) * 5, first_fan_out) == pytest.approx(10 / (0.4 - spared + 1 + 1))


@pytest.mark.parametrize("window", [3, 5, 8])
def test_pearl(window):
    wanted = pearl.tokens_per_round(A, window) / max(1.0, 0.1 * window)
    assert Simulation(strings(), machine()).pearl(window) == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("k", [1, 5])
def test_dsi(k):
    tokens, seconds = dsi_segment(A, k, 0.1, 1.0)
    assert Simulation(strings(), machine()).dsi(k) == pytest.approx(tokens / seconds, rel=0.02)


def amusd(places, length, draft, verify, least=2):
    latencies = Latencies("test", "made up", verify={1: [verify]}, draft=[draft])
    return len(places) / Simulation([np.array(places)], latencies).amusd(length, least)


@pytest.mark.parametrize(
    ("places", "length", "draft", "verify", "seconds"),
    [
        # Two tokens by 2, judged by 5, two more meanwhile; the bonus is one of them, so one is left and one is drafted, by 6; ...
        ([1] * 9, 4, 1.0, 3.0, 5 + 4 + 4),
        # The draft is never full: asked at 4.5, it ends its token at 5. It sets the pace, a token a second.
        ([1] * 9, 12, 1.0, 2.5, 4.5 + 3 + 3),
        # A refused token ends the run: two tokens are drafted behind the correction.
        ([1, 2, 1, 1, 1, 1], 4, 1.0, 3.0, 5 + (2 + 3) + (1 + 3)),
        # A bonus that the draft would not have drafted ends it too.
        ([1, 1, 5, 1, 1, 1], 4, 1.0, 3.0, 5 + (2 + 3)),
        # Asked in the middle of a token, with a run that is void: that token is waited for, then two are drafted.
        ([2, 1, 1, 1], 12, 1.0, 2.5, 4.5 + (0.5 + 2 + 2.5)),
    ],
)
def test_amusd_by_hand(places, length, draft, verify, seconds):
    assert amusd(places, length, draft, verify) == pytest.approx(seconds)


def test_amusd_s_exchange_is_between_draft_and_target():
    latencies = Latencies("t", "made up", verify={1: [3.0]}, draft=[1.0], comm=[0.25], answer=[0.5], host=[0.125])
    assert 3 / Simulation([np.ones(3, int)], latencies).amusd(4) == pytest.approx(2 + 0.25 + 0.5 + 3 + 0.125)


def test_amusd_s_limits():
    # Nothing passes: each token takes a verification and the least that is waited for.
    assert amusd([2] * 50, 4, 0.1, 1.0) == pytest.approx(50 * 1.2)
    # An endless draft at no cost: a full run of 12 is judged by 2 and the bonus, then by the 9 that are left and the bonus.
    assert amusd([1] * 130, 12, 0.0, 1.0) == pytest.approx(20)
    # All passes, and the draft is the slower side: its pace, once it runs.
    assert amusd([1] * 300, 12, 0.5, 1.0) == pytest.approx(300 * 0.5, rel=0.01)


@pytest.mark.parametrize("K", [2, 5])
def test_amusd_that_waits_for_all_it_may_draft_is_sd(K):
    simulation = Simulation(strings(), machine())
    assert simulation.amusd(K, least=K) == pytest.approx(simulation.sd(K))


def test_both_sides_of_a_round_slow_down_together():
    slow = [1.0, 2.0]
    latencies = Latencies("t", "made up", verify={3: slow}, draft=[0.0], tree={1: [0.5, 0.5, 1.0, 1.0]})
    # Means of 1.5; drawn apart the larger one would be 1.75 on average.
    assert 1 / Simulation([np.full(20_000, 2)], latencies).ssd(2, (0,) * 3) == pytest.approx(1.5, rel=0.01)


def test_rounds_of_a_string():
    assert kept(np.array([1, 1, 3, 1, 1, 1, 2, 1]), 3) == [(2, 3), (3, 2), (1, 1)]


def test_places_from_logged_rounds():
    rounds = pd.DataFrame(
        {"block": 0, "repeat": 0, "prompt_id": "p", "accepted": [2, 3, 0, 1], "proposed": 3, "rank": [4, 1, 2, np.nan]}
    )
    # A correction of rank 4 had the refused token above it; a bonus of rank 1 was the draft's own first; the last is unknown.
    assert places(rounds)[0].tolist() == [1, 1, 5, 1, 1, 1, 1, 3, 1]
    with pytest.raises(InputError, match="no ranks"):
        places(rounds.drop(columns="rank"))


@pytest.mark.parametrize("values", [{"name": "m"}, {"name": "m", "source": "s", "verify": {1: "x"}, "draft": 1},
                                    {"name": "m", "source": "s", "verify": {1: 1}, "draft": 1, "tea": 2}])  # fmt: skip
def test_latency_files_are_checked(values):
    with pytest.raises(InputError):
        Latencies.of(values)
