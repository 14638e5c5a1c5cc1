"""Heads that predict several tokens in one pass: laws over the pool, alignment of the training function, greedy identity."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from sdbench.acceptance import BestChain, Exact
from sdbench.decoding import Request, Speculative
from sdbench.drafting import BestPaths, ModelDrafter, ParallelChains, ParallelDrafter, ParallelTree, StagedDrafter
from sdbench.errors import InputError
from sdbench.heads.kinds import KINDS, kind_of
from sdbench.heads.parallel import ParallelHead
from sdbench.lm.parallel_model import ParallelModel
from sdbench.lm.programs.execution import Execution
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import V, random_model
from tests.heads.heads import NEW, generated, prompts
from tests.lm.interpreted import Interpreted
from tests.lm.test_transformer import context

K = 3
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "medusa": ("medusa", {}),
    "medusa, two blocks": ("medusa", {"blocks": 2}),
    "parallelspec": ("parallelspec", {}),
    "parallelspec, two layers": ("parallelspec", {"layers": 2}),
    "parallelspec, tokens only": ("parallelspec", {"taps": ()}),
    "specformer": ("specformer", {}),
    "specformer, bidirectional": ("specformer", {"drafts": "bidirectional"}),
    "block diffusion": ("block_diffusion", {"layers": 2, "taps": (1, 2, 4)}),
    "block diffusion, a token as mask": ("block_diffusion", {"mask_id": 5}),
    "specdec": ("specdec", {"encoder_layers": 3}),
    "specdec, two layers": ("specdec", {"encoder_layers": 1, "layers": 2}),
}
ARMS = {
    "chain": (ParallelDrafter, {}, Exact(), K),
    "tree": (ParallelTree, {"widths": [3, 2, 1]}, Exact(), 0),
    "best paths": (BestPaths, {"depth": K, "budget": 7}, Exact(), 0),
    "chains": (ParallelChains, {"depth": K, "chains": 2}, BestChain(), 0),
}


def made(raw, name: str, ids: list[int] | None = None) -> ParallelHead:
    """A head whose own weights are all random: one that starts as the target's copy would hide mistakes."""
    kind, options = HEADS[name]
    torch.manual_seed(5)
    head = kind_of(kind).fresh(raw, ids, K, **options)
    for part, weight in head.named_parameters():
        if weight.requires_grad and weight.ndim < 2:
            weight.data.uniform_(0.5, 1.5) if part.endswith("weight") else weight.data.normal_()
        elif weight.requires_grad and "linear" in part:
            weight.data.normal_(std=0.1)
    return head


def hidden_of(raw, tokens: torch.Tensor, head: ParallelHead) -> torch.Tensor:
    """The tapped hidden states [B, T, S3] by transformers."""
    with torch.no_grad():
        states = raw(tokens, output_hidden_states=True).hidden_states
    taps = head.head_config.layers
    assert taps is not None
    return torch.cat([states[layer] for layer in taps], -1) if taps else torch.zeros(*tokens.shape, 0)


@torch.inference_mode()
@pytest.mark.parametrize("name", HEADS)
def test_laws_over_the_pool_are_those_of_the_training_function(name):
    """Two ragged rows: behind the prompt, behind a verdict that keeps 1 and 3 tokens, and a third time without new places."""
    raw = random_model("qwen3" if name in ("specformer", "specdec") else "llama")
    head = made(raw, name, [*range(0, V, 3), V - 2]).requires_grad_(False)
    target = Transformer("target", raw)
    model = ParallelModel("head", head, target)
    text = torch.randint(0, V, (2, 40), generator=torch.Generator().manual_seed(4))
    lengths = [9, 2]
    target.allocate(2, 40)
    model.allocate(2, 40)
    state = context(text, lengths, 40)
    for row, length in enumerate(lengths):
        target.read(state, np.array([length - 1] * 2), "prefill", row=row)
        model.reset(row)
        model.prefill(state, row)
    for kept in ([0, 0], [1, 3], [0, 0]):
        lengths = [length + more for length, more in zip(lengths, kept, strict=True)]
        state = state.ahead(np.array(lengths), state.active)
        target.read(state, np.array(lengths) - 1, "verify")
        model.keep(np.array(lengths) - 1)
        found = model.laws(state)
        for row, length in enumerate(lengths):
            # The training function sees more of the text. No place may see what stands behind it.
            ids = torch.cat([state.tokens[row, :length], torch.tensor([1, 2, 3, 4])])[None]
            unrolled = head.unrolled(ids, hidden_of(raw, ids, head), K)
            wanted = torch.stack([logits[0, length - 2] for logits in unrolled])
            scale = float(wanted.abs().max())
            torch.testing.assert_close(found[row][:, head.proposed], wanted, atol=3e-5 * scale, rtol=1e-4)
            others = torch.ones(V, dtype=torch.bool).index_fill(0, head.proposed, False)
            assert bool((found[row][:, others] == -torch.inf).all())


