"""transformers' own decoding as arms: its tokens are ours, its knobs are pinned, and our modules are left as they were."""

import copy

import pytest
import torch

from sdbench.decoding import Request, Speculative
from sdbench.errors import InputError
from sdbench.exactness import TabularModel
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.peers import Assisted, FlashSpec, Generate, Lookup
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import random_model
from tests.peers.test_serving import StopAt

REQUESTS = [Request([3, 5, 7, 9, 3, 5, 7], "a"), Request([1, 2, 3, 4], "b"), Request([3, 5, 7, 3], "c")]
NEW = 20


def pair() -> tuple[Transformer, Transformer]:
    """A target, and a draft that is the target disturbed."""
    target, draft = random_model("llama"), random_model("llama")
    generator = torch.Generator().manual_seed(1)
    for weight in draft.parameters():
        weight.data += 0.03 * weight.std() * torch.randn(weight.shape, generator=generator) if weight.numel() > 1 else 0
    return Transformer("target", target), Transformer("draft", draft)


@pytest.fixture(scope="module")
def models():
    return pair()


PEERS = {
    "generate": lambda target, draft: Generate(target),
    "assisted": lambda target, draft: Assisted(target, draft, 3),
    "lookup": lambda target, draft: Lookup(target, 5),
    "flashspec": lambda target, draft: FlashSpec(target, draft, 3),
    "flashspec, auto": lambda target, draft: FlashSpec(target, draft, 3, "auto"),
}


def decoded(decoder, sampling=None, stop=None, rows=1, seed=0):
    trace = Trace()
    finished = list(
        decoder.generate(REQUESTS, sampling or Sampling(), stop or NeverStop(), NEW, seed=seed, rows=rows, trace=trace)
    )
    trace.close()
    return {item.request.name: item for item in finished}, trace.rounds


def tokens(finished):
    return {name: item.tokens for name, item in finished.items()}


@pytest.mark.parametrize("peer", PEERS)
def test_greedy_tokens_are_ours(models, peer):
    if peer.startswith("flashspec"):
        pytest.importorskip("flashspec")
    ours, _ = decoded(Speculative(models[0]))
    theirs, rounds = decoded(PEERS[peer](*models))
    assert tokens(theirs) == tokens(ours)
    for number, request in enumerate(REQUESTS):
        own = [row for row in rounds if row["sequence"] == number]
        item = theirs[request.name]
        assert [row["round"] for row in own] == list(range(len(own)))
        assert sum(row["emitted"] for row in own) == len(item.tokens)
        assert item.target_calls == len(own)
        assert all(row["accepted"] <= row["proposed"] for row in own)
        assert item.reason == "length"
        assert 0 < item.first_token_seconds <= item.decode_seconds
        assert item.prefill_seconds == 0


@pytest.mark.parametrize("peer", PEERS)
def test_the_stop_rule_is_ours(models, peer):
    ours, _ = decoded(Speculative(models[0]))
    stop = StopAt(ours["a"].tokens[7])
    if peer.startswith("flashspec"):
        pytest.importorskip("flashspec")
        stop.eos = frozenset([stop.token])
    wanted, _ = decoded(Speculative(models[0]), stop=stop)
    found, rounds = decoded(PEERS[peer](*models), stop=stop)
    assert tokens(found) == tokens(wanted)
    assert found["a"].reason == "stop"
    assert sum(row["emitted"] for row in rounds if row["sequence"] == 0) == len(found["a"].tokens)


def test_assisted_drafts_k_tokens_every_time(models):
    """Given by `generate` alone, K would be 20 and a threshold of 0.4 would cut drafts short (and be tuned on the way)."""
    _, rounds = decoded(Assisted(*models, 3))
    for number in range(len(REQUESTS)):
        drafted = [row["proposed"] for row in rounds if row["sequence"] == number]
        assert set(drafted[:-1]) == {3}
        assert drafted[-1] <= 3  # the length limit cuts the last
    assert {row["edge"] for row in rounds} == {"draft>target"}
    assert sum(row["accepted"] for row in rounds) > 0


