"""Train one model. The result depends only on the recipe. An interrupted training continues from its checkpoint."""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sdbench.training.muon import Muon
from sdbench.training.tiny.accuracy import held_out
from sdbench.training.tiny.data import Batch, Corpus
from sdbench.training.tiny.losses import completion_loss
from sdbench.training.tiny.network import build, grown
from sdbench.training.tiny.recipe import ModelRecipe, TrainRecipe
from sdbench.training.tiny.tokenizer import pad_and_eos

_CLIP = 1.0  # the largest norm of the gradients
_BETAS = (0.9, 0.95)  # of AdamW; the common values for language models


class Trainer:
    """Trains one model.

    folder: contains the checkpoint, which includes the log. The trainer writes a checkpoint after every pool of batches. So the
    checkpoint needs no position within a pool.
    """

    def __init__(self, recipe: TrainRecipe, role: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        self._recipe = recipe
        self._shape: ModelRecipe = recipe.models[role]
        self._role = role
        self._tokenizer = tokenizer
        self._folder = folder
        self._corpus = Corpus(
            tokenizer,
            recipe.mixture,
            recipe.late_mixture,
            self._shape.late_pool,
            recipe.seed,
            self._shape.batch_tokens,
            recipe.pool_texts,
            recipe.block_tokens,
            recipe.packed_every,
        )
        self.model = self._build(self._shape.first_layers)
        self._optimizers = self._new_optimizers()
        self.log: list[dict[str, Any]] = []
        self.step = self._pool = self._tokens = 0
        self._seconds = 0.0

    def train(self) -> LlamaForCausalLM:
        """Train to the last step, from the checkpoint if there is one. Returns the trained model."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._checkpoint.exists():
            self._load()
        while self.step < self._shape.steps:
            for batch in self._corpus.pool(self._pool):
                if self.step == self._shape.steps:
                    break
                self._take_step(batch)
            self._pool += 1
            self._save()
        return self.model

    def _take_step(self, batch: Batch) -> None:
        started = time.perf_counter()
        if self.step == self._shape.grow_at and self._shape.layers > self._shape.first_layers:
            self.model = grown(self.model, self._build(self._shape.layers))
            self._optimizers = self._new_optimizers()
        rate = self._shape.learning_rate * self._schedule(self.step)
        loss = completion_loss(self.model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self._tokens += batch.tokens.numel()
        self._seconds += time.perf_counter() - started
        if self.step % self._recipe.log_every == 0 or self.step == self._shape.steps:
            self._write_log(loss.item())

    def _schedule(self, step: int) -> float:
        """Return the learning rate of a step as a share of the highest rate."""
        warmup = (step + 1) / self._recipe.warmup_steps
        decay = (self._shape.steps - step) / self._shape.decay_steps
        return min(1.0, warmup, decay)

    def _build(self, layers: int) -> LlamaForCausalLM:
        pad_token, eos_token = pad_and_eos(self._tokenizer)
        model = build(self._shape, layers, len(self._tokenizer), self._recipe.positions, pad_token, eos_token)
        model.train()
        return model

    def _new_optimizers(self) -> list[torch.optim.Optimizer]:
        matrices = [p for p in self.model.model.layers.parameters() if p.ndim == 2]
        inside = {id(p) for p in matrices}
        others = [p for p in self.model.parameters() if id(p) not in inside]
        return [
            Muon(matrices, lr=0.0, weight_decay=self._recipe.weight_decay),
            torch.optim.AdamW(others, lr=0.0, betas=_BETAS, weight_decay=0.0, fused=True),
        ]

    @property
    def _checkpoint(self) -> Path:
        return self._folder / "checkpoint.pt"

    def _save(self) -> None:
        state = {
            "layers": len(self.model.model.layers),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "log": self.log,
            "step": self.step,
            "pool": self._pool,
            "tokens": self._tokens,
            "seconds": self._seconds,
        }
        unfinished = self._checkpoint.with_suffix(".part")
        torch.save(state, unfinished)
        os.replace(unfinished, self._checkpoint)

    def _load(self) -> None:
        state = torch.load(self._checkpoint, weights_only=True)
        self.model = self._build(state["layers"])
        self.model.load_state_dict(state["model"])
        self._optimizers = self._new_optimizers()
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.log = state["log"]
        self.step, self._pool = state["step"], state["pool"]
        self._tokens, self._seconds = state["tokens"], state["seconds"]

    def _write_log(self, loss: float) -> None:
        row = {
            "role": self._role,
            "step": self.step,
            "tokens": self._tokens,
            "seconds": round(self._seconds, 1),
            "train_loss": round(loss, 4),
            **held_out(self.model, self._tokenizer, self._recipe.mixture),
        }
        self.log.append(row)
        print(json.dumps(row), flush=True)
