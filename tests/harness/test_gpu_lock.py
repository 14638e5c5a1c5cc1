"""One job per device, by locks that end with their holder; and company on the same cores is noticed, however short."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest

from sdbench.errors import InputError
from sdbench.harness import gpu_lock as leases
from sdbench.harness.co_tenancy import CoTenants, Use, clash
from sdbench.harness.gpu_lock import lease, physical
from sdbench.runs.record import load
from tests.harness.test_run import last_line


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    monkeypatch.setenv("SDBENCH_LEASES", str(tmp_path / "leases"))
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.02)


PRESENT = ["fake:0", "fake:1"]


def use(cores, threads=1, devices=()):
    return Use(frozenset(cores), threads, frozenset(devices))


def test_a_kind_is_whichever_is_free_and_a_third_job_waits(capsys):
    with lease(["fake"], PRESENT) as first, lease(["fake"], PRESENT) as second:
        assert {first["fake"], second["fake"]} == set(PRESENT)
        got = []

        def third():
            with lease(["fake"], PRESENT) as given:
                got.append(given["fake"])

        waiting = threading.Thread(target=third)
        waiting.start()
        time.sleep(0.2)
        assert not got
    waiting.join(timeout=10)
    assert len(got) == 1
    assert "waiting for fake: another job works on it" in capsys.readouterr().err


def test_named_devices_are_held_together_and_missing_ones_refused():
    with lease(["fake:1", "fake"], PRESENT) as given:
        assert given == {"fake:1": "fake:1", "fake": "fake:0"}
    with (
        pytest.raises(InputError, match="no device other left; this machine has: fake:0, fake:1"),
        lease(["other"], PRESENT),
    ):
        pass


def test_a_lease_ends_with_a_killed_holder():
    code = (
        "from sdbench.harness.gpu_lock import lease\n"
        "import time\n"
        "with lease(['fake:0'], ['fake:0']):\n    print('held', flush=True)\n    time.sleep(100)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()
    with lease(["fake:0"], ["fake:0"]):
        pass


def test_a_device_is_the_same_under_any_mask(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert physical("cuda:0") == "cuda:3"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert physical("cuda:0") == "cuda:0"


def test_what_clashes():
    assert clash(use({0}), [use({0})])
    assert not clash(use({0}), [use({1})])
    assert not clash(use({0, 1}), [use({0, 1})]), "two threads on two cores"
    assert clash(use({0, 1}), [use({0, 1}), use({0, 1})]), "three are too many"
    assert clash(use({0, 1}, threads=2), [use({0, 1})])
    assert clash(use({0}, devices={"cuda:0"}), [use({1}, devices={"cuda:0"})])
    assert not clash(use({0}), [])


def test_company_is_met_by_both_while_it_lasts():
    with CoTenants(use({0})) as mine:
        assert not mine.disturbed()
        with CoTenants(use({0})) as other:
            assert other.disturbed()
            assert mine.disturbed()
        assert mine.disturbed(), "it was still there since this was last asked"
        assert not mine.disturbed()
        with CoTenants(use({0})):
            pass
        assert mine.disturbed(), "it came and went in between"
        with CoTenants(use({1})):
            assert not mine.disturbed()


def test_a_run_in_company_says_so(bench, tmp_path, capsys):
    with CoTenants(use(range(512), threads=512)):
        assert bench.call("run", tmp_path / "out", "arms=[ar,sd]", "limit=2", "max_new_tokens=4") == 0
    summary = last_line(capsys)["summary"]
    assert (summary["shared_device"], summary["shared_blocks"]) == (True, 2)
    assert "C: another job ran on the same device" in (tmp_path / "out" / "report" / "report.md").read_text()
    assert "during 2 block(s): do not trust these speeds" in (tmp_path / "out/report/report.md").read_text()
    assert json.loads((tmp_path / "out" / "shared.json").read_text()) == {"blocks": [[0, 0], [1, 0]]}
    assert bench.call("run", tmp_path / "alone", "arms=[ar]", "limit=1", "max_new_tokens=4") == 0
    assert not load(tmp_path / "alone").summary["shared_device"]


def test_where_jobs_cannot_meet_a_run_goes_on(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SDBENCH_LEASES", "/dev/null/nowhere")
    assert bench.call("run", tmp_path / "out", "arms=[ar]", "limit=1", "max_new_tokens=2") == 0
    assert "cannot be detected" in capsys.readouterr().err
    with pytest.raises(InputError, match="set SDBENCH_LEASES"), lease(["fake"], PRESENT):
        pass


def test_every_user_may_meet_there(tmp_path):
    assert leases.registry().stat().st_mode & 0o1777 == 0o1777
    with CoTenants(use([0])) as company:
        assert company.folder.stat().st_mode & 0o1777 == 0o1777
