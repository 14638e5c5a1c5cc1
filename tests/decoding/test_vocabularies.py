"""Greedy identity with transformers' `generate` where the draft has another vocabulary, with real forwards and tokenizers."""

from __future__ import annotations

import copy

import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.asynchronous import SSDDrafter, Uniform
from sdbench.decoding import Request, Speculative
from sdbench.drafting import DynamicTree, EarlyExit, ModelDrafter, ReencodedDrafter, StagedDrafter, TreeDrafter
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.models.text_bridge import TextBridge
from sdbench.models.token_map import MappedIds, keep_head_rows
from sdbench.models.vocabulary import intersection, reduced
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import V, random_model
from tests.decoding.test_identity import NEW, generated, prompts
from tests.lm.interpreted import Interpreted
from tests.tasks.tokenizers_made import byte_level, sentence_piece

ORDER = torch.randperm(V + 6, generator=torch.Generator().manual_seed(4)).tolist()  # the draft's number of each token


def renumbered(raw, lacks: int):
    """A model with the tokens of `raw` under other numbers, six tokens of its own, and without the last `lacks` ones."""
    own = copy.deepcopy(raw)
    rows = torch.tensor(ORDER[:V])
    for layer in (own.get_input_embeddings(), own.get_output_embeddings()):
        new = torch.randn(V + 6, layer.weight.shape[1])
        new[rows] = layer.weight.data
        layer.weight = torch.nn.Parameter(new, requires_grad=False)
    own.config.vocab_size = V + 6
    shared = range(V - lacks)
    ids = MappedIds([ORDER[min(n, V - lacks - 1)] for n in range(V)], list(shared), [ORDER[n] for n in shared], V + 6)
    keep_head_rows("draft", own, ids.rows)
    return own, ids


def mapped(kind: str, **more) -> Transformer:
    if kind == "reduced":
        own, ids = random_model("llama"), reduced(list(range(0, V, 2)), V, V)
        keep_head_rows("draft", own, ids.rows)
    else:
        own, ids = renumbered(random_model("llama"), 0 if kind == "same tokens" else 40)
    return Transformer("draft", own, ids=ids, **more)


def decoded(decoder, sampling=None, rows=1):
    """The tokens of some prompts, and the accepted tokens per round."""
    trace = Trace()
    requests = [Request(text, str(i)) for i, text in enumerate(prompts(rows + 2))]
    finished = decoder.generate(requests, sampling or Sampling(), NeverStop(), NEW, seed=2, rows=rows, trace=trace)
    tokens = {item.request.name: item.tokens for item in finished}
    trace.close()
    last = [row["accepted"] for row in trace.rounds if row["verifier"] == "target"]
    return [tokens[str(i)] for i in range(len(requests))], sum(last) / len(last)


def arms(target, draft):
    yield "sd", Speculative(target, Exact(), ModelDrafter(draft), 4)
    yield "pyramid", Speculative(target, Exact(), StagedDrafter(draft, Exact(), EarlyExit(draft, 2), 2), 4)
    yield "tree", Speculative(target, Exact(), TreeDrafter(draft, [2, 2], "without"))
    yield "dynamic_tree", Speculative(target, Exact(), DynamicTree(draft, 3, 3, 7))
    yield "ssd", Speculative(target, Exact(), SSDDrafter(draft, Uniform(2), process=False), 3)


@pytest.mark.parametrize("rows", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [pytest.param("same tokens", marks=pytest.mark.slow), "intersection", "reduced"])
def test_every_arm_over_a_map_gives_the_tokens_of_generate(kind, rows):
    raw = random_model("llama")
    target = Transformer("target", raw)
    expected = [generated(raw, text) for text in prompts(rows + 2)]
    for name, decoder in arms(target, mapped(kind)):
        assert decoder.lossless
        got, accepted = decoded(decoder, rows=rows)
        assert got == expected, name
        if kind == "same tokens" and name == "sd":
            assert (
                accepted > 2.5
            )  # the target itself under other numbers: what is not kept is cut by the end of an answer


