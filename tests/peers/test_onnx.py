"""ONNX Runtime GenAI as an arm: its tokens are ours, its drafts have K tokens, and exports are kept."""

import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.decoding import Speculative
from sdbench.drafting import ModelDrafter
from sdbench.errors import InputError
from sdbench.lm.transformer import Transformer
from sdbench.peers import OnnxRuntime
from sdbench.sampling import Sampling
from tests.conftest import V, random_model
from tests.peers.test_generation import REQUESTS, decoded, pair, tokens
from tests.peers.test_serving import StopAt

pytest.importorskip("onnxruntime_genai")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("SDBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield pair()
    patch.undo()


def arms(target, draft):
    return {
        "plain": OnnxRuntime(target),
        "draft": OnnxRuntime(target, draft, 3),
        "lookup": OnnxRuntime(target, draft_length=4, ngram=3),
    }


@pytest.mark.parametrize("name", ["plain", "draft", "lookup"])
def test_greedy_tokens_are_ours(models, name):
    ours, _ = decoded(Speculative(models[0]))
    peer = arms(*models)[name]
    peer.open(1, 64)
    theirs, rounds = decoded(peer)
    assert tokens(theirs) == tokens(ours)
    for number, request in enumerate(REQUESTS):
        own = [row for row in rounds if row["sequence"] == number]
        assert sum(row["emitted"] for row in own) == len(theirs[request.name].tokens)
        assert theirs[request.name].target_calls == len(own)
        assert all(row["accepted"] <= row["proposed"] for row in own)
    if name == "draft":
        assert {row["proposed"] for row in rounds if row["round"] < 3} == {3}
        _, mine = decoded(Speculative(models[0], Exact(), ModelDrafter(models[1]), 3))
        assert sum(row["accepted"] for row in rounds) == pytest.approx(sum(row["accepted"] for row in mine), abs=6)
    peer.close()


def test_the_stop_rule_is_ours(models):
    ours, _ = decoded(Speculative(models[0]))
    for eos in (True, False):
        stop = StopAt(ours["a"].tokens[7])
        stop.eos = frozenset([stop.token] if eos else [])
        wanted, _ = decoded(Speculative(models[0]), stop=stop)
        for peer in arms(*models).values():
            found, _ = decoded(peer, stop=stop)
            assert tokens(found) == tokens(wanted)
            assert found["a"].reason == "stop"
            peer.close()


@pytest.mark.slow
def test_an_end_of_its_own_is_no_answer(models):
    """Without ends, the last id of the vocabulary stands for one. A target that writes it is named."""
    bent = random_model("llama")
    bent.get_output_embeddings().weight.data[V - 1] = 5 * bent.get_output_embeddings().weight.data.abs().max()
    peer = OnnxRuntime(Transformer("target", bent))
    ours, _ = decoded(Speculative(peer.models[0]))
    assert any(V - 1 in own[:-1] for own in tokens(ours).values())
    with pytest.raises(ValueError, match=f"wrote token {V - 1} in the answer"):
        decoded(peer)
    peer.close()


def test_what_is_refused(models):
    target, draft = models
    with pytest.raises(InputError, match="draft_length belongs to model or to ngram"):
        OnnxRuntime(target, draft)
    with pytest.raises(InputError, match="draft_length belongs to model or to ngram"):
        OnnxRuntime(target, draft, 3, ngram=3)
    with pytest.raises(InputError, match="drafts at most 16 tokens"):
        OnnxRuntime(target, draft, 17)
    with pytest.raises(InputError, match=r"set sampling\.temperature=0"):
        OnnxRuntime(target).check(1, Sampling(1.0), ())
    with pytest.raises(InputError, match="set batch_size=1"):
        OnnxRuntime(target).check(2, Sampling(), ())
    half = OnnxRuntime(Transformer("target", random_model("llama").to(torch.bfloat16)))
    with pytest.raises(InputError, match=r"target is bfloat16 on cpu: set hardware\.dtype=float32"):
        half.open(1, 8)
