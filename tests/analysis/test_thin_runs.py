"""Runs with little data: one arm, one prompt, one token. Metrics without data are absent, and nothing fails."""

from __future__ import annotations

import json
from itertools import combinations

import pytest

from sdbench.analysis.figures.draw import draw
from sdbench.analysis.metrics.summary import summarise
from sdbench.analysis.report.comparison_table import bounds, comparison
from sdbench.analysis.report.significance_table import significance
from sdbench.analysis.report.write import report
from sdbench.runs.record import claim, load
from sdbench.runs.tables import frames
from tests.analysis.test_ssd import arm as cached
from tests.runs.made import AR, FSD, PSD_FUZZY, PYRAMID, SD, SD_QUALIFIER, Arm, meta, rows

pytestmark = pytest.mark.filterwarnings("ignore::sdbench.analysis.stats.intervals.FewPrompts")
SPEEDS = (
    "tokens_per_second",
    "speedup",
    "speedup_totals",
    "predicted_tokens_per_second",
    "oracle_length_tokens_per_second",
)
PEERS = [Arm("hf_generate"), Arm("hf_assisted", (("draft", 4, 0.8),))]


def peer_rows(prompts: int):
    """Make the rows of peers: without steps, with prefill as a part of decoding."""
    made = rows(PEERS, prompts=prompts)
    made["steps"], made["bare"] = [], []
    for row in made["sequences"]:
        row.update(prefill_seconds=0.0)
    return made


def written(folder, made, arms, baseline, **facts) -> dict:
    """Write a finished run and its report, and read its summary back."""
    tables = frames(made)
    about = {name: {**arm, **facts} for name, arm in meta(arms).items()}
    run = claim(folder, "abc")
    run.describe({"seed": 0}, {})
    run.finish(tables, summarise(tables, baseline, about))  # pyright: ignore[reportArgumentType]
    page = report([run.path]).with_name("report.html").read_text("utf-8")
    text = (run.path / "report" / "report.md").read_text("utf-8")
    summary = load(run.path).summary
    for name in summary["arms"]:
        assert f"| {name} |" in text
        assert f'data-row="{name}"' in page
    for word in ("nan", "NaN", "None", "inf"):
        assert f"| {word} |" not in text
        assert f">{word}<" not in page
    return summary


@pytest.mark.parametrize("arm", [AR, SD, SD_QUALIFIER, FSD, PYRAMID, PSD_FUZZY], ids=lambda arm: arm.name)
@pytest.mark.parametrize("prompts", [1, 2])
def test_every_kind_of_arm_alone(arm, prompts, tmp_path):
    summary = written(tmp_path / "run", rows([arm], prompts=prompts), [arm], arm.name)
    found = summary["arms"][arm.name]
    assert found["tokens_per_second"] > 0
    assert found["speedup"] == pytest.approx(1.0)
    assert (found["speedup_ci95"] is None) is (prompts == 1)
    assert significance(summary) is None  # a baseline alone has no differences


@pytest.mark.parametrize("baseline", [peer.name for peer in PEERS])
@pytest.mark.parametrize("prompts", [1, 12])
def test_peers_alone(baseline, prompts, tmp_path):
    summary = written(tmp_path / "run", peer_rows(prompts), PEERS, baseline, end_to_end_only=True)
    for arm in summary["arms"].values():
        assert [arm[key] for key in SPEEDS] == [None] * len(SPEEDS)
        assert arm["model_time_fraction"] is arm["seconds_per_token"] is None
        assert arm["end_to_end_tokens_per_second"] > 0
        assert arm["end_to_end_speedup"] > 0
    heads = comparison(summary).heads
    assert "end to end [95 %]" in heads
    assert not {"speed-up [95 %]", "tok/s", "model time"} & set(heads)
    assert bounds(summary) is None


@pytest.mark.parametrize("arms", [[AR], [AR, SD, PYRAMID]], ids=["alone", "several"])
def test_answers_of_one_token_have_no_decoding_speed(arms, tmp_path):
    """With max_new_tokens=1 prefill gives the only token. A speed of 0.0 would be a claim about decoding."""
    summary = written(tmp_path / "run", rows(arms, prompts=3, tokens=1), arms, "ar")
    for arm in summary["arms"].values():
        assert [arm[key] for key in SPEEDS] == [None] * len(SPEEDS)
        assert arm["tokens_per_target_call"] is arm["acceptance_rate"] is arm["model_time_fraction"] is None
        assert arm["end_to_end_tokens_per_second"] > 0
        assert arm["seconds_per_round"] == {}
    heads = comparison(summary).heads
    assert "end-to-end tok/s" in heads
    assert not {"speed-up [95 %]", "tok/s", "tok / target call", "acceptance", "model time"} & set(heads)


