"""Claims get the right verdict on made-up runs whose truth is known, and claims about other set-ups get none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sdbench.papers import claims, tables
from sdbench.papers.estimate import best_of, of_logs, of_values
from sdbench.papers.paper import find, names
from sdbench.papers.paper_results import NotRun, PaperResults
from sdbench.papers.reproduce import write_report
from sdbench.papers.set_up import SetUp
from tests.papers.made import fuzzy, kept_run, sd

ROOT = Path(__file__).resolve().parents[2]

LEVELS = (0.2, 0.4, 0.5, 0.8)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Draw 300 resamples of a statistic: enough for truths as far from the bounds as these."""
    monkeypatch.setattr("sdbench.papers.estimate.RESAMPLES", 300)


def judged(paper, folder) -> dict[str, claims.Judged]:
    return {one.claim.id: one for one in claims.judge(find(paper), PaperResults(folder))}


def verdicts(paper, folder) -> dict[str, str]:
    """The verdicts as the bound alone gives them: as if every run were on the set-up of the claim."""
    return {
        name: claims.decide(one.estimate, one.claim) if one.verdict == claims.OTHER_SET_UP else one.verdict
        for name, one in judged(paper, folder).items()
    }


def thresholds(folder, peak=2.0, assisted=1.45, qualifier=1.2, noise=0.1, mirrored=0.1, prompts=60):
    """sd is 1 over itself, fsd 1.1; speed grows with tau_T, falls with tau_Q by `mirrored`, and so on."""
    arms = {"ar": (0.6, {}), "sd[draft_length=4]": (0.9, sd(4)), "sd[draft_length=8]": (1.0, sd(8))}
    arms |= {"sd_qualifier": (qualifier, sd(4)), "pyramid": (0.8, fuzzy(0, 0))}
    arms |= {f"fsd[rule.threshold={t}]": (1.1, {"draft_length": 8, "rule": {"threshold": t}}) for t in LEVELS}
    arms |= {f"psd_assisted[rule.threshold={t}]": (assisted, {**fuzzy(0, t), "proposer": {}}) for t in LEVELS}
    right = {}
    for tau_q in LEVELS:
        for tau_t in LEVELS:
            name = f"psd_fuzzy[rule.threshold={tau_t},proposer.rule.threshold={tau_q}]"
            arms[name] = (peak * (1 + mirrored * (tau_t - tau_q)), fuzzy(tau_q, tau_t))
            right[name] = 0.85 - 0.5 * tau_q * tau_t
    kept_run(folder, "thresholds", arms, prompts, noise, right)


def lengths(folder, best_ratio=0.4):
    arms = {"ar": (0.6, {})}
    for family in ("psd_fuzzy", "psd_assisted"):
        for l_q in (4, 10, 15):
            for l_d in (2, 4, 6):
                speed = 1.5 - abs(l_d / l_q - best_ratio) - (0.1 if l_q == 15 else 0)
                arms[f"{family}[draft_length={l_q},proposer.draft_length={l_d}]"] = (speed, fuzzy(0.4, 0.5, l_q, l_d))
    kept_run(folder, "lengths", arms)


def seeds(folder):
    path = kept_run(folder, "seeds", {name: (1.0, {}) for name in ("psd_fuzzy", "psd_assisted")}, repeats=4)
    table = pd.read_parquet(path / "sequences.parquet")
    # The fuzzy arm is right on all prompts or on few, by the seed; the other on the same ones each time.
    swing = table["repeat"].map({0: 0.9, 1: 0.5, 2: 0.8, 3: 0.4})
    place = table["block"] / table["block"].max()
    table["score"] = (place < swing.where(table["arm"] == "psd_fuzzy", 0.7)).astype(float)
    table.to_parquet(path / "sequences.parquet")


