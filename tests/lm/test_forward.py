"""Calling a model's modules without its own forward: the same numbers, or the own forward after all."""

from types import SimpleNamespace

import pytest
import torch
import transformers as t
from torch import nn

from sdbench.lm.kv_cache import KVCache
from sdbench.lm.module_replay import Forward
from sdbench.lm.rotary_cache import Table
from sdbench.lm.transformer import Transformer
from tests.conftest import V, random_model
from tests.models.folders import SMALL

# Whether nothing but modules stands between tokens and logits.
PLAIN = {
    "llama": True,
    "qwen3": True,
    "qwen3-sliding": True,
    "mistral": True,
    "gemma3": True,
    "phi3": True,
    "gpt2": False,  # adds two embeddings
}
SIZES = {**SMALL, "vocab_size": V}
BETWEEN = {
    "gemma2": lambda: t.Gemma2Config(**SIZES, head_dim=8, sliding_window=8, final_logit_softcapping=3.0),
    "granite": lambda: t.GraniteConfig(**SIZES, logits_scaling=4.0, embedding_multiplier=3.0),
    "cohere": lambda: t.CohereConfig(**SIZES, logit_scale=0.2),
}
# Widths and contexts in the order of their steps: each width comes again, behind other contexts.
STEPS = [(9, 0, 1), (1, 9, 1), (1, 10, 1), (4, 11, 4), (4, 13, 2), (1, 17, 1), (4, 18, 1), (2, 22, 2), (2, 24, 1)]


def logits(model: Transformer, rows: int, steps=STEPS) -> list[torch.Tensor]:
    model.allocate(rows, 32)
    tokens = torch.randint(0, V, (rows, 32), generator=torch.Generator().manual_seed(1))
    places = torch.arange(32).expand(rows, -1)
    found = []
    for width, first, keep in steps:
        part = slice(first, first + width)
        found.append(model.step(tokens[:, part], places[:, part], None, num_logits=keep, attend_len=part.stop).logits)
    return found


def through_its_own(raw) -> Transformer:
    model = Transformer("own", raw)
    model.forward._parts = []
    return model


def direct(model: Transformer) -> set[int]:
    """The widths whose modules are called directly."""
    return {width for width, calls in model.forward._calls.items() if calls is not None}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("architecture", PLAIN)
@torch.inference_mode()
def test_the_numbers_are_those_of_the_own_forward(architecture, rows):
    raw = random_model(architecture)
    model = Transformer("target", raw)
    for ours, own in zip(logits(model, rows), logits(through_its_own(raw), rows), strict=True):
        assert torch.equal(ours, own)
    assert direct(model) == ({1, 2, 4, 9} if PLAIN[architecture] else set())


@pytest.mark.parametrize("architecture", BETWEEN)
@torch.inference_mode()
def test_what_happens_between_modules_is_not_left_out(architecture):
    torch.manual_seed(0)
    raw = t.AutoModelForCausalLM.from_config(BETWEEN[architecture]()).eval()
    model = Transformer("target", raw)
    for ours, own in zip(logits(model, 1), logits(through_its_own(raw), 1), strict=True):
        assert torch.equal(ours, own)
    assert not direct(model)


@torch.inference_mode()
def test_early_exit_calls_its_own_layers():
    raw = random_model("llama")
    whole = Transformer("target", raw)
    logits(whole, 1)
    cut = whole.truncated(1)
    cut.allocate(1, 32)
    place = torch.arange(3)[None]
    _, ours = (cut.step(place, place, None, num_logits=3, attend_len=3).logits for _ in range(2))
    calls = cut.forward._calls[3]
    assert calls is not None
    layers = [call.module for call in calls if call.module in list(raw.model.layers)]
    assert layers == [raw.model.layers[0]]
    assert not torch.equal(ours, whole.step(place, place, None, num_logits=3, attend_len=3).logits)


