"""Greedy decoding, token for token, against transformers' own `generate`, for every lossless way of drafting."""

import pytest
import torch

from sdbench.acceptance import Block, Exact, SpecHub, Traversal, ZhouJoint
from sdbench.asynchronous import MirrorDrafter, SpecBranchDrafter
from sdbench.decoding import DynaSD, Request, Speculative
from sdbench.drafting import (
    AdaptiveThreshold,
    DynamicTree,
    EarlyExit,
    Heuristic,
    Lookahead,
    MatchLength,
    ModelDrafter,
    PromptLookup,
    Rest,
    SpeculativeVerification,
    StagedDrafter,
    StagedTree,
    StopWhenUnsure,
    SuffixDecoding,
    SuffixLookup,
    TokenRecycling,
    TreeDrafter,
    Window,
    hierarchy,
)
from sdbench.lm.transformer import Transformer
from sdbench.models.derivation import Derivation
from sdbench.models.derived import derived
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import ARCHITECTURES, OTHER_ATTENTION, V, random_model

NEW = 12


def prompts(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, V, (5 + 3 * i,), generator=generator).tolist() for i in range(count)]


def generated(raw, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    out = raw.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    return out[0, len(prompt) :].tolist()


@pytest.fixture
def corpus(tmp_path):
    """A corpus of the letters a to e, and their codes as tokens."""
    path = tmp_path / "corpus.txt"
    path.write_text("abcdeabcaedcba" * 5, encoding="utf-8")
    rest = Rest(str(path), max_match=3, min_match=1, depth=3)
    rest.take_encoder(lambda text: [ord(letter) % V for letter in text])
    return rest


def arms(target, qualifier, draft, corpus):
    yield "ar", Speculative(target)
    yield "sd", Speculative(target, Exact(), ModelDrafter(draft), 4)
    yield "sd_self", Speculative(target, Exact(), ModelDrafter(qualifier), 3)
    yield "lookup", Speculative(target, Exact(), PromptLookup(), 5)
    yield "early_exit", Speculative(target, Exact(), EarlyExit(target, 2), 3)
    yield "unsure", Speculative(target, Exact(), ModelDrafter(draft), 5, StopWhenUnsure(0.2))
    yield "heuristic", Speculative(target, Exact(), ModelDrafter(qualifier), 6, Heuristic(2))
    yield "adaptive_threshold", Speculative(target, Exact(), EarlyExit(target, 2), 4, AdaptiveThreshold(0.3, step=0.1))
    yield "window", Speculative(target, Exact(), ModelDrafter(draft), 5, Window(2))
    yield "match_length", Speculative(target, Exact(), PromptLookup(), 5, MatchLength(2))
    verified = SpeculativeVerification(qualifier, verify_seconds=[1.0, 1.3])
    yield "speculative_verification", Speculative(target, Exact(), ModelDrafter(draft), 5, verified)
    inner = StagedDrafter(qualifier, Exact(), ModelDrafter(draft), 3, lengths=Heuristic(1))
    yield "pyramid_of_policies", Speculative(target, Exact(), inner, 5, StopWhenUnsure(0.2))
    yield "pyramid", Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), ModelDrafter(draft), 2), 5)
    yield "lookup_pyramid", Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), PromptLookup(), 2), 5)
    three = StagedDrafter(qualifier, Exact(), StagedDrafter(draft, Exact(), PromptLookup(), 2), 3)
    yield "three_high", Speculative(target, Exact(), three, 6)
    four = [target.truncated(3), qualifier, draft]
    yield "five_levels", Speculative(target, Exact(), hierarchy(four, [4, 3, 2], SuffixLookup(), None, True), 5)
    exits = StagedDrafter(target.truncated(3), Exact(), EarlyExit(target, 2), 2)
    yield "early_exits", Speculative(target, Exact(), exits, 4)
    cast = Transformer("mxfp4", derived(target.model, "mxfp4", Derivation("target", quantize="mxfp4")))
    yield "ml_specqd", Speculative(target, Exact(), ModelDrafter(cast), 4)
    yield "ml_specqd_three", Speculative(target, Exact(), StagedDrafter(cast, Exact(), ModelDrafter(draft), 2), 4)
    yield "tree", Speculative(target, Exact(), TreeDrafter(qualifier, [2, 2, 1], "top"))
    yield "tree_early_exit", Speculative(target, Exact(), TreeDrafter(target, [2, 1], layers=2))
    yield "dynamic_tree", Speculative(target, Exact(), DynamicTree(qualifier, 3, 3, 7))
    staged = StagedDrafter(qualifier, Exact(), TreeDrafter(draft, [2, 2]), 2)
    yield "tree_below_a_stage", Speculative(target, Exact(), staged, 4)
    yield "block", Speculative(target, Block(), ModelDrafter(draft), 4)
    yield "zhou_joint", Speculative(target, ZhouJoint(), ModelDrafter(qualifier), 3)
    below = StagedDrafter(qualifier, Block(), ModelDrafter(draft), 2)
    yield "block_below_a_stage", Speculative(target, Block(), below, 4)
    yield "traversal", Speculative(target, Traversal(), TreeDrafter(qualifier, [2, 2, 1]))
    yield "spechub", Speculative(target, SpecHub(), TreeDrafter(qualifier, [2, 2, 1], "hub"))
    yield "suffix_decoding", Speculative(target, Exact(), SuffixDecoding(2.0), 4)
    yield "suffix_decoding_tree", Speculative(target, Exact(), SuffixDecoding(2.0, tree=True), 6)
    yield "token_recycling", Speculative(target, Exact(), TokenRecycling([0.4, 0.2, 0.1], 6, 3))
    yield "lookahead", Speculative(target, Exact(), Lookahead(3, 3, 2))
    yield (
        "lookahead_below_a_stage",
        Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), Lookahead(2, 3), 2), 4),
    )
    yield "rest", Speculative(target, Exact(), corpus, 6)
    yield "specbranch", Speculative(target, Exact(), SpecBranchDrafter(qualifier, 3, 0.3, process=False), 4)
    yield "mirror", Speculative(target, Exact(), MirrorDrafter(qualifier, target, 2, 2, process=False), 3)
    yield "fork", DynaSD(target, draft, 2, 3, "exact")
    handed_up = StagedTree(qualifier, Exact(), TreeDrafter(draft, [2, 1]), 2, 10)
    yield "tree_from_a_stage", Speculative(target, Exact(), handed_up)
    dynamic = StagedTree(draft, Exact(), DynamicTree(draft.truncated(1), 2, 2, 4), 2, 6)
    yield "tree_from_two_stages", Speculative(target, Exact(), StagedTree(qualifier, Exact(), dynamic, 2, 8))


