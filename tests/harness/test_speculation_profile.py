"""Speculation profiles: the numbers of a run in the format of specdec_bench, and back as forced acceptance."""

import json

import pytest

from sdbench.analysis.speculation_profile import profile, read_profile, write_profiles
from sdbench.errors import InputError
from sdbench.runs.record import load


@pytest.fixture(scope="module")
def run(bench, tmp_path_factory):
    out = tmp_path_factory.mktemp("profiled") / "run"
    assert bench.call("run", out, "arms=[ar,sd]", "arms.sd.grid.draft_length=[2,4]", "limit=4") == 0
    return load(out)


def test_a_profile_agrees_with_the_summary_and_with_its_own_invariants(run):
    arm = "sd[draft_length=4]"
    found, summary = profile(run, arm), run.summary["arms"][arm]
    assert found["mean_accept_length"] == pytest.approx(1 + summary["accepted_per_round"], abs=1e-6)
    assert found["marginal_accept_rates"] == pytest.approx(summary["acceptance_by_position"], abs=1e-6)
    assert found["num_speculative_tokens"] == 4
    assert 1 + sum(found["marginal_accept_rates"]) == pytest.approx(found["mean_accept_length"], abs=1e-5)
    assert found["validation"]["mean_consistency"]["passed"]
    assert found["validation"]["marginal_monotonicity"]["passed"]
    product = 1.0
    for conditional, marginal in zip(found["conditional_accept_rates"], found["marginal_accept_rates"], strict=True):
        product *= conditional
        assert product == pytest.approx(marginal, abs=1e-4)
    lengths = {int(length): count for length, count in found["acceptance_length_histogram"].items()}
    steps = sum(lengths.values())
    assert sum(length * count for length, count in lengths.items()) / steps == pytest.approx(
        found["mean_accept_length"], abs=1e-6
    )
    assert set(found["accept_length_by_k"]) == {"2", "4"}
    assert found["method"] == "draft_model"
    assert found["draft_checkpoint"]["identity"].startswith("sha256:")
    assert "/" + str(run.path).strip("/").split("/")[0] not in json.dumps(found), "no path of this machine"


def test_a_profile_is_forced_again(run, bench, tmp_path):
    arm = "sd[draft_length=4]"
    (file,) = write_profiles(run.path, [arm])
    assert file.name == "sd-draft_length-4.json"
    wanted = json.loads(file.read_text())
    words = ["arms=[ar,sd]", f"arms.sd.forced_acceptance={file}", "arms.sd.draft_length=4", "ignore_eos=true"]
    assert bench.call("run", tmp_path / "out", *words, "max_new_tokens=96", "limit=5") == 0
    rounds = load(tmp_path / "out").rounds
    lengths = rounds[rounds.arm == "sd"].accepted + 1
    spread = 2.0 / len(lengths) ** 0.5  # of a length between 1 and 5
    assert lengths.mean() == pytest.approx(wanted["mean_accept_length"], abs=4 * spread)
    assert bench.call("run", tmp_path / "longer", *words[:2], "arms.sd.draft_length=5") == 2


def test_what_is_no_profile_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="no arm 'ar' with a measured acceptance"):
        write_profiles(run.path, ["ar"])
    for document in ({}, {"conditional_accept_rates": [1.5]}, {"conditional_accept_rates": []}, {"measured": False}):
        with pytest.raises(InputError, match="profile"):
            read_profile(document, "here")