def test_bounds_decide_on_known_truths(tmp_path):
    thresholds(tmp_path)
    lengths(tmp_path)
    seeds(tmp_path)
    found = verdicts("pyramidsd", tmp_path)
    assert found["fuzzy_over_sd"] == claims.HOLDS  # 2.06 over 1.0
    assert found["fuzzy_over_sd_qualifier"] == claims.UNDECIDED  # 1.72 over 1.2: the bound, 1.72, is the truth
    assert found["assisted_over_sd"] == claims.HOLDS
    assert found["assisted_over_sd_qualifier"] == claims.DOES_NOT_HOLD  # 1.21
    assert found["fsd_over_sd"] == claims.DOES_NOT_HOLD  # 1.1
    assert found["mirrored_speed"] == claims.HOLDS
    assert found["mirrored_quality"] == claims.UNDECIDED  # the same quality both ways
    assert found["loose_quality"] == claims.HOLDS
    assert found["ratio_fuzzy"] == found["not_monotone"] == claims.HOLDS
    assert found["seeds"] == found["thresholds_spread"] == claims.HOLDS
    assert found["strict_redundant"] == found["throughput_model"] == claims.HOLDS
    assert found["entropy_gradient"] == claims.NOT_TESTED


def test_other_runs_give_other_verdicts(tmp_path):
    thresholds(tmp_path, peak=1.2, assisted=1.3, mirrored=-0.3)
    lengths(tmp_path, best_ratio=0.2)
    found = verdicts("pyramidsd", tmp_path)
    assert found["fuzzy_over_sd"] == found["mirrored_speed"] == found["ratio_fuzzy"] == claims.DOES_NOT_HOLD
    assert found["seeds"] == claims.NOT_RUN


def test_noise_and_few_prompts_decide_nothing(tmp_path):
    thresholds(tmp_path / "noisy", assisted=1.3, noise=1.5, prompts=20)
    assert verdicts("pyramidsd", tmp_path / "noisy")["assisted_over_sd"] == claims.UNDECIDED
    thresholds(tmp_path / "few", prompts=5)
    assert verdicts("pyramidsd", tmp_path / "few")["fuzzy_over_sd"] == claims.UNDECIDED


def ssd_runs(folder, over_sd=1.6, fast_at_8=1.2, geometric=0.05):
    def remote(**knobs):
        return {"draft_length": 5, "proposer": knobs}

    for task in ("wordproblems", "records"):
        arms = {
            "ar": (0.4, {}),
            "sd[draft_length=4]": (1.0, sd(4)),
            "sd_two_cores": (1.0, sd(6)),
            "ssd": (over_sd, sd(4)),
        }
        kept_run(folder, f"table-{task}", arms)
    arms, hit = {"sd": (1.0, sd(5))}, {}
    for per in (1, 2, 4):
        uniform, budget = f"ssd_uniform[{per}]", f"ssd[{6 * per}]"
        arms[uniform] = (1.2, remote(fan_out={"per_length": per}))
        arms[budget] = (1.2 * (1 + geometric), remote(fan_out={"budget": 6 * per}))
        hit |= {uniform: 0.6, budget: 0.6 + geometric}
    kept_run(folder, "shapes", arms, hit=hit)
    arms = {
        "sd": (1.0, sd(4)),
        "ssd[c=0.1]": (0.8, remote(saguaro={"c": 0.1})),
        "ssd[c=1.0]": (1.2, remote(saguaro={"c": 1.0})),
    }
    kept_run(folder, "saguaro", arms, hit={"ssd[c=0.1]": 0.9, "ssd[c=1.0]": 0.7})
    for size, fast in ((1, 0.9), (8, fast_at_8)):
        arms = {"ar": (0.5, {}), "ssd": (1.0, sd(4)), "ssd_fast_backup": (fast, sd(4))}
        kept_run(folder, f"batch-{size}", arms, config={"batch_size": size})
    arms = {
        f"{family}[draft_length={k}]": (gain * (1.3 - 0.1 * abs(k - 4)), sd(k))
        for family, gain in (("sd", 1), ("ssd", 1.2))
        for k in (2, 4, 8)
    }
    kept_run(folder, "draft_length", arms)
    for at in (0.0, 1.0):
        arms = {"sd": (1.0, sd(4)), "ssd": (1.2, sd(4))}
        kept_run(folder, f"temperature-{at}", arms, hit={"ssd": 0.8}, config={"sampling": {"temperature": at}})


