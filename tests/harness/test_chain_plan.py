"""The host's seconds from made tables, the scale of times, and the search for lengths."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from sdbench.harness.chain_plan import Clock, Host, anchored, host_times, planned, replayed
from sdbench.harness.level_probe import LevelProbe
from sdbench.simulate.chain_replay import Answers, ChainReplay
from sdbench.simulate.events import Latencies, Simulation

ALONE, VERDICT, DRAFTED, INNER, SEARCH = 1.0, 0.5, 0.25, 2.0, 4.0
# By arm: rounds of the target, drafted tokens a round, the proposer, inner verifications a round.
ARMS = {
    "ar": (20, 0, "", 0),
    "lookup": (10, 0, "lookup", 0),
    "sd": (8, 12, "draft", 0),
    "sd_qualifier": (9, 6, "qualifier", 0),
    "pyramid": (5, 6, "qualifier", 2),
}


def tables(arms):
    """Make the tables of a run whose every forward takes one second."""
    steps, rounds, sequences = [], [], []
    for arm in arms:
        outer, drafted, proposer, inner = ARMS[arm]
        drafting = "draft" if arm == "pyramid" else proposer
        own = [("target", "verify")] * outer + [(drafting, "draft")] * outer * drafted
        own += [("qualifier", "verify")] * outer * inner + [("target", "prefill")]
        steps += [{"arm": arm, "role": role, "kind": kind, "seconds": 1.0, "tokens": 1} for role, kind in own]
        offered = 4 if proposer == "lookup" else 6 if inner else drafted
        rounds += [{"arm": arm, "verifier": "target", "proposer": proposer, "proposed": offered}] * outer
        rounds += [{"arm": arm, "verifier": "qualifier", "proposer": "draft", "proposed": 3}] * outer * inner
        host = ALONE + VERDICT * bool(proposer) + DRAFTED * drafted + INNER * inner + SEARCH * (proposer == "lookup")
        wall = outer * (1 + drafted + inner + host)
        # A row for each sequence of a block; the block's seconds count once.
        sequences += [{"arm": arm, "block": 0, "repeat": 0, "block_decode_seconds": wall}] * 2
    return {"steps": pd.DataFrame(steps), "rounds": pd.DataFrame(rounds), "sequences": pd.DataFrame(sequences)}


def test_the_hosts_seconds():
    host = host_times(tables(ARMS), SEARCH)
    found = (host.alone, host.verdict, host.drafted, host.inner, host.search)
    assert found == pytest.approx((ALONE, VERDICT, DRAFTED, INNER, SEARCH))


def test_without_inner_rounds_they_cost_what_the_targets_cost():
    host = host_times(tables(["ar", "lookup"]), SEARCH)
    assert (host.alone, host.verdict, host.inner) == pytest.approx((ALONE, VERDICT, ALONE + VERDICT))


def test_times_are_scaled_to_the_probes_steps():
    times = {"draft": {1: 0.5, 3: 0.7}, "target[2]": {1: 2.0}, "cast": {1: 3.0}, "target": {1: 4.0}}
    found = anchored(times, tables(["ar", "sd"])["steps"], frozenset({"target[2]"}))
    assert found["draft"] == pytest.approx({1: 1.0, 3: 1.4})
    assert [found[name][1] for name in ("target[2]", "cast", "target")] == pytest.approx([0.5, 0.75, 1.0])


def test_the_price_of_a_pass():
    clock = Clock({"target": {1: 10.0, 3: 14.0, 5: 16.0}, "draft": {1: 1.0, 2: 1.5}}, Host(0.1, 0.2, 0.3, 0.4, 0.5))
    passes = [("target", "verify", 1), ("target", "verify", 2), ("target", "verify", 7)]
    assert [clock(one) for one in passes] == pytest.approx([10.1, 12.3, 18.3])
    passes = [("draft", "draft", 1), ("draft", "verify", 2), ("draft", "verify", 4), ("lookup", "search", 3)]
    assert [clock(one) for one in passes] == pytest.approx([1.3, 1.9, 2.9, 0.5])


def made(size=400, seed=0):
    """Return a probe of three levels and look-up, with made answers, and its clock."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(50, size=size)

    def picks(share):
        return np.where(rng.random(size) < share, tokens, rng.integers(50, size=size)).tolist()

    answers = Answers(
        tokens=tokens.tolist(),
        before=[0, *tokens[:-1].tolist()],
        starts=[0, size // 2],
        choices={"draft": picks(0.8), "qualifier": picks(0.9)},
        copied=[[token] if rng.random() < 0.3 else [] for token in picks(0.6)],
    )
    times = {"draft": {1: 1.0, 9: 1.5}, "qualifier": {1: 3.0, 9: 4.0}, "target": {1: 10.0, 9: 13.0, 17: 16.0}}
    return LevelProbe(times, answers, 0.2), Clock(times, Host(0.1, 0.1, 0.1, 0.3, 0.2))


@pytest.mark.parametrize("length", [1, 4, 9])
def test_a_draft_below_the_target_is_as_fast_as_sd_is_predicted(length):
    """Two programs, one setting: the chain's replay, and the simulation of `sd` over ranks."""
    probe, clock = made()
    answers, replay = probe.answers, ChainReplay(probe.answers)
    agrees = np.array(answers.choices["draft"]) == np.array(answers.tokens)
    strings = [np.where(part[1:], 1, 2) for part in np.split(agrees, answers.starts[1:])]
    verify = clock.forward("target", length + 1)
    latencies = Latencies("", "", {length + 1: (verify,)}, draft=(clock(("draft", "draft", 1)),), host=(0.2,))
    flat = Clock({**probe.times, "draft": {1: 1.0, 2: 1.0}}, clock.host)  # `sd` has one time for a drafted token
    passes = replay.passes(("target", "draft"), (length,))
    speed = replay.decoded / sum(count * flat(one) for one, count in passes.items())
    assert speed == pytest.approx(Simulation(strings, latencies).sd(length))


def test_the_lengths_are_close_to_the_best_of_all():
    probe, clock = made()
    replay = ChainReplay(probe.answers)
    found = replayed(planned(probe, clock), replay, clock)
    assert len(found) == 8
    assert [chain.seconds for chain, _ in found] == sorted(chain.seconds for chain, _ in found)
    for chain, plan in found:
        assert chain.levels == plan.levels
        if chain.levels[-1] == "lookup" or len(chain.levels) == 1:
            continue
        lengths = product(range(1, 13), repeat=len(chain.lengths))
        seconds = [
            sum(n * clock(one) for one, n in replay.passes(chain.levels, each).items()) / replay.decoded
            for each in lengths
        ]
        assert chain.seconds <= 1.02 * min(seconds)
        alone = clock(("target", "verify", 1))
        assert chain.speedup == pytest.approx(alone / chain.seconds)
