"""Train the network of a length policy: the decision model of Improving MCSD (2409.10644), or PACER's pre-verifier (2602.01274).

Target and draft read the target's texts once. A replay of speculative decoding says what was drafted there and where rounds end
(`sdbench.training.rounds`). The loss is the binary cross-entropy with the label min(1, p(x) / q(x)) of the drafted token x, as in
the paper. At temperature 0 the label is 1 where both models have the same most likely token, else 0.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sdbench import validate
from sdbench.drafting.lengths.acceptance_network import AcceptanceNetwork, NetworkShape
from sdbench.errors import InputError
from sdbench.models.identity import model_identity
from sdbench.sampling import Sampling, Scored, warp
from sdbench.training.corpus import Corpus, Sample
from sdbench.training.draft_of_family import DraftOfFamily, draft_of, generator, logits_behind
from sdbench.training.job import Job
from sdbench.training.optimise import Loss, Optimiser, Schedule
from sdbench.training.rounds import depths, drafted
from sdbench.training.sources.base import Source

POLICIES = ("decision_model", "pacer")
SHARD = 256  # sequences in a file


@dataclass(frozen=True)
class Drafted:
    """Drafted tokens of many rounds, in the order of the texts.

    features: [N, F], of every position of the answers. label: [N]. depth: [N], see `sdbench.training.rounds.depths`.
    """

    features: Float[Tensor, "N F"]
    label: Float[Tensor, " N"]
    depth: Int[Tensor, " N"]

    @cached_property
    def places(self) -> Int[Tensor, " M"]:
        """Return the positions at which a token was drafted."""
        return (self.depth >= 0).nonzero()[:, 0]

    def blocks(self, at: Int[Tensor, " M"], size: int) -> tuple[Float[Tensor, "M b F"], Int[Tensor, " M"]]:
        """Return the blocks up to some drafted tokens, with zeros behind these, and the places of the tokens in them."""
        place = self.depth[at] % size
        where = (at - place)[:, None] + torch.arange(size)
        inside = (torch.arange(size) <= place[:, None])[..., None]
        return torch.where(inside, self.features[where.clamp(max=len(self.label) - 1)], 0.0), place


class LengthPolicy:
    """Train the network of a length policy for the target and the draft of the family.

    policy: decision_model or pacer. data: the source of the texts; they must have the temperature of this recipe.
    data_tokens: answer tokens to collect. tokens: the budget, in drafted tokens. batch_tokens: of a batch.
    learning_rate, warmup, weight_decay: see `sdbench.training.optimise.Schedule`.
    temperature: of the decoding that the policy is for. draft_length: the longest draft of the replay.
    features: what the network reads of each drafted token, see `sdbench.drafting.lengths.acceptance_network`. top: how many of the
    largest probabilities. widths: of the hidden layers. block: tokens of a block; the decision model judges single tokens.

    The released code of the decision model has Adam at 1e-3 and batches of 50, for 10 passes over the data. For entropy and the ten
    largest probabilities it has one hidden layer of 44, for the hidden state of a draft of width 768 two of 512 and 256.
    """

    def __init__(
        self,
        policy: str,
        data: Source,
        data_tokens: int = 200_000,
        tokens: int = 1_000_000,
        batch_tokens: int = 256,
        learning_rate: float = 1e-3,
        warmup: float = 0.05,
        weight_decay: float = 0.0,
        temperature: float = 1.0,
        draft_length: int = 8,
        features: Sequence[str] = ("entropy", "top"),
        top: int = 10,
        widths: Sequence[int] = (44,),
        block: int = 1,
    ) -> None:
        self.policy, self.data = validate.choice("recipe.policy", policy, POLICIES), data
        self.data_tokens = validate.whole("recipe.data_tokens", data_tokens, 1)
        validate.whole("recipe.tokens", tokens, 1)
        validate.whole("recipe.batch_tokens", batch_tokens, 1)
        self.schedule = Schedule(tokens, batch_tokens, learning_rate, warmup, weight_decay)
        self.sampling = Sampling(validate.number("recipe.temperature", temperature, 0))
        self.draft_length = validate.whole("recipe.draft_length", draft_length, 1)
        self.features, self.top, self.widths, self.block = tuple(features), top, tuple(widths), block
        if policy == "decision_model" and block != 1:
            raise InputError(
                f"recipe.block is {block}, but a decision model judges single tokens: take 1, or recipe=pacer."
            )
        if block > draft_length:
            raise InputError(f"recipe.block is {block}, but recipe.draft_length is {draft_length}: no block would end.")
        self._shape(0, "")

    def run(self, job: Job) -> dict[str, Any]:
        draft = draft_of(job, "A length policy")
        corpus = job.corpus(self.data, self.data_tokens)
        training, held_out = job.split(corpus)
        examples = self._examples(job, corpus, draft)
        known, unknown = ([examples[place] for place in places] for places in (training, held_out))
        known, unknown = _joined(known), _joined(unknown)
        torch.manual_seed(job.seed)
        network = AcceptanceNetwork(self._shape(draft.width, draft.identity))
        network.normalise(known.features[known.places])
        optimiser = Optimiser(
            dict(network.named_parameters()),
            self.schedule,
            job.state / self.policy,
            job.tracker.curve,
        )

        def batches(number: int) -> Iterable[Tensor]:
            order = torch.randperm(len(known.places), generator=generator(job.seed, "pass", number))
            return known.places[order].split(self.schedule.batch_tokens)

        constant = float(known.label[known.places].mean())
        optimiser.run(
            batches,
            lambda at: self._loss(network, known, at),
            lambda: self.held_out(network, unknown, constant),
            200,
            1000,
        )
        network.write(job.out)
        return job.finish(
            f"The network of the length policy {self.policy}",
            self.settings,
            {**self.held_out(network, unknown, constant), "drafted_tokens": len(known.places)},
            optimiser.log,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings, for the card."""
        own = {name: value for name, value in vars(self).items() if name not in ("data", "schedule", "sampling")}
        return {
            **own,
            **vars(self.schedule),
            "temperature": self.sampling.temperature,
            "data": type(self.data).__name__,
        }

    @torch.inference_mode()
    def held_out(self, network: AcceptanceNetwork, held: Drafted, constant: float) -> dict[str, float]:
        """Measure a network on drafted tokens of held-out texts.

        constant: the mean label of the training. Returns `bce`, the mean loss in nats, and `constant_bce`, the loss of always
        predicting the constant.
        """
        label = held.label[held.places]
        same = torch.full_like(label, min(max(constant, 1e-6), 1 - 1e-6))
        return {
            "bce": float(self._loss(network, held, held.places).value),
            "constant_bce": float(nn.functional.binary_cross_entropy(same, label)),
        }

    def _loss(self, network: AcceptanceNetwork, examples: Drafted, at: Int[Tensor, " M"]) -> Loss:
        value = nn.functional.binary_cross_entropy_with_logits(
            network.logits(*examples.blocks(at, self.block)), examples.label[at]
        )
        return Loss(value, len(at))

    def _shape(self, hidden: int, draft: str) -> NetworkShape:
        width = (hidden or 1) if "hidden" in self.features else 0
        try:
            return NetworkShape(self.policy, self.features, self.top, self.block, self.widths, width, draft)
        except InputError as error:
            raise InputError(f"recipe.{error}") from error

    def _examples(self, job: Job, corpus: Corpus, draft: DraftOfFamily) -> list[Drafted]:
        """Return what was drafted in each sequence. Files that are there are used."""
        reads = [self.features, self.top, self.sampling.temperature, self.draft_length, job.seed, job.dtype]
        told = json.dumps([reads, draft.identity, model_identity(job.specs["target"])])
        folder = job.work / f"drafted-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        found: list[Drafted] = []
        for first in range(0, len(corpus), SHARD):
            part = corpus.samples[first : first + SHARD]
            file = folder / f"{first:07d}-{len(part)}.npz"
            if not file.exists():
                rows = [self._replayed(job, draft, sample, first + place) for place, sample in enumerate(part)]
                _write(file, rows)
            found += _read(file)
            job.say(f"target and draft read the corpus: {(first + len(part)) / len(corpus):.0%}")
        return found

    @torch.inference_mode()
    def _replayed(self, job: Job, draft: DraftOfFamily, sample: Sample, place: int) -> Drafted:
        """Return what was drafted along one text. place: its number, which seeds the draws."""
        count, text = len(sample.answer), torch.tensor(sample.answer)
        tokens = torch.tensor([sample.tokens[:-1]], device=job.device)
        p = logits_behind(job.target, tokens, count)
        q = logits_behind(draft.model, tokens, count)
        q = nn.functional.pad(q, (0, p.shape[-1] - q.shape[-1]), value=-torch.inf)  # negative padding cuts surplus ids
        chosen, kept, label = drafted(
            warp(p, self.sampling), warp(q, self.sampling), text, generator(job.seed, "text", place)
        )
        depth = depths(kept.tolist(), self.draft_length)
        hidden = _hidden(draft.model, tokens, count) if "hidden" in self.features else None
        network = AcceptanceNetwork(self._shape(draft.width, draft.identity))
        features = network.features(Scored(q, self.sampling), chosen, np.array(depth).clip(0), hidden)
        return Drafted(features, label.float(), torch.tensor(depth))


