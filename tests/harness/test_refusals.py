"""Bad input gets one sentence before any work. The command line gives it with exit status 2, no traceback, and nothing written."""

import json
import shutil

import pytest

from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.harness.plan import prepare

CASES = {
    "unknown arm": (["arms=[ar,nosuch]"], "no arm 'nosuch'; there are: adadecode, amusd, ar"),
    "mistyped arm": (["arms=[ar,lokup]"], "no arm 'lokup'; did you mean 'lookup'? There are: adadecode, amusd"),
    "unknown model family": (["models=nosuch"], "no family of models 'nosuch'"),
    "mistyped model family": (["models=lama3"], "did you mean 'llama3'"),
    "unknown task": (["tasks=nosuch"], "no task 'nosuch'"),
    "mistyped task": (["tasks=wordproblem"], "did you mean 'wordproblems'"),
    "mistyped hardware": (["hardware=cuda_par"], "did you mean 'cuda_pair'"),
    "mistyped tracker": (["tracker=wanbd"], "did you mean 'wandb'"),
    "mistyped experiment": (["experiment=smolm2"], "no experiment 'smolm2'; did you mean 'smollm2'"),
    "unknown rule": (["arms=[ar,sd]", "acceptance@arms.sd.rule=nosuch"], "no acceptance rule 'nosuch'"),
    "mistyped rule": (["arms=[ar,sd]", "acceptance@arms.sd.rule=typcal"], "did you mean 'typical'"),
    "a rule by its name alone": (["arms=[sd]", "arms.sd.rule=typical"], "whose _target_ names a AcceptanceRule"),
    "mistyped knob": (
        ["arms=[sd]", "arms.sd.draft_lenght=3"],
        "'arms.sd' has no 'draft_lenght'; did you mean 'draft_length'",
    ),
    "mistyped knob of a rule": (["arms=[fsd]", "arms.fsd.rule.treshold=3"], "did you mean 'threshold'"),
    "mistyped knob of a rule that a word chooses": (
        ["arms=[sd]", "acceptance@arms.sd.rule=lenience", "arms.sd.rule.slack=1"],
        "'arms.sd.rule' has no 'slack'; it has: _target_, lenience.",
    ),
    "a name of one's own without its folder": (["tasks=zzz"], "wordproblems; --config-dir DIR adds your own."),
    "blanks in a list": (["arms=[ar,"], "write a list without blanks, such as arms=[ar,sd]"),
    "added knob": (["arms=[sd]", "++arms.sd.draft_lenght=3"], "no knob 'draft_lenght'; did you mean 'draft_length'"),
    "mistyped setting": (["limitt=3"], "The config has no 'limitt'; did you mean 'limit'"),
    "added setting": (["++limitt=3"], "The config has no 'limitt'; did you mean 'limit'"),
    "setting that is there": (["+limit=3"], "leave out the '+'"),
    "unknown knob of a grid": (["arms=[sd]", "arms.sd.grid.draft_lenght=[3]"], "no knob 'draft_lenght'"),
    "a grid of an arm that does not run": (["arms=[sd]", "arms.psd.grid.draft_length=[3]"], "arms are: sd"),
    "a knob of an arm that an experiment has": (
        ["experiment=pyramidsd/sweep", "arms=[ar]", "arms.fsd.draft_length=3", "hydra.sweeper.params=null"],
        "an arm that does not run: 'fsd'",
    ),
    "a grid that is no list": (["arms=[sd]", "arms.sd.grid.draft_length=3"], "must be a list"),
    "a grid of nothing": (["arms=[sd]", "++arms.sd.grid=3"], "names no knob"),
    "threshold out of range": (["arms=[fsd]", "arms.fsd.rule.threshold=-1"], "threshold"),
    "threshold of the wrong type": (
        ["arms=[fsd]", "arms.fsd.rule.threshold=high"],
        "arms.fsd.rule.threshold is 'high'; it must be a number.",
    ),
    "no draft": (["arms=[sd]", "arms.sd.draft_length=0"], "at least 1"),
    "a draft length without a draft": (
        ["arms=[ar]", "++arms.ar.draft_length=3"],
        "the arm has no proposer: leave it out",
    ),
    "K larger than the pool": (["arms=[sd]", "arms.sd.draft_length=1000"], "256"),
    "temperature": (["sampling.temperature=-1"], "sampling.temperature is -1; it must be a number in [0, inf)."),
    "a temperature that is no number": (["sampling.temperature=nan"], "sampling.temperature is nan"),
    "top_p": (["sampling.top_p=0"], "sampling.top_p is 0; it must be a number in (0, 1]."),
    "half a top_k": (["sampling.top_k=2.5"], "whole number"),
    "no sampling": (["sampling=null"], "sampling is null; it must be a mapping"),
    "added sampling": (["++sampling.foo=1"], "sampling has no 'foo'; it has: temperature, top_k, top_p."),
    "mistyped sampling": (["++sampling.topp=1"], "did you mean 'top_p'"),
    "no verification": (["verify=null"], "verify is null"),
    "limit": (["limit=0"], "limit is 0; it must be a whole number of at least 1, or null."),
    "repeats": (["repeats=often"], "repeats is 'often'"),
    "no repeats": (["repeats=null"], "repeats is null"),
    "seed": (["seed=1.5"], "seed is 1.5; it must be a whole number of at least 0."),
    "max_new_tokens": (["max_new_tokens=100000"], "256"),
    "baseline": (["baseline=sd", "arms=[ar]"], "baseline"),
    "a baseline of another type": (["baseline=[sd]"], "baseline is ['sd']; it must be a text, or null."),
    "a baseline that is asked for and does not run": (["baseline=ar", "arms=[lookup]"], "no arm for the baseline 'ar'"),
    "no arms": (["arms=[]"], "No arm"),
    "null for arms": (["arms=null"], "arms is null; it must name one: adadecode, amusd, ar"),
    "null for an arm": (["arms=[sd]", "arms.sd=null"], "arms.sd is null"),
    "null for models": (["models=null"], "models is null"),
    "null for tasks": (["tasks=null"], "tasks is null"),
    "null for hardware": (["hardware=null"], "hardware is null"),
    "null for the tracker": (["tracker=null"], "tracker is null"),
    "a role that is missing": (["arms=[sd]", "arms.sd.proposer.model=nosuch"], "role 'nosuch'"),
    "a role that is a number": (["arms=[sd]", "arms.sd.proposer.model=3"], "must name a role"),
    "early exit too deep": (["arms=[early_exit]", "arms.early_exit.proposer.layers=9"], "choose 1 to 2"),
    "Mirror-SD's exit too deep": (["arms=[mirror]", "arms.mirror.proposer.layers=9"], "choose 1 to 2"),
    "Mirror-SD on compiled steps": (["arms=[mirror]", "hardware.execution=compile"], "execution=eager"),
    "no such class": (["arms=[sd]", "arms.sd.rule._target_=sdbench.acceptance.NoSuch"], "NoSuch"),
    "a class that is a number": (["arms=[sd]", "arms.sd.rule._target_=3"], "dotted path"),
    "no such folder": (["models.draft.path=/no/such/folder"], "/no/such/folder"),
    "a path that is a number": (
        ["models.target.path=1000"],
        "it must be a text, or null (as a text it is written 'models.target.path=\"1000\"')",
    ),
    "a path that is null": (["models.target.path=null"], "models.target has no source: give path, or derive."),
    "a path that is a switch": (["models.target.path=true"], "models.target.path is true; it must be a text"),
    "a revision of a folder": (["models.target.revision=main"], "a folder has no revisions"),
    "no such device": (["hardware.device=cuda"], "CUDA"),
    "no device": (["hardware.device=null"], "hardware.device is null; it must be a text."),
    "a device that is none": (["hardware.device=foo"], "foo"),
    "no such dtype": (["hardware.dtype=float7"], "float7"),
    "no such execution": (["hardware.execution=fast"], "one of eager, compile, cudagraph"),
    "a quantised model in compiled programs": (
        ["hardware.execution=compile", "++models.target.quantization=torchao-int8"],
        "has quantization=torchao-int8, which compiled programs do not support: choose eager.",
    ),
    "no threads": (["hardware.threads=0"], "hardware.threads is 0"),
    "threads of an arm": (
        ["arms=[ar_two_cores]", "arms.ar_two_cores.threads=two"],
        "arms.ar_two_cores.threads is 'two'",
    ),
    "margin": (["margin=3"], "margin is 3"),
    "margin of the wrong type": (["margin=abc"], "margin is 'abc'"),
    "false alarms": (["verify.alpha=0"], "verify.alpha is 0"),
    "a word for a switch": (["ignore_eos=no"], "ignore_eos is 'no'; it must be true or false."),
    "a word for the template": (["chat=no"], "chat is 'no'; it must be true or false, or null."),
    "a template that the tokenizer lacks": (["chat=true"], "no chat template"),
    "a word for the chat form of a task": (["tasks.chat=no"], "tasks.chat is 'no'; it must be true or false."),
    "half a token": (["arms=[sd]", "arms.sd.draft_length=2.5"], "whole number"),
    "half a layer": (["arms=[early_exit]", "arms.early_exit.proposer.layers=1.5"], "whole number"),
    "no new tokens of a task": (["max_new_tokens=null", "tasks.max_new_tokens=0"], "tasks.max_new_tokens is 0"),
    "new tokens of the wrong type": (["max_new_tokens=null", "tasks.max_new_tokens=x"], "tasks.max_new_tokens is 'x'"),
    "no prompts file": (["tasks.path=/no/such/file.jsonl"], "/no/such/file.jsonl"),
    "a file that is a switch": (["tasks.path=true"], "tasks.path is true; it must be a text"),
    "a stop that is a number": (
        ["tasks.stop=[1]"],
        "tasks.stop[0] is 1; it must be a text (as a text it is written 'tasks.stop=[\"1\"]').",
    ),
    "a category that is a number": (["tasks.category=1"], "tasks.category is 1; it must be a text or a list"),
    "a field that is a list": (["tasks.id_field=[a]"], "tasks.id_field is ['a']; it must be a text, or null."),
    "a prompt field that is null": (["tasks.prompt_field=null"], "tasks.prompt_field is null; it must be a text."),
    "a tracker's mode": (["tracker=wandb", "tracker.mode=sometimes"], "tracker.mode"),
    "a name that is a number": (["name=7"], "name is 7; it must be a text (as a text it is written 'name=\"7\"')."),
    "several values": (["arms=ar,sd"], "written 'arms=[ar,sd]'"),
    "a launcher without a sweep": (["hydra/launcher=joblib"], "has no effect on a single run"),
    "a word that is no override": (["limit"], "'limit' is no override: write KEY=VALUE"),
    "brackets that do not match": (["tasks.stop=[a"], "as plain text it is written 'tasks.stop=\"[a\"'"),
    "a key beyond ASCII": (["arms.möwe.x=1"], "letters from a to z"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(bench, tmp_path, case):
    words, expected = CASES[case]
    with pytest.raises(InputError) as refused:
        prepare(compose(bench.words(tmp_path / "out", *words)))
    said = str(refused.value)
    assert expected in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["limitt=3"], ["arms=[sd]", "arms.sd.draft_length=0"]])
def test_the_command_line_says_one_sentence(bench, tmp_path, capsys, words):
    assert bench.call("run", tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert said.startswith("sdbench: ")
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


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


def test_a_checkpoint_that_is_quantised_is_not_compiled(bench, tmp_path, capsys):
    other = shutil.copytree(bench.paths["draft"], tmp_path / "draft")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    words = ("arms=[ar,sd]", f"models.draft.path={other}", "hardware.execution=compile")
    assert bench.call("run", tmp_path / "out", *words) == 2
    assert "draft has quantization=fp8, which compiled programs do not support" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_report_of_what_is_no_run(tmp_path, capsys):
    from sdbench.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path)])
    assert stop.value.code == 2
    assert "not the folder of a run" in capsys.readouterr().err


def test_an_experiments_arms_can_be_left_out():
    """It sets knobs of arms that the command line does not choose."""
    assert list(compose(["experiment=bench", "arms=[ar,early_exit]"])["arms"]) == ["ar", "early_exit"]


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
