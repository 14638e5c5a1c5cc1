"""A comparison from the command line to its folder: what is written, taken up, skipped and kept."""

import json

import pandas as pd
import pytest

from sdbench.harness import measure as measuring, run as running
from sdbench.runs.record import load


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_the_folder_holds_the_run(finished):
    names = {path.name for path in finished.iterdir()}
    files = {"config.yaml", "environment.json", "journal", "rounds.parquet", "steps.parquet", "sequences.parquet"}
    assert files | {"summary.json", "report"} <= names
    summary = load(finished).summary
    assert summary["baseline"] == "ar"
    keys = {
        "tokens_per_second", "speedup", "speedup_ci95", "speedup_totals", "tokens_per_target_call", "accepted_per_round",
        "acceptance_rate", "acceptance_by_position", "target_calls_per_answer", "quality", "quality_ci95",
        "model_time_fraction", "memory_bytes", "devices", "mode", "lossless",
    }  # fmt: skip
    for arm in summary["arms"].values():
        assert keys <= arm.keys()
    assert summary["arms"]["ar"]["tokens_per_target_call"] == 1.0
    assert summary["arms"]["sd"]["lossless"]
    assert not summary["arms"]["psd_fuzzy"]["lossless"]


def test_prompts_and_the_texts_of_tokens_are_kept(finished):
    run = load(finished)
    assert set(run.prompts) == set(run.sequences.prompt_id)
    for row in run.sequences.itertuples():
        assert len(row.pieces) == len(row.tokens)
        assert "\ufffd" in row.text or "".join(row.pieces).startswith(row.text)
    assert all(prompt["text"] for prompt in run.prompts.values())


def test_rows_agree_with_each_other(finished):
    run = load(finished)
    sequences, rounds = run.sequences, run.rounds
    outer = rounds[rounds.verifier == "target"]
    emitted = outer.groupby(["arm", "prompt_id", "repeat"]).emitted.sum()
    lengths = sequences.set_index(["arm", "prompt_id", "repeat"]).tokens.map(len)
    pd.testing.assert_series_equal(emitted + 1, lengths.loc[emitted.index], check_names=False)
    calls = outer.groupby(["arm", "prompt_id", "repeat"]).size()
    targets = sequences.set_index(["arm", "prompt_id", "repeat"]).target_calls
    pd.testing.assert_series_equal(calls, targets.loc[calls.index], check_names=False)
    same = (
        sequences[sequences.arm.isin(["ar", "sd"])]
        .groupby("prompt_id")
        .tokens.agg(lambda t: len({tuple(x) for x in t}))
    )
    assert (same == 1).all(), "greedy speculative decoding gives the tokens of autoregressive decoding"
    assert set(rounds.edge) == {"target", "draft>target", "draft>qualifier", "qualifier>target"}


def test_a_finished_run_is_not_run_again(bench, finished, capsys, monkeypatch):
    monkeypatch.setattr(running, "measure", lambda *_: pytest.fail("it ran again"))
    assert bench.call("run", finished, "arms=[ar,sd,psd_fuzzy]") == 0
    assert last_line(capsys)["out"] == str(finished)


def test_an_interrupted_run_is_taken_up(bench, tmp_path, capsys, monkeypatch):
    """Ctrl-C in the third block: two are kept, and the same command does the other two."""
    calls = []
    original = measuring.decode

    def interrupting(plan, arm, prompts, block, repeat):
        calls.append(block)
        if block == 2:
            raise KeyboardInterrupt
        return original(plan, arm, prompts, block, repeat)

    monkeypatch.setattr(measuring, "decode", interrupting)
    assert bench.call("run", tmp_path / "out", "arms=[ar,sd]") == 130
    assert len(list((tmp_path / "out" / "journal").iterdir())) == 2
    assert not (tmp_path / "out" / "summary.json").exists()
    calls.clear()
    monkeypatch.setattr(measuring, "decode", lambda *a: calls.append(a[3]) or original(*a))
    assert bench.call("run", tmp_path / "out", "arms=[ar,sd]") == 0
    assert sorted(set(calls)) == [2, 3]
    assert len(load(tmp_path / "out").sequences) == 8


def test_a_stopped_run_can_be_finished_as_it_is(bench, tmp_path, capsys, monkeypatch):
    original = measuring.decode

    def interrupting(plan, arm, prompts, block, repeat):
        if block == 2:
            raise KeyboardInterrupt
        return original(plan, arm, prompts, block, repeat)

    assert bench.call("run", tmp_path / "out", "arms=[ar,sd]", "--finish") == 2
    assert "holds no measured block of this run" in capsys.readouterr().err
    monkeypatch.setattr(measuring, "decode", interrupting)
    assert bench.call("run", tmp_path / "out", "arms=[ar,sd]") == 130
    monkeypatch.setattr(measuring, "decode", lambda *_: pytest.fail("it decoded more"))
    assert bench.call("run", tmp_path / "out", "arms=[ar,sd]", "--finish") == 0
    run = load(tmp_path / "out")
    assert run.summary["prompts"] == 2
    assert run.summary["notes"][-1] == "The run was stopped, and ended with 2 of 4 blocks."
    assert run.summary["arms"]["sd"]["identity"]["identical"] == 2
    assert bench.call("run", tmp_path / "out", "arms=[ar,sd]") == 0  # it is finished, so nothing is decoded


