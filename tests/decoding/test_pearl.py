"""PEARL: lossless in law, greedy tokens of the target, windows, faults."""

import pytest
import torch

from sdbench.acceptance import Consultant, Exact
from sdbench.asynchronous import OnDemandDrafter
from sdbench.decoding import Pearl, Request, Speculative
from sdbench.drafting import ModelDrafter
from sdbench.errors import InputError
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import V, random_model

NEW = 16


def decode(decoder, rows=1, sampling=Sampling()):  # noqa: B008
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, V, (4 + 3 * i,), generator=generator).tolist() for i in range(5)]
    requests = [Request(text, str(i)) for i, text in enumerate(texts)]
    trace = Trace()
    done = decoder.generate(requests, sampling, NeverStop(), NEW, seed=2, rows=rows, trace=trace)
    finished = {item.request.name: item.tokens for item in done}
    trace.close()
    return finished, trace


@pytest.fixture(scope="module")
def pair():
    near = random_model("llama")
    torch.manual_seed(7)
    for weight in near.parameters():
        weight.data += 0.05 * weight.std().nan_to_num() * torch.randn_like(weight)
    return Transformer("target", random_model("llama")), Transformer("draft", near)


@pytest.mark.parametrize(
    ("window", "pre", "post"), [(1, True, True), (2, True, True), (2, True, False), (3, True, True)]
)
def test_lossless(window, pre, post):
    target, draft = TabularModel("target", 2, 1), TabularModel("draft", 2, 3)
    decoder = Pearl(target, OnDemandDrafter(draft, process=False), None, window, pre, post)
    assert decoder.lossless
    assert distance_from_target(decoder, target, 3) < LOSSLESS


def test_lossless_without_pre_verify():
    target, draft = TabularModel("target", 2, 1), TabularModel("draft", 2, 3)
    decoder = Pearl(target, OnDemandDrafter(draft, process=False), None, 1, pre_verify=False)
    assert distance_from_target(decoder, target, 3) < LOSSLESS


def test_a_q_that_was_not_drawn_from_is_rejected(monkeypatch):
    """Negative control: pending tokens judged against the distributions of the tokens behind them."""
    target, draft = TabularModel("target", 2, 1), TabularModel("draft", 2, 3)
    decoder = Pearl(target, OnDemandDrafter(draft, process=False), None, 2)
    kept = decoder.batch._pend

    def shifted(self, *arguments):
        kept(self, *arguments)
        if self.q is not None:
            self.q = self.q.flip(-1)

    monkeypatch.setattr(decoder.batch, "_pend", shifted)
    assert distance_from_target(decoder, target, 3) > 1e-3


@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize(("pre", "post"), [(True, True), (False, True), (True, False)])
def test_greedy_tokens(pair, rows, pre, post):
    target, draft = pair
    expected, _ = decode(Speculative(target))
    for window in (1, 4):
        decoder = Pearl(target, OnDemandDrafter(draft, process=False), None, window, pre, post)
        got, trace = decode(decoder, rows)
        assert got == expected
        assert sum(row["accepted"] for row in trace.rounds) > 0
        if post and window == 4:
            # With post-verify whole windows are kept without a bonus.
            assert any(row["accepted"] == row["proposed"] == row["emitted"] == 4 for row in trace.rounds)


def test_rows_shorter_than_what_another_keeps(pair):
    """A batch reads as many last tokens of every row as of the one with most of them pending: a new row may not have so many."""
    target, draft = pair
    requests = [Request([5 + index], str(index)) for index in range(6)]

    def finished(decoder, rows):
        done = decoder.generate(requests, Sampling(), NeverStop(), 9, rows=rows)
        return {item.request.name: item.tokens for item in done}

    pearl = Pearl(target, OnDemandDrafter(draft, process=False), None, 5)
    assert finished(pearl, 4) == finished(Speculative(target), 1)


@pytest.mark.slow
def test_in_a_process_with_a_measured_window(pair):
    target, draft = pair
    expected, _ = decode(Speculative(target, Exact(), ModelDrafter(draft), 3))
    decoder = Pearl(target, OnDemandDrafter(draft))
    assert decoder.measures
    got, trace = decode(decoder)
    assert got == expected
    assert decoder.measures, "decoding alone never changes the window"
    decoder.calibrate(trace)
    assert not decoder.measures
    assert 1 <= decoder.draft_length <= 16
    assert decode(decoder, rows=2)[0] == expected
    decoder.close()


def recorded(verify, draft):
    """A trace of eight rounds with these seconds of a verification and of a draft, and two slow ones."""
    trace = Trace()
    for number in range(10):
        slow = 5.0 if number > 7 else 1.0
        mark = (0.0, None)
        trace.end(mark, "target", "verify", 1, 4, 40)
        trace.steps[-1]["seconds"] = slow * verify
        trace.rounds.append({"received": 1.0, "replied": 1.0 + slow * draft})
    return trace


@pytest.mark.parametrize(
    ("verify", "draft", "window"), [(0.0105, 0.008, 5), (0.001, 0.100, 1), (1.0, 0.004, 16), (0.013, 0.012, 4)]
)
def test_the_window_is_what_fits_beside_a_verification(pair, verify, draft, window):
    """Four tokens took `draft` seconds, so a token took a quarter of that."""
    decoder = Pearl(pair[0], OnDemandDrafter(pair[1], process=False))
    assert decoder.calibrate(recorded(verify, draft)) == (window != 4)
    assert decoder.draft_length == window
    assert not decoder.calibrate(recorded(verify, draft)), "a window is set once"


def test_a_given_window_is_kept(pair):
    decoder = Pearl(pair[0], OnDemandDrafter(pair[1], process=False), draft_length=3)
    assert not decoder.calibrate(recorded(1.0, 0.004))
    assert decoder.draft_length == 3


def test_a_trace_without_drafts_sets_no_window(pair):
    decoder = Pearl(pair[0], OnDemandDrafter(pair[1], process=False))
    assert not decoder.calibrate(Trace())
    assert decoder.measures


def test_refusals(pair):
    target, draft = pair
    with pytest.raises(InputError, match="overlaps nothing"):
        Pearl(target, OnDemandDrafter(draft), None, 2, False, False)
    with pytest.raises(InputError, match="OnDemandDrafter"):
        Pearl(target, ModelDrafter(draft), None, 2)
    with pytest.raises(InputError, match="remembers"):
        decode(Pearl(target, OnDemandDrafter(draft, process=False), Consultant(), 2))
