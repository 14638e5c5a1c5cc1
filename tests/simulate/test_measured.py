"""The latencies of a run, from rows whose timeline is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sdbench.simulate.events import Simulation
from sdbench.simulate.measured import measured

VERIFY, GLUE, TREE, ASKING, SERVING, BACK = 3.0, 1.0, 2.0, 0.1, 0.2, 0.3


def recorded(rounds: int, verify: float):
    """The rows of an arm with a cache and K = 1, all of whose rounds hit: 3 s are built, in which the target verifies."""
    steps, rows, asked, idle = [], [], 0.0, 0.0
    for index in range(rounds):
        received = max(asked, idle) + ASKING
        replied = received + SERVING
        answered, built = replied + BACK, replied + GLUE + TREE
        key = {"arm": "ssd", "block": 0, "repeat": 0, "round": index}
        rows.append(
            {**key, "prompt_id": "p", "proposer": "draft", "verifier": "target",
             "proposed": 1, "accepted": 1, "hit": True, "asked": asked,
             "wanted": asked, "received": received, "replied": replied, "answered": answered, "built": built}
        )  # fmt: skip
        for role, kind, tokens, seconds, begun in (
            ("draft", "glue", 2, GLUE, replied),
            ("draft", "tree", 4, TREE, replied + GLUE),
            ("target", "verify", 2, verify, answered),
        ):
            steps.append({**key, "role": role, "kind": kind, "tokens": tokens, "seconds": seconds, "begun": begun})
        asked, idle = answered + verify, built
    sequences = pd.DataFrame([{"arm": "ssd", "block": 0, "repeat": 0, "block_decode_seconds": asked}])
    return {"rounds": pd.DataFrame(rows), "steps": pd.DataFrame(steps), "sequences": sequences}, asked


@pytest.mark.parametrize("verify", [1.0, 5.0])
def test_a_queue_on_the_server_is_no_part_of_an_exchange(verify):
    """Building that outlasts the verification makes every question wait; the simulator finds that wait by itself."""
    tables, seconds = recorded(20, verify)
    latencies = measured(tables)
    assert latencies.comm == pytest.approx([ASKING + SERVING] * 19)  # the first may wait for what the prompt began
    assert latencies.answer == pytest.approx([BACK] * 20)
    assert latencies.host[0] == pytest.approx(0.0)
    # The simulator's first round misses; here nothing had to be drafted for it either.
    simulated = Simulation([np.ones(40, int)], replace(latencies, draft_concurrent=[0.0]))
    assert 40 / simulated.ssd(1, (1, 1)) == pytest.approx(seconds)
