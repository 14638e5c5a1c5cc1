"""An arm as an lm-eval model: the texts and scores of `hf`, through the arm's own decoder, with lm-eval's rules for requests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from sdbench.decoding.speculative import Speculative
from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.lm_eval.__main__ import main
from sdbench.lm_eval.cache import OWNER
from sdbench.lm_eval.catalogue import Catalogue
from sdbench.lm_eval.model import ArmLM
from sdbench.models.hub import place_of
from sdbench.models.spec import family_specs, resolve
from sdbench.runs.record import load
from sdbench.tasks.texts import generate

TASK = "tiny_wordproblems"
LIMIT = 2


def hf(words: tuple[str, ...] = (), **options: Any) -> HFLM:
    """lm-eval's own model on the same weights."""
    spec = family_specs(compose(list(words))["models"], ["target"])["target"]
    place, files = place_of(spec, resolve(spec))
    return HFLM(place, device="cpu", dtype="float32", gguf_file=files.get("gguf_file"), **options)


def evaluated(model: Any, task: str = TASK, limit: int = LIMIT, **options: Any) -> dict[str, Any]:
    manager = Catalogue([task])
    found = simple_evaluate(
        model, tasks=[task], limit=limit, task_manager=manager, bootstrap_iters=0, verbosity="ERROR", **options
    )
    assert found is not None
    return found


def answers(found: dict[str, Any], task: str = TASK) -> list[tuple[str, float]]:
    """Text and score of each example, under each filter."""
    return [
        (sample["resps"][0][0], sample["filter"], *(sample[metric] for metric in sample["metrics"]))
        for sample in sorted(found["samples"][task], key=lambda sample: (sample["filter"], sample["doc_id"]))
    ]


def request(context: str, repeats: int = 1, **options: Any) -> Instance:
    return Instance("generate_until", {}, (context, options), 0, ("made", hash(context) % 1000, repeats))


def test_texts_and_scores_are_those_of_hf(tiny_ar, tmp_path, capsys):
    """One by one; the same for a lossless arm in a batch, and for the run of the bench on the same task."""
    expected = answers(evaluated(hf()))
    assert len({text for text, *_ in expected}) == LIMIT
    assert answers(evaluated(tiny_ar)) == expected
    before = dict(tiny_ar.counts)
    found = evaluated(ArmLM("sd", batch_size=2))
    assert answers(found) == expected
    record = json.loads(json.dumps(found["config"], default=str))
    assert record["arm"] == "sd"
    assert record["tokens_per_target_call"] > 2, "the answers went through the decoder of sd"
    assert record["tasks_that_do_not_see_the_arm"] == []
    assert before["target_calls"] == before["tokens"] - before["sequences"], "of ar each token is a call"
    from sdbench.cli import main as bench

    out = tmp_path / "run"
    words = ["tasks=lm_eval/tiny_wordproblems", f"limit={LIMIT}", "arms=[ar]", "tracker=none", f"out={out}"]
    with pytest.raises(SystemExit) as stop:
        bench(["run", *words])
    assert stop.value.code == 0
    run = load(out)
    rows = run.sequences.sort_values("prompt_id")
    assert [(text, "none", score) for text, score in zip(rows.text, rows.score, strict=True)] == expected
    assert run.environment["task"]["tasks"][TASK]["version"] == 1.0
    assert list(run.environment["task"]["documents_sha256"]) == [f"{TASK}/{index}" for index in range(LIMIT)]


def test_requests_are_honoured_as_hf_does(tiny_ar):
    """Lengths under their several names, stop strings, greedy although there is a temperature."""
    prompt = generate("wordproblems", "test", 0, 0).prompt
    asked = [
        request(prompt, max_gen_toks=24, until=[]),
        request(prompt, max_new_tokens=5, until=[]),
        request(prompt, max_gen_toks=24, until=[", so", "#"], temperature=0.7, do_sample=False),
        request("The answer", max_gen_toks=24, until="\n"),
        request("", max_gen_toks=24),
    ]
    ours, theirs = (model.generate_until(asked[:4], disable_tqdm=True) for model in (tiny_ar, hf()))
    assert ours == theirs
    long, short, stopped, _ = ours
    assert long.startswith(short)
    assert long.startswith(stopped)
    assert len(short) < len(stopped) < len(long)
    with pytest.raises(InputError, match="has no tokens"):
        tiny_ar.generate_until(asked[4:], disable_tqdm=True)


