"""Engines that decode in this process as arms: their tokens are ours, their drafts have K tokens, and exports are kept."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch
import transformers

from sdbench.acceptance import Exact
from sdbench.decoding import Speculative
from sdbench.drafting import ModelDrafter
from sdbench.errors import InputError
from sdbench.harness.arms import build_on_stubs
from sdbench.harness.config import compose
from sdbench.harness.model_checks import check_peers
from sdbench.harness.plan import prepare
from sdbench.lm.transformer import Transformer
from sdbench.peers import OnnxRuntime, OpenVino
from sdbench.sampling import Sampling
from tests.conftest import V, random_model
from tests.peers.test_generation import REQUESTS, decoded, pair, tokens
from tests.peers.test_serving import StopAt

ENGINES = {"onnxruntime_genai": OnnxRuntime, "openvino_genai": OpenVino}
SLOW_ONE = pytest.param("onnxruntime_genai", marks=pytest.mark.slow)  # it writes and loads a model in several seconds


@pytest.fixture
def engine(request):
    pytest.importorskip(request.param)
    return ENGINES[request.param]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("SDBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield pair()
    patch.undo()


def arms(engine, target, draft):
    return {
        "plain": engine(target),
        "draft": engine(target, draft, 3),
        "lookup": engine(target, draft_length=4, ngram=3),
    }


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        pytest.param(engine, name, marks=pytest.mark.slow if engine == "onnxruntime_genai" and name != "plain" else [])
        for engine in ENGINES
        for name in ("plain", "draft", "lookup")
    ],
    indirect=["engine"],
)
def test_greedy_tokens_are_ours(engine, models, name):
    ours, _ = decoded(Speculative(models[0]))
    peer = arms(engine, *models)[name]
    peer.open(1, 64)
    theirs, rounds = decoded(peer)
    assert tokens(theirs) == tokens(ours)
    for number, request in enumerate(REQUESTS):
        own = [row for row in rounds if row["sequence"] == number]
        assert sum(row["emitted"] for row in own) == len(theirs[request.name].tokens)
        assert theirs[request.name].target_calls == len(own)
        assert all(row["accepted"] <= row["proposed"] for row in own)
    if name == "draft":
        begun = 1 if engine is OpenVino else 0  # its first round is the forward over the prompt
        assert {row["proposed"] for row in rounds if begun <= row["round"] < 3} == {3}
        _, mine = decoded(Speculative(models[0], Exact(), ModelDrafter(models[1]), 3))
        assert sum(row["accepted"] for row in rounds) == pytest.approx(sum(row["accepted"] for row in mine), abs=6)
    peer.close()


@pytest.mark.parametrize("engine", ["openvino_genai", SLOW_ONE], indirect=True)
def test_the_stop_rule_is_ours(engine, models):
    ours, _ = decoded(Speculative(models[0]))
    for eos in (True, False):
        stop = StopAt(ours["a"].tokens[7])
        stop.eos = frozenset([stop.token] if eos else [])
        wanted, _ = decoded(Speculative(models[0]), stop=stop)
        for peer in arms(engine, *models).values():
            found, _ = decoded(peer, stop=stop)
            assert tokens(found) == tokens(wanted)
            assert found["a"].reason == "stop"
            peer.close()


@pytest.mark.slow
def test_an_end_of_its_own_is_no_answer():
    """Without ends, the last id of the vocabulary stands for one. A target that writes it is named."""
    pytest.importorskip("onnxruntime_genai")
    bent = random_model("llama")
    bent.get_output_embeddings().weight.data[V - 1] = 5 * bent.get_output_embeddings().weight.data.abs().max()
    peer = OnnxRuntime(Transformer("target", bent))
    ours, _ = decoded(Speculative(peer.models[0]))
    assert any(V - 1 in own[:-1] for own in tokens(ours).values())
    with pytest.raises(ValueError, match=f"wrote token {V - 1} in the answer"):
        decoded(peer)
    peer.close()


def test_the_engine_knows_no_end_but_those_of_the_run():
    """Its stand-in tokenizer has an end of its own, token 257, which a target may write in a text that goes on."""
    pytest.importorskip("openvino_genai")
    raw = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=128, bos_token_id=None, eos_token_id=None,
        )
    ).eval().requires_grad_(False)  # fmt: skip
    raw.lm_head.weight.data[:] = 0
    raw.lm_head.weight.data[257] = 1e-3
    raw.lm_head.weight.data[5] = -1e-3  # one of the two is the most likely token everywhere
    target = Transformer("target", raw)
    stop = StopAt(299)
    stop.eos = frozenset([299])
    ours, _ = decoded(Speculative(target), stop=stop)
    assert any(257 in own[:-1] for own in tokens(ours).values())
    peer = OpenVino(target)
    theirs, _ = decoded(peer, stop=stop)
    assert tokens(theirs) == tokens(ours)
    peer.close()


def test_every_drafted_token_is_counted(models):
    """The rounds of OpenVINO hold as many drafts as its own counter, which leaves out the last round."""
    pytest.importorskip("openvino_genai")
    peer = OpenVino(*models, 3)
    peer.open(1, 64)
    told, generate = [], peer._engine.generate

    class Counting:
        def generate(self, *given):
            told.append(generate(*given))
            return told[-1]

    peer._engine = Counting()
    _, rounds = decoded(peer)
    for number, one in enumerate(told):
        own = [row for row in rounds if row["sequence"] == number][:-1]
        assert sum(row["proposed"] for row in own) == one.extended_perf_metrics.get_num_draft_tokens() > 0
        assert sum(row["accepted"] for row in own) == one.extended_perf_metrics.get_num_accepted_tokens()
    peer.close()


@pytest.mark.parametrize("architecture", ["qwen3", "phi3", "gpt2"])
def test_other_architectures_are_written(models, architecture):
    pytest.importorskip("openvino_genai")
    target = Transformer("target", random_model(architecture))
    ours, _ = decoded(Speculative(target))
    peer = OpenVino(target)
    theirs, _ = decoded(peer)
    assert tokens(theirs) == tokens(ours)
    peer.close()


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_what_is_refused(engine, models):
    target, draft = models
    with pytest.raises(InputError, match="draft_length belongs to model or to ngram"):
        engine(target, draft)
    with pytest.raises(InputError, match="draft_length belongs to model or to ngram"):
        engine(target, draft, 3, ngram=3)
    with pytest.raises(InputError, match=r"set sampling\.temperature=0"):
        engine(target).check(1, Sampling(1.0), ())
    with pytest.raises(InputError, match="set batch_size=1"):
        engine(target).check(2, Sampling(), ())
    half = engine(Transformer("target", random_model("llama").to(torch.bfloat16)))
    with pytest.raises(InputError, match=r"target is bfloat16 on cpu: set hardware\.dtype=float32"):
        half.open(1, 8)


def test_what_one_engine_refuses(models):
    target, draft = models
    if importlib.util.find_spec("onnxruntime_genai"):
        with pytest.raises(InputError, match="drafts at most 16 tokens"):
            OnnxRuntime(target, draft, 17)


def test_what_a_plan_refuses(tmp_path):
    """Before any weight is loaded: another precision, and layers that an engine does not get."""
    pytest.importorskip("openvino_genai")
    with pytest.raises(
        InputError,
        match=r"OpenVINO GenAI runs float32 on the CPU here, and target is bfloat16 on cpu",
    ):
        prepare(compose(["arms=[ar,openvino_generate]", "hardware.dtype=bfloat16", "limit=1"]))
    config = random_model("gemma3").config
    member = SimpleNamespace(config=config, vocabulary=None, width=1)
    family = SimpleNamespace(members={"target": member}, defaults=SimpleNamespace(rules={}))
    arms = build_on_stubs({"engine": {"_target_": "sdbench.peers.OpenVino", "verifier": "target"}}, ["target"])
    with pytest.raises(InputError, match="gets models with full attention only, and target has sliding_attention"):
        check_peers(arms, family, 1, Sampling(), (), {"target": ("float32", "cpu")})