def test_claims_of_ssd(tmp_path):
    ssd_runs(tmp_path / "good")
    found = verdicts("ssd", tmp_path / "good")
    assert found["twice_sd"] == claims.DOES_NOT_HOLD  # 1.6
    assert found["third_over_strongest"] == found["mean_over_sd"] == claims.HOLDS
    assert found["corollary_8"] == found["theorem_7"] == found["long_drafts"] == claims.HOLDS
    assert found["geometric_hits"] == found["geometric_speed"] == found["theorem_15_hits"] == claims.HOLDS
    assert found["theorem_15_acceptance"] == claims.UNDECIDED  # made the same at every C
    assert found["c_speed"] == claims.DOES_NOT_HOLD
    assert found["neural_small"] == found["fast_large"] == claims.HOLDS
    ssd_runs(tmp_path / "bad", over_sd=0.9, fast_at_8=0.8, geometric=-0.1)
    found = verdicts("ssd", tmp_path / "bad")
    assert found["third_over_strongest"] == found["geometric_hits"] == found["fast_large"] == claims.DOES_NOT_HOLD


@pytest.fixture(scope="module")
def both_papers(tmp_path_factory):
    """Made runs of both papers, by paper."""
    folder = tmp_path_factory.mktemp("papers")
    thresholds(folder / "pyramidsd")
    lengths(folder / "pyramidsd")
    seeds(folder / "pyramidsd")
    ssd_runs(folder / "ssd")
    return {name: PaperResults(folder / name) for name in ("pyramidsd", "ssd")}


@pytest.mark.slow
@pytest.mark.parametrize(("paper", "figures"), [("pyramidsd", 6), ("ssd", 8)])
def test_tables_figures_and_report(both_papers, tmp_path, capsys, paper, figures):
    results = both_papers[paper]
    write_report(find(paper), results, tmp_path)
    text = (tmp_path / "report.md").read_text()
    drawn = [path.name for path in (tmp_path / "figures").glob("*.svg")]
    assert len(drawn) == figures
    assert all(f"(figures/{name})" in text for name in drawn)
    assert "a made-up machine" in text
    assert claims.OTHER_SET_UP in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "claims.csv")
    assert list(table["id"]) == [claim.id for claim in claims.read_claims(find(paper))]
    assert set(tables.TIMED) <= set(pd.read_csv(tmp_path / "arms.csv"))


def test_published_values_stand_beside_ours(both_papers):
    table = tables.published(find("pyramidsd"), both_papers["pyramidsd"])
    assert list(table["method"]) == ["SD", "FSD", "PSD_A", "PSD_F"]
    assert table["our_speedup_over_sd"].iloc[3] == pytest.approx(2.06, abs=0.1)  # as `thresholds` makes it
    assert table[["speedup_over_sd", "our_speedup_over_sd", "our_low", "our_high"]].notna().all().all()
    table = tables.published(find("ssd"), both_papers["ssd"])
    ours = table["source"].str.startswith("ours")
    assert ours.sum() == 2
    theirs = table[~ours]
    assert len(theirs) == 8
    assert (theirs["ssd_over_sd"] == theirs["ssd_tokens_per_second"] / theirs["sd_tokens_per_second"]).all()
    assert table.loc[ours, ["ssd_over_sd", "ssd_over_sd_low", "ssd_over_sd_high"]].notna().all().all()
    assert table.loc[ours, "ssd_over_sd"].to_list() == pytest.approx([1.6, 1.6], rel=0.05)


