"""Keep hidden states of the target for a corpus, so that a head can be trained without the target's forward.

A state is stored as bfloat16. The numbers of layers are those of transformers' `hidden_states`: 0 is the embedding, i the output of
layer i - 1, and the number of layers is behind the last norm.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdbench.training.batches import padded, reading
from sdbench.training.corpus import Corpus, Sample
from sdbench.training.network_calls import product_mode

SHARD = 256  # sequences in a file
READ = 4096  # tokens that the target reads at a time, with padding


class Hidden:
    """Hidden states of every token of a corpus.

    model: the target. layers: which states. folder: for the files; files that are there are used.
    """

    def __init__(self, model: Any, corpus: Corpus, layers: Sequence[int], folder: Path) -> None:
        self.corpus, self.layers, self._folder, self._model = corpus, tuple(layers), folder, model
        self._parts: list[tuple[np.ndarray, list[int]]] = []

    def read_all(self, said: Callable[[float], None] | None = None) -> None:
        """Let the target read every sequence that no file covers. said: gets the share that is done, after each file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._parts = []
        name = "-".join(map(str, self.layers))
        for first in range(0, len(self.corpus), SHARD):
            part = self.corpus.samples[first : first + SHARD]
            file = self._folder / f"{first:07d}-{len(part)}-states{name}.npy"
            if not file.exists():
                self._write(file, part)
            ends = np.cumsum([len(sample.tokens) for sample in part]).tolist()
            self._parts.append((np.load(file, mmap_mode="r"), [0, *ends]))
            if said is not None:
                said((first + len(part)) / len(self.corpus))

    def states(self, places: Sequence[int]) -> Float[Tensor, "B T W"]:
        """Return the states of some sequences, padded on the right, side by side for the layers. In float32."""
        rows = []
        for place in places:
            held, ends = self._parts[place // SHARD]
            begin, end = ends[place % SHARD], ends[place % SHARD + 1]
            rows.append(torch.from_numpy(np.array(held[begin:end])).view(torch.bfloat16).float())
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def _write(self, file: Path, samples: Sequence[Sample]) -> None:
        """Write the states of some sequences. The file appears complete or not at all."""
        found: list[np.ndarray | None] = [None] * len(samples)
        for chosen in reading(samples, READ):
            states = self._read([samples[place] for place in chosen])
            for place, row in zip(chosen, states, strict=True):
                found[place] = row[: len(samples[place].tokens)].to(torch.bfloat16).view(torch.int16).numpy()
        unfinished = file.with_suffix(".part.npy")
        np.save(unfinished, np.concatenate([row for row in found if row is not None]))
        os.replace(unfinished, file)

    @torch.inference_mode()
    def _read(self, samples: Sequence[Sample]) -> Float[Tensor, "B T W"]:
        tokens, _ = padded(samples)
        body = self._model.get_decoder()
        with product_mode(self._model):
            states = body(input_ids=tokens, use_cache=False, output_hidden_states=True).hidden_states
        return torch.cat([states[layer] for layer in self.layers], -1)
