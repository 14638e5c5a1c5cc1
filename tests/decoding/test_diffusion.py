"""Self-speculation of a masked diffusion model decodes exactly as stepwise; variants that do not check rank or token are caught."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sdbench.decoding import Request, SelfSpeculativeDiffusion, Speculative, StepwiseDiffusion
from sdbench.decoding.diffusion import CanvasDraft, Choice, confidence
from sdbench.errors import InputError
from sdbench.lm.diffusion import DiffusionModel, DiffusionTransformer, check_directions
from sdbench.lm.programs.execution import Execution
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop, StopAtTokens
from tests.conftest import V, random_model

LETTERS, EOS, MASK = 5, 3, 4
EVERY_PROMPT = [list(prompt) for length in (1, 2, 3) for prompt in itertools.product(range(3), repeat=length)]


class TabularDiffusion(DiffusionModel):
    """Random scores by whole text. They come from few rows, so positions often tie, and often keep their scores."""

    max_positions, dtype, bytes, mask_token = 1 << 20, torch.float64, 0, MASK

    def __init__(self) -> None:
        super().__init__("target", LETTERS, torch.device("cpu"), Execution())
        self.scores = torch.randn(7, LETTERS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        self.scores[0, EOS] += 3

    def predict(self, tokens, lengths, columns):
        lines = zip(tokens.tolist(), lengths.tolist(), strict=True)
        texts = [tuple(line[len(line) - length :]) for line, length in lines]
        ahead = [tokens.shape[1] - column for column in columns.tolist()]
        return torch.stack([torch.stack([self.scores[_row(text, one)] for one in ahead]) for text in texts])


def _row(text: tuple[int, ...], ahead: int) -> int:
    """The row of scores at the position `ahead` before the end. The masked places alone change it at times."""
    usual = random.Random(f"{text[:2]}/{ahead}")
    own = random.Random(f"{text}/{ahead}")
    return own.randrange(7) if own.random() < 0.3 else usual.randrange(7)


def by_hand(model: DiffusionModel, prompt: list[int], size: int, block: int, eos: int | None = EOS) -> list[int]:
    """LLaDA's decoding with one position a step, in plain Python: to the last block, then cut at the end of sequence."""
    canvas = [model.mask_token] * size
    for first in range(0, size, block):
        here = range(first, min(first + block, size))
        while any(canvas[place] == model.mask_token for place in here):
            text = torch.tensor([prompt + canvas])
            logits = model.predict(text, torch.tensor([text.shape[1]]), torch.arange(len(prompt), text.shape[1]))[0]
            logits[:, model.mask_token] = -torch.inf
            probs = torch.softmax(logits.double(), -1)
            masked = [place for place in here if canvas[place] == model.mask_token]
            place = max(masked, key=lambda place: (float(probs[place].max()), -place))
            canvas[place] = int(probs[place].argmax())
    return canvas[: canvas.index(eos) + 1] if eos in canvas else canvas


def answers(decoder, prompts, size, stop=None, rows=1, trace=None):
    requests = [Request(prompt, str(number)) for number, prompt in enumerate(prompts)]
    done = decoder.generate(requests, Sampling(), stop or StopAtTokens([EOS]), size, rows=rows, trace=trace)
    found = {item.request.name: item for item in done}
    return [found[str(number)] for number in range(len(prompts))]


def tokens(decoder, prompts, size, **how):
    return [item.tokens for item in answers(decoder, prompts, size, **how)]


@pytest.mark.parametrize(("block", "draft_length", "width"), [(1, 2, 1), (3, 4, 1), (3, 4, 2), (8, 3, 3)])
def test_every_prompt_decodes_as_by_hand(block, draft_length, width):
    model, size = TabularDiffusion(), 8
    wanted = [by_hand(model, prompt, size, block) for prompt in EVERY_PROMPT]
    assert tokens(StepwiseDiffusion(model, block), EVERY_PROMPT, size) == wanted
    speculative = SelfSpeculativeDiffusion(model, block, draft_length, width)
    assert tokens(speculative, EVERY_PROMPT, size) == wanted
    assert tokens(speculative, EVERY_PROMPT, size, rows=4) == wanted