def test_no_claim_about_a_set_up_that_was_not_run_is_judged(both_papers):
    """Whatever the runs say: a figure on other models or hardware neither holds nor fails here."""
    decided = {claims.HOLDS, claims.DOES_NOT_HOLD, claims.UNDECIDED}
    for name, made in both_papers.items():
        kept = PaperResults(ROOT / "results" / name / "tiny-quick")
        for results in (made, kept):
            found = claims.judge(find(name), results)
            bound_to = [one for one in found if one.claim.scope == claims.SET_UP]
            assert bound_to
            assert {one.verdict for one in bound_to} == {claims.OTHER_SET_UP}
            assert all(one.differs and one.estimate is not None for one in bound_to)
            assert not decided & set(tables.claims(bound_to)["verdict"])
            assert decided & {one.verdict for one in found if one.claim.scope == claims.GENERAL}


PUBLISHED = {
    "config": {
        "models": {
            role: {"path": f"meta-llama/Llama-3.{number}-Instruct"}
            for role, number in (("target", "1-8B"), ("qualifier", "2-3B"), ("draft", "2-1B"))
        },
        "hardware": {"device": "cuda", "dtype": "bfloat16"},
        "tasks": {"_target_": "sdbench.lm_eval.task.LmEvalTask", "task": "commonsense_qa"},
    },
    "environment": {"gpus": [{"name": "NVIDIA GeForce RTX 4090"}]},
}


def _speeds_of_fuzzy(folder, config=None, environment=None):
    arms = {"sd": (1.0, sd(4)), "psd_fuzzy": (2.1, fuzzy(0.4, 0.5))}
    kept_run(folder, "thresholds", arms, config=config, environment=environment)
    return judged("pyramidsd", folder)["fuzzy_over_sd"]


def test_a_claim_is_judged_on_its_own_set_up(tmp_path):
    found = _speeds_of_fuzzy(tmp_path, **PUBLISHED)
    assert (found.verdict, found.differs) == (claims.HOLDS, ())


@pytest.mark.parametrize(
    ("field", "config", "gpus"),
    [
        ("models", {"models": {**PUBLISHED["config"]["models"], "draft": {"path": "Llama-3.2-11B-Instruct"}}}, None),
        (
            "models",
            {"models": {**PUBLISHED["config"]["models"], "target": {"path": "Llama-3.1-8B-Instruct.Q4.gguf"}}},
            None,
        ),
        ("task", {"tasks": {"_target_": "sdbench.tasks.gsm8k.GSM8K"}}, None),
        ("hardware", {}, [{"name": "NVIDIA GeForce RTX 4090 Laptop GPU"}]),
        ("hardware", {}, [{"name": "NVIDIA GeForce RTX 4090"}] * 2),
        ("hardware", {}, []),
    ],
)
def test_one_difference_is_enough(tmp_path, field, config, gpus):
    environment = PUBLISHED["environment"] if gpus is None else {"gpus": gpus}
    found = _speeds_of_fuzzy(tmp_path, {**PUBLISHED["config"], **config}, environment)
    assert (found.verdict, found.differs) == (claims.OTHER_SET_UP, (field,))
    assert found.estimate.value == pytest.approx(2.1, rel=0.05)
    assert found.estimate.predicted == pytest.approx(2.1)  # the made runs predict 1.03 of each arm's speed


def test_dtype_and_engine_belong_to_a_set_up(tmp_path):
    path = kept_run(tmp_path, "one", {"ar": (1.0, {})}, config={"hardware": {"dtype": "bfloat16"}})
    run = PaperResults(tmp_path)[path.name]
    assert SetUp("x", models={"target": "target"}, dtype="bfloat16").differences(run) == []
    assert SetUp("x", models={"target": "target"}, dtype="float16").differences(run) == ["dtype"]
    assert SetUp("x", engine="vLLM").differences(run) == ["engine"]
    run.config["models"]["target"]["quantization"] = "torchao-int8"
    assert SetUp("x", models={"target": "target"}, dtype="bfloat16").differences(run) == ["dtype"]


