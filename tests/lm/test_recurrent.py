"""Models with recurrent layers: the tokens of `generate`, states that are taken back, and what is refused."""

import pytest
import torch

from sdbench.acceptance import Block, Exact
from sdbench.decoding import Request, Speculative
from sdbench.drafting import ModelDrafter, PromptLookup, StagedDrafter, StopWhenUnsure, SuffixDecoding, TreeDrafter
from sdbench.errors import InputError
from sdbench.lm import recurrent
from sdbench.lm.probe import check_steps
from sdbench.lm.recurrent import RecurrentTransformer, language_model
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import random_model
from tests.decoding.test_identity import generated, prompts
from tests.lm.recurrent_models import ARCHITECTURES, recurrent_model

FAST = [("qwen3_5", 3), ("nemotron_h", 1)]  # a delta rule, and Mamba with attention, with their batch
NEW = 12


def family(architecture):
    """The target, the target disturbed, and a model of two layers."""
    raw, near = recurrent_model(architecture), recurrent_model(architecture)
    torch.manual_seed(7)
    for weight in near.parameters():
        weight.data += 0.04 * weight.std().nan_to_num() * torch.randn_like(weight)
    draft = recurrent_model(architecture, layers=2)
    return [language_model(name, m) for name, m in (("target", raw), ("qualifier", near), ("draft", draft))]


def arms(target, qualifier, draft):
    yield "ar", Speculative(target)
    yield "sd", Speculative(target, Exact(), ModelDrafter(draft), 4)
    yield "sd_near", Speculative(target, Exact(), ModelDrafter(qualifier), 3)
    yield "block", Speculative(target, Block(), ModelDrafter(qualifier), 4)
    yield "lookup", Speculative(target, Exact(), PromptLookup(), 5)
    yield "suffix", Speculative(target, Exact(), SuffixDecoding(2.0), 4)
    yield "unsure", Speculative(target, Exact(), ModelDrafter(qualifier), 5, StopWhenUnsure(0.2))
    yield "pyramid", Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), ModelDrafter(draft), 2), 5)
    three = StagedDrafter(qualifier, Exact(), StagedDrafter(draft, Exact(), PromptLookup(), 2), 3)
    yield "three_high", Speculative(target, Exact(), three, 6)


def tokens(decoder, texts, rows=1, sampling=Sampling(), trace=None):  # noqa: B008
    requests = [Request(text, str(number)) for number, text in enumerate(texts)]
    done = decoder.generate(requests, sampling, NeverStop(), NEW, rows=rows, trace=trace)
    found = {item.request.name: item.tokens for item in done}
    return [found[request.name] for request in requests]


@pytest.mark.parametrize(
    ("architecture", "rows"),
    [
        pytest.param(name, rows, marks=[] if (name, rows) in FAST else pytest.mark.slow)
        for name in ARCHITECTURES
        for rows in (1, 3)
    ],
)
@torch.inference_mode()
def test_every_chain_gives_the_tokens_of_generate(architecture, rows):
    models = family(architecture)
    assert all(isinstance(model, RecurrentTransformer) for model in models)
    for model in models:
        check_steps(model)
    texts = prompts(rows + 2)  # more than rows, so that rows take new sequences
    expected = [generated(models[0].model, text) for text in texts]
    for name, decoder in arms(*models):
        assert tokens(decoder, texts, rows) == expected, name


@torch.inference_mode()
def test_a_state_that_is_not_taken_back_gives_other_tokens(monkeypatch):
    """The negative control: without the roll-back of states, the same comparison fails."""
    target, near, _ = family("qwen3_5")
    texts = prompts(3)
    expected = [generated(target.model, text) for text in texts]
    decoder = Speculative(target, Exact(), ModelDrafter(near), 3)
    assert tokens(decoder, texts) == expected
    whole = RecurrentTransformer.forget

    def forget(self, row, first):
        held = self.pool.row_states[row]
        whole(self, row, first)
        if first:
            self.pool.row_states[row] = held

    monkeypatch.setattr(RecurrentTransformer, "forget", forget)
    assert tokens(decoder, texts) != expected


