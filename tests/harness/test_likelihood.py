"""The likelihood of lossy arms' answers: that of transformers' own forward, and only where it is wanted."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from sdbench.harness.config import compose
from sdbench.harness.plan import prepare
from sdbench.runs.record import load


def test_the_nats_are_those_of_a_plain_forward(bench, finished):
    run = load(finished)
    prompts = {prompt.id: tokens for prompt, tokens in prepare(compose(bench.words(finished, "arms=[ar]"))).prompts}
    model = AutoModelForCausalLM.from_pretrained(bench.paths["target"]).eval()
    sequences = run.tables["sequences"]
    for row in sequences[sequences["arm"].isin(["ar", "psd_fuzzy"])].itertuples():
        prompt, answer = prompts[row.prompt_id], [int(token) for token in row.tokens]
        with torch.inference_mode():
            laws = model(torch.tensor([prompt + answer])).logits[0].double().log_softmax(-1)
        wanted = -sum(float(laws[len(prompt) + place - 1, token]) for place, token in enumerate(answer))
        assert row.nats == pytest.approx(wanted, rel=1e-4)
        later = -sum(float(laws[len(prompt) + place, token]) for place, token in enumerate(answer))
        assert row.nats != pytest.approx(later, rel=1e-2)  # the laws one place later are other laws
    assert sequences.loc[sequences["arm"] == "sd", "nats"].isna().all()


def test_the_summary_pairs_the_prompts(finished):
    run = load(finished)
    arms, sequences = run.summary["arms"], run.tables["sequences"]
    per_token = sequences["nats"] / sequences["tokens"].map(len)
    own, base = (per_token[sequences["arm"] == name].to_numpy() for name in ("psd_fuzzy", "ar"))
    assert arms["psd_fuzzy"]["nats_per_token"] == pytest.approx(own.mean())
    assert arms["psd_fuzzy"]["nats_difference"] == pytest.approx((own - base).mean())
    low, high = arms["psd_fuzzy"]["nats_difference_ci95"]
    assert low <= arms["psd_fuzzy"]["nats_difference"] <= high
    assert arms["ar"]["nats_difference"] == 0
    assert arms["sd"]["nats_per_token"] is None
    assert "nats / tok" in (finished / "report" / "report.html").read_text()


def test_a_run_without_a_lossy_arm_asks_nothing(bench, tmp_path):
    assert bench.call("run", tmp_path / "out", "arms=[ar,sd]", "limit=2") == 0
    run = load(tmp_path / "out")
    assert "nats" not in run.tables["sequences"]
    assert run.summary["arms"]["ar"]["nats_difference"] is None


def test_forced_acceptance_has_no_likelihood(bench, tmp_path):
    words = ["arms=[ar,sd]", "acceptance@arms.sd.rule=forced", "limit=2"]
    assert bench.call("run", tmp_path / "out", *words) == 0
    run = load(tmp_path / "out")
    assert run.summary["arms"]["sd"]["simulated_acceptance"]
    assert run.summary["arms"]["sd"]["nats_per_token"] is None
    assert "nats" not in run.tables["sequences"]
