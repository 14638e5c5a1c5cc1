"""A row that takes a new sequence starts afresh: the exact law of the second sequence, whatever the first one left behind."""

import pytest

from sdbench.acceptance import Exact
from sdbench.asynchronous import AMUSDDrafter, OnDemandDrafter, SSDDrafter, Undrafted, Uniform
from sdbench.decoding import Pearl, Request, Speculative
from sdbench.drafting import ModelDrafter, StagedDrafter
from sdbench.exactness import LOSSLESS, TabularModel, output_law, sequence_law, total_variation
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop


def decoders(target, qualifier, draft):
    exact = Exact()
    return {
        "sd": Speculative(target, exact, ModelDrafter(draft), 1),
        "pyramid": Speculative(target, exact, StagedDrafter(qualifier, exact, ModelDrafter(draft), 1), 1),
        "ssd": Speculative(target, exact, SSDDrafter(draft, Uniform(1), Undrafted(), process=False), 1),
        "amusd": Speculative(target, exact, AMUSDDrafter(draft, 1, process=False), 1),
        "pearl": Pearl(target, OnDemandDrafter(draft, process=False), None, 2),
    }


NAMES = [TabularModel(name, 2, seed) for name, seed in (("target", 1), ("qualifier", 2), ("draft", 3))]


LARGE = ("pyramid", "ssd")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LARGE else []) for name in decoders(*NAMES)]
)
def test_the_second_sequence(name):
    decoder = decoders(*NAMES)[name]
    requests = [Request([0], "one"), Request([1], "two")]

    def run(walk):
        done = list(decoder.generate(requests, Sampling(1.0), NeverStop(), 2, choices=walk))
        return tuple(tuple(item.tokens) for item in done)

    one, two = sequence_law(NAMES[0], (0,), 2), sequence_law(NAMES[0], (1,), 2)
    wanted = {(a, b): p * q for a, p in one.items() for b, q in two.items()}
    assert total_variation(output_law(run), wanted) < LOSSLESS