class Doubled(t.LlamaModel):
    """Works in place behind its modules, where no argument shows it."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        assert output.last_hidden_state is not None
        output.last_hidden_state.mul_(2)
        return output


@torch.inference_mode()
def test_what_no_argument_shows_is_seen_in_the_logits():
    raw = random_model("llama")
    raw.model.__class__ = Doubled
    model = Transformer("target", raw)
    for ours, own in zip(logits(model, 1), logits(through_its_own(raw), 1), strict=True):
        assert torch.equal(ours, own)
    assert not direct(model)


@torch.inference_mode()
def test_a_hook_around_the_model_is_called():
    raw, called = random_model("llama"), []
    raw.register_forward_hook(lambda *_: called.append(1))
    model = Transformer("target", raw)
    logits(model, 1)
    assert len(called) == len(STEPS)
    assert not direct(model)


class Bare(nn.Module):
    """A model that tells its one layer how long the context is, or does not."""

    def __init__(self, tells: bool) -> None:
        super().__init__()
        self.embed, self.layers, self.head = nn.Embedding(V, 8), nn.ModuleList([Longer()]), nn.Linear(8, V)
        self.tells = tells

    def forward(self, input_ids, attention_mask, logits_to_keep, **kwargs):
        length = attention_mask.shape[-1] if self.tells else None
        hidden = self.layers[0](self.embed(input_ids), length=length)
        return SimpleNamespace(logits=self.head(hidden[:, -logits_to_keep:]))


class Longer(nn.Module):
    def forward(self, hidden, length):
        return hidden * (length or 1)


@pytest.mark.parametrize("tells", [False, True])
def test_a_number_may_be_another_next_time(tells):
    model = Bare(tells)
    forward, pool = Forward(model, model, ("full_attention",)), KVCache(1, 8, torch.device("cpu"))
    tokens = torch.ones(1, 2, dtype=torch.long)
    for extent in (3, 4, 5):
        mask = torch.zeros(1, 1, 2, extent)
        own = model(tokens, mask, 1).logits
        assert torch.equal(forward(tokens, tokens, pool, [mask], 1, 8), own)
    assert (forward._calls[2] is None) == tells


def test_a_cache_that_grows_is_not_read_twice():
    raw, cache = random_model("llama"), t.DynamicCache()
    model = Transformer("target", raw)
    place = torch.arange(3)[None]
    with torch.inference_mode():
        model.forward(place, place, cache, model.band(3, 0, 3), 1, 3)
    assert cache.get_seq_length() == 3
    assert not direct(model)


class Angles(nn.Module):
    """Angles that turn slower once a text has passed `limit`, and keep in mind that one has."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.longest = limit, 0

    def forward(self, hidden, position_ids):
        self.longest = max(self.longest, int(position_ids.max()) + 1)
        angle = position_ids[..., None] * torch.arange(1.0, 5.0) / (2 if self.longest > self.limit else 1)
        return angle.cos().to(hidden.dtype), angle.sin().to(hidden.dtype)


@pytest.mark.parametrize("limit", [8, 100])
def test_a_table_gives_what_its_module_gives(limit):
    module, position = Angles(limit), torch.tensor([[2, 5]])
    table = Table(module, (torch.zeros(1, 2, 3),), {"position_ids": position}, position)
    for size in (6, 8, 16):  # the last is beyond the first limit
        table.grow(size)
        for ours, own in zip(table(position), module(torch.zeros(1, 2, 3), position_ids=position), strict=True):
            assert torch.equal(ours, own)
    assert module.longest == 6  # making the table has shown it no longer text
    assert (table._rows is None) == (limit == 8)


@torch.inference_mode()
def test_positions_are_looked_up():
    model = Transformer("target", random_model("llama"))
    logits(model, 1)
    (table,) = model.forward._tables.values()
    assert table.size == model.slots
    assert all(call.module is not table.module for calls in model.forward._calls.values() for call in calls or [])


@pytest.mark.parametrize("first", [STEPS, STEPS[::-1]], ids=["short-first", "long-first"])
@pytest.mark.parametrize("kind", ["dynamic", "yarn", "linear", "longrope"])
@torch.inference_mode()
def test_scaled_angles_are_those_of_the_own_forward(kind, first):
    """In a pool that is longer than what the model was trained on; steps on both sides of that length."""
    scaling = {"rope_type": kind, "factor": 4.0, "rope_theta": 100.0, "original_max_position_embeddings": 20}
    if kind == "longrope":
        scaling |= {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    sizes = {**SIZES, "max_position_embeddings": 20 if kind == "dynamic" else 128}
    torch.manual_seed(0)
    raw, own = (t.LlamaForCausalLM(t.LlamaConfig(**sizes, rope_parameters=scaling)).eval() for _ in range(2))
    own.load_state_dict(raw.state_dict())
    ours, theirs = Transformer("target", raw), through_its_own(own)
    for steps in (first, STEPS):
        for left, right in zip(logits(ours, 1, steps), logits(theirs, 1, steps), strict=True):
            assert torch.equal(left, right)
