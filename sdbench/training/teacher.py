"""Keep what the target says about a corpus: its law behind each position, and hidden states of chosen layers.

The whole law over a large vocabulary would be most of the work of a training step, and the tail of the law teaches little. So the
target reads each sequence once, and the `top` largest probabilities of each position are kept on disk. Hidden states are kept from
the same reading, for a head. Every recipe and every pass over the corpus reads them from there.
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

from sdbench.training.batches import padded, reading
from sdbench.training.corpus import Corpus, Sample
from sdbench.training.network_calls import body_of, product_mode

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
    layers: the hidden states to keep, with the numbers of transformers' `hidden_states`: 0 is the embedding, i the output of layer
    i - 1, and the number of layers is behind the last norm. A state is stored as bfloat16.
    """

    def __init__(self, model: Any, corpus: Corpus, top: int, folder: Path, layers: Sequence[int] = ()) -> None:
        self.corpus, self.top, self.layers = corpus, top, tuple(layers)
        self._folder, self._model = folder, model
        self._laws: list[tuple[np.ndarray, np.ndarray]] = []
        self._states: list[np.ndarray] = []

    def read_all(self, said: Callable[[float], None] | None = None) -> None:
        """Let the target read every sequence that no file covers. said: gets the share that is done, after each file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._laws, self._states = [], []
        for first in range(0, len(self.corpus), SHARD):
            part = self.corpus.samples[first : first + SHARD]
            laws = self._folder / f"{first:07d}-{len(part)}-top{self.top}.npz"
            states = self._folder / f"{first:07d}-{len(part)}-states{'-'.join(map(str, self.layers))}.npy"
            if not laws.exists() or (self.layers and not states.exists()):
                self._write(laws, states, part)
            with np.load(laws) as held:
                ids, probs, ends = held["ids"], held["probs"], held["ends"]
            self._laws += [(ids[begin:end], probs[begin:end]) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
            if self.layers:
                rows, ends = np.load(states, mmap_mode="r"), np.cumsum([len(sample.tokens) for sample in part])
                self._states += [rows[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
            if said is not None:
                said((first + len(part)) / len(self.corpus))

    def _write(self, laws: Path, states: Path, samples: Sequence[Sample]) -> None:
        """Write the files of some sequences, if they are not there. A file appears complete or not at all."""
        found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        for chosen in reading(samples, READ):
            found |= zip(chosen, self._read([samples[place] for place in chosen]), strict=True)
        ids, probs, rows = zip(*(found[place] for place in range(len(samples))), strict=True)
        if not laws.exists():
            part = laws.with_suffix(".part.npz")
            np.savez(
                part, ids=np.concatenate(ids), probs=np.concatenate(probs), ends=np.cumsum([len(one) for one in ids])
            )
            os.replace(part, laws)
        if self.layers:
            part = states.with_suffix(".part.npy")
            np.save(part, np.concatenate(rows))
            os.replace(part, states)

    @torch.inference_mode()
    def _read(self, samples: Sequence[Sample]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return ids and probabilities behind the answer of each sequence, and the states of all its tokens as bits of bfloat16."""
        tokens, _ = padded(samples)
        body, head = body_of(self._model), self._model.get_output_embeddings()
        # Rows are padded on the right, so the causal mask already hides the padding.
        with product_mode(self._model):
            output = body(
                input_ids=tokens.to(self._model.device), use_cache=False, output_hidden_states=bool(self.layers)
            )
            kept = torch.cat([output.hidden_states[layer] for layer in self.layers], -1) if self.layers else tokens
            found = []
            for row, sample in enumerate(samples):
                size = len(sample.tokens)
                logits = head(output.last_hidden_state[row, sample.prompt - 1 : size - 1]).float()
                best = logits.topk(self.top, -1)
                probs = (best.values - logits.logsumexp(-1, keepdim=True)).exp()
                states = kept[row, :size].to(torch.bfloat16).view(torch.int16)
                found.append((
                    best.indices.cpu().numpy().astype(np.int32),
                    probs.cpu().numpy().astype(np.float16),
                    states.cpu().numpy(),
                ))  # fmt: skip
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

    def states(self, places: Sequence[int]) -> Float[Tensor, "B T W"]:
        """Return the hidden states of some sequences, padded on the right, side by side for the layers. In float32."""
        if not self.layers:
            return torch.zeros(len(places), max(len(self.corpus.samples[place].tokens) for place in places), 0)
        rows = [torch.from_numpy(np.array(self._states[place])).view(torch.bfloat16).float() for place in places]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
