"""A run with forced acceptance: the rate holds, quality is refused, and everything says what it is."""

import json

import pytest

from sdbench.analysis.report.comparison_table import comparison
from sdbench.analysis.report.write import report
from sdbench.runs.record import load


@pytest.fixture(scope="module")
def forced(bench, tmp_path_factory):
    out = tmp_path_factory.mktemp("forced") / "run"
    words = ["arms=[ar,sd,pyramid]", "arms.sd.forced_acceptance=0.5", "ignore_eos=true", "max_new_tokens=96", "limit=5"]
    pyramid = ["acceptance@arms.pyramid.proposer.rule=forced", "arms.pyramid.proposer.rule.rate=0.9"]
    assert bench.call("run", out, *words, *pyramid, "arms.sd.draft_length=3") == 0
    return load(out)


def test_the_rate_holds_in_a_run(forced):
    rounds = forced.rounds[forced.rounds.arm == "sd"]
    # Some 200 rounds of 3 tokens: four standard errors of a rate whose terms lie in [0, 1].
    assert len(rounds) > 150
    assert forced.summary["arms"]["sd"]["acceptance_rate"] == pytest.approx(0.5, abs=2 / len(rounds) ** 0.5)


def test_no_quality_is_reported(forced):
    for name in ("sd", "pyramid"):
        arm = forced.summary["arms"][name]
        assert arm["simulated_acceptance"]
        assert not arm["lossless"]
        assert arm["quality"] is None
        assert arm["quality_difference"] is None
        assert arm["non_inferior"] is None
        assert arm["agreement"] is None
        assert arm["degenerate_rate"] is None
        assert arm["identity"] is None
        assert forced.sequences[forced.sequences.arm == name].score.isna().all()
    assert not forced.summary["arms"]["ar"]["simulated_acceptance"]


def test_a_scored_task_gives_no_score_either(bench, tmp_path):
    rows = [{"prompt": f"{i} + 1 =", "reference": str(i + 1)} for i in range(3)]
    prompts = tmp_path / "scored.jsonl"
    prompts.write_text("\n".join(json.dumps(row) for row in rows))
    words = [
        "arms=[ar,sd]",
        "arms.sd.forced_acceptance=1.0",
        f"tasks.path={prompts}",
        "tasks.reference_field=reference",
        "limit=3",
    ]
    assert bench.call("run", tmp_path / "out", *words) == 0
    arms = load(tmp_path / "out").summary["arms"]
    assert arms["ar"]["quality"] is not None
    assert arms["sd"]["quality"] is None


def test_table_page_and_figures_say_so(forced, tmp_path):
    assert "SIMULATED ACCEPTANCE" in report([forced.path], tmp_path).read_text()
    assert (
        "**Simulated acceptance**: the number of accepted tokens of `sd`, `pyramid` was forced"
        in (tmp_path / "report.md").read_text()
    )
    line = next(line for line in comparison(forced.summary).markdown().splitlines() if line.startswith("| sd "))
    assert " A " in line.split("|")[-2] + " "
    assert "sd (simulated acceptance)" in (tmp_path / "figures" / "speedup.svg").read_text()


def test_a_recording_is_replayed_in_every_sequence(bench, tmp_path):
    trace = tmp_path / "trace.json"
    trace.write_text("[2, 0, 3, 1]")
    words = [
        "arms=[ar,sd]",
        f"arms.sd.forced_acceptance={trace}",
        "ignore_eos=true",
        "max_new_tokens=40",
        "batch_size=2",
    ]
    assert bench.call("run", tmp_path / "out", *words, "arms.sd.draft_length=4") == 0
    rounds = load(tmp_path / "out").rounds
    for _, own in rounds[rounds.arm == "sd"].groupby("prompt_id"):
        accepted = own.sort_values("round").accepted.tolist()
        assert accepted == [[2, 0, 3, 1][i % 4] for i in range(len(accepted))]


def test_a_run_is_a_recording(bench, finished, tmp_path):
    words = ["arms=[ar,sd]", f"arms.sd.forced_acceptance={finished}", "ignore_eos=true"]
    assert bench.call("run", tmp_path / "out", *words) == 0
    run, before = load(tmp_path / "out"), load(finished).rounds
    wanted = before[before.arm == "sd"].sort_values(["repeat", "block", "round"]).accepted.tolist()
    assert run.config["arms"]["sd"]["rule"]["lengths"] == wanted
    first = run.rounds[(run.rounds.arm == "sd") & (run.rounds.block == 0)].sort_values("round").accepted.tolist()
    assert first[:-1] == wanted[: len(first) - 1]


def test_rates_by_position_and_a_mean_length_hold_in_a_run(bench, tmp_path):
    words = ["arms=[ar,sd,sd_qualifier]", "ignore_eos=true", "max_new_tokens=96", "limit=5"]
    words += ["arms.sd.forced_acceptance=[0.9,0.5,0.2]", "arms.sd.draft_length=4"]
    words += ["arms.sd_qualifier.forced_acceptance={length: 2.5}", "arms.sd_qualifier.draft_length=3"]
    assert bench.call("run", tmp_path / "out", *words) == 0
    rounds = load(tmp_path / "out").rounds
    lengths = rounds[rounds.arm == "sd"].accepted.to_numpy()
    assert len(lengths) > 120
    for place, rate in enumerate([0.9, 0.5, 0.2, 0.0]):
        tried = lengths[lengths >= place]
        assert (tried > place).mean() == pytest.approx(rate, abs=2.5 / len(tried) ** 0.5 * (rate > 0))
    lengths = rounds[rounds.arm == "sd_qualifier"].accepted.to_numpy() + 1
    assert lengths.mean() == pytest.approx(2.5, abs=5 / len(lengths) ** 0.5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["arms=[sd]", "arms.sd.forced_acceptance={mean: 2}"], "length: MEAN"),
        (["arms=[sd]", "arms.sd.forced_acceptance=[0.5,1.5]"], "rates"),
        (["arms=[sd]", "arms.sd.forced_acceptance=1.5"], "rate"),
        (["arms=[sd]", "arms.sd.forced_acceptance=/no/such/file.json"], "forced_acceptance"),
        (["arms=[ar]", "arms.ar.forced_acceptance=0.5"], "drafts nothing"),
    ],
)
def test_bad_ones_are_refused(bench, tmp_path, capsys, words, says):
    assert bench.call("run", tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.strip().splitlines()) == 1