# What reads a model in different ways: by a chain, in layers, in a stage, as a tree and by branches.
READINGS = (
    "sd",
    "early_exit",
    "pyramid",
    "tree",
    "tree_below_a_stage",
    "five_levels",
    "lookahead",
    "specbranch",
    "mirror",
)


FULL = [("llama", 1)]
READ = [  # of different attention and positions
    ("qwen3-sliding", 3), ("gpt2", 3), ("gemma3", 1), ("phi3", 1), ("gpt_oss", 3), ("llama4", 3), ("gemma4", 1),
    ("glm_moe_dsa", 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "rows"),
    [
        pytest.param(name, rows, marks=[] if (name, rows) in READ else pytest.mark.slow)
        for name in ARCHITECTURES + OTHER_ATTENTION
        for rows in (1, 3)
    ],
)
def test_every_way_to_read_a_model_gives_the_tokens_of_generate(architecture, rows, corpus):
    between = architecture != "gemma3n"  # it has no single hidden state of a token between its layers
    _compare(architecture, rows, corpus, [name for name in READINGS if between or name != "mirror"])


@pytest.mark.parametrize(
    ("architecture", "rows"),
    [
        pytest.param(name, rows, marks=[] if (name, rows) in FULL else pytest.mark.slow)
        for name in ARCHITECTURES
        for rows in (1, 3)
    ],
)
def test_every_lossless_arm_gives_the_tokens_of_generate(architecture, rows, corpus):
    _compare(architecture, rows, corpus)


def _compare(architecture, rows, corpus, only=None):
    """Compare the tokens of all lossless arms, or of those named in `only`, with `generate`."""
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
    made = dict(arms(target, qualifier, draft, corpus))
    for name in only or made:
        decoder = made[name]
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
        for rows in (1, 4):
            finished = decoder.generate(
                requests, Sampling(0.8, top_k=20, top_p=0.95), NeverStop(), 10, seed=11, rows=rows
            )
            outputs.append({item.request.name: item.tokens for item in finished})
        assert outputs[0] == outputs[1]
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