def test_a_failure_is_recorded_and_keeps_what_was_measured(bench, tmp_path, monkeypatch, capsys):
    original = measuring.decode

    def failing(plan, arm, prompts, block, repeat):
        if block == 1:
            raise OSError(28, "No space left on device")
        return original(plan, arm, prompts, block, repeat)

    monkeypatch.setattr(measuring, "decode", failing)
    assert bench.call("run", tmp_path / "out", "arms=[ar]") == 1
    assert "No space left" in json.loads((tmp_path / "out" / "failed.json").read_text())["reason"]
    assert len(list((tmp_path / "out" / "journal").iterdir())) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_grid_is_one_paired_run(bench, tmp_path, capsys):
    assert bench.call("run", tmp_path / "out", "arms=[ar,sd]", "arms.sd.grid.draft_length=[1,3]", "limit=2") == 0
    assert list(last_line(capsys)["summary"]["arms"]) == ["ar", "sd[draft_length=1]", "sd[draft_length=3]"]


def test_batches_and_fixed_lengths(bench, finished, tmp_path, capsys):
    """The tokens of a batch are those of its prompts alone; a fixed run emits exactly max_new_tokens."""
    assert bench.call("run", tmp_path / "out", "arms=[ar,sd,psd_fuzzy]", "batch_size=3") == 0
    alone, batch = load(finished).sequences, load(tmp_path / "out").sequences
    columns = ["arm", "prompt_id", "tokens"]
    left, right = (frame[columns].sort_values(columns[:2]).reset_index(drop=True) for frame in (alone, batch))
    assert left.tokens.map(list).tolist() == right.tokens.map(list).tolist()
    capsys.readouterr()
    assert bench.call("run", tmp_path / "fixed", "arms=[ar,sd]", "ignore_eos=true") == 0
    summary = last_line(capsys)["summary"]
    assert summary["arms"]["sd"]["mode"] == "fixed"
    assert (load(tmp_path / "fixed").sequences.tokens.map(len) == 12).all()


def test_a_sweep_runs_skips_and_lists(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["arms=[ar,sd]", "limit=2", "arms.sd.draft_length=2,3", "out=null", "-m"]
    assert bench.call("run", tmp_path / "unused", *words) == 0
    document = last_line(capsys)
    assert len(document["runs"]) == 2
    assert document["skipped"] == 0
    assert bench.call("run", tmp_path / "unused", *words) == 0
    assert last_line(capsys)["skipped"] == 2


def test_verify_tells_lossless_from_lossy(bench, tmp_path, capsys):
    assert bench.call("verify", tmp_path / "out", "arms=[ar,sd,lookup]") == 0
    assert bench.call("verify", tmp_path / "out", "arms=[sd,psd_fuzzy]") == 1
    arms = last_line(capsys)["arms"]
    assert arms["sd"]["lossless"]
    assert not arms["psd_fuzzy"]["lossless"]
    assert arms["psd_fuzzy"]["mismatches"] > 0


def test_verify_where_the_target_can_do_but_one_thing(bench, tmp_path, capsys):
    """With top_k=1 nothing varies: a token out of place is beyond any chance."""
    words = ["sampling.temperature=1", "sampling.top_k=1", "max_new_tokens=12"]
    assert bench.call("verify", tmp_path / "out", "arms=[sd]", *words) == 0
    assert bench.call("verify", tmp_path / "out", "arms=[psd_fuzzy]", *words) == 1
    assert not last_line(capsys)["arms"]["psd_fuzzy"]["lossless"]


def test_a_report_that_was_cut_off_is_written(bench, finished, capsys):
    page = finished / "report" / "report.html"
    page.unlink()
    assert bench.call("run", finished, "arms=[ar,sd,psd_fuzzy]") == 0
    assert page.is_file()


def test_verify_when_sampling(bench, tmp_path, capsys):
    words = ["arms=[sd,fsd]", "sampling.temperature=1", "repeats=15", "max_new_tokens=24", "batch_size=4"]
    assert bench.call("verify", tmp_path / "out", *words) == 1
    arms = last_line(capsys)["arms"]
    assert arms["sd"]["lossless"]
    assert max(abs(z) for z in arms["fsd"]["z_scores"].values()) > arms["fsd"]["z_limit"]
