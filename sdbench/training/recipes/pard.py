"""Train a draft model that predicts several tokens in one pass (PARD, 2504.18583; github AMD-AGI/PARD).

The draft reads the text and mask tokens behind it, and predicts a token at each: at depth 1 behind the text itself, at depth j
behind j - 1 masks. The mask is an ordinary token that no text holds. Every place of an answer teaches depth 1. Of the deeper
ones only some do (conditional drop): depth j is kept at a place with probability max(keep ** (j - 1), floor), and with it all
depths above.

The draft is made of layers of the target, as in `distill`; the paper adapts a small model of the target's family. So the
embedding of the mask is the target's, and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from sdbench import validate
from sdbench.errors import InputError
from sdbench.models.skeleton import other_than_full_attention
from sdbench.training.batches import padded
from sdbench.training.corpus import Corpus
from sdbench.training.divergences import Compared, divergence
from sdbench.training.draft_of_family import generator
from sdbench.training.job import Job
from sdbench.training.lesson import Use
from sdbench.training.network_calls import body_of, product_mode
from sdbench.training.optimise import Loss
from sdbench.training.recipes.distill import STREAK, Distill, DraftLesson
from sdbench.training.student import Student
from sdbench.training.teacher import Teacher


class Pard(Distill):
    """Distil the target into a draft that reads masks.

    depth: tokens of a pass. mask_token: the id of the mask; it must not be among the tokens of the texts. keep, floor: of the
    conditional drop. distill: the arguments of `distill`; a divergence of whole texts, a token mask and own texts are refused.
    Errors: InputError.
    """

    title = "A draft that predicts several tokens in one pass"

    def __init__(
        self,
        layers: Sequence[int],
        mask_token: int,
        depth: int = 8,
        keep: float = 0.7,
        floor: float = 0.2,
        **distill: Any,
    ) -> None:
        super().__init__(layers, **distill)
        self.mask_token = validate.whole("recipe.mask_token", mask_token)
        self.depth = validate.whole("recipe.depth", depth, 2)
        self.keep, self.floor = validate.number("recipe.keep", keep, 0, 1), validate.number("recipe.floor", floor, 0, 1)
        if self.divergence == STREAK or self.mask != "every" or self.on_policy:
            raise InputError(
                "recipe=pard learns every kept token of the target's texts: leave recipe.divergence=streak, recipe.mask and "
                "recipe.on_policy out."
            )

    def check(self, job: Job) -> None:
        super().check(job)
        other = other_than_full_attention(job.family.main.config)
        if other:
            raise InputError(
                f"recipe=pard trains models with full attention, and the target has {other}: take another recipe."
            )
        if self.mask_token >= job.family.vocab:
            raise InputError(f"recipe.mask_token is {self.mask_token}, but the target has {job.family.vocab} tokens.")

    def check_texts(self, corpus: Corpus) -> None:
        if any(self.mask_token in sample.tokens for sample in corpus.samples):
            raise InputError(
                f"recipe.mask_token is {self.mask_token}, and a text of the corpus holds this token: choose one that no text holds."
            )

    def lesson(self, job: Job, corpus: Corpus, use: Use = Use.BOTH) -> PardLesson:
        return PardLesson(job, corpus, job.teacher(corpus, self.top), self, use)

    def _loss(self, lesson: DraftLesson, places: Sequence[int], student: Student, reference: Student | None) -> Loss:
        assert isinstance(lesson, PardLesson)
        measure = divergence(self.divergence)
        found = lesson.by_depth(student, places, lesson.drawn(places))
        losses = torch.cat([measure(one) for one in found])
        notes = {
            f"alpha_{depth}": float(one.alpha.detach().mean()) for depth, one in enumerate(found, 1) if len(one.best)
        }
        return Loss(losses.mean(), len(found[0].best), notes)


class PardLesson(DraftLesson):
    """A corpus with what the target says about it, for drafts that read masks. recipe: its depth, mask and drop."""

    def __init__(self, job: Job, corpus: Corpus, teacher: Teacher, recipe: Pard, use: Use = Use.BOTH) -> None:
        super().__init__(job, corpus, teacher, use)
        self.recipe = recipe
        self._seed = job.seed

    def drawn(self, places: Sequence[int]) -> Int[Tensor, "B T"]:
        """Draw how many depths each place of some sequences teaches, at least 1. The draw depends on the seed and the sequences."""
        tokens, _ = padded(self.samples(places))
        chance = torch.rand(tokens.shape, generator=generator(self._seed, "drop", list(places)))[..., None]
        depths = torch.arange(1, self.recipe.depth)
        return 1 + (chance < (self.recipe.keep**depths).clamp(min=self.recipe.floor)).sum(-1)

    def by_depth(self, student: Student, places: Sequence[int], taught: Int[Tensor, "B T"]) -> list[Compared]:
        """Compare a draft with the target at each depth. taught: how many depths each place teaches."""
        texts = self.texts(places)
        # A place teaches a depth only if the token there belongs to the answer too.
        chosen = [texts.answer[:, 1:]]
        for behind in range(1, self.recipe.depth):
            there = pad(texts.answer[:, 1 + behind :], (0, behind))[:, : texts.answer.shape[1] - 1]
            chosen.append(chosen[-1] & there & (taught[:, :-1] > behind))
        with product_mode(student.model):
            parts = masked_logits(student, texts.tokens[:, :-1], chosen, self.recipe.mask_token)
        found = []
        for behind, (logits, at) in enumerate(zip(parts, chosen, strict=True)):
            rows, columns = at.nonzero(as_tuple=True)
            found.append(texts.compared(logits, (rows, columns + 1 + behind), student.own))
        return found

    def named(self, student: Student) -> Callable[[Sequence[int]], dict[str, Compared]]:
        """Return what compares a draft on some sequences, by depth."""

        def compared(places: Sequence[int]) -> dict[str, Compared]:
            every = torch.full_like(padded(self.samples(places))[0], self.recipe.depth)
            return {f"_{depth}": one for depth, one in enumerate(self.by_depth(student, places, every), 1)}

        return compared


def masked_logits(
    student: Student, tokens: Int[Tensor, "B T"], chosen: Sequence[Bool[Tensor, "B T"]], mask_token: int
) -> list[Float[Tensor, "_ R"]]:
    """Return the logits of each depth at the chosen places.

    chosen: for each depth, from 1. A place that is chosen for a depth is chosen for all depths above too. At depth j, the draft has
    read the text up to the place, and j - 1 masks in the places behind it.
    """
    rows, width = tokens.shape
    masks = [one.long() for one in chosen[1:]]
    deepest = torch.stack([torch.zeros_like(tokens), *masks]).sum(0)  # masks behind each place
    most = int(deepest.sum(1).max())
    anchor = torch.full((rows, most), -1)  # of each mask: the place that it stands behind
    behind = torch.ones(rows, most, dtype=torch.long)
    for row in range(rows):
        counts = deepest[row]
        held = torch.arange(width).repeat_interleave(counts)
        anchor[row, : len(held)] = held
        begun = (counts.cumsum(0) - counts).repeat_interleave(counts)
        behind[row, : len(held)] = torch.arange(len(held)) - begun + 1
    place = torch.arange(width).expand(rows, -1)
    owner = torch.cat([place, anchor], 1)
    offset = torch.cat([torch.zeros_like(place), behind], 1)
    text = (offset[:, None] == 0) & (owner[:, None] <= owner[:, :, None])
    own = (owner[:, None] == owner[:, :, None]) & (offset[:, None] > 0) & (offset[:, None] <= offset[:, :, None])
    own |= torch.eye(width + most, dtype=torch.bool)  # a place of padding sees itself
    device = student.model.device
    embed = student.model.get_input_embeddings()
    ids = torch.cat([tokens, torch.full((rows, most), mask_token)], 1).to(device)
    hidden = body_of(student.model)(
        inputs_embeds=embed(ids).float(),
        attention_mask=(text | own)[:, None].to(device),
        position_ids=(owner + offset).clamp(min=0).to(device),
        use_cache=False,
    ).last_hidden_state
    found = [student.head(hidden[:, :width][chosen[0].to(device)])]
    for depth, at in enumerate(chosen[1:], 1):
        picked = (offset[:, width:] == depth) & (anchor >= 0)
        assert int(picked.sum()) == int(at.sum())
        found.append(student.head(hidden[:, width:][picked.to(device)]))
    return found
