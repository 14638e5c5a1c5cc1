"""A target with few parameters and sharp laws, a source of sequences, and a training on them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as t

from sdbench.training.corpus import Sample
from sdbench.training.job import Job
from sdbench.training.recipes.distill import Distill
from sdbench.training.writer import Writer
from tests.tasks.tokenizers_made import CHAT, byte_level

LAYERS = 3


def target_folder(folder: Path, seed: int = 0, init: float = 0.3) -> Path:
    """Write a target with random weights. Its laws are far from those of its first layer, so a draft of that has much to learn."""
    torch.manual_seed(seed)
    tokenizer = byte_level(300, template=CHAT)
    config = t.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, bos_token_id=0, eos_token_id=1, pad_token_id=None,
        initializer_range=init, tie_word_embeddings=True,
    )  # fmt: skip
    t.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Drawn:
    """A source of random sequences. stop_after: chunks before it is killed. count: of its chunks."""

    def __init__(self, name: str = "drawn", stop_after: int | None = None, count: int = 64) -> None:
        self.name, self.stop_after, self.count = name, stop_after, count

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": self.name}

    def chunks(self, writer: Writer, have: Sequence[Sample], seed: int) -> Iterator[list[Sample]]:
        begin = len(have) // 16
        for chunk in range(begin, self.count):
            if self.stop_after is not None and chunk - begin >= self.stop_after:
                raise KeyboardInterrupt
            rng = random.Random(f"{self.name}/{seed}/{chunk}")
            rows = [[rng.randrange(3, 12) for _ in range(rng.randrange(8, 30))] for _ in range(16)]
            yield [Sample(row, 3, f"{self.name}/{chunk}/{place}") for place, row in enumerate(rows)]


def job(target: Path, folder: Path, **more: Any) -> Job:
    entry = {"target": {"path": str(target)}}
    return Job(entry, folder / "model", **{"work": folder / "work", **more})


def recipe(**more: Any) -> Distill:
    settings = {"tokens": 3000, "batch_tokens": 256, "vocabulary": 200, "top": 24, "learning_rate": 1e-2}
    return Distill(**{"layers": [0], "data": Drawn(), "data_tokens": 1500, **settings, **more})