class AnyRank(CanvasDraft):
    """Wrong: keeps the drafted position if its token is still right, wherever the position ranks."""

    def follow(self, node, ranking):
        drafted = self.choices[node] if node + 1 < len(self.nodes) else None
        return (drafted, node + 1) if drafted in ranking else super().follow(node, ranking)


class AnyToken(CanvasDraft):
    """Wrong: keeps the drafted token if its position still ranks first."""

    def follow(self, node, ranking):
        drafted = self.choices[node] if node + 1 < len(self.nodes) else None
        kept = drafted is not None and drafted.position == ranking[0].position
        return (drafted, node + 1) if kept else super().follow(node, ranking)


class LateOrder(CanvasDraft):
    """Wrong: follows the drafted canvases in their order, and unmasks what each would unmask itself only behind the last."""

    def follow(self, node, ranking):
        return (self.choices[node], node + 1) if node + 1 < len(self.nodes) else super().follow(node, ranking)


@pytest.mark.parametrize("wrong", [AnyRank, AnyToken, LateOrder])
def test_a_walk_that_does_not_check_rank_token_or_order_is_caught(wrong, monkeypatch):
    model = TabularDiffusion()
    decoder = SelfSpeculativeDiffusion(model, 4, 3)
    right = decoder.draft
    monkeypatch.setattr(decoder, "draft", lambda *given: wrong(**vars(right(*given))))
    wanted = [by_hand(model, prompt, 8, 4) for prompt in EVERY_PROMPT]
    same = [one == other for one, other in zip(tokens(decoder, EVERY_PROMPT, 8), wanted, strict=True)]
    assert not all(same)


def test_siblings_let_two_neighbours_change_places():
    draft = SelfSpeculativeDiffusion(TabularDiffusion(), 4, 2, 2).draft([Choice(0, 1), Choice(1, 1), Choice(2, 1)], 6)
    assert draft.nodes == [frozenset(), frozenset({0}), frozenset({1}), frozenset({0, 1}), frozenset({0, 2})]
    assert draft.parent == [0, 0, 1, 1]
    assert draft.follow(2, [Choice(0, 1)]) == (Choice(0, 1), 3)  # the second position first
    assert draft.follow(0, [Choice(0, 2)]) == (Choice(0, 2), None)  # another token
    assert draft.follow(0, [Choice(2, 1)]) == (Choice(2, 1), None)  # no such canvas


def test_no_canvas_without_a_mask_is_read():
    draft = SelfSpeculativeDiffusion(TabularDiffusion(), 4, 4).draft([Choice(0, 1), Choice(1, 1), Choice(2, 1)], 3)
    assert max(map(len, draft.nodes)) == 2
    assert SelfSpeculativeDiffusion(TabularDiffusion(), 4, 4).draft([Choice(0, 1)], 1).nodes == [frozenset()]


def test_the_record_counts_calls_canvases_and_positions():
    model, size = TabularDiffusion(), 12
    whole = Trace()
    for item in answers(StepwiseDiffusion(model, 4), EVERY_PROMPT[:6], size, NeverStop(), trace=whole):
        assert (len(item.tokens), item.target_calls, item.reason) == (size, size - 1, "length")
    assert {(row["edge"], row["proposed"], row["emitted"]) for row in whole.rounds} == {("target", 0, 1)}
    trace = Trace()
    done = answers(SelfSpeculativeDiffusion(model, 4, 3, 2), EVERY_PROMPT[:6], size, NeverStop(), rows=2, trace=trace)
    for number, item in enumerate(done):
        rounds = [row for row in trace.rounds if row["sequence"] == number]
        assert [row["round"] for row in rounds] == list(range(item.target_calls))
        assert sum(row["emitted"] for row in rounds) == size - 1
        assert all(row["emitted"] == row["accepted"] + 1 for row in rounds[:-1])
        assert all(row["accepted"] <= row["proposed"] <= 3 and row["nodes"] <= 6 for row in rounds)
    assert sum(item.target_calls for item in done) < 6 * (size - 1)
    asked = sum(row["nodes"] + 1 for row in trace.rounds)
    assert sum(step["rows"] for step in trace.steps if step["kind"] == "verify") == asked


