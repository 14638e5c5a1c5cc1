"""Greedy decoding, token for token, against transformers' own `generate`, for every lossless way of drafting."""

import pytest
import torch

from sdbench.acceptance.exact import Exact
from sdbench.decoding import DynaSD, Request, Speculative
from sdbench.drafting import (
    DynamicTree,
    EarlyExit,
    ModelDrafter,
    PromptLookup,
    StagedDrafter,
    StagedTree,
    StopWhenUnsure,
    TreeDrafter,
)
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import ARCHITECTURES, V, random_model

NEW = 12


def prompts(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, V, (5 + 3 * i,), generator=generator).tolist() for i in range(count)]


def generated(raw, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    out = raw.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    return out[0, len(prompt) :].tolist()


def arms(target, qualifier, draft):
    yield "ar", Speculative(target)
    yield "sd", Speculative(target, Exact(), ModelDrafter(draft), 4)
    yield "sd_self", Speculative(target, Exact(), ModelDrafter(qualifier), 3)
    yield "lookup", Speculative(target, Exact(), PromptLookup(), 5)
    yield "early_exit", Speculative(target, Exact(), EarlyExit(target, 2), 3)
    yield "unsure", Speculative(target, Exact(), ModelDrafter(draft, StopWhenUnsure(0.2)), 5)
    yield "pyramid", Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), ModelDrafter(draft), 2), 5)
    yield "lookup_pyramid", Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), PromptLookup(), 2), 5)
    three = StagedDrafter(qualifier, Exact(), StagedDrafter(draft, Exact(), PromptLookup(), 2), 3)
    yield "three_high", Speculative(target, Exact(), three, 6)
    yield "tree", Speculative(target, Exact(), TreeDrafter(qualifier, [2, 2, 1], "top"))
    yield "tree_early_exit", Speculative(target, Exact(), TreeDrafter(target, [2, 1], layers=2))
    yield "dynamic_tree", Speculative(target, Exact(), DynamicTree(qualifier, 3, 3, 7))
    staged = StagedDrafter(qualifier, Exact(), TreeDrafter(draft, [2, 2]), 2)
    yield "tree_below_a_stage", Speculative(target, Exact(), staged, 4)
    yield "fork", DynaSD(target, draft, 2, 3, "exact")
    handed_up = StagedTree(qualifier, Exact(), TreeDrafter(draft, [2, 1]), 2, 10)
    yield "tree_from_a_stage", Speculative(target, Exact(), handed_up)
    dynamic = StagedTree(draft, Exact(), DynamicTree(draft.truncated(1), 2, 2, 4), 2, 6)
    yield "tree_from_two_stages", Speculative(target, Exact(), StagedTree(qualifier, Exact(), dynamic, 2, 8))


IN_BATCHES = ("llama", "qwen3-sliding", "gpt2")  # one of each kind: full attention, sliding windows, learned positions


@pytest.mark.parametrize(
    ("rows", "architecture"),
    [
        *((1, name) for name in ARCHITECTURES),
        *(pytest.param(3, name, marks=[] if name in IN_BATCHES else pytest.mark.slow) for name in ARCHITECTURES),
    ],
)
def test_every_lossless_arm_gives_the_tokens_of_generate(architecture, rows):
    raw = random_model(architecture, seed=0)
    # The qualifier is the target slightly disturbed, so that both rejections and long acceptances occur.
    near = random_model(architecture, seed=0)
    torch.manual_seed(7)
    for weight in near.parameters():
        weight.data += 0.02 * weight.std().nan_to_num() * torch.randn_like(weight)
    target, qualifier = Transformer("target", raw), Transformer("qualifier", near)
    draft = Transformer("draft", random_model(architecture, layers=2, seed=0))
    texts = prompts(rows + 2)  # more than rows, so that rows take new sequences
    expected = [generated(raw, text) for text in texts]
    for name, decoder in arms(target, qualifier, draft):
        assert decoder.lossless
        requests = [Request(text, str(i)) for i, text in enumerate(texts)]
        finished = decoder.generate(requests, Sampling(), NeverStop(), NEW, rows=rows)
        got = {item.request.name: item.tokens for item in finished}
        assert [got[str(i)] for i in range(len(texts))] == expected, name


def test_tokens_do_not_depend_on_batch_size_when_sampling():
    target = Transformer("target", random_model("llama"))
    draft = Transformer("draft", random_model("llama", layers=2))
    qualifier = Transformer("qualifier", random_model("llama", layers=3, seed=3))
    requests = [Request(text, str(i)) for i, text in enumerate(prompts(4))]
    for decoder in (
        Speculative(target, Exact(), ModelDrafter(draft), 3),
        Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), ModelDrafter(draft), 2), 4),
    ):
        outputs = []
        for rows in (1, 3, 4):
            finished = decoder.generate(
                requests, Sampling(0.8, top_k=20, top_p=0.95), NeverStop(), 10, seed=11, rows=rows
            )
            outputs.append({item.request.name: item.tokens for item in finished})
        assert outputs[0] == outputs[1] == outputs[2]
        other_seed = decoder.generate(requests, Sampling(0.8, top_k=20, top_p=0.95), NeverStop(), 10, seed=12)
        assert {item.request.name: item.tokens for item in other_seed} != outputs[0]


@pytest.mark.parametrize("rows", [1, 3])
def test_a_pyramid_that_overshoots_at_the_end_has_room(rows):
    """Every length of the answer, so that inner rounds begin at every distance from the end of the buffer."""
    target = Transformer("target", random_model("llama"))
    near = random_model("llama")
    torch.manual_seed(7)
    for weight in near.parameters():
        weight.data += 0.02 * weight.std().nan_to_num() * torch.randn_like(weight)
    qualifier, draft = Transformer("qualifier", near), Transformer("draft", near)
    texts = prompts(3)
    for truncate in (False, True):
        pyramid = Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), ModelDrafter(draft), 5, truncate), 3)
        for new in (2, 4, 5, 7, 9):
            requests = [Request(text, str(i)) for i, text in enumerate(texts)]
            wanted, got = (
                {
                    item.request.name: item.tokens
                    for item in decoder.generate(requests, Sampling(), NeverStop(), new, rows=rows)
                }
                for decoder in (Speculative(target), pyramid)
            )
            assert got == wanted
