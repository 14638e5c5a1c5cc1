"""A step over the slotted cache gives the logits of each architecture's plain forward, on random weights."""

import numpy as np
import pytest
import torch

from sdbench.errors import InputError
from sdbench.lm.model import FAR
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampler, Sampling
from tests.conftest import ARCHITECTURES, V, random_model

CLOSE = 2e-5


def context(tokens: torch.Tensor, length: list[int], slots: int) -> DecodeState:
    buffer = torch.zeros(len(tokens), slots, dtype=torch.long)
    buffer[:, : tokens.shape[1]] = tokens
    rows = len(length)
    return DecodeState(buffer, np.array(length), np.ones(rows, bool), Sampler(Sampling()), Trace(sequence=[0] * rows))


@pytest.fixture(params=ARCHITECTURES)
def raw(request):
    return random_model(request.param)


@torch.inference_mode()
def test_chain_equals_the_plain_forward(raw):
    text = torch.randint(0, V, (1, 30), generator=torch.Generator().manual_seed(1))
    plain = raw(text).logits
    model = Transformer("target", raw)
    model.allocate(1, 40)
    here = context(text, [30], 40)
    for stop, keep in ((12, 1), (13, 1), (20, 7), (30, 10)):
        logits = model.read(here, np.array([stop]), "verify", num_logits=keep).logits
        assert (logits - plain[:, stop - keep : stop]).abs().max() < CLOSE * plain.abs().max()


@pytest.mark.parametrize("idle", [0, 1, 2])
@torch.inference_mode()
def test_ragged_rows_and_forgetting(raw, idle):
    """Rows have different lengths, forget tokens and overwrite their slots. One row, at any place, is not active."""
    text = torch.randint(0, V, (3, 30), generator=torch.Generator().manual_seed(2))
    plain = raw(text).logits
    model = Transformer("target", raw)
    model.allocate(3, 40)
    here = context(text, [30] * 3, 40)
    wrong = context((text + 1) % V, [30] * 3, 40)
    for row, length in enumerate((15, 9, 20)):
        model.read(here, np.full(3, length), "prefill", row=row)
    model.read(wrong, np.array([19, 16, 25]), "draft")
    model.keep(np.array([15, 9, 20]))
    here.active[idle] = False
    stops, held = [18, 16, 25], [18, 16, 25]
    held[idle] = (15, 9, 20)[idle]
    logits = model.read(here, np.array(stops), "verify", num_logits=3).logits
    assert logits.shape == (3, 3, V)
    for row, stop in enumerate(stops):
        if row != idle:
            assert (logits[row] - plain[row, stop - 3 : stop]).abs().max() < CLOSE * plain.abs().max()
    assert model.kv_len == tuple(held)


@torch.inference_mode()
def test_tree_mask_equals_each_branch_on_its_own(raw):
    """Two branches of two tokens behind a common prefix, in scratch slots, equal two separate chains."""
    generator = torch.Generator().manual_seed(3)
    prefix = torch.randint(0, V, (1, 14), generator=generator)
    branches = torch.randint(0, V, (2, 2), generator=generator)
    model = Transformer("target", raw)
    model.allocate(1, 40)
    model.read(context(prefix, [14], 40), np.array([14]), "prefill")
    tokens = branches.reshape(1, 4)  # a1 a2 b1 b2
    positions = torch.tensor([[14, 15, 14, 15]])
    slots = torch.tensor([[20, 21, 22, 23]])
    mask = torch.zeros(1, 4, 40, dtype=torch.bool)
    mask[:, :, :14] = True
    for query, seen in enumerate(((20,), (20, 21), (22,), (22, 23))):
        mask[0, query, list(seen)] = True
    ends = torch.tensor([[1, 3]])
    logits = model.step(tokens, positions, slots, mask, num_logits=ends).logits
    for branch in range(2):
        plain = raw(torch.cat([prefix, branches[branch : branch + 1]], 1)).logits[:, -1]
        assert (logits[0, branch] - plain).abs().max() < CLOSE * plain.abs().max()
    # The chain then overwrites the scratch slots, and their stale positions have no effect.
    chain = torch.randint(0, V, (1, 12), generator=generator)
    whole = torch.cat([prefix, chain], 1)
    logits = model.read(context(whole, [26], 40), np.array([26]), "verify", num_logits=12).logits
    assert (logits - raw(whole).logits[:, 14:]).abs().max() < CLOSE * logits.abs().max()