def _hidden(model: Any, tokens: Int[Tensor, "1 T"], count: int) -> Float[Tensor, "N D"]:
    """Return the hidden states behind the last `count` tokens, from which the logits are computed, on the CPU."""
    body = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    return body(input_ids=tokens, use_cache=False).last_hidden_state[0, -count:].float().cpu()


def _joined(parts: Sequence[Drafted]) -> Drafted:
    """Join what was drafted in some sequences. Errors: InputError if nothing was."""
    whole = Drafted(*(torch.cat([getattr(part, name) for part in parts]) for name in ("features", "label", "depth")))
    if not len(whole.places):
        raise InputError(
            "The texts of the training data have one token each, so nothing is drafted in them: take longer ones."
        )
    return whole


def _write(file: Path, parts: Sequence[Drafted]) -> None:
    """Write what was drafted in some sequences. The file appears complete or not at all."""
    columns: Mapping[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts]).numpy() for name in ("features", "label", "depth")
    }
    unfinished = file.with_suffix(".part.npz")
    np.savez(unfinished, **columns, ends=np.cumsum([len(part.label) for part in parts]))
    os.replace(unfinished, file)


def _read(file: Path) -> list[Drafted]:
    with np.load(file) as held:
        columns = [torch.from_numpy(held[name]) for name in ("features", "label", "depth")]
        ends = held["ends"].tolist()
    return [
        Drafted(*(column[begin:end] for column in columns)) for begin, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
