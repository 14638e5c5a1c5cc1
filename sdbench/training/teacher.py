"""Keep what the target says about a corpus: the most likely tokens behind each position, and their probabilities.

The whole law over a large vocabulary would be most of the work of a training step, and the tail of the law teaches little. So the
target reads each sequence once, and the `top` largest probabilities of each position are kept on disk. Every recipe and every pass
over the corpus reads them from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.training.batches import reading
from sdbench.training.corpus import Corpus, Sample
from sdbench.training.network_calls import hidden_behind, product_mode

SHARD = 256  # sequences in a file
READ = 4096  # tokens that the target reads at a time, with padding


@dataclass(frozen=True)
class TopLaw:
    """The target's law behind some positions: its most likely tokens, and their probabilities.

    ids: [N, k], the most likely token first. probs: [N, k], float32 (float16 on disk), as parts of the whole law; what they lack of
    1 is the mass of all other tokens.
    """

    ids: Int[Tensor, "N k"]
    probs: Float[Tensor, "N k"]


class Teacher:
    """What the target says about the sequences of a corpus.

    model: the target. corpus: may grow between two trainings, and a file that covers fewer sequences is then not used. top: k.
    folder: for the files. Files that are there are used, so a folder belongs to one target and one corpus.
    """

    def __init__(self, model: Any, corpus: Corpus, top: int, folder: Path) -> None:
        self.corpus, self.top, self._folder, self._model = corpus, top, folder, model
        self._laws: list[tuple[np.ndarray, np.ndarray]] = []

    def read_all(self, said: Callable[[float], None] | None = None) -> None:
        """Let the target read every sequence that no file covers. said: gets the share that is done, after each file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._laws = []
        for first in range(0, len(self.corpus), SHARD):
            part = self.corpus.samples[first : first + SHARD]
            file = self._folder / f"{first:07d}-{len(part)}-top{self.top}.npz"
            if not file.exists():
                self._write(file, part)
            with np.load(file) as held:
                ids, probs, ends = held["ids"], held["probs"], held["ends"]
            self._laws += [(ids[begin:end], probs[begin:end]) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
            if said is not None:
                said((first + len(part)) / len(self.corpus))

    def _write(self, file: Path, samples: Sequence[Sample]) -> None:
        """Write the laws of some sequences. The file appears complete or not at all."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for chosen in reading(samples, READ):
            for place, law in zip(chosen, self._laws_of([samples[place] for place in chosen]), strict=True):
                found[place] = law
        laws = [found[place] for place in range(len(samples))]
        unfinished = file.with_suffix(".part.npz")
        np.savez(
            unfinished,
            ids=torch.cat([ids for ids, _ in laws]).numpy().astype(np.int32),
            probs=torch.cat([probs for _, probs in laws]).numpy().astype(np.float16),
            ends=np.cumsum([len(ids) for ids, _ in laws]),
        )
        os.replace(unfinished, file)

    @torch.inference_mode()
    def _laws_of(self, samples: Sequence[Sample]) -> list[tuple[Tensor, Tensor]]:
        tokens = torch.zeros(len(samples), max(len(sample.tokens) for sample in samples), dtype=torch.long)
        for row, sample in enumerate(samples):
            tokens[row, : len(sample.tokens)] = torch.tensor(sample.tokens)
        with product_mode(self._model):
            hidden = hidden_behind(self._model, tokens[:, :-1])
            found = []
            for row, sample in enumerate(samples):
                logits = self._model.get_output_embeddings()(
                    hidden[row, sample.prompt - 1 : len(sample.tokens) - 1]
                ).float()
                best = logits.topk(self.top, -1)
                probs = (best.values - logits.logsumexp(-1, keepdim=True)).exp()
                found.append((best.indices.cpu(), probs.cpu()))
        return found

    def law(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and probabilities [N, k] behind the positions of the answer of a sequence, from the one that gives its first
        token on."""
        return self._laws[place]

    def laws(self, places: Sequence[int]) -> TopLaw:
        """Return the laws of some sequences, one behind the other."""
        ids, probs = zip(*(self._laws[place] for place in places), strict=True)
        return TopLaw(
            torch.from_numpy(np.concatenate(ids).astype(np.int64)),
            torch.from_numpy(np.concatenate(probs).astype(np.float32)),
        )
