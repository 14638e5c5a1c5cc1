"""The plan of a token tree: the predicted rounds are the rounds that happen, and the clock times the steps that it should."""

import numpy as np
import pandas as pd
import pytest

from sdbench.acceptance import Exact
from sdbench.decoding import Request, Speculative
from sdbench.drafting import PlannedTree
from sdbench.exactness import TabularModel
from sdbench.harness.tree_plan import Curve, TreeClock, host_line, measured_acceptance, predictor, time_in_turn
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import random_model

V, NEW = 5, 40


def step(nodes):
    return 1.0 + 0.1 * nodes


def greedy_ranks(target, draft, prompts):
    """The ranks, in the draft's order, of the target's greedy tokens behind the first one."""
    strings = []
    for prompt in prompts:
        (finished,) = Speculative(target).generate([Request(prompt, "ar")], Sampling(), NeverStop(), NEW)
        text = [*prompt, *finished.tokens]
        at = range(len(prompt) + 1, len(text))
        orders = [draft.table(tuple(text[:end])).argsort(descending=True).tolist() for end in at]
        strings.append([order.index(text[end]) + 1 for order, end in zip(orders, at, strict=True)])
    return strings


@pytest.mark.parametrize(("budget", "depth"), [(1, 1), (4, 1), (6, 3), (9, 2)])
def test_the_predicted_rounds_are_those_of_the_decoder(budget, depth):
    target, draft = TabularModel("target", V, 1), TabularModel("draft", V, 3)
    prompts = [[0], [1, 2], [3, 0, 4]]
    strings = greedy_ranks(target, draft, prompts)
    acceptance = measured_acceptance(strings)
    assert 0.9 < sum(acceptance) <= 1
    setting = predictor(strings, step, step, lambda nodes: 0.5)(acceptance, budget, depth)
    rounds = 0
    for prompt in prompts:
        decoder = Speculative(target, Exact(), PlannedTree(draft, acceptance, budget, depth))
        (finished,) = decoder.generate([Request(prompt, "tree")], Sampling(), NeverStop(), NEW, trace=Trace())
        rounds += finished.target_calls
    assert setting.tokens_per_round == pytest.approx(sum(map(len, strings)) / rounds)
    deepest = max(map(len, setting.paths))
    if deepest == 1:  # one step of the draft, over the last decided token alone
        assert setting.round_seconds == pytest.approx(step(1) + step(len(setting.paths)) + 0.5)
    assert setting.round_seconds >= deepest * step(1) + step(len(setting.paths)) + 0.5


def recorded_rounds(host):
    """Tables of an arm for each tree, by its nodes: two rounds whose forwards take 3 s, and `host` seconds around each."""
    tables = {"sequences": [], "steps": [], "rounds": []}
    for nodes, seconds in host.items():
        arm = {"arm": f"tree[{nodes}]"}
        tables["sequences"].append({**arm, "block": 0, "repeat": 0, "block_decode_seconds": 2 * (3.0 + seconds)})
        tables["steps"] += [{**arm, "kind": kind, "seconds": s} for kind, s in (("draft", 1.0), ("verify", 2.0)) * 2]
        tables["rounds"] += [{**arm, "nodes": nodes}] * 2
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}, [f"tree[{nodes}]" for nodes in host]


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ({4: 0.5, 16: 1.1}, {4: 0.5, 10: 0.8, 16: 1.1, 32: 1.9}),
        ({4: 0.9, 16: 0.7}, {4: 0.8, 32: 0.8}),
        ({4: 0.1, 16: 1.3}, {1: 0.0}),
        ({8: 0.6}, {1: 0.6, 32: 0.6}),
    ],
)
def test_the_host_takes_longer_for_a_larger_tree(host, wanted):
    line = host_line(*recorded_rounds(host))
    assert {nodes: line(nodes) for nodes in wanted} == pytest.approx(wanted)


def test_an_acceptance_is_rounded_down_and_a_draft_that_never_agrees_has_none():
    assert measured_acceptance([[1, 1, 2]], ranks=4) == [0.666, 0.333]
    assert measured_acceptance([[9, 9]], ranks=4) == []


def test_a_curve_is_interpolated_between_its_medians():
    curve = Curve({1: [1.0, 1.0, 5.0], 3: [2.0, 2.0, 2.0]})
    assert (curve(1), curve(2), curve(9)) == (1.0, 1.5, 2.0)
    low, high = Curve({1: list(range(1, 31))}).interval(1)
    assert 8 < low < 15.5 < high < 23
    assert np.isnan(Curve({1: [1.0]}).interval(1)).any()


@pytest.mark.parametrize("layers", [None, 2])
def test_the_clock_times_the_steps_of_a_tree(layers, monkeypatch):
    model = Transformer("draft", random_model("llama"))
    clocks = {"verify": TreeClock(model, 20, 6, layers=layers), "draft": TreeClock(model, 20, 6, "eager", layers, True)}
    widths = {name: [] for name in clocks}
    for name, clock in clocks.items():
        monkeypatch.setattr(clock.model, "step", recorded(clock.model.step, widths[name]))
    curves = time_in_turn(clocks, {"verify": (0, 3, 6), "draft": (0, 3)}, 6)
    assert all(len(curves["verify"].samples[nodes]) == 6 for nodes in (0, 3, 6))
    assert all(seconds > 0 for curve in curves.values() for part in curve.samples.values() for seconds in part)
    assert set(widths["verify"]) == {1, 4, 7}, "the last decided token and the nodes"
    assert set(widths["draft"]) == {1, 3}, "the nodes of a depth"
    assert model.rows == 0, "the model's own cache is left alone"
    assert not any(clock.missed for clock in clocks.values())


def recorded(step, widths):
    def wrapped(tokens, *arguments, **options):
        widths.append(tokens.shape[1])
        return step(tokens, *arguments, **options)

    return wrapped
