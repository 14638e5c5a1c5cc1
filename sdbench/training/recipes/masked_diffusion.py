"""Train a masked diffusion language model (LLaDA, 2502.09992) on the texts of the tiny family, and write its folder.

The network is a Llama whose layers attend in both directions. A text is a prompt and a canvas: the completion, filled up with the
end of sequence. The loss is the mean cross-entropy of masked positions of the canvas; LLaDA also weights by the share of masks.
A part of the texts have their masks as in decoding by blocks: the blocks before are known, and the blocks behind are masked.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sdbench import validate
from sdbench.errors import InputError
from sdbench.lm.diffusion import DiffusionTransformer
from sdbench.tasks.texts import generate
from sdbench.training.job import Job
from sdbench.training.muon import Muon
from sdbench.training.package import write_checksums, write_log, write_model
from sdbench.training.tiny.data import Example, encode
from sdbench.training.tiny.tokenizer import pad_and_eos, tokenizer_texts, train_tokenizer

MASK = "<mask>"
_CLIP = 1.0  # the largest norm of the gradients
_BETAS = (0.9, 0.95)  # of AdamW; the common values for language models


@dataclass(frozen=True)
class Canvases:
    """Hold a batch. tokens: texts with their masks, aligned on the right. wanted: without masks. lengths: of each text.

    counted: the positions of the loss.
    """

    tokens: Int[Tensor, "B T"]
    wanted: Int[Tensor, "B T"]
    lengths: Int[Tensor, " B"]
    counted: Bool[Tensor, "B T"]


class MaskedDiffusion:
    """Train one model.

    mixture: the share of each kind of text. layers, width, heads, mlp_width: of the network. rows: texts of a batch. warmup_steps,
    decay_steps: the learning rate rises over the first ones, and falls to zero over the last. canvas: the longest completion, in
    tokens; longer texts are left out. in_order: the share of texts whose masks lie as in decoding by blocks of `block` positions.
    vocabulary: tokens, before the mask token. positions: the longest input. pool_texts: drawn together and sorted by length. A
    checkpoint follows each pool. held_out_texts: of each kind, for the log. threads: of torch.
    """

    def __init__(
        self,
        mixture: Mapping[str, float],
        layers: int,
        width: int,
        heads: int,
        mlp_width: int,
        steps: int,
        warmup_steps: int,
        decay_steps: int,
        rows: int,
        learning_rate: float,
        weight_decay: float,
        canvas: int,
        in_order: float,
        block: int,
        vocabulary: int,
        positions: int,
        tokenizer_texts: int,
        pool_texts: int,
        held_out_texts: int,
        log_every: int,
        threads: int,
        seed: int,
    ) -> None:
        self.knobs = {name: value for name, value in locals().items() if name not in ("self", "mixture")}
        for name, value in self.knobs.items():
            if name not in ("learning_rate", "weight_decay", "in_order", "seed"):
                validate.whole(f"recipe.{name}", value, 1)
        validate.number("recipe.learning_rate", learning_rate, 0)
        validate.number("recipe.weight_decay", weight_decay, 0)
        validate.number("recipe.in_order", in_order, 0, 1)
        if width % heads:
            raise InputError(f"recipe.width is {width}, which recipe.heads={heads} does not divide.")
        self.knobs["mixture"] = dict(mixture)
        self.mixture, self.steps, self.rows, self.seed = dict(mixture), steps, rows, seed
        self.warmup_steps, self.decay_steps = warmup_steps, decay_steps
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.canvas, self.in_order, self.block, self.positions = canvas, in_order, block, positions
        self.pool_texts, self.held_out_texts = pool_texts, held_out_texts
        self.log_every, self.threads = log_every, threads
        self.tokenizer = _tokenizer(seed, tokenizer_texts, vocabulary, positions)
        self.mask_token = self.tokenizer.get_vocab()[MASK]
        pad, self.eos = pad_and_eos(self.tokenizer)
        torch.manual_seed(seed)
        of_class: dict[str, Any] = {"is_causal": False, "mask_token_id": self.mask_token, "attn_implementation": "sdpa"}
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=width,
                intermediate_size=mlp_width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=heads,
                max_position_embeddings=positions,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=self.eos,
                pad_token_id=pad,
                **of_class,
            )
        )
        self.lm = DiffusionTransformer("target", self.model)
        self.optimizers = self._optimizers()
        self.log: list[dict[str, Any]] = []
        self.step = self.pool = self.tokens = 0
        self.seconds = 0.0

    def run(self, job: Job) -> dict[str, Any]:
        """Train into the job's folder. It needs no target."""
        return self.train(job.out, job.state)

    def train(self, out: Path, work: Path) -> dict[str, Any]:
        """Train to the last step, from the checkpoint in `work` if there is one. Write the model, its card and its log into `out`.

        Returns: the last row of the log. Errors: InputError if `work` holds the training of another recipe.
        """
        torch.set_num_threads(self.threads)
        self._prepare(work)
        if (work / "checkpoint.pt").exists():
            self._load(work / "checkpoint.pt")
        while self.step < self.steps:
            batches = self._pool(self.pool)
            if not batches:
                raise InputError(
                    f"No text of a pool fits: raise recipe.canvas={self.canvas}, or recipe.pool_texts={self.pool_texts}."
                )
            for examples in batches[: self.steps - self.step]:
                self._take_step(examples)
            self.pool += 1
            self._save(work / "checkpoint.pt")
        out.mkdir(parents=True, exist_ok=True)
        write_model(self.model, self.tokenizer, out / "target")
        write_log({"target": self.log}, out / "training_log.json")
        (out / "README.md").write_text(self._card())
        write_checksums(out)
        return self.log[-1]

    def _take_step(self, examples: list[Example]) -> None:
        begun = time.perf_counter()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        batch = self.masked(examples, generator)
        loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        share = min(1.0, (self.step + 1) / self.warmup_steps, (self.steps - self.step) / self.decay_steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * share
            optimizer.step()
            optimizer.zero_grad()
        self.step, self.tokens = self.step + 1, self.tokens + batch.tokens.numel()
        self.seconds += time.perf_counter() - begun
        if self.step % self.log_every == 0 or self.step == self.steps:
            row = {"role": "target", "step": self.step, "tokens": self.tokens, "seconds": round(self.seconds, 1)}
            self.log.append({**row, "train_loss": round(loss.item(), 4), **self._held_out()})
            print(json.dumps(self.log[-1]), flush=True)

    def masked(self, examples: list[Example], generator: torch.Generator) -> Canvases:
        """Make a batch of canvases of one size, which is random, and draw their masks."""
        longest = max(len(example.tokens) - example.prompt_tokens for example in examples)
        size = int(torch.randint(longest, self.canvas + 1, (), generator=generator))
        lengths = torch.tensor([example.prompt_tokens + size for example in examples])
        wanted = torch.full((len(examples), int(lengths.max())), self.eos)
        masks = torch.zeros_like(wanted, dtype=torch.bool)
        counted = masks.clone()
        for row, example in enumerate(examples):
            first = wanted.shape[1] - int(lengths[row])
            wanted[row, first : first + len(example.tokens)] = torch.tensor(example.tokens)
            masks[row, -size:], counted[row, -size:] = self._drawn(size, generator)
        return Canvases(wanted.masked_fill(masks, self.mask_token), wanted, lengths, counted)

    def _drawn(self, size: int, generator: torch.Generator) -> tuple[Bool[Tensor, " L"], Bool[Tensor, " L"]]:
        """Draw the masks of a canvas. Return them, and those that the loss counts."""
        share, kind, where = torch.rand(3, generator=generator).tolist()
        place = torch.arange(size)
        masks = torch.rand(size, generator=generator) < share
        if kind >= self.in_order:
            masks[int(where * size)] = True
            return masks, masks
        # Blocks before the current one are known, and blocks behind it are masked. The loss counts one of these.
        first = int(where * size) // self.block * self.block
        end = min(first + self.block, size)
        masks[first + int(torch.randint(end - first, (), generator=generator))] = True
        masks = (masks | (place >= end)) & (place >= first)
        return masks, masks & (place < end + self.block)

    def loss(self, batch: Canvases) -> Float[Tensor, ""]:
        """Return the mean cross-entropy of the counted positions, in nats."""
        columns = torch.arange(batch.tokens.shape[1] - self.canvas, batch.tokens.shape[1]).clamp(min=0)
        logits = self.lm.predict(batch.tokens, batch.lengths, columns)
        counted = batch.counted[:, columns]
        return torch.nn.functional.cross_entropy(logits[counted], batch.wanted[:, columns][counted])

    @torch.inference_mode()
    def _held_out(self) -> dict[str, float]:
        """Measure on held-out texts: the loss of one batch of each kind, and the share of right tokens."""
        measured = {}
        for kind in self.mixture:
            examples = [self._encoded(kind, "test", 1, index) for index in range(self.held_out_texts)]
            kept = [example for example in examples if example is not None]
            batch = self.masked(kept, torch.Generator().manual_seed(0))
            best = self.lm.predict(batch.tokens, batch.lengths, torch.arange(batch.tokens.shape[1])).argmax(-1)
            measured[f"{kind}_loss"] = round(self.loss(batch).item(), 4)
            measured[f"{kind}_tokens_right"] = round((best == batch.wanted)[batch.counted].float().mean().item(), 4)
        return measured

    def _pool(self, number: int) -> list[list[Example]]:
        """Make the batches of a pool, which depend on the seed and its number only."""
        rng = random.Random(f"pool/{self.seed}/{number}")
        kinds = rng.choices(list(self.mixture), weights=list(self.mixture.values()), k=self.pool_texts)
        first = number * self.pool_texts
        found = [self._encoded(kind, "train", self.seed, first + index) for index, kind in enumerate(kinds)]
        examples = sorted((one for one in found if one is not None), key=lambda one: len(one.tokens))
        batches = [examples[at : at + self.rows] for at in range(0, len(examples), self.rows)]
        rng.shuffle(batches)
        return batches

    def _encoded(self, kind: str, split: str, seed: int, index: int) -> Example | None:
        example = encode(self.tokenizer, generate(kind, split, seed, index))
        return example if len(example.tokens) - example.prompt_tokens <= self.canvas else None

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        matrices = [weight for weight in self.model.model.layers.parameters() if weight.ndim == 2]
        inside = {id(weight) for weight in matrices}
        others = [weight for weight in self.model.parameters() if id(weight) not in inside]
        return [
            Muon(matrices, lr=0.0, weight_decay=self.weight_decay),
            torch.optim.AdamW(others, lr=0.0, betas=_BETAS, weight_decay=0.0, fused=True),
        ]

    def _prepare(self, work: Path) -> None:
        """Make the folder of the checkpoints that of this recipe, or refuse."""
        work.mkdir(parents=True, exist_ok=True)
        written, wanted = work / "recipe.json", json.dumps(self.knobs, sort_keys=True)
        if written.exists() and written.read_text() != wanted:
            raise InputError(f"{work} holds the training of another recipe: choose another folder, or delete it.")
        written.write_text(wanted)

    def _save(self, file: Path) -> None:
        counts = {name: getattr(self, name) for name in ("log", "step", "pool", "tokens", "seconds")}
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        unfinished = file.with_suffix(".part")
        torch.save({"model": self.model.state_dict(), "optimizers": optimizers, "counts": counts}, unfinished)
        os.replace(unfinished, file)

    def _load(self, file: Path) -> None:
        state = torch.load(file, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name, value in state["counts"].items():
            setattr(self, name, value)

    def _card(self) -> str:
        last, parameters = self.log[-1], sum(weight.numel() for weight in self.model.parameters())
        shown = [f"| {name} | {value} |" for name, value in {**self.knobs, "parameters": parameters}.items()]
        measured = [f"| {name} | {value} |" for name, value in last.items() if name not in ("role", "step")]
        return "\n".join(
            [
                "---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n",
                "# A small masked diffusion model\n",
                "It writes the worked solutions of the task wordproblems, in blocks. The recipe `masked_diffusion` of",
                "`sdbench train` writes this card. The arms `diffusion` and `diffusion_ssd` decode the model.\n",
                "## Recipe\n\n| knob | value |\n|---|---|",
                *shown,
                f"\n## Measured at step {last['step']}\n",
                "Loss in nats per counted position, and the share of right tokens, on held-out texts.\n\n| | value |\n|---|---|",
                *measured,
                "",
            ]
        )


def _tokenizer(seed: int, texts: int, vocabulary: int, positions: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer of the tiny family on its texts, and add the mask token behind its vocabulary."""
    tokenizer = train_tokenizer(tokenizer_texts(seed, texts), vocabulary, positions)
    tokenizer.add_special_tokens({"mask_token": MASK})
    return tokenizer
