"""A step over the slot pool against each architecture's own plain forward, on random weights."""

import numpy as np
import pytest
import torch

from sdbench.errors import InputError
from sdbench.lm.model import FAR
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer, aligned
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
    """Two branches of two tokens behind a common prefix, in scratch slots, against two separate chains."""
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
    # The chain goes on over the scratch slots' stale positions as if nothing had been there.
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
    assert here.trace.steps[read_before]["tokens"] == 2, "what the whole model has read, its first layers know"
    alone = Transformer("alone", view.model)
    alone.allocate(1, 40)
    assert (early - alone.read(here, np.array([20]), "draft").logits).abs().max() < 1e-3
    late = whole.read(here, np.array([20]), "verify", num_logits=2).logits
    assert (late - raw(text).logits[:, 18:]).abs().max() < CLOSE * late.abs().max()


def test_early_exit_beyond_the_depth_is_refused():
    with pytest.raises(InputError, match="choose 1 to 3"):
        Transformer("target", random_model("llama")).truncated(4)


def test_padding_sees_everything_and_is_never_seen():
    assert FAR > 10**8, "no real position may reach the padding's"


@pytest.mark.parametrize(("rows", "width", "attend_len"), [(1, 1, 13), (1, 5, 16), (3, 4, 21)])
def test_masks_for_a_gpu_begin_at_round_addresses(rows, width, attend_len):
    band = torch.randn(1, 1, width, 64)
    cut = band.narrow(3, 3, attend_len).expand(rows, -1, -1, -1)  # a lone row counts as contiguous, wherever it begins
    mask = aligned(cut)
    assert torch.equal(mask, cut)
    assert mask.storage_offset() == 0
    assert all(stride % 8 == 0 for stride in mask.stride()[:-1])
