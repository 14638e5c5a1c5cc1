"""A stage tells the proposer below it what happened, whether it hands up a chain or a tree."""

from __future__ import annotations

import pytest

from sdbench.acceptance.exact import Exact
from sdbench.decoding import Request, Speculative
from sdbench.drafting import StagedDrafter, StagedTree, TreeDrafter
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import random_model


class Noting(TreeDrafter):
    """Keep a list of the calls that the stage makes."""

    def __init__(self, model, widths):
        super().__init__(model, widths)
        self.told = []

    def observe(self, state, draft, logits):
        self.told.append(("observe", logits.shape[1] - draft.tokens.shape[1]))

    def learn(self, prompt, answer):
        self.told.append(("learn", list(prompt), list(answer)))

    def forget(self):
        self.told.append(("forget",))


@pytest.mark.parametrize(
    "stage",
    [
        lambda verifier, proposer: StagedDrafter(verifier, Exact(), proposer, 2),
        lambda verifier, proposer: StagedTree(verifier, Exact(), proposer, 2, 6),
    ],
    ids=["a chain", "a tree"],
)
def test_a_stage_passes_on_what_the_proposer_below_may_learn(stage):
    target, qualifier, draft = (
        Transformer(name, random_model("llama", layers, seed=layers))
        for name, layers in (("target", 3), ("qualifier", 2), ("draft", 1))
    )
    below = Noting(draft, [2, 1])
    decoder = Speculative(target, Exact(), stage(qualifier, below), 3)
    decoder.begin_pass([([1, 2], [3])])
    assert below.told == [("forget",), ("learn", [1, 2], [3])]
    assert list(decoder.generate([Request([1, 2, 3], "a")], Sampling(), NeverStop(), 6))
    *seen, last = below.told[2:]
    assert seen
    assert set(seen) == {("observe", 1)}  # logits behind the last decided token too
    assert last[:2] == ("learn", [1, 2, 3])
