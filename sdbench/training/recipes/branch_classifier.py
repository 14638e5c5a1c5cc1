"""Train SpecBranch's classifier (H-RAD, 2506.01979): will the target keep no token, some or all of the next draft?

Target and draft read the target's texts once. At every place of an answer, a replay (`sdbench.training.rounds`) says how many
tokens of a draft that begins there are kept. The label is none, some or all of `draft_length`. The loss is the cross-entropy.

The paper trains for 20 passes over the data, in batches of 32. Its layers behind the features are unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sdbench import validate
from sdbench.asynchronous.branch_network import ALL, NONE, SOME, BranchNetwork, BranchShape
from sdbench.errors import InputError
from sdbench.models.identity import model_identity
from sdbench.sampling import Sampling, warp
from sdbench.training.corpus import Corpus
from sdbench.training.draft_of_family import DraftOfFamily, draft_of, generator, logits_behind
from sdbench.training.job import Job
from sdbench.training.optimise import Loss, Optimiser, Schedule
from sdbench.training.rounds import drafted
from sdbench.training.sources.base import Source

_OWN = 0.9  # least share of the tokens that the target can write at the recipe's temperature


class BranchClassifier:
    """Train the classifier for the target and the draft of the family.

    data: the source of the texts; they must have the temperature of this recipe. data_tokens: answer tokens to collect.
    tokens: the budget, in places. batch_tokens: places of a batch. learning_rate, warmup, weight_decay: see
    `sdbench.training.optimise.Schedule`. temperature: of the decoding that the network is for. draft_length: of the drafts.
    last_layers: how many of the target's last layers it reads. widths: of the layers between input and output.
    """

    def __init__(
        self,
        data: Source,
        data_tokens: int = 50_000,
        tokens: int = 1_000_000,
        batch_tokens: int = 32,
        learning_rate: float = 1e-3,
        warmup: float = 0.05,
        weight_decay: float = 0.01,
        temperature: float = 1.0,
        draft_length: int = 4,
        last_layers: int = 4,
        widths: Sequence[int] = (256,),
    ) -> None:
        self.data = data
        self.data_tokens = validate.whole("recipe.data_tokens", data_tokens, 1)
        validate.whole("recipe.tokens", tokens, 1)
        validate.whole("recipe.batch_tokens", batch_tokens, 1)
        self.schedule = Schedule(tokens, batch_tokens, learning_rate, warmup, weight_decay)
        self.sampling = Sampling(validate.number("recipe.temperature", temperature, 0))
        self.draft_length = validate.whole("recipe.draft_length", draft_length, 1)
        self.last_layers = validate.whole("recipe.last_layers", last_layers, 1)
        self.widths = [validate.whole("recipe.widths", width, 1) for width in widths]

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

    def run(self, job: Job) -> dict[str, Any]:
        text, draft = job.family.main.config, draft_of(job, "A classifier")
        depth = text.num_hidden_layers
        if self.last_layers > depth:
            raise InputError(f"recipe.last_layers is {self.last_layers}, but the target has {depth} layers.")
        layers = tuple(range(depth - self.last_layers + 1, depth + 1))
        target = model_identity(job.specs["target"])
        corpus = job.corpus(self.data, self.data_tokens)
        training, held_out = (self._examples(job, corpus, draft, layers, places) for places in job.split(corpus))
        if not len(training[1]) or not len(held_out[1]):
            raise InputError(
                f"No text of the training data is longer than recipe.draft_length={self.draft_length}: take longer texts."
            )
        torch.manual_seed(job.seed)
        network = BranchNetwork(BranchShape(layers, text.hidden_size, self.widths, target, draft.identity))
        network.normalise(training[0])
        optimiser = Optimiser(
            dict(network.named_parameters()), self.schedule, job.state / "branches", job.tracker.curve
        )

        def batches(number: int) -> Iterable[Tensor]:
            order = torch.randperm(len(training[1]), generator=generator(job.seed, "pass", number))
            return order.split(self.schedule.batch_tokens)

        def loss(at: Tensor) -> Loss:
            value = nn.functional.cross_entropy(network(training[0][at]), training[1][at])
            return Loss(value, len(at))

        optimiser.run(batches, loss, lambda: measured(network, *held_out), 200, 1000)
        network.write(job.out)
        found = {**measured(network, *held_out), "places": len(training[1])}
        return job.finish("SpecBranch's classifier", self.settings, found, optimiser.log)

    @torch.inference_mode()
    def _examples(
        self, job: Job, corpus: Corpus, draft: DraftOfFamily, layers: Sequence[int], places: Sequence[int]
    ) -> tuple[Float[Tensor, "N F"], Int[Tensor, " N"]]:
        """Return the features and labels of all places of some sequences."""
        features, labels, likely = [], [], []
        for number in places:
            sample = corpus.samples[number]
            count, tokens = len(sample.answer), torch.tensor([sample.tokens[:-1]], device=job.device)
            answer = torch.tensor(sample.answer)
            read = job.target(input_ids=tokens, use_cache=False, output_hidden_states=True, logits_to_keep=count)
            p, q = read.logits[0, -count:].float().cpu(), logits_behind(draft.model, tokens, count)
            q = nn.functional.pad(
                q, (0, p.shape[-1] - q.shape[-1]), value=-torch.inf
            )  # negative padding cuts surplus ids
            seed = generator(job.seed, "text", number)
            law = warp(p, self.sampling)
            likely.append(law.gather(-1, answer[:, None]) > 0)
            _, kept, _ = drafted(law, warp(q, self.sampling), answer, seed)
            label, known = outcomes(kept, self.draft_length)
            whole = torch.cat([read.hidden_states[layer][0] for layer in layers], -1)
            embedded = job.target.get_input_embeddings()(tokens[0])
            # A draft that begins with token i of the answer follows a newest token that the target has not read yet.
            newest = torch.arange(len(sample.tokens) - count - 1, len(sample.tokens) - 1, device=job.device)[known]
            features.append(torch.cat([whole[newest - 1], embedded[newest]], -1).float().cpu())
            labels.append(label[known])
        if likely and float(torch.cat(likely).float().mean()) < _OWN:
            raise InputError(
                f"The target would not write these texts at recipe.temperature={self.sampling.temperature:g}: take texts of this "
                "temperature, such as data=answers recipe.data.temperature=..."
            )
        return torch.cat(features), torch.cat(labels)


def outcomes(kept: Bool[Tensor, " N"], length: int) -> tuple[Int[Tensor, " N"], Bool[Tensor, " N"]]:
    """Return how a draft of `length` tokens ends that begins at each place, and where this is known.

    kept: whether the target keeps the drafted token at each place, behind its own text. A text may end before the draft does. Its
    first token belongs to the prefill, so no draft begins there.
    """
    padded = nn.functional.pad(kept.long(), (0, length))
    run = padded.unfold(0, length, 1)[: len(kept)].cumprod(-1).sum(-1)
    label = torch.where(run == 0, NONE, torch.where(run == length, ALL, SOME))
    known = run + torch.arange(len(kept)) < len(kept)
    known |= run == length
    known[0] = False
    return label, known


@torch.inference_mode()
def measured(network: BranchNetwork, features: Float[Tensor, "N F"], labels: Int[Tensor, " N"]) -> Mapping[str, float]:
    """Measure a network on held-out places.

    Returns `ce` in nats and `accuracy`, both beside those of the labels' own shares (`constant_ce`, `constant_accuracy`), and the
    share of each label.
    """
    logits = network(features)
    shares = torch.bincount(labels, minlength=3) / len(labels)
    return {
        "ce": float(nn.functional.cross_entropy(logits, labels)),
        "constant_ce": float(torch.special.entr(shares).sum()),
        "accuracy": float((logits.argmax(-1) == labels).float().mean()),
        "constant_accuracy": float(shares.max()),
        **{name: float(shares[place]) for name, place in (("none", NONE), ("some", SOME), ("all", ALL))},
    }
