"""What a waiting core rehearses: the pieces of the first layer, short ones alone, and nothing comes of it."""

import pytest
import torch

from sdbench.lm.programs.base import execution_of
from sdbench.lm.transformer import Transformer
from tests.conftest import ARCHITECTURES, V, random_model
from tests.lm.test_execution import chain


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_of_a_small_layer_is_rehearsed_and_no_logit_changes(architecture, monkeypatch):
    monkeypatch.setattr(cache_warming, "PIECE_SECONDS", 10.0)
    model = Transformer("target", random_model(architecture), V)
    with torch.inference_mode():
        before = chain(model)
        ran = []
        run = model.cache_warming.rehearsal()
        assert run is not None
        assert model.cache_warming.rehearsal() is run
        for module in model.model.modules():
            module.register_forward_pre_hook(lambda module, _: ran.append(module))
        for _ in range(200):
            run()
        pieces, layers = set(ran), [part for part in model.model.modules() if type(part).__name__.endswith("Layer")]
        others = {leaf for layer in layers[1:] for leaf in layer.modules()}
        assert len(pieces) > 4
        assert not pieces & others
        assert all(torch.equal(a.logits, b.logits) for a, b in zip(before, chain(model), strict=True))


def test_of_a_large_layer_nothing_is(monkeypatch):
    monkeypatch.setattr(cache_warming, "PIECE_SECONDS", 0.0)
    model = Transformer("target", random_model("llama"), V)
    with torch.inference_mode():
        chain(model)
        assert model.cache_warming.rehearsal() is None


def test_neither_is_a_program():
    model = Transformer("target", random_model("llama"), V, execution_of("compile"))
    model.allocate(1, 40)
    assert model.cache_warming.rehearsal() is None


def test_another_process_gets_no_rehearsal(monkeypatch):
    monkeypatch.setattr(cache_warming, "PIECE_SECONDS", 10.0)
    model = Transformer("target", random_model("llama"), V)
    with torch.inference_mode():
        chain(model)
        assert model.cache_warming.rehearsal() is not None
    assert model.bare()._rehearsal == []
