"""Measure a model on held-out texts by teacher forcing, which is cheap enough during training."""

from collections.abc import Iterable

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sdbench.tasks.texts import generate
from sdbench.training.tiny.data import encode, pad
from sdbench.training.tiny.tokenizer import pad_and_eos

WATCHED_TEXTS = 64
WATCHED_SEED = 1


@torch.inference_mode()
def held_out(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, kinds: Iterable[str], texts: int = WATCHED_TEXTS
) -> dict[str, float]:
    """Measure a model on held-out texts of each kind.

    kinds: names of generators. texts: the number of texts of each kind.

    Returns three values for each kind. `loss` is in nats per completion token. `tokens_right` is the share of completion tokens
    that the model finds most likely. `texts_right` is the share of completions that greedy decoding reproduces.
    """
    model.eval()
    pad_token, _ = pad_and_eos(tokenizer)
    measured = {}
    for kind in kinds:
        examples = [encode(tokenizer, generate(kind, "test", WATCHED_SEED, index)) for index in range(texts)]
        batch = pad(examples, pad_token)
        logits = model(input_ids=batch.tokens[:, :-1], use_cache=False).logits
        wanted, counted = batch.tokens[:, 1:], batch.counted[:, 1:]
        right = logits.argmax(-1) == wanted
        loss = torch.nn.functional.cross_entropy(logits[counted].float(), wanted[counted])
        measured[f"{kind}_loss"] = round(loss.item(), 4)
        measured[f"{kind}_tokens_right"] = round(right[counted].float().mean().item(), 4)
        measured[f"{kind}_texts_right"] = round((right | ~counted).all(1).float().mean().item(), 4)
    model.train()
    return measured