def test_sampling(tiny_ar):
    """Repeats of a request differ from each other, and are the same in another call and another batch."""
    one = request("One day", repeats=3, max_gen_toks=16, do_sample=True, temperature=1.0, until=[])
    first = tiny_ar.generate_until([one] * 3, disable_tqdm=True)
    assert len(set(first)) > 1
    tiny_ar.rows = 3
    assert tiny_ar.generate_until([one] * 3, disable_tqdm=True) == first
    tiny_ar.rows = 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_beams": 4}, "num_beams=4, which no decoder here does"),
        ({"do_sample": True}, "without a temperature above 0"),
        ({"max_gen_toks": 5000}, "but the models read 1024"),
        ({"max_gen_toks": 0}, "at least 1"),
    ],
)
def test_what_no_decoder_does_is_refused(tiny_ar, options, reason, monkeypatch):
    monkeypatch.setattr(Speculative, "generate", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(InputError, match=reason):
        tiny_ar.generate_until([request("a", max_gen_toks=4), request("b", **options)], disable_tqdm=True)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch_size": "auto"}, "no 'auto'"),
        ({"arm": "none_such"}, "no arm 'none_such'"),
        ({"arm": "sd", "arms.sd.grid.draft_length": [2, 3]}, "one arm, without a grid"),
        ({"device": "cuda:7"}, "device"),
        ({"models.target.pth": "x"}, "did you mean 'path'"),
        (
            {"sampling.temperature": 0.7},
            "no effect on a model of lm-eval: lm-eval has --gen_kwargs do_sample=true,temp",
        ),
        ({"++sampling.top_k": 3}, "--gen_kwargs"),
        ({"max_new_tokens": 5}, "lm-eval has --gen_kwargs max_gen_toks=N"),
        ({"limit": 3}, "lm-eval has --limit"),
        ({"tasks": "gsm8k"}, "lm-eval has --tasks"),
        ({"tasks.stop": ["x"]}, "lm-eval has --tasks"),
        ({"chat": True}, "lm-eval has --apply_chat_template"),
        ({"out": "x"}, "lm-eval has --output_path"),
        ({"tracker": "wandb"}, "lm-eval has --wandb_args"),
        ({"tracker.mode": "online"}, "lm-eval has --wandb_args"),
        ({"repeats": 2}, "the field 'repeats' of a task's YAML"),
        ({"arms": ["sd"]}, "lm-eval has --model_args arm=NAME"),
        ({"warmup": 0}, "'warmup' in --model_args has no effect on a model of lm-eval: leave it out"),
        ({"ignore_eos": True}, "leave it out"),
        ({"verify.alpha": 0.1}, "leave it out"),
        ({"experiment": "bench"}, "leave it out"),
    ],
)
def test_models_that_cannot_be(options: dict[str, Any], reason):
    with pytest.raises(InputError, match=reason):
        ArmLM(**options)


@pytest.mark.parametrize("word", ["batch_size=2", "device=cpu", "limit=3", "sampling.temperature=0.7"])
def test_words_of_lm_evals_own_options(word, capsys):
    """lm-eval gives its options to the model too, so such a word would arrive twice."""
    words = ["--model", "sdbench", "--model_args", f"arm=ar,models=tiny,{word}", "--tasks", TASK, "--limit", "1"]
    assert main(["run", *words]) == 2
    said = capsys.readouterr().err
    name = word.partition("=")[0]
    assert f"'{name}' in --model_args has no effect on a model of lm-eval: lm-eval has --" in said


