"""The hand-over between a target's ranks and the draft's, with threads for ranks."""

import threading
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Listener
from queue import Queue

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from sdbench.asynchronous.backup import Neural
from sdbench.asynchronous.child_process import ServerFaultError
from sdbench.asynchronous.fan_out import Uniform
from sdbench.asynchronous.protocol import Outcome
from sdbench.asynchronous.rank_process import DivergedError, Follower, RankServer, ServingRank, connector
from sdbench.asynchronous.speculation import SpeculationServer
from sdbench.exactness.tabular import TabularModel
from sdbench.sampling import Sampling

V, K = 4, 2
DRAFT = TabularModel("draft", V, 1)
CPU = torch.device("cpu")


class Broadcasts:
    """From the first of two ranks to the other."""

    def __init__(self):
        self.sent = Queue()

    def first(self, buffer):
        self.sent.put(buffer.clone())

    def other(self, buffer):
        buffer.copy_(self.sent.get(timeout=20))


@pytest.fixture
def ranks():
    """The first rank's handle, and the second's; behind them the draft's rank, which ends with the control connection."""
    store, wait = HashStore(), timedelta(seconds=30)
    listener = Listener(("127.0.0.1", 0), backlog=4, authkey=b"key")
    groups = {}

    def join(rank):
        groups[rank] = dist.ProcessGroupGloo(store, rank, 2, wait)

    joining = threading.Thread(target=join, args=(1,))
    joining.start()
    join(0)
    joining.join()
    serving = threading.Thread(target=ServingRank(lambda role: DRAFT, groups[1]).run, args=(listener,))
    serving.start()
    connect, broadcasts = connector(listener.address, b"key"), Broadcasts()
    control = connect()
    make = partial(SpeculationServer, fan_out=Uniform(1), backup=Neural())
    first = RankServer(connect, groups[0], broadcasts.first, DRAFT, make, 20.0, CPU)
    other = Follower(broadcasts.other, DRAFT, 20.0, CPU)
    yield first, other
    first.stop()
    control.close()
    serving.join(20)
    assert not serving.is_alive()


def outcome(token):
    return Outcome([True], [2], [1], [[token]], np.zeros(1, np.uint64))


def begin(first, other):
    for rank in (first, other):
        rank.open(1, 20, K, Sampling(), DRAFT.dtype)
        rank.admit(0, [1, 2], 0)


def test_all_ranks_of_the_target_are_given_the_same_speculation(ranks):
    first, other = ranks
    begin(first, other)
    for rank in ranks:
        rank.send_outcome(outcome(2))
    given = [rank.receive_draft() for rank in ranks]
    best = int(DRAFT.table((1, 2)).argmax())
    for speculation in given:
        assert speculation.tokens.tolist() == [[best, int(DRAFT.table((1, 2, best)).argmax())]]
        assert torch.equal(speculation.logits, given[0].logits)
    measured = first.measured()
    assert measured is not None
    assert len(measured["served"]) == 1
    assert other.measured() is None  # the first rank keeps the record


def test_a_rank_that_decided_otherwise_is_found_out(ranks):
    first, other = ranks
    begin(first, other)
    first.send_outcome(outcome(2))
    other.send_outcome(outcome(3))
    first.receive_draft()
    with pytest.raises(DivergedError, match="decided differently"):
        other.receive_draft()


def test_a_server_that_fails_says_why(ranks):
    first, _ = ranks
    first.open(1, -9, K, Sampling(), DRAFT.dtype)
    with pytest.raises(ServerFaultError, match="failed"):
        first.wait_admitted()