@pytest.mark.parametrize(
    ("hits", "accepted"), [([True], [2]), ([False], [0]), ([True, True], [4, 4]), ([False, False, True], [0, 0, 1])]
)
@pytest.mark.parametrize("lacking", [(), ("glue", "tree")])
def test_a_speculation_cache_with_few_rounds(hits, accepted, lacking, tmp_path):
    """One round has no outcome before it; a short answer may end before a cache was built."""
    one = cached(hits, accepted, ranks=[1 if kept < 4 else 3 for kept in accepted])
    steps = one["steps"][~one["steps"]["kind"].isin(lacking)]
    sequence = rows([SD], prompts=1)["sequences"][0] | {"arm": "ssd", "prompt_id": "p", "target_calls": len(hits)}
    tables = {
        **frames({"sequences": [sequence]}),
        **one,
        "steps": steps,
        "sequences": frames({"sequences": [sequence]})["sequences"],
    }
    tables["bare"] = frames({})["bare"]
    about = {"ssd": {**meta([SD])["sd"], "config": {"draft_length": 4, "proposer": {"fan_out": {"budget": 12}}}}}
    summary = json.loads(json.dumps(summarise(tables, "ssd", about), allow_nan=False))  # pyright: ignore[reportArgumentType]
    cache = summary["arms"]["ssd"]["speculation"]
    assert cache["hit_rate"] == pytest.approx(sum(hits) / len(hits))
    assert (cache["best_draft_length"] is None) is bool(lacking)
    assert draw(summary, tmp_path)
    assert comparison(summary).heads[0] == "arm"


def test_every_subset_of_arms_has_a_summary_and_tables():
    """Any arms that a run accepts, with any of them as the baseline."""
    arms = [AR, SD, *PEERS]
    mine, theirs = rows(arms[:2], prompts=2, tokens=20), peer_rows(2)
    tables = frames({name: mine[name] + theirs[name] for name in mine})
    about = meta(arms)
    for peer in PEERS:
        about[peer.name]["end_to_end_only"] = True
    subsets = [part for size in range(1, len(arms) + 1) for part in combinations(about, size)]
    assert len(subsets) == 15
    for subset in subsets:
        chosen = {
            name: table if name == "bare" else table[table["arm"].isin(subset)].reset_index(drop=True)
            for name, table in tables.items()
        }
        summary = summarise(chosen, subset[-1], {name: about[name] for name in subset})
        assert list(summary["arms"]) == list(subset)
        assert [row[0] for row in comparison(summary).rows] == list(subset)
        assert all(arm["end_to_end_speedup"] for arm in summary["arms"].values())
        for table in (significance(summary), bounds(summary)):
            assert table is None or table.markdown()


def test_an_arm_that_failed_everywhere_has_a_row_and_no_numbers(tmp_path):
    made = rows([AR, SD], prompts=2)
    for row in made["sequences"]:
        if row["arm"] == "sd":
            row.update(finish_reason="error", tokens=[], score=None)
    summary = written(tmp_path / "run", made, [AR, SD], "ar")
    row = next(cells for cells in comparison(summary).cells() if cells[0] == "sd")
    assert set(row[1:-2]) == {"–"}


@pytest.mark.parametrize("missing", ["ar", "sd"])
def test_an_arm_without_any_row_has_no_numbers_either(missing, tmp_path):
    """An arm that could not start has no rows, and it may be the baseline. The other arms keep their numbers."""
    made = {
        name: [row for row in table if row.get("arm") != missing] for name, table in rows([AR, SD], prompts=12).items()
    }
    summary = written(tmp_path / "run", made, [AR, SD], "ar")
    other = summary["arms"]["sd" if missing == "ar" else "ar"]
    assert other["tokens_per_second"] > 0
    assert (other["speedup"] is None) is (missing == "ar")
    gone = summary["arms"][missing]
    assert gone["tokens_per_second"] is gone["speedup"] is gone["quality"] is gone["model_time_fraction"] is None
    assert gone["prompts"] == gone["sequences"] == 0