def test_positions_behind_the_stop_are_calls_without_tokens():
    trace = Trace()
    done = answers(SelfSpeculativeDiffusion(TabularDiffusion(), 8, 2), EVERY_PROMPT, 8, trace=trace)
    stopped = [item for item in done if item.reason == "eos"]
    assert stopped
    for number, item in enumerate(done):
        emitted = sum(row["emitted"] for row in trace.rounds if row["sequence"] == number)
        assert len(item.tokens) - 1 <= emitted <= len(item.tokens)  # the prefill may decide a position behind the stop
    assert all(item.tokens.index(EOS) == len(item.tokens) - 1 for item in stopped)


def test_odds_rank_positions_whose_probability_rounds_to_one():
    logits = torch.tensor([[0.0, 60.0, 0.0, 99.0], [0.0, 70.0, 0.0, 99.0]])
    best, odds = confidence(logits, 3)
    assert best.tolist() == [1, 1]
    assert odds[0] > odds[1] > 0
    assert confidence(torch.tensor([[1.0, 1.0, 0.0, 9.0]]), 3)[0].tolist() == [0]


@pytest.fixture(scope="module")
def diffusing():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, bos_token_id=None, eos_token_id=None, pad_token_id=None, is_causal=False,
        mask_token_id=V - 1, attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.get_output_embeddings().weight.mul_(20)
    return DiffusionTransformer("target", model)


def test_a_forward_attends_in_both_directions_and_not_to_padding(diffusing):
    text = torch.tensor([[5, 6, 7, V - 1, V - 1, 8]])
    own = diffusing.predict(text, torch.tensor([6]), torch.arange(6))
    other = LlamaForCausalLM(diffusing.config).eval()
    other.load_state_dict(diffusing.model.state_dict())
    other.set_attn_implementation("eager")
    every = torch.zeros(1, 1, 6, 6)
    assert torch.allclose(own, other(input_ids=text, attention_mask=every).logits, atol=1e-4)
    changed = diffusing.predict(torch.tensor([[5, 6, 7, V - 1, V - 1, 9]]), torch.tensor([6]), torch.arange(6))
    assert not torch.allclose(own[0, 0], changed[0, 0], atol=1e-3)
    padded = torch.cat([torch.full((1, 3), 1), text], 1)
    assert torch.allclose(diffusing.predict(padded, torch.tensor([6]), torch.arange(3, 9)), own, atol=1e-4)


def test_random_weights_decode_as_by_hand(diffusing):
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, V - 1, (4 + 3 * number,), generator=generator).tolist() for number in range(3)]
    wanted = [by_hand(diffusing, prompt, 12, 5, None) for prompt in prompts]
    assert tokens(StepwiseDiffusion(diffusing, 5), prompts, 12, stop=NeverStop()) == wanted
    for draft_length, width, rows in ((3, 1, 1), (4, 2, 3)):
        speculative = SelfSpeculativeDiffusion(diffusing, 5, draft_length, width)
        assert tokens(speculative, prompts, 12, stop=NeverStop(), rows=rows) == wanted


def test_a_model_that_ignores_its_config_is_refused(diffusing):
    check_directions(diffusing)
    with pytest.raises(InputError, match="LlamaForCausalLM does not attend in both directions"):
        check_directions(DiffusionTransformer("target", random_model("llama", 1), mask_token=0))


def test_what_is_refused(diffusing):
    request = [Request([1, 2], "one")]
    with pytest.raises(
        InputError, match=r"sampling\.temperature is 0\.7, but a masked diffusion model is decoded greedily"
    ):
        next(StepwiseDiffusion(diffusing).generate(request, Sampling(temperature=0.7), NeverStop(), 4))
    autoregressive = StepwiseDiffusion(Transformer("target", random_model("llama", 1)))
    with pytest.raises(InputError, match="target is autoregressive, but this arm decodes a masked diffusion model"):
        next(autoregressive.generate(request, Sampling(), NeverStop(), 4))
    with pytest.raises(InputError, match="target is a masked diffusion model, which does not decode token by token"):
        next(Speculative(diffusing).generate(request, Sampling(), NeverStop(), 4))
    with pytest.raises(InputError, match="target reads at most 128 tokens"):
        next(StepwiseDiffusion(diffusing).generate(request, Sampling(), NeverStop(), 200))
    with pytest.raises(InputError, match="draft_length"):
        SelfSpeculativeDiffusion(diffusing, draft_length=0)
