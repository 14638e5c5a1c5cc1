"""The loop that every recipe trains with: steps up to a budget of tokens, a checkpoint, a log, and the time that is left."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from sdbench import validate
from sdbench.errors import InputError

CLIP = 1.0  # the largest norm of the gradients
BETAS = (0.9, 0.95)  # of AdamW; the common values for language models


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a recipe trains.

    tokens: the budget. A recipe counts the tokens whose loss it computes, before a mask drops some of them, so recipes with the
    same budget have read the same amount of text. batch_tokens: the size of a batch with its padding. learning_rate: the highest
    one. warmup: the share of the budget in which it rises; then it falls along a cosine to a tenth. Errors: InputError.
    """

    tokens: int
    batch_tokens: int = 2048
    learning_rate: float = 3e-4
    warmup: float = 0.05
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        validate.whole("recipe.tokens", self.tokens, 1)
        validate.whole("recipe.batch_tokens", self.batch_tokens, 1)
        validate.number("recipe.learning_rate", self.learning_rate, 0, bounds="(]")
        validate.number("recipe.warmup", self.warmup, 0, 1, "[)")
        validate.number("recipe.weight_decay", self.weight_decay, 0)

    def rate(self, done: float) -> float:
        """Return the learning rate when a share of the budget is done."""
        if done < self.warmup:
            return self.learning_rate * max(done / self.warmup, 0.01)
        behind = min((done - self.warmup) / (1 - self.warmup), 1.0)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * behind)))


@dataclass
class Loss:
    """The loss of a batch. value: the scalar. tokens: how many tokens count towards the budget. notes: numbers for the log."""

    value: Tensor
    tokens: int
    notes: Mapping[str, float] = field(default_factory=dict)


Batches = Callable[[int], Iterable[Any]]  # the batches of a pass over the data, by its number


class Optimiser:
    """Train weights.

    weights: by name. schedule: the budget. folder: for the checkpoint. said: gets each row of the log.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        schedule: Schedule,
        folder: Path,
        said: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.weights, self.schedule, self._folder, self._said = dict(weights), schedule, folder, said
        groups = [
            {"params": [w for w in self.weights.values() if w.ndim > 1], "weight_decay": schedule.weight_decay},
            {"params": [w for w in self.weights.values() if w.ndim <= 1], "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=BETAS)
        self.log: list[dict[str, Any]] = []
        self.steps = self.tokens = self._pass = self._within = 0
        self.seconds = 0.0
        self._notes: dict[str, float] = {}
        self._noted = 0

    @property
    def done(self) -> float:
        """Return the share of the budget that is done."""
        return self.tokens / self.schedule.tokens

    def run(
        self,
        batches: Batches,
        loss_of: Callable[[Any], Loss],
        watch: Callable[[], Mapping[str, float]] | None = None,
        every: int = 50,
        keep_every: int = 200,
        after: Callable[[], None] | None = None,
    ) -> None:
        """Train to the end of the budget, from the checkpoint if there is one.

        batches: the batches of a pass. They must depend on its number only, so that a killed training goes on in the middle.
        watch: measures on held-out data, each time a row of the log is due. every, keep_every: steps between rows and checkpoints.
        after: called after each step, such as to put pruned weights back to zero.
        """
        self._load()
        while self.tokens < self.schedule.tokens:
            begun, some = self._within, False
            for number, batch in enumerate(batches(self._pass)):
                some = True
                if number < begun:
                    continue
                self.step(batch, loss_of)
                if after is not None:
                    after()
                self._within = number + 1
                last = self.tokens >= self.schedule.tokens
                if self.steps % every == 0 or last:
                    self._row(watch)
                if self.steps % keep_every == 0 or last:
                    self._save()
                if last:
                    return
            if not some:
                raise ValueError("a pass over the data has no batch")
            self._pass, self._within = self._pass + 1, 0

    def step(self, batch: Any, loss_of: Callable[[Any], Loss]) -> Loss:
        """Take one step. Errors: InputError if the loss is no finite number."""
        begun = perf_counter()
        loss = loss_of(batch)
        found = float(loss.value.detach())
        if not math.isfinite(found):
            raise InputError(
                f"The loss of step {self.steps} is {found}: take a recipe.learning_rate below {self.schedule.learning_rate:g}, and "
                "another out."
            )
        loss.value.backward()
        nn.utils.clip_grad_norm_(self.weights.values(), CLIP)
        for group in self._adam.param_groups:
            group["lr"] = self.schedule.rate(self.done)
        self._adam.step()
        self._adam.zero_grad()
        self.steps += 1
        self.tokens += loss.tokens
        self.seconds += perf_counter() - begun
        for name, value in {"loss": found, **loss.notes}.items():
            self._notes[name] = self._notes.get(name, 0.0) + value
        self._noted += 1
        return loss

    def _row(self, watch: Callable[[], Mapping[str, float]] | None) -> None:
        means = {name: round(total / self._noted, 5) for name, total in self._notes.items()}
        self._notes, self._noted = {}, 0
        row = {"step": self.steps, "tokens": self.tokens, "seconds": round(self.seconds, 1), **means}
        row |= {} if watch is None else {f"held_out_{name}": round(value, 5) for name, value in watch().items()}
        self.log.append(row)
        left = self.seconds * (1 - self.done) / max(self.done, 1e-9)
        print(
            f"sdbench: {min(self.done, 1):4.0%}  {max(left, 0) / 60:.1f} minutes left  {json.dumps(row)}",
            file=sys.stderr,
            flush=True,
        )
        if self._said is not None:
            self._said(row)

    @property
    def _checkpoint(self) -> Path:
        return self._folder / "checkpoint.pt"

    def _save(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        state = {
            "weights": {name: weight.detach() for name, weight in self.weights.items()},
            "adam": self._adam.state_dict(),
            "log": self.log,
            "counts": [self.steps, self.tokens, self._pass, self._within, self.seconds],
            "notes": [self._notes, self._noted],
        }
        unfinished = self._checkpoint.with_suffix(".part")
        torch.save(state, unfinished)
        os.replace(unfinished, self._checkpoint)

    def _load(self) -> None:
        if not self._checkpoint.exists():
            return
        state = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state["weights"][name])
        self._adam.load_state_dict(state["adam"])
        self.log = state["log"]
        self.steps, self.tokens, self._pass, self._within, self.seconds = state["counts"]
        self._notes, self._noted = state["notes"]
