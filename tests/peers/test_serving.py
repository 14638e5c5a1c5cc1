"""Server baselines against a small server that speaks their protocol, and misbehaves in every way that we could think of."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdbench.decoding.base import Request
from sdbench.errors import InputError, RunError
from sdbench.exactness import TabularModel
from sdbench.lm.trace import Trace
from sdbench.peers import VLLM, SGLang
from sdbench.peers.server import Server
from sdbench.runs.record import load
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.peers.server import following

SERVER = Path(__file__).with_name("server.py")
KINDS = {"vllm": VLLM, "sglang": SGLang}
PROMPTS = [Request([5, 6, 7], "a"), Request([20, 30], "b")]


class StopAt:
    """Ends behind a token."""

    def __init__(self, token: int) -> None:
        self.token, self.reason = token, None

    def start(self):
        return StopAt(self.token)

    def push(self, tokens):
        if self.token in tokens:
            self.reason = "stop"
            return tokens.index(self.token) + 1
        return None


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


def arm(kind: str, fault: str = "none", **knobs):
    port = free_port()
    command = f"{sys.executable} {SERVER} {port} {kind} {fault}"
    knobs = {"start_seconds": 30.0, "stall_seconds": 20.0, **knobs}
    return KINDS[kind](TabularModel("target", 4, 0), f"http://127.0.0.1:{port}", command, **knobs)


@contextlib.contextmanager
def opened(kind: str, fault: str = "none", **knobs):
    decoder = arm(kind, fault, **knobs)
    try:
        decoder.open(1, 64)
        yield decoder
    finally:
        decoder.close()


def expected(request: Request, count: int) -> list[int]:
    tokens = list(request.tokens)
    while len(tokens) < len(request.tokens) + count:
        tokens.append(following(tokens[-1]))
    return tokens[len(request.tokens) :]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_times_and_acceptance_come_back(kind):
    with opened(kind) as decoder:
        assert list(
            decoder.generate(PROMPTS, Sampling(), NeverStop(), 4)
        )  # as in a warm-up: counters move, and are not ours
        trace = Trace()
        finished = list(decoder.generate(PROMPTS[:1], Sampling(), NeverStop(), 15, trace=trace))
        trace.close()
        (item,) = finished
        assert item.tokens == expected(item.request, 15)
        assert item.reason == "length"
        assert 0 < item.first_token_seconds <= item.decode_seconds
        # 1 + (1 + 2 + 3 + 4) + 1 + 2 + 1 of 3: seven verifications, which kept 0, 1, 2, 3, 0, 1, 2.
        assert sorted(row["accepted"] for row in trace.rounds) == [0, 0, 1, 1, 2, 2, 3]
        assert {row["proposed"] for row in trace.rounds} == {3}
        assert {row["edge"] for row in trace.rounds} == {"server>target"}
        assert item.target_calls == 15 - 9


@pytest.mark.parametrize("kind", KINDS)
def test_our_stop_rule_ends_an_answer(kind):
    with opened(kind) as decoder:
        (item,) = decoder.generate(PROMPTS[:1], Sampling(), StopAt(12), 40)
        assert item.tokens == expected(item.request, 5)
        assert item.tokens[-1] == 12
        assert item.reason == "stop"


def test_several_at_a_time():
    with opened("vllm") as decoder:
        trace = Trace()
        finished = {
            item.request.name: item
            for item in decoder.generate(PROMPTS, Sampling(), NeverStop(), 10, rows=2, trace=trace)
        }
        trace.close()
        assert all(item.tokens == expected(item.request, 10) for item in finished.values())
        assert not trace.rounds, "the server's counters cannot be shared out between requests"
    with opened("sglang") as decoder:
        trace = Trace()
        list(decoder.generate(PROMPTS, Sampling(), NeverStop(), 10, rows=2, trace=trace))
        trace.close()
        assert {row["sequence"] for row in trace.rounds} == {0, 1}


FAULTS = {
    "error": "answered 500: no room for this prompt",
    "inside": "answered an error: the engine is dead",
    "dies": "is gone",
    "cut": "ended an answer in the middle",
    "stalls": "was silent for 1 s",
    "no-ids": "sends text without token ids",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence_and_nothing_stays(fault):
    kind = "vllm" if fault in ("no-ids", "error", "dies") else "sglang"
    with opened(kind, fault, stall_seconds=1.0) as decoder:
        pid = decoder.server._process.pid
        begun = time.monotonic()
        with pytest.raises(RunError) as failed:
            list(decoder.generate(PROMPTS[:1], Sampling(), NeverStop(), 20))
        assert time.monotonic() - begun < 15
    assert FAULTS[fault] in str(failed.value)
    assert "\n" not in str(failed.value)
    assert gone(pid)


def test_the_last_words_of_a_server_are_told():
    with opened("vllm", "dies") as decoder, pytest.raises(RunError, match="it last said: out of memory, alas"):
        list(decoder.generate(PROMPTS[:1], Sampling(), NeverStop(), 20))


@pytest.mark.parametrize(
    ("fault", "says"),
    [("never", "did not answer within 1 s"), ("exits", "ended with status 7; it last said: no such model")],
)
def test_a_server_that_does_not_come_up(fault, says):
    seconds = 1.0 if fault == "never" else 30.0
    decoder = arm("vllm", fault, start_seconds=seconds)
    with pytest.raises(RunError, match=says):
        decoder.open(1, 64)
    assert decoder.server._process is None


def test_attaching_where_nobody_is():
    decoder = VLLM(TabularModel("target", 4, 0), f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RunError, match="No server answers"):
        decoder.open(1, 64)


def test_an_attached_server_is_left_alone():
    with opened("vllm") as owner:
        guest = VLLM(TabularModel("target", 4, 0), owner.server.url)
        guest.open(1, 64)
        (item,) = guest.generate(PROMPTS[:1], Sampling(), NeverStop(), 5)
        guest.close()
        assert item.tokens == expected(item.request, 5)
        assert list(owner.generate(PROMPTS[:1], Sampling(), NeverStop(), 5))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
def test_a_server_dies_with_a_parent_that_was_killed():
    port = free_port()
    program = (
        "import sys, time; from sdbench.peers.server import Server;"
        f"s = Server('http://127.0.0.1:{port}', '{sys.executable} {SERVER} {port} vllm none', 30, 5); s.start();"
        "print(s._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 10
    while not gone(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert gone(pid)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"url": "localhost:8000"}, "http://"),
        ({"command": "no-such-server --port 1"}, "no program 'no-such-server'"),
        ({"start_seconds": 0}, "start_seconds"),
        ({"stall_seconds": "long"}, "stall_seconds"),
    ],
)
def test_bad_knobs_are_refused(knobs, says):
    with pytest.raises(InputError, match=says):
        VLLM(TabularModel("target", 4, 0), **knobs)


def test_a_run_keeps_its_blocks_when_the_server_dies(bench, tmp_path, capsys):
    """The server that dies gives nothing; the arm's row of finished blocks is kept, and the run is taken up with a sound one."""
    port, out = free_port(), tmp_path / "out"
    words = ["arms=[ar,vllm_sd]", f"arms.vllm_sd.url=http://127.0.0.1:{port}", "warmup=0", "limit=2"]
    server = [sys.executable, str(SERVER), str(port), "vllm"]
    sound = subprocess.Popen([*server, "none"])
    try:
        wait_for(port)
        from sdbench.harness import measure as measuring

        # It dies between the blocks.
        advance = measuring.Progress.advance

        def die(self):
            sound.kill()
            sound.wait()
            advance(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measuring.Progress, "advance", die)
            assert bench.call("run", out, *words) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "is gone" in said
        assert "Finished blocks are kept" in said
        assert len(list((out / "journal").iterdir())) == 1
    finally:
        sound.kill()
    again = subprocess.Popen([*server, "none"])
    try:
        wait_for(port)
        assert bench.call("run", out, *words) == 0
    finally:
        again.kill()
        again.wait()
    arms = load(out).summary["arms"]
    assert arms["vllm_sd"]["void"], "it continues by a rule of its own, not by the target's"
    assert arms["vllm_sd"]["end_to_end_only"]
    assert arms["vllm_sd"]["acceptance_rate"] > 0
    assert arms["vllm_sd"]["tokens_per_second"] is None


def wait_for(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError("the server did not come up")


def test_a_command_may_name_packaged_weights():
    command = """python -m server --model pkg://sdbench/assets/tiny/target --more '{"model": "pkg://sdbench/assets/tiny/draft"}'"""
    words = Server("http://127.0.0.1:1", command, 1, 1).words
    assert (Path(words[4]) / "config.json").is_file()
    assert (Path(json.loads(words[6])["model"]) / "config.json").is_file()
    with pytest.raises(InputError, match="the package sdbench lacks assets/nothing"):
        Server("http://127.0.0.1:1", "python pkg://sdbench/assets/nothing", 1, 1)
