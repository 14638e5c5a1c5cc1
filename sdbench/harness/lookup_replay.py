"""Replay prompt look-up over recorded greedy answers.

A greedy lossless arm gives the target's own answer, whatever it drafts. So an answer that is known already says, for any setting,
which tokens each round drafts and how many of them the target keeps. The replay decodes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sdbench.drafting.lookup import PromptLookup
from sdbench.keyed_random import Key
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampler, Sampling


def drafted_by_round(
    proposer: PromptLookup, texts: Sequence[tuple[Sequence[int], Sequence[int]]], length: int
) -> list[int]:
    """Return the number of drafted tokens of each round that decodes the answers with this look-up and draft length.

    texts: prompt and answer of each sequence, in tokens. Prefill gives the first token of an answer, so no round decodes it.
    """
    ends = np.array([len(prompt) + len(answer) for prompt, answer in texts])
    tokens = torch.zeros(len(ends), int(ends.max()) + length, dtype=torch.long)
    for row, (prompt, answer) in enumerate(texts):
        tokens[row, : ends[row]] = torch.tensor([*prompt, *answer])
    at = np.array([len(prompt) + 1 for prompt, _ in texts])
    key = Key(np.zeros(len(ends), np.uint64), [0] * len(ends))
    rounds: list[int] = []
    while (active := at < ends).any():
        # The look-up reads only the tokens before `at`.
        draft = proposer.propose(DecodeState(tokens, at, active, Sampler(Sampling()), Trace()), length, key)
        for row in np.flatnonzero(active):
            drafted = int(draft.length[row])
            agreed = draft.tokens[row, :drafted] == tokens[row, at[row] : at[row] + drafted]
            rounds.append(drafted)
            at[row] += int(agreed.long().cumprod(0).sum()) + 1
        at = np.minimum(at, ends)
    return rounds