@pytest.mark.slow
def test_a_renumbered_draft_draws_the_tokens_of_the_plain_one():
    """The head gives its rows in the target's order. So the same seed draws the same tokens, also in one program."""
    target, sampling = Transformer("target", random_model("llama")), Sampling(0.8, top_k=20, top_p=0.95)
    near = Transformer("draft", random_model("llama"))
    wanted = decoded(Speculative(target, Exact(), ModelDrafter(near), 4), sampling)
    for more in ({}, {"execution": Interpreted()}):
        draft = mapped("same tokens", **more)
        assert decoded(Speculative(target, Exact(), ModelDrafter(draft), 4), sampling) == wanted
    lacking = [mapped("intersection", **more) for more in ({}, {"execution": Interpreted()})]
    runs = [decoded(Speculative(target, Exact(), ModelDrafter(draft), 4), sampling) for draft in lacking]
    assert runs[0] == runs[1]


TOKENIZERS = {
    "byte level": byte_level(300),
    "more merges": byte_level(330, ["<eos>", "<bos>"]),
    "pieces": sentence_piece(),
}


def texts_of(tokenizer) -> list[list[int]]:
    return [tokenizer(text)["input_ids"] for text in ("Question: how many apples?", "naïve façade 日", "the")]


def model_of(tokenizer, seed: int = 0):
    """A small random model with an embedding for these tokens."""
    raw = random_model("llama", layers=2, seed=seed)
    raw.resize_token_embeddings(len(tokenizer))
    raw.get_output_embeddings().weight.data = torch.randn(len(tokenizer), 64) * 0.3
    return raw.requires_grad_(False)


@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("own", ["byte level", pytest.param("more merges", marks=pytest.mark.slow), "pieces"])
@pytest.mark.parametrize("kind", ["intersection", "reencode", "reencode below a stage"])
def test_two_tokenizers_give_the_tokens_of_generate(kind, own, rows):
    torch.manual_seed(1)
    tokenizer, other = TOKENIZERS["byte level"], TOKENIZERS[own]
    raw, small = model_of(tokenizer), model_of(other)
    target = Transformer("target", raw)
    if kind == "intersection":
        ids = intersection(tokenizer, other, len(tokenizer), len(other), "draft")
        keep_head_rows("draft", small, ids.rows)
        proposer = ModelDrafter(Transformer("draft", small, ids=ids))
    else:
        draft = Transformer("draft", small)
        draft.bridge = TextBridge(tokenizer, other, len(tokenizer), len(other))
        proposer = ReencodedDrafter(draft)
    if kind == "reencode below a stage":
        proposer = StagedDrafter(Transformer("qualifier", model_of(tokenizer, 3)), Exact(), proposer, 3)
    requests = [Request(text, str(i)) for i, text in enumerate(texts_of(tokenizer))]
    decoder = Speculative(target, Exact(), proposer, 4)
    assert decoder.lossless
    finished = decoder.generate(requests, Sampling(), NeverStop(), NEW, rows=rows)
    got = {item.request.name: item.tokens for item in finished}
    assert [got[str(i)] for i in range(len(requests))] == [generated(raw, one) for one in texts_of(tokenizer)]


def writing(raw, letters: list[int]):
    """Give the model a bias, so that it writes these tokens only."""
    head = raw.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.full((head.out_features,), -1e4), requires_grad=False)
    head.bias.data[letters] = 0.0
    return raw


@pytest.mark.parametrize("positions", [256, 24])
def test_a_model_that_writes_the_targets_text_is_kept(positions):
    """The target itself writes the text, in tokens that no tokenizer cuts otherwise. With 24 positions it forgets the beginning."""
    torch.manual_seed(1)
    tokenizer = TOKENIZERS["byte level"]
    raw = writing(model_of(tokenizer), tokenizer.convert_tokens_to_ids(list("qzxj")))
    own = copy.deepcopy(raw)
    own.config.max_position_embeddings = positions
    draft = Transformer("draft", own)
    draft.bridge = TextBridge(tokenizer, tokenizer, len(tokenizer), len(tokenizer))
    request, trace = Request(tokenizer("qzqzqzqzqzqz")["input_ids"], "0"), Trace()
    decoder = Speculative(Transformer("target", raw), Exact(), ReencodedDrafter(draft), 4)
    (finished,) = decoder.generate([request], Sampling(), NeverStop(), 26, trace=trace)
    trace.close()
    ids = torch.tensor([request.tokens])
    expected = raw.generate(ids, max_new_tokens=26, do_sample=False, pad_token_id=0)[0, len(request.tokens) :]
    assert finished.tokens == expected.tolist()
    assert max(step["context"] for step in trace.steps if step["role"] == "draft") <= positions
    accepted = [row["accepted"] for row in trace.rounds]
    assert sum(accepted) > 0
    if positions == 256:
        assert accepted == [4] * len(accepted)
