"""Where the time of a round goes: the forwards are told from what is around them."""

import torch

from experiments.bench.rounds import Clocked
from sdbench.acceptance import Exact
from sdbench.decoding import Request, Speculative
from sdbench.drafting import ModelDrafter
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import random_model


def test_the_parts_of_a_round_are_its_whole():
    target, draft = (Transformer(name, random_model("llama", n)) for name, n in (("target", 4), ("draft", 2)))
    decoder = Speculative(target, Exact(), ModelDrafter(draft), 3)
    decoder.batch = Clocked
    with torch.inference_mode():
        list(decoder.generate([Request([1, 2, 3], "0")], Sampling(), NeverStop(), 12))
    found = Clocked.latest.seconds
    rounds = found.pop("round")
    for index, whole in enumerate(rounds):
        parts = {name: seconds[index] for name, seconds in found.items()}
        assert all(seconds > 0 for seconds in parts.values()), parts
        assert abs(sum(parts.values()) - whole) < 1e-9
