"""The head of a model gets inputs with plain strides, for which torch does not copy its weight."""

from __future__ import annotations

import torch

from sdbench.lm.transformer import Transformer
from tests.conftest import random_model


def test_the_last_of_several_tokens_has_plain_strides():
    model = random_model("llama")
    Transformer("target", model)
    lm = Transformer("target", model)
    lm.allocate(1, 16)
    strides = []
    head = model.get_output_embeddings()
    assert len(head._forward_pre_hooks) == 1, "two views of a model add one hook"
    head.register_forward_pre_hook(lambda module, given: strides.append((given[0].stride(), given[0].shape)))
    tokens = torch.arange(6)[None]
    with torch.inference_mode():
        lm.step(tokens, tokens, None, num_logits=1, attend_len=6)
    ((stride, shape),) = strides
    assert stride == (shape[1] * shape[2], shape[2], 1)