def test_our_modules_are_left_as_they_were(models):
    before = [copy.copy(model.model.__dict__) for model in models]
    configs = [model.model.generation_config.to_dict() for model in models]
    decoded(Assisted(*models, 3))
    decoded(Generate(models[0]))
    for model, attributes, config in zip(models, before, configs, strict=True):
        assert model.model.__dict__ == attributes
        assert model.model.generation_config.to_dict() == config
        assert model.model.config._attn_implementation == "sdpa"
    view = Generate(models[0]).view
    assert view is not models[0].model
    assert all(ours is theirs for ours, theirs in zip(models[0].model.parameters(), view.parameters(), strict=True))


def test_rows_of_unequal_length_decode_together(models):
    ours, _ = decoded(Speculative(models[0]))
    theirs, rounds = decoded(Generate(models[0]), rows=3)
    assert tokens(theirs) == tokens(ours)
    assert {row["sequence"] for row in rounds} == {0, 1, 2}


@pytest.mark.parametrize("peer", ["generate", "assisted", "lookup", "flashspec"])
def test_sampling_has_a_seed(models, peer):
    if peer == "flashspec":
        pytest.importorskip("flashspec")
    warm = Sampling(temperature=1.0)
    first, _ = decoded(PEERS[peer](*models), warm)
    again, _ = decoded(PEERS[peer](*models), warm)
    other, _ = decoded(PEERS[peer](*models), warm, seed=1)
    assert tokens(first) == tokens(again)
    assert tokens(first) != tokens(other)


def test_top_k_of_one_is_greedy(models):
    """So the knobs arrive: the temperature alone would leave it random."""
    ours, _ = decoded(Speculative(models[0]))
    theirs, _ = decoded(Generate(models[0]), Sampling(temperature=2.0, top_k=1))
    assert tokens(theirs) == tokens(ours)


@pytest.mark.slow
def test_the_static_cache_is_compiled_once(models):
    from torch._dynamo.utils import counters

    ours, _ = decoded(Speculative(models[0]))
    peer = Generate(models[0], "static")
    peer.open(1, 40)
    decoded(peer)
    counters.clear()
    theirs, _ = decoded(peer)
    assert tokens(theirs) == tokens(ours)
    assert peer.view._compiled_call is not None
    assert not counters["frames"], "what was warmed up is not compiled again"


def test_what_a_peer_cannot_do_is_refused():
    target, draft = TabularModel("target", 4, 0), TabularModel("draft", 4, 1)
    for peer in (Assisted(target, draft), Lookup(target)):
        with pytest.raises(InputError, match="batch_size=1"):
            peer.check(2, Sampling(), ())
    Generate(target).check(2, Sampling(), ("\n",))
    with pytest.raises(InputError, match="dynamic, static"):
        Generate(target, "paged")
    for length in (0, True, 2.5):
        with pytest.raises(InputError, match="draft_length"):
            Assisted(target, draft, length)
    pytest.importorskip("flashspec")
    with pytest.raises(InputError, match="stop strings"):
        FlashSpec(target, draft).check(1, Sampling(), ("\n",))
    with pytest.raises(InputError, match="temperature only"):
        FlashSpec(target, draft).check(1, Sampling(temperature=1.0, top_p=0.9), ())
    with pytest.raises(InputError, match="auto, bandit"):
        FlashSpec(target, draft, strategy="oracle")


def test_flashspec_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"sdbench\[peers\]"):
        FlashSpec(TabularModel("target", 4, 0), TabularModel("draft", 4, 1))


def test_a_tabular_model_is_no_module():
    with pytest.raises(InputError, match="no transformers model"):
        list(Generate(TabularModel("target", 4, 0)).generate(REQUESTS, Sampling(), NeverStop(), 3))
