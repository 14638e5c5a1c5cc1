"""A speculation server in a process of its own: the same tokens, and what happens when it dies, stalls, fails or lies."""

import multiprocessing
import os
import pickle
import selectors
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.asynchronous import Neural, OnDemandDrafter, SSDDrafter, Uniform
from sdbench.asynchronous.child_loop import serve
from sdbench.asynchronous.child_process import ServerProcess
from sdbench.asynchronous.speculation import SpeculationServer
from sdbench.asynchronous.transport import PeerSilentError, PipeTransport, Waiter
from sdbench.decoding import Pearl, Request, Speculative
from sdbench.drafting import ModelDrafter, StagedDrafter
from sdbench.errors import RunError
from sdbench.exactness import TabularModel
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import random_model

V = 12
REQUESTS = [Request([index, 3], str(index)) for index in range(6)]


def decode(decoder, sampling=Sampling(0.9), rows=1, requests=REQUESTS):  # noqa: B008
    trace = Trace()
    generated = decoder.generate(requests, sampling, NeverStop(), 12, seed=1, rows=rows, trace=trace)
    finished = {item.request.name: item.tokens for item in generated}
    trace.close()
    return finished, trace


def models():
    return TabularModel("target", V, 1), TabularModel("draft", V, 1, sharpness=1.2)


def children():
    return [process for process in multiprocessing.active_children() if process.name == "sdbench draft"]


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    deadline = time.monotonic() + 5
    while children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not children()


def test_the_same_tokens_and_a_record_of_both_sides():
    """The target's weights require gradients, as `from_pretrained` gives them."""
    target = Transformer("target", random_model("llama").requires_grad_(True))
    draft = Transformer("draft", random_model("llama", layers=2))
    requests = [Request([5, 7, index], str(index)) for index in range(4)]
    remote = SSDDrafter(draft, Uniform(3))
    decoder = Speculative(target, Exact(), remote, 3)
    for sampling in (Sampling(), Sampling(0.8)):
        expected, _ = decode(Speculative(target, Exact(), ModelDrafter(draft), 3), sampling, requests=requests)
        for rows in (1, 3):
            got, trace = decode(decoder, sampling, rows, requests)
            assert got == expected
            assert {step["kind"] for step in trace.steps} >= {"prefill", "verify", "glue", "tree", "backup"}
            assert all(step["concurrent"] for step in trace.steps if step["kind"] in ("glue", "tree"))
            for row in trace.rounds:
                assert row["asked"] < row["received"] < row["replied"] < row["answered"]  # one clock
    # A pyramid over the same server.
    qualifier = Transformer("qualifier", random_model("llama", layers=3))
    expected, _ = decode(Speculative(target), Sampling(), requests=requests)
    got, _ = decode(
        Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), remote, 2), 4), Sampling(), 2, requests
    )
    assert got == expected
    decoder.close()


class Faulty(Neural):
    """A back-up that goes wrong the third time."""

    def __init__(self, fault):
        super().__init__()
        self.fault, self.calls = fault, 0

    def draft(self, request):
        backed = super().draft(request)
        self.calls += 1
        if self.calls == 3:
            if self.fault == "exit":
                os._exit(7)
            if self.fault == "stall":
                time.sleep(60)
            if self.fault == "raise":
                raise ArithmeticError("the draft broke")
            if self.fault == "nonsense":
                backed.tokens = backed.tokens + 10 * V
            if self.fault == "nan":
                backed.logits = backed.logits * torch.nan
        return backed


FAULTS = {
    "exit": r"has ended \(exit status 7\)",
    "stall": "has not answered for 1 s",
    "raise": "failed: ArithmeticError: the draft broke",
    "nonsense": "answered nonsense: a token outside the vocabulary",
    "nan": "answered nonsense: a drafted token without a probability",
}


@pytest.mark.parametrize(
    "fault", ["exit", "stall", "nonsense", *(pytest.param(f, marks=pytest.mark.slow) for f in ("raise", "nan"))]
)
def test_a_fault_ends_the_run_in_one_sentence(fault):
    target, draft = models()
    decoder = Speculative(target, Exact(), SSDDrafter(draft, Uniform(1), Faulty(fault), timeout_seconds=1.0), 2)
    begun = time.monotonic()
    with pytest.raises(RunError, match=FAULTS[fault]):
        decode(decoder)
    assert time.monotonic() - begun < 30
    decoder.close()


def test_or_the_run_goes_on_without_a_draft(capfd):
    target, draft = models()[0], TabularModel("draft", V, 2)  # one that is often wrong, so that the back-up is asked
    remote = SSDDrafter(draft, Uniform(1), Faulty("exit"), timeout_seconds=5.0, on_fault="continue")
    decoder = Speculative(target, Exact(), remote, 2)
    expected, _ = decode(Speculative(target), Sampling())
    got, trace = decode(decoder, Sampling())
    assert got == expected
    assert remote.fault is not None
    assert "goes on without a draft" in capfd.readouterr().err
    proposed = [row["proposed"] for row in trace.rounds]
    assert proposed[0] == 2
    assert proposed[-1] == 0
    # The next batch has a new server.
    again, trace = decode(decoder, Sampling(), requests=REQUESTS[:1])
    assert again["0"] == expected["0"]
    assert trace.rounds[0]["proposed"] == 2
    decoder.close()