def test_what_a_sample_can_detect():
    """A true effect of the detectable size is found in about 80 % of samples."""
    generator = np.random.default_rng(3)
    detectable = of_values(pd.Series(generator.normal(0, 1, 100))).detectable
    assert detectable is not None
    assert detectable == pytest.approx(2.8 / math.sqrt(100), rel=0.15)
    caught = [of_values(pd.Series(generator.normal(detectable, 1, 100))).ci95 for _ in range(150)]
    assert 0.68 <= np.mean([low > 0 for low, _ in (ends or (0, 0) for ends in caught)]) <= 0.92
    ratio = of_logs(pd.Series(generator.normal(0, 0.1, 100)))
    assert ratio.detectable == pytest.approx(math.exp(0.028) - 1, rel=0.2)
    assert of_values(pd.Series([1.0] * 50)).detectable is None


def test_the_winner_of_a_grid_is_read_on_other_prompts():
    """Of forty arms that are all alike the best looks fast by chance; chosen and read apart it does not."""
    noise = pd.DataFrame(np.random.default_rng(4).normal(0, 0.5, (60, 40)))
    noise.columns = [f"arm{i}" for i in noise]
    assert noise.mean().max() > 0.12
    best = best_of(noise, list(noise))
    assert abs(best.values.mean()) < 0.12
    read_from = [noise.loc[unit, arm] for unit, arm in best.arms.items()]
    assert best.values.to_list() == read_from


def test_claims_say_how_they_are_tested():
    for name in names():
        paper = find(name)
        found = claims.read_claims(paper)
        assert len({claim.id for claim in found}) == len(found)
        assert all(callable(claims.measure_of(paper, claim.measure)) for claim in found if claim.measure)
        assert all(claim.read_in and (claim.not_tested or claim.published) for claim in found)
        parts = paper.plan["parts"]
        for claim in found:
            given = claim.arguments.get("parts", [])
            assert set(given) | ({claim.arguments["part"]} if "part" in claim.arguments else set()) <= set(parts), (
                claim.id
            )
    with pytest.raises(ValueError, match="sure is 'quite'"):
        claims.Claim("x", "y", "z", "quite", "general", measure="model_error", at_least=1)
    with pytest.raises(ValueError, match="one of at_least and at_most"):
        claims.Claim("x", "y", "z", "read", "general", measure="model_error")
    with pytest.raises(ValueError, match="scope is 'local'"):
        claims.Claim("x", "y", "z", "read", "local", measure="model_error", at_least=1)
    with pytest.raises(ValueError, match="names its set-ups"):
        claims.Claim("x", "y", "z", "read", "set-up", measure="model_error", at_least=1)


def test_speeds_in_company_decide_nothing_and_void_arms_do_not_count(tmp_path):
    thresholds(tmp_path)
    path = tmp_path / "thresholds" / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps(summary | {"shared_device": True}))
    found = judged("pyramidsd", tmp_path)["strict_redundant"]
    assert found.verdict == claims.UNDECIDED
    assert "another job" in found.estimate.note
    summary["arms"]["pyramid"]["void"] = True
    path.write_text(json.dumps(summary))
    assert verdicts("pyramidsd", tmp_path)["strict_redundant"] == claims.NOT_RUN


def test_what_has_no_speed_is_not_run(tmp_path):
    with pytest.raises(NotRun):
        best_of(pd.DataFrame({"ar": [0.0, 0.0], "sd": [math.nan, math.nan]}), ["sd"])
    (tmp_path / ".half").mkdir(parents=True)
    (tmp_path / ".half" / "summary.json").write_text("{}")
    assert PaperResults(tmp_path).names == []
