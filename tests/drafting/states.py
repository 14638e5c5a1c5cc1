"""Decoding states for tests of proposers, over tabular models."""

from __future__ import annotations

import numpy as np
import torch

from sdbench.exactness import TabularModel
from sdbench.keyed_random import Key
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampler, Sampling

V, SLOTS = 7, 40


def state_of(rows, sampling=None, choices=None):
    """Return a state whose rows hold these decided tokens. Behind them every slot holds V - 1."""
    tokens = torch.full((len(rows), SLOTS), V - 1)
    for row, text in enumerate(rows):
        tokens[row, : len(text)] = torch.tensor(text)
    trace = Trace(sequence=list(range(len(rows))), sequence_round=[0] * len(rows))
    sampler = Sampler(sampling or Sampling(1.0), choices)
    return DecodeState(tokens, np.array([len(text) for text in rows]), np.ones(len(rows), bool), sampler, trace)


def key_of(state, number=0):
    """Return the name of the choices of a round."""
    return Key(np.arange(state.rows, dtype=np.uint64), [number] * state.rows)


def model(name="draft", seed=3, sharpness=1.5):
    return TabularModel(name, V, seed, sharpness)


def begun(proposer, state, length):
    """Open a session of the proposer, and let it read every prompt."""
    for each in proposer.models:
        each.allocate(state.rows, SLOTS)
    proposer.open(state, length)
    for row in range(state.rows):
        alone = state.ahead(state.length, np.arange(state.rows) == row)
        proposer.prompt(alone, row, key_of(state))
        proposer.admit(alone, row)
    return proposer
