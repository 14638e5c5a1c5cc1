"""Verdicts follow the truth of simulated runs. Runs that differ are compared without pairs or refused, with the reason."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sdbench.analysis.compare import compare, quality_verdict, speed_verdict, text
from sdbench.analysis.compare_inputs import split_arms
from sdbench.analysis.metrics.summary import summarise
from sdbench.cli import main
from sdbench.errors import InputError
from sdbench.runs.record import claim
from sdbench.runs.tables import frames
from tests.runs.made import AR, FSD, SD, meta, rows

pytestmark = pytest.mark.filterwarnings("ignore::sdbench.analysis.stats.intervals.FewPrompts")
TWIN = replace(SD, name="twin")
ARMS = [AR, SD, TWIN, replace(FSD, right=0.5)]
CONFIG: dict[str, Any] = {
    "tasks": {"_target_": "made.Up"}, "hardware": {"threads": 1, "dtype": "float32", "execution": "eager"},
    "margin": 0.15, "batch_size": 1, "seed": 0,
}  # fmt: skip
ENVIRONMENT: dict[str, Any] = {
    "cpu": {"model": "abacus", "logical_cores": 2}, "gpus": [], "prompts_sha256": "p", "weights": {"target": "t", "draft": "d"},
}  # fmt: skip


@cache
def recorded(seed, prompts, tokens=30):
    tables = frames(rows(ARMS, prompts=prompts, seed=seed, tokens=tokens))
    return tables, summarise(tables, "ar", meta(ARMS))


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    def made(name, *, seed=0, prompts=80, tokens=30, config=None, environment=None):
        folder = claim(tmp_path_factory.mktemp("runs") / name, name)
        folder.describe({**CONFIG, **(config or {})}, {**ENVIRONMENT, **(environment or {})})
        folder.finish(*recorded(seed, prompts, tokens))
        return str(folder.path)

    return made


@pytest.fixture(scope="module")
def run(make):
    return make("run")


def one(*words, **options):
    (found,) = compare(words, **options)["comparisons"]
    return found


def test_arms_of_one_run(run):
    found = one(run, arms="ar,sd")
    assert found["paired"]
    assert found["notes"] == []
    assert found["speed"]["verdict"] == "faster"
    low, high = found["speed"]["ci95"]
    assert low < found["speed"]["ratio"] < high
    assert found["speed"]["n"] == found["quality"]["n"] == 80
    assert 0 < found["speed"]["minimum_detectable_effect"] < 0.1
    assert one(f"{run}:sd", f"{run}:ar")["speed"]["verdict"] == "slower"


def test_arms_with_the_same_law_are_indistinguishable(run):
    found = one(run, arms="sd,twin")
    assert found["speed"]["verdict"] == "indistinguishable"
    low, high = found["speed"]["ci95"]
    assert low < 1 < high


def test_quality_has_three_verdicts(run):
    assert one(run, arms="ar,fsd")["quality"]["verdict"] == "worse"
    assert one(run, arms="ar,ar")["quality"]["verdict"] == "as good"
    assert one(run, arms="ar,sd", margin=0.001)["quality"]["verdict"] == "undecided"
    assert [quality_verdict(ci, 0.03) for ci in ((-0.02, -0.01), (-0.05, -0.01), (-0.05, 0.01), None)] == [
        "as good", "worse", "undecided", "undecided",
    ]  # fmt: skip
    assert [speed_verdict(ci, 40, 0.01) for ci in ((1.01, 2), (0.5, 0.9), (0.9, 1.1), None)] == [
        "faster", "slower", "indistinguishable", "indistinguishable",
    ]  # fmt: skip
    # Two units give an interval whatever the truth is. One of many comparisons is less sure than one alone.
    assert speed_verdict((1.6, 2.0), 2, 0.1) == speed_verdict((1.01, 2), 40, 0.06) == "indistinguishable"


def test_void_arms_have_no_speed_and_forced_ones_say_so(make):
    tables, summary = recorded(0, 80)
    folder = claim(Path(make("marked")).with_name("again"), "again")
    folder.describe(CONFIG, ENVIRONMENT)
    marked = json.loads(json.dumps(summary))
    marked["arms"]["sd"]["void"] = True
    marked["arms"]["twin"] |= {"simulated_acceptance": True, "degenerate": True}
    folder.finish(tables, marked)
    found = one(str(folder.path), arms="ar,sd")["speed"]
    assert found["verdict"] == "not compared"
    assert "void" in found["reason"]
    notes = one(str(folder.path), arms="ar,twin")["notes"]
    assert any("forced" in note for note in notes)
    assert any("repeats itself" in note for note in notes)


def test_answers_of_one_token_have_no_speed_to_compare(make):
    short = make("short", prompts=3, tokens=1)
    other = make("other-short", prompts=3, tokens=1, environment={"prompts_sha256": "q"})
    for document in (compare([short], "ar,sd"), compare([f"{short}:ar", f"{other}:sd"])):
        (found,) = document["comparisons"]
        assert found["speed"]["verdict"] == "indistinguishable"
        assert "decoding speed" in found["speed"]["reason"]
        assert "decoding speed" in text(document)
        json.dumps(document, allow_nan=False)


def test_different_metrics_are_not_compared(run, make):
    other = make("m", config={"tasks": {"_target_": "made.Up", "metric": "exact"}})
    found = one(f"{run}:ar", f"{other}:sd")
    assert found["quality"]["verdict"] == "not compared"
    assert found["speed"]["verdict"] == "faster"
    with pytest.raises(InputError, match="different tasks"):
        compare([f"{run}:ar", make("g", config={"tasks": {"_target_": "made.Up", "task": "gsm8k"}})])


def test_two_runs_on_the_same_prompts_are_paired(run, make):
    other = make("other", seed=5)
    found = one(f"{run}:ar", f"{other}:sd")
    assert found["paired"]
    assert found["speed"]["verdict"] == "faster"
    assert "drift" in found["notes"][0]
    every = compare([run, other])["comparisons"]
    assert [item["first"]["arm"] for item in every] == ["ar", "sd", "twin", "fsd"]
    assert all(item["speed"]["p_holm"] >= item["speed"]["p"] for item in every)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"environment": {"prompts_sha256": "q"}}, "unpaired, as the prompts differ"),
        ({"environment": {"prompts_sha256": None}}, "does not record"),
        ({"config": {"batch_size": 4}}, "the batch sizes differ (1 and 4)"),
    ],
)
def test_other_prompts_are_two_groups(run, make, changes, said):
    other = make("groups", seed=5, prompts=60, **changes)
    found = one(f"{run}:ar", f"{other}:sd")
    assert not found["paired"]
    assert any(said in note for note in found["notes"])
    assert found["speed"]["n"] == [80, 60]
    assert found["speed"]["verdict"] == "faster"
    assert found["quality"]["test"] == "fisher"
    low, high = found["quality"]["ci95"]
    assert low < found["quality"]["difference"] < high
    paired, unpaired = one(run, arms="ar,sd")["quality"]["ci95"], found["quality"]["ci95"]
    assert unpaired[1] - unpaired[0] > 0.8 * (paired[1] - paired[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"environment": {"cpu": {"model": "slide rule", "logical_cores": 2}}}, "the machines differ"),
        ({"config": {"hardware": {**CONFIG["hardware"], "threads": 2}}}, "the threads differ (1 and 2)"),
    ],
)
def test_speeds_of_other_hardware_are_not_compared_but_quality_is(run, make, changes, said):
    found = one(f"{run}:ar", f"{make('elsewhere', **changes)}:sd")
    assert found["speed"]["verdict"] == "not compared"
    assert said in found["speed"]["reason"]
    assert found["quality"]["verdict"] in ("as good", "undecided")
    assert said in text({"comparisons": [found | {"quality": found["quality"] | {"p_holm": None}}]})


def test_other_targets_and_other_tasks_are_refused_and_other_drafts_noted(run, make):
    with pytest.raises(InputError, match="different targets"):
        compare([f"{run}:ar", make("t", environment={"weights": {"target": "u"}})])
    with pytest.raises(InputError, match="different tasks"):
        compare([f"{run}:ar", make("k", config={"tasks": {"_target_": "made.Down"}})])
    other = make("d", environment={"weights": {"target": "t", "draft": "e"}})
    assert "the weights of draft differ" in one(f"{run}:sd", other)["notes"]


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        (["RUN"], {}, "compare takes two runs"),
        (["RUN", "RUN"], {}, "name them"),
        (["RUN"], {"arms": "ar"}, "--arms names two arms"),
        (["RUN"], {"arms": "ar,nosuch"}, "no arm 'nosuch'; it has: ar, sd"),
        (["RUN", "/no/such"], {}, "/no/such"),
        (["RUN"], {"arms": "ar,sd", "margin": 3.0}, "--margin is 3"),
    ],
)
def test_refusals(run, words, options, said):
    with pytest.raises(InputError, match=said):
        compare([word.replace("RUN", run) for word in words], **options)


def test_names_of_grids_hold_commas():
    assert split_arms("sd[a=1,b=2],fsd[c=3]") == ["sd[a=1,b=2]", "fsd[c=3]"]


def test_the_last_line_is_one_json_document(run, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", run, "--arms", "ar,sd", "--margin", "0.2"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert json.loads(lines[-1])["comparisons"][0]["quality"]["margin"] == 0.2
    assert "faster" in lines[1]