@pytest.mark.parametrize("kept", [1, 2])
@torch.inference_mode()
def test_a_row_without_its_state_is_read_from_the_beginning(kept, monkeypatch):
    monkeypatch.setattr(recurrent, "KEPT_STATES", kept)
    models = family("lfm2")
    texts = prompts(3)
    expected = [generated(models[0].model, text) for text in texts]
    decoder = dict(arms(*models))["pyramid"]
    assert tokens(decoder, texts, rows=2) == expected


@torch.inference_mode()
def test_kept_tokens_are_read_again_behind_a_rejection_only():
    target, near, _ = family("qwen3_5")
    trace = Trace()
    tokens(Speculative(target, Exact(), ModelDrafter(near), 3), prompts(3), trace=trace)
    rejected = [row["accepted"] < row["proposed"] for row in trace.rounds]
    reread = [step for step in trace.steps if step["kind"] == "reread" and step["role"] == "target"]
    last = [place for place, row in enumerate(trace.rounds) if row["sequence"] != trace.rounds[place - 1]["sequence"]]
    assert 0 < len(reread) <= sum(rejected)
    assert len(reread) >= sum(rejected) - len(last)  # nothing is verified behind the last round of a sequence
    itself = Trace()
    tokens(
        Speculative(target, Exact(), ModelDrafter(language_model("draft", target.model)), 3), prompts(3), trace=itself
    )
    assert not [step for step in itself.steps if step["kind"] == "reread" and step["role"] == "target"]


@torch.inference_mode()
def test_a_family_may_mix_kinds():
    """Plain attention, a delta rule with attention, and Mamba without attention draft for each other."""
    recurrent_target = language_model("target", recurrent_model("qwen3_5"))
    plain = Transformer("draft", random_model("llama"))
    mamba = language_model("draft", recurrent_model("mamba2", layers=2))
    texts = prompts(3)
    for target, draft in ((recurrent_target, plain), (Transformer("target", plain.model), mamba)):
        draft.name = "draft"
        expected = [generated(target.model, text) for text in texts]
        for rows in (1, 2):
            assert tokens(Speculative(target, Exact(), ModelDrafter(draft), 3), texts, rows) == expected


@torch.inference_mode()
def test_sampled_tokens_do_not_depend_on_the_batch():
    target, near, _ = family("qwen3_5")
    decoder = Speculative(target, Exact(), ModelDrafter(near), 3)
    assert tokens(decoder, prompts(4), 1, Sampling(0.8)) == tokens(decoder, prompts(4), 3, Sampling(0.8))


@torch.inference_mode()
def test_half_precision():
    models = [model.model.to(torch.bfloat16) for model in family("qwen3_5")[:2]]
    target, near = (language_model(name, model) for name, model in zip(("target", "draft"), models, strict=True))
    check_steps(target)
    texts = prompts(2)
    # A bfloat16 step over several tokens rounds in another way than a step over one, so tokens are compared with themselves.
    decoder = Speculative(target, Exact(), ModelDrafter(near), 3)
    assert tokens(decoder, texts) == tokens(decoder, texts)


@pytest.mark.parametrize("architecture", ["jamba", "falcon_mamba", "mamba"])
def test_a_model_whose_own_code_cannot_go_on_from_a_state_is_refused(architecture):
    """The code of these models begins a step of several tokens with an empty state."""
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(InputError, match="begins a step of several tokens with an empty recurrent state"):
            check_steps(language_model("target", recurrent_model(architecture).to(dtype)))


def test_what_is_refused():
    target, near, _ = family("qwen3_5")
    with pytest.raises(InputError, match="recurrent layers, which cannot run early exits"):
        target.truncated(2)
    with pytest.raises(InputError, match="recurrent layers, which cannot run token trees"):
        tokens(Speculative(target, Exact(), TreeDrafter(near, [2, 1])), prompts(1))