def test_pearl_goes_on_alone_too_without_a_first_verification():
    """Without pending tokens and without a draft a round must still decode."""
    target, draft = models()
    remote = OnDemandDrafter(draft, timeout_seconds=5.0, on_fault="continue")
    decoder = Pearl(target, remote, draft_length=3, pre_verify=False)
    expected, _ = decode(Speculative(target), Sampling())
    assert decode(decoder, Sampling())[0] == expected
    (child,) = children()
    os.kill(child.pid or 0, signal.SIGKILL)
    assert decode(decoder, Sampling())[0] == expected
    assert remote.fault is not None
    decoder.close()


def test_the_start_of_a_process_is_not_decode_time():
    target, draft = models()
    decoder = Speculative(target, Exact(), SSDDrafter(draft, Uniform(1)), 2)
    begun = time.perf_counter()
    _, first = decode(decoder, Sampling(), requests=REQUESTS[:1])
    took = time.perf_counter() - begun
    _, second = decode(decoder, Sampling(), requests=REQUESTS[:1])
    assert 0.3 < first.outside < took
    assert second.outside == 0
    decoder.close()


def test_a_killed_server_is_noticed():
    target, draft = models()
    remote = SSDDrafter(draft, Uniform(2), timeout_seconds=5.0)
    decoder = Speculative(target, Exact(), remote, 2)
    decode(decoder)
    (child,) = children()
    child.kill()
    with pytest.raises(RunError, match="has ended"):
        decode(decoder)


@pytest.mark.skipif(sys.platform != "linux", reason="stops a process by signal and reads /proc")
def test_a_parent_that_is_killed_takes_its_server_along(tmp_path):
    """Even a stopped server, which cannot notice anything itself."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent("""
        import multiprocessing, os, signal, time
        from sdbench.exactness import TabularModel
        from sdbench.acceptance import Exact
        from sdbench.decoding import Request, Speculative
        from sdbench.asynchronous import SSDDrafter
        from sdbench.sampling import Sampling
        from sdbench.stopping import NeverStop

        if __name__ == "__main__":
            remote = SSDDrafter(TabularModel("draft", 5, 1))
            decoder = Speculative(TabularModel("target", 5, 2), Exact(), remote, 2)
            list(decoder.generate([Request([1], "a")], Sampling(), NeverStop(), 4))
            (child,) = multiprocessing.active_children()
            os.kill(child.pid, signal.SIGSTOP)
            print(child.pid, flush=True)
            time.sleep(60)
        """)
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait(20)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child}")


@pytest.mark.slow
def test_a_prompt_that_a_stalled_server_does_not_read_is_no_hang():
    server = ServerProcess(models()[1], make_server, seconds=1.0)
    server.open(1, 20, 2, Sampling(), torch.float64)
    os.kill(server.process.pid or 0, signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(RunError, match="has not answered for 1 s"):
        server.admit(0, [70_000] * 200_000, 0)
    assert time.monotonic() - begun < 20


def test_a_command_that_fails_ends_the_server():
    server = ServerProcess(models()[1], make_server, seconds=5.0)
    server.open(1, -9, 2, Sampling(), torch.float64)
    with pytest.raises(RunError, match="process failed: RuntimeError"):
        server.wait_admitted()
    assert not server.process.is_alive()


def test_a_server_is_busy_in_its_sessions_only(monkeypatch):
    """Between them its core belongs to the servers of other arms."""
    waited = []
    wait = Waiter.wait
    monkeypatch.setattr(
        Waiter, "wait", lambda self, seconds, soon=True: (waited.append(soon), wait(self, seconds, soon))
    )
    ours, its = multiprocessing.Pipe()
    threading.Thread(target=serve, args=(its, make_server(models()[1]), PipeTransport(its)), daemon=True).start()
    ours.recv_bytes()  # it is there
    for command in (("open", 1, 9, 2, Sampling(), torch.float64, True), ("admit", 0, [1, 2], 3), ("measured",)):
        ours.send_bytes(pickle.dumps(command))
        assert ours.poll(5)
        assert pickle.loads(ours.recv_bytes())[0] == "done"
    deadline = time.monotonic() + 5
    while waited[-1] and time.monotonic() < deadline:
        time.sleep(0.01)
    ours.close()
    assert not waited[0]
    assert not waited[-1]
    assert any(waited)


@pytest.mark.parametrize("soon", [False, True])
def test_a_waiter_polls_only_if_a_message_is_expected_soon(soon, monkeypatch):
    select, timeouts = selectors.DefaultSelector.select, []
    monkeypatch.setattr(
        selectors.DefaultSelector,
        "select",
        lambda self, timeout=None: timeouts.append(timeout) or select(self, timeout),
    )
    ours, _its = multiprocessing.Pipe()
    with pytest.raises(PeerSilentError):
        Waiter(ours).wait(0.01, soon)
    assert timeouts[-1] == 0.01
    assert (timeouts.count(0) > 1) == soon


def make_server(model):
    return SpeculationServer(model, Uniform(2))


def test_answers_by_a_group_of_torch_distributed():
    """What NCCL does between GPUs, by gloo: the same messages, in the same memory."""
    from sdbench.asynchronous.protocol import Outcome

    draft = TabularModel("draft", V, 1)
    server = ServerProcess(draft, make_server, seconds=20.0, backend="gloo")
    server.open(1, 20, 2, Sampling(), draft.dtype)
    server.admit(0, [1, 2], 0)
    server.send_outcome(Outcome([True], [2], [1], [[2]], np.zeros(1, np.uint64)))
    speculation = server.receive_draft()
    best = int(draft.table((1, 2)).argmax())
    assert speculation.tokens.tolist() == [[best, int(draft.table((1, 2, best)).argmax())]]
    assert torch.allclose(speculation.logits[0, 0], draft.table((1, 2)).log())
    server.stop()
    assert not torch.distributed.is_initialized()
