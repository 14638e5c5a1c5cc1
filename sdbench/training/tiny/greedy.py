"""Decode greedy answers of a model, and measure how often another model finds the same tokens most likely."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sdbench.training.tiny.tokenizer import pad_and_eos

BATCH = 50
LONGEST_ANSWER = 192  # tokens; every reference completion is shorter


@torch.inference_mode()
def greedy_answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]
) -> list[list[int]]:
    """Decode a greedy answer to each prompt. Returns token ids, up to the end of sequence or LONGEST_ANSWER tokens."""
    model.eval()
    _, eos = pad_and_eos(tokenizer)
    answers: list[list[int]] = []
    for first in range(0, len(prompts), BATCH):
        batch = tokenizer(list(prompts[first : first + BATCH]), padding=True, padding_side="left", return_tensors="pt")
        written = cast(Any, model).generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=LONGEST_ANSWER,
            do_sample=False,
        )
        for row in written[:, batch["input_ids"].shape[1] :].tolist():
            answers.append(row[: row.index(eos) + 1] if eos in row else row)
    return answers


@torch.inference_mode()
def agreement(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], answers: Sequence[list[int]]
) -> float:
    """Return the share of the answers' tokens that `model` finds most likely, given the prompt and the earlier tokens."""
    model.eval()
    same = total = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        context: list[int] = tokenizer.encode(prompt)
        tokens: Int[Tensor, "1 T"] = torch.tensor([context + answer])
        predicted = model(input_ids=tokens[:, :-1], use_cache=False).logits[0, len(context) - 1 :].argmax(-1)
        same += int((predicted == torch.tensor(answer)).sum())
        total += len(answer)
    return same / total