def test_likelihoods_are_the_targets(tiny_ar, caplog):
    """Equal to hf's; the record and a warning say that the arm has no part in them."""
    theirs = hf()
    pairs = [("Tom has 3", " apples"), ("Tom has 3", " pens and"), ("", "Tom")]
    asked = [Instance("loglikelihood", {}, pair, 0, ("choices", 0, 1)) for pair in pairs]
    ours, expected = (model.loglikelihood(asked, disable_tqdm=True) for model in (tiny_ar, theirs))
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in expected]
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in expected])
    rolling = [Instance("loglikelihood_rolling", {}, ("Tom has 3 apples.",), 0, ("perplexity", 0, 1))]
    both = [model.loglikelihood_rolling(rolling, disable_tqdm=True) for model in (tiny_ar, theirs)]
    assert both[0] == pytest.approx(both[1])
    assert tiny_ar.get_model_info()["tasks_that_do_not_see_the_arm"] == ["choices", "perplexity"]
    assert "do not see the arm 'ar'" in caplog.text
    tiny_ar.unseen.clear()


def test_a_cache_is_one_arms_alone(tiny_ar, tmp_path):
    cache = str(tmp_path / "answers")
    short = {"limit": 1, "use_cache": cache, "gen_kwargs": {"max_gen_toks": 6}}
    first = answers(evaluated(tiny_ar, **short))
    counted = tiny_ar.counts["sequences"]
    assert answers(evaluated(tiny_ar, **short)) == first
    assert tiny_ar.counts["sequences"] == counted, "its own answers serve it again"
    with pytest.raises(InputError, match="holds answers of another arm"):
        evaluated(ArmLM("lookup"), **short)


def test_a_cache_of_another_model_is_refused(tiny_ar):
    class Answers(dict):
        filename = "answers.db"

    for there in ({"a": "an answer of hf"}, {OWNER: "another", "a": "b"}):
        with pytest.raises(InputError, match=r"The cache answers\.db holds"):
            tiny_ar.set_cache_hook(SimpleNamespace(dbdict=Answers(there)))


def test_lm_evals_command_line(tmp_path, capsys):
    words = ["--model", "sdbench", "--model_args", "arm=sd,models=tiny,arms.sd.draft_length=3", "--limit", "1"]
    words += ["--gen_kwargs", "max_gen_toks=16"]
    assert main(["run", *words, "--tasks", "tiny_records", "--output_path", str(tmp_path), "--log_samples"]) == 0
    assert "|tiny_records|" in capsys.readouterr().out.replace(" ", "")
    (results,) = tmp_path.rglob("results_*.json")
    record = json.loads(results.read_text())["config"]
    assert record["arm_config"]["draft_length"] == 3
    assert main(["run", *words, "--tasks", "tiny_records", "--batch_size", "auto"]) == 2
    assert "no 'auto'" in capsys.readouterr().err


def test_code_is_run_only_when_asked_for(data, capsys):
    words = ["--model", "sdbench", "--model_args", "arm=ar", "--tasks", "humaneval", "--gen_kwargs", "max_gen_toks=4"]
    assert main(["run", *words]) == 2
    assert "confirm_run_unsafe_code" in capsys.readouterr().err
    assert main(["run", *words, "--confirm_run_unsafe_code"]) == 0
    assert "pass@1" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("SDBENCH_SMOLLM2"), reason="SDBENCH_SMOLLM2 names no GGUF file of SmolLM2-135M")
@pytest.mark.skipif(not os.environ.get("SDBENCH_DATA"), reason="SDBENCH_DATA names no folder with gsm8k_test.jsonl")
def test_smollm2_on_gsm8k():
    """Texts and scores of 20 problems, five worked examples each, example by example."""
    path = Path(os.environ["SDBENCH_SMOLLM2"]).resolve()
    words = ("models=smollm2", f"models.target.path={path}")
    limits = {"task": "gsm8k", "limit": 20, "gen_kwargs": {"max_gen_toks": 160}}
    ours = answers(evaluated(ArmLM("ar", models="smollm2", **{"models.target.path": str(path)}), **limits), "gsm8k")
    theirs = answers(evaluated(hf(words), **limits), "gsm8k")
    assert len(ours) == 40, "20 problems under two filters"
    assert ours == theirs