@cache
def trained(name: str) -> tuple[Any, ParallelHead]:
    """A target and a head that was trained on two of its three answers, by `unrolled` alone."""
    raw = random_model("llama")
    ids = list(range(V - 3))
    head = made(raw, name, ids)
    texts = [torch.tensor([[*prompt, *generated(raw, prompt)]]) for prompt in prompts()[::2]]
    work = [(text, hidden_of(raw, text, head)) for text in texts]
    optimizer = torch.optim.Adam([weight for weight in head.parameters() if weight.requires_grad], 4e-3)
    for _ in range(25):
        loss = torch.zeros(())
        for text, hidden in work:
            for step, logits in enumerate(head.unrolled(text, hidden, K)):
                wanted = text[0, step + 2 :]
                wanted = wanted.masked_fill(wanted >= len(ids), -100)
                loss = loss + torch.nn.functional.cross_entropy(logits[0, :-1], wanted, ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return raw, head.requires_grad_(False)


def decoded(raw, module, arm: str, rows: int, mode=Execution, sampling=None):
    target = Transformer("target", raw, execution=mode())
    head = ParallelModel("head", module, target)
    make, knobs, rule, length = ARMS[arm]
    method = Speculative(target, rule, make(head, **knobs), length)
    assert method.lossless
    requests = [Request(prompt, str(i)) for i, prompt in enumerate(prompts())]
    trace = Trace()
    done = list(method.generate(requests, sampling or Sampling(), NeverStop(), NEW, 0, rows=rows, trace=trace))
    return {one.request.name: one.tokens for one in done}, trace, target


MAIN = ["medusa", "parallelspec", "specformer", "block diffusion", "specdec"]
CASES = [
    *((name, "chain", 3) for name in MAIN),
    ("medusa", "chain", 1),
    ("parallelspec", "tree", 1),
    ("specformer", "tree", 3),
    ("medusa", "best paths", 3),
    ("block diffusion", "chains", 1),
]


@pytest.mark.parametrize(("name", "arm", "rows"), CASES)
def test_greedy_tokens_are_those_of_generate(name, arm, rows):
    raw, module = trained(name)
    tokens, trace, _ = decoded(raw, module, arm, rows)
    assert tokens == {str(i): generated(raw, prompt) for i, prompt in enumerate(prompts())}
    kept = {record["accepted"] for record in trace.rounds}
    assert len(kept) > 1, "some drafts are kept, some are not"


@pytest.mark.parametrize("arm", ["chain", "tree"])
def test_a_head_runs_eagerly_beside_a_target_with_programs(arm):
    raw, module = trained("block diffusion")
    eager, first, _ = decoded(raw, module, arm, 3)
    tokens, trace, target = decoded(raw, module, arm, 3, Interpreted)
    assert tokens == eager
    assert [one["accepted"] for one in trace.rounds] == [one["accepted"] for one in first.rounds]
    assert target.execution.made


def test_the_same_tokens_are_sampled_in_any_batch():
    raw, module = trained("parallelspec")
    alone, *_ = decoded(raw, module, "chain", 1, sampling=Sampling(1.0))
    together, *_ = decoded(raw, module, "chain", 3, sampling=Sampling(1.0))
    assert alone == together


@torch.inference_mode()
def test_parallelspec_is_a_causal_decoder_over_fused_inputs_and_masks():
    """Against transformers' own decoder, called with these inputs."""
    import transformers as t

    raw = random_model("llama")
    head = made(raw, "parallelspec, two layers")
    body = t.LlamaModel(head.config).eval()
    body.load_state_dict(
        {name: w for name, w in head.state_dict().items() if name.startswith(("layers", "norm"))}, strict=False
    )
    ids = torch.randint(0, V, (1, 8))
    hidden = hidden_of(raw, ids, head)
    fused = head.get_submodule("fc")(torch.cat([raw.get_input_embeddings()(ids[:, 1:]), hidden[:, :-1]], -1))
    read = body(inputs_embeds=torch.cat([fused[:, :5], head.get_parameter("masks")[None]], 1)).last_hidden_state
    wanted = raw.lm_head(read[0, 4:])
    for step, logits in enumerate(head.unrolled(ids, hidden, K)):
        torch.testing.assert_close(logits[0, 4], wanted[step], atol=1e-3, rtol=1e-4)


def test_a_head_starts_from_the_target():
    raw = random_model("llama")
    ids = torch.randint(0, V, (1, 9))
    medusa = kind_of("medusa").fresh(raw, None, 2)
    hidden = hidden_of(raw, ids, medusa)
    for step, logits in enumerate(medusa.unrolled(ids, hidden, 5)):
        bias = torch.nn.functional.silu(medusa.get_submodule(f"{step}.0.linear").bias)
        wanted = raw.lm_head(hidden[:, : 8 - step] + bias)
        torch.testing.assert_close(logits, wanted, atol=1e-3, rtol=1e-4)
    former = kind_of("specformer").fresh(raw, None, 2)
    assert torch.equal(former.get_parameter("norm.weight"), raw.model.norm.weight)
    assert former.lm_head.weight.data_ptr() == raw.lm_head.weight.data_ptr()
    assert former.head_config.layers == (0, 2, 3, 4)


@pytest.mark.parametrize("name", MAIN)
def test_the_targets_own_weights_get_no_gradient(name):
    raw = random_model("llama")
    head = made(raw, name)
    ids = torch.randint(0, V, (2, 7))
    logits = head.unrolled(ids, hidden_of(raw, ids, head), 9)
    assert [one.shape for one in logits] == [(2, 6 - step, V) for step in range(K)]
    sum(one.square().mean() for one in logits).backward()  # pyright: ignore[reportAttributeAccessIssue]
    trained_parts = [weight for weight in head.parameters() if weight.requires_grad]
    assert all(weight.grad is not None and bool(weight.grad.isfinite().all()) for weight in trained_parts)
    assert all(weight.grad is None for weight in raw.parameters())


def test_what_a_head_cannot_do_is_refused():
    raw = random_model("llama")
    target = Transformer("target", raw)
    head = ParallelModel("medusa", made(raw, "medusa").requires_grad_(False), target)

    def run(method):
        return list(method.generate([Request([1, 2], "one")], Sampling(), NeverStop(), 4))

    with pytest.raises(InputError, match="medusa predicts 3 tokens in one pass, but a draft has 4: draft at most 3"):
        run(Speculative(target, Exact(), ParallelDrafter(head), 4))
    with pytest.raises(InputError, match="cannot be read token by token: draft with"):
        run(Speculative(target, Exact(), ModelDrafter(head), 2))
    with pytest.raises(InputError, match="qualifier is no head that predicts several tokens in one pass"):
        run(Speculative(target, Exact(), ParallelDrafter(Transformer("qualifier", raw)), 2))
    qualifier = Transformer("qualifier", random_model("llama", seed=1))
    below = StagedDrafter(qualifier, Exact(), ParallelDrafter(head), 2)
    with pytest.raises(InputError, match="cannot draft below a stage in between: let target verify its drafts"):
        run(Speculative(target, Exact(), below, 4))
    with pytest.raises(InputError, match=f"mask_token is {V}, but draft has {V} tokens"):
        run(Speculative(target, Exact(), ParallelDrafter(Transformer("draft", raw), V), 2))
    with pytest.raises(InputError, match="'hydra' is no kind of head; there are: medusa"):
        kind_of("hydra")
    for bad in ({"drafts": "both"}, {"taps": (4, 2)}, {"taps": (5,)}):
        with pytest.raises(InputError):
            kind_of("specformer").fresh(raw, None, 2, **bad)
    assert set(KINDS) == {kind_of(name).kind for name in KINDS}


@pytest.mark.parametrize("mode", [Execution, Interpreted])
def test_a_draft_model_reads_masks(mode):
    """PARD: the laws are those of the draft behind the text and masks, also behind verdicts; and the masks are forgotten."""
    raw = random_model("llama")
    draft = Transformer("draft", raw, execution=mode())  # as good as the target, where it reads no mask
    raw.config.pard_token = 3
    drafter, seen = ParallelDrafter(draft, "config"), []
    whole = drafter.laws

    def checked(state, depth):
        found = whole(state, depth)
        for row in np.flatnonzero(state.active).tolist():
            text = state.tokens[row, : int(state.length[row])].tolist()
            wanted = raw(torch.tensor([[*text, *[3] * (depth - 1)]])).logits[0, -depth:]
            seen.append(torch.allclose(found[row], wanted, atol=1e-3, rtol=1e-4))
            assert draft.kv_len[row] == len(text)
        return found

    drafter.laws = checked
    target = Transformer("target", raw, execution=mode())
    requests = [Request(prompt, str(i)) for i, prompt in enumerate(prompts())]
    done = list(Speculative(target, Exact(), drafter, K).generate(requests, Sampling(), NeverStop(), NEW, 0, rows=3))
    assert {one.request.name: one.tokens for one in done} == {
        str(i): generated(raw, p) for i, p in enumerate(prompts())
    }
    assert all(seen)
    assert len(seen) > 10


def test_other_arms_pay_nothing():
    """The head asks for hidden states when it is allocated; an arm without it has none."""
    raw, module = trained("medusa")
    target = Transformer("target", raw)
    ParallelModel("head", module, target)
    list(Speculative(target).generate([Request([1, 2], "one")], Sampling(), NeverStop(), 4))
    assert target.taps == ()
    assert target.pool.hidden_bytes == 0
