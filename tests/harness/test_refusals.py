"""Bad input gets one sentence, exit status 2, no traceback, and nothing written."""

import json
import shutil

import pytest

from sdbench.harness.config import compose

CASES = {
    "unknown arm": (["arms=[ar,nosuch]"], "no arm 'nosuch'"),
    "unknown model family": (["models=nosuch"], "no family of models 'nosuch'"),
    "unknown task": (["tasks=nosuch"], "no task 'nosuch'"),
    "unknown rule": (["arms=[ar,sd]", "acceptance@arms.sd.rule=nosuch"], "no acceptance rule 'nosuch'"),
    "unknown knob": (["arms=[sd]", "arms.sd.draft_lenght=3"], "draft_lenght"),
    "unknown setting": (["limitt=3"], "limitt"),
    "unknown knob of a grid": (["arms=[sd]", "arms.sd.grid.draft_lenght=[3]"], "no knob 'draft_lenght'"),
    "a grid that is no list": (["arms=[sd]", "arms.sd.grid.draft_length=3"], "must be a list"),
    "threshold out of range": (["arms=[fsd]", "arms.fsd.rule.threshold=-1"], "threshold"),
    "threshold of the wrong type": (["arms=[fsd]", "arms.fsd.rule.threshold=high"], "arms.fsd"),
    "no draft": (["arms=[sd]", "arms.sd.draft_length=0"], "at least 1"),
    "K larger than the pool": (["arms=[sd]", "arms.sd.draft_length=1000"], "256"),
    "temperature": (["sampling.temperature=-1"], "temperature"),
    "top_p": (["sampling.top_p=0"], "top_p"),
    "limit": (["limit=0"], "limit is 0"),
    "repeats": (["repeats=often"], "repeats is 'often'"),
    "max_new_tokens": (["max_new_tokens=100000"], "256"),
    "baseline": (["baseline=sd", "arms=[ar]"], "baseline"),
    "no arms": (["arms=[]"], "No arm"),
    "a role that is missing": (["arms=[sd]", "arms.sd.proposer.model=nosuch"], "role 'nosuch'"),
    "early exit too deep": (["arms=[early_exit]", "arms.early_exit.proposer.layers=9"], "choose 1 to 2"),
    "no such class": (["arms=[sd]", "arms.sd.rule._target_=sdbench.acceptance.NoSuch"], "NoSuch"),
    "no such folder": (["models.draft.path=/no/such/folder"], "/no/such/folder"),
    "no such device": (["hardware.device=cuda"], "CUDA"),
    "no such dtype": (["hardware.dtype=float7"], "float7"),
    "no such execution": (["hardware.execution=fast"], "execution"),
    "margin": (["margin=3"], "margin is 3"),
    "margin of the wrong type": (["margin=abc"], "margin is 'abc'"),
    "false alarms": (["verify.alpha=0"], "verify.alpha is 0"),
    "a word for a switch": (["ignore_eos=no"], "true or false"),
    "a word for the template": (["chat=no"], "true or false"),
    "no threads": (["hardware.threads=0"], "hardware.threads is 0"),
    "half a token": (["arms=[sd]", "arms.sd.draft_length=2.5"], "whole number"),
    "half a layer": (["arms=[early_exit]", "arms.early_exit.proposer.layers=1.5"], "whole number"),
    "half a top_k": (["sampling.top_k=2.5"], "whole number"),
    "no new tokens of a task": (["max_new_tokens=null", "tasks.max_new_tokens=0"], "tasks.max_new_tokens is 0"),
    "new tokens of the wrong type": (
        ["max_new_tokens=null", "tasks.max_new_tokens=abc"],
        "tasks.max_new_tokens is 'abc'",
    ),
    "no prompts file": (["tasks.path=/no/such/file.jsonl"], "/no/such/file.jsonl"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(bench, tmp_path, capsys, case):
    words, expected = CASES[case]
    out = tmp_path / "out"
    assert bench.call("run", out, *words) == 2
    said = capsys.readouterr()
    assert said.err.startswith("sdbench: ")
    assert len(said.err.strip().splitlines()) == 1, said.err
    assert expected in said.err
    assert "Traceback" not in said.err
    assert not out.exists()


def test_malformed_line_is_named(bench, tmp_path, capsys):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "fine"}\n{"prompt": \n')
    assert bench.call("run", tmp_path / "out", f"tasks.path={broken}") == 2
    assert "line 2" in capsys.readouterr().err


def test_prompt_longer_than_the_context(bench, tmp_path, capsys):
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": "word " * 100}))
    assert bench.call("run", tmp_path / "out", f"tasks.path={long}") == 2
    assert "256" in capsys.readouterr().err


def test_folder_of_another_run(bench, finished, capsys):
    before = (finished / "summary.json").read_bytes()
    assert bench.call("run", finished, "arms=[ar]") == 2
    assert "belongs to run" in capsys.readouterr().err
    assert (finished / "summary.json").read_bytes() == before


def test_vocabularies_that_differ(bench, tmp_path, capsys):
    other = tmp_path / "draft"
    shutil.copytree(bench.paths["draft"], other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert bench.call("run", tmp_path / "out", f"models.draft.path={other}") == 2
    assert "vocabularies of target and draft differ" in capsys.readouterr().err


def test_corrupted_weights(bench, tmp_path, capsys):
    other = tmp_path / "draft"
    shutil.copytree(bench.paths["draft"], other)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert bench.call("run", tmp_path / "out", f"models.draft.path={other}") == 2
    said = capsys.readouterr().err
    assert "model.safetensors" in said or "weights" in said
    assert not (tmp_path / "out").exists()


def test_report_of_what_is_no_run(tmp_path, capsys):
    from sdbench.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path)])
    assert stop.value.code == 2
    assert "not the folder of a run" in capsys.readouterr().err


def test_an_experiments_arms_can_be_left_out():
    """It sets knobs of arms that the command line does not choose."""
    assert list(compose(["experiment=bench", "arms=[ar,sd]"])["arms"]) == ["ar", "sd"]


def test_half_a_character_is_named(bench, tmp_path, capsys):
    """JSON can write a lone surrogate, as of an emoji that was cut."""
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "fine"}\n{"prompt": "cut \\ud83d"}\n')
    assert bench.call("run", tmp_path / "out", f"tasks.path={broken}") == 2
    assert "line 2" in (said := capsys.readouterr().err)
    assert "surrogate" in said


def test_a_model_without_a_tokenizer_is_named(bench, tmp_path, capsys):
    """Some classes of transformers would make an empty one, and go on."""
    bare = shutil.copytree(bench.paths["target"], tmp_path / "bare")
    for file in [*bare.glob("tokenizer*"), *bare.glob("vocab*"), *bare.glob("special*")]:
        file.unlink()
    assert bench.call("run", tmp_path / "out", "arms=[ar]", f"models.target.path={bare}") == 2
    assert "holds no tokenizer" in capsys.readouterr().err


def test_a_tokenizer_larger_than_the_model_is_named(bench, tmp_path, capsys):
    """A token was added, and the embedding was not resized."""
    from transformers import AutoTokenizer

    grown = shutil.copytree(bench.paths["target"], tmp_path / "grown")
    tokenizer = AutoTokenizer.from_pretrained(grown)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(grown)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "something <new>"}\n')
    assert bench.call("run", tmp_path / "out", "arms=[ar]", f"models.target.path={grown}", f"tasks.path={prompts}") == 2
    assert "larger than" in capsys.readouterr().err