@torch.inference_mode()
def test_a_wrong_mask_is_seen():
    """Negative control: a query that sees its sibling gives other logits."""
    raw = random_model("llama")
    model = Transformer("target", raw)
    model.allocate(1, 16)
    text = torch.randint(0, V, (1, 4), generator=torch.Generator().manual_seed(4))
    mask = torch.tril(torch.ones(4, 16, dtype=torch.bool))[None].clone()
    right = model.step(text, torch.arange(4)[None], torch.arange(4)[None], mask).logits
    mask[0, 3, 1] = False
    wrong = model.step(text, torch.arange(4)[None], torch.arange(4)[None], mask).logits
    assert (right - wrong).abs().max() > 1e-2


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_truncated_is_the_first_layers_and_shares_slots(architecture):
    raw = random_model(architecture)
    whole = Transformer("target", raw)
    view = whole.truncated(2)
    for model in (whole, view):
        model.allocate(1, 40)
    text = torch.randint(0, V, (1, 20), generator=torch.Generator().manual_seed(5))
    here = context(text, [19], 40)
    whole.read(here, np.array([18]), "prefill")
    read_before = len(here.trace.steps)
    early = view.read(here, np.array([20]), "draft").logits
    assert here.trace.steps[read_before]["tokens"] == 2, "the view need not read what the whole model has read"
    alone = Transformer("alone", view.model)
    alone.allocate(1, 40)
    assert (early - alone.read(here, np.array([20]), "draft").logits).abs().max() < 1e-3
    late = whole.read(here, np.array([20]), "verify", num_logits=2).logits
    assert (late - raw(text).logits[:, 18:]).abs().max() < CLOSE * late.abs().max()


def test_early_exit_beyond_the_depth_is_refused():
    with pytest.raises(InputError, match="choose 1 to 3"):
        Transformer("target", random_model("llama")).truncated(4)


@torch.inference_mode()
def test_padding_is_never_seen(raw):
    """A padding query changes no logits of its own row or of others, whatever its token."""
    text = torch.randint(0, V, (2, 9), generator=torch.Generator().manual_seed(6))
    found = []
    for token in (3, 60):
        model = Transformer("target", raw)
        model.allocate(2, 20)
        model.read(context(text, [9, 9], 20), np.array([5, 5]), "prefill")
        tokens = torch.cat([torch.tensor([[token], [int(text[1, 5])]]), text[:, 5:6] + torch.tensor([[0], [1]])], 1) % V
        positions = torch.tensor([[FAR, 5], [5, 6]])
        slots = torch.tensor([[model.slots, 5], [5, 6]])
        output = model.step(tokens, positions, slots, num_logits=2, attend_len=7)
        later = model.read(context(text, [9, 9], 20), np.array([9, 9]), "verify")
        found.append((output.logits[0, 1], output.logits[1], later.logits))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    plain = raw(text[:1, :6]).logits[0, -1]
    assert (found[0][0] - plain).abs().max() < CLOSE * plain.abs().max()


@torch.inference_mode()
def test_kv_len_counts_what_the_cache_holds():
    model = Transformer("target", random_model("llama", layers=2))
    model.allocate(2, 20)
    here = context(torch.ones(2, 12, dtype=torch.long), [12, 12], 20)
    model.read(here, np.array([5, 7]), "verify")
    assert model.kv_len == (5, 7)
    model.forget(1, 6)
    model.keep([9, 9])  # more than it holds
    assert model.kv_len == (5, 6)
    model.move([1], [[10, 12, 14]], [6])
    assert model.kv_len == (5, 9)
    model.reset(0)
    assert model.kv_len == (0, 9)
    model.allocate(2, 20)
    assert model.kv_len == (0, 0)
