"""`sdbench train` from the command line: a draft that a run then uses, a source that is a run, and what is refused."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from sdbench.cli import main
from sdbench.errors import InputError
from sdbench.harness.build import build
from sdbench.harness.config import choices, compose
from sdbench.harness.plan import prepare
from sdbench.harness.schema import Training
from sdbench.harness.train import recipe_words
from sdbench.runs.record import load as load_run
from sdbench.runs.run_id import run_id
from sdbench.training.sources import FinishedRun

SMALL = [
    "recipe=distill", "recipe.layers=[0]", "recipe.data_tokens=120", "recipe.tokens=120", "recipe.batch_tokens=128",
    "recipe.vocabulary=200", "recipe.top=8", "hardware.threads=1", "evaluation=null",
]  # fmt: skip


def train(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["train", *words])
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


@pytest.fixture(scope="module")
def drafted(bench, tmp_path_factory):
    """A draft that was trained on answers of its target."""
    out = tmp_path_factory.mktemp("drafted")
    with pytest.raises(SystemExit) as stop:
        main(["train", *answered(bench), f"out={out}"])
    assert not stop.value.code
    return out


def answered(bench):
    source = ["data=answers", f"recipe.data.prompts={bench.prompts}", "recipe.data.longest_answer=8"]
    return [*SMALL, f"models.target.path={bench.paths['target']}", *source, "recipe.data_tokens=20"]


def family(bench, folder, out, *more):
    kept = [word for word in bench.words(out, *more) if not word.startswith("models.draft.path")]
    derive = ["models.draft.path=null", f"++models.draft.derive={{from:target,weights:{folder}}}"]
    return [*kept, *derive, f"models.draft.vocabulary={{ids:{folder}}}", "arms=[ar,sd]"]


@pytest.mark.slow
def test_a_run_uses_the_draft_and_knows_its_weights(bench, drafted, tmp_path):
    folder = drafted / "model"
    with pytest.raises(SystemExit) as stop:
        main(["run", *family(bench, folder, tmp_path / "out", "limit=2")])
    assert not stop.value.code
    summary = load_run(tmp_path / "out").summary
    assert summary["arms"]["sd"]["identity"] == {"identical": 2, "ties": 0, "mismatches": 0, "tie_positions": 0}
    assert "draft proposes 200 of the 258 tokens" in summary["notes"][0]
    card = json.loads((folder / "card.json").read_text())
    assert card["data"]["kind"] == "Answers"
    assert {"README.md", "SHA256SUMS", "layers.json", "vocabulary.json", "training_log.json"} <= {
        file.name for file in folder.iterdir()
    }

    def named(place):
        plan = prepare(compose(family(bench, place, tmp_path / "other")))
        return run_id({}, plan.identities, plan.prompts_sha256)

    other = tmp_path / "copy"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    assert named(other) == named(folder)
    weights = load_file(other / "model.safetensors")
    save_file({name: weight * 2 for name, weight in weights.items()}, other / "model.safetensors")
    assert named(other) != named(folder)


def test_a_finished_run_is_a_set_to_measure_on(bench, finished, tmp_path, capsys):
    more = ["+data@held_out.run=finished_run", f"held_out.run.path={finished}", f"out={tmp_path}"]
    code, shown, _ = train(capsys, *answered(bench), *more)
    assert code == 0
    found = json.loads(shown.splitlines()[-1])["card"]["held_out"]["run"]
    assert found["sequences"] == len(load_run(finished).prompts)
    assert 0 <= found["alpha_ci95"][0] <= found["alpha"] <= found["alpha_ci95"][1] <= 1


@pytest.mark.slow
def test_a_finished_run_is_a_source(bench, finished):
    source, run = FinishedRun(str(finished), "sd"), load_run(finished)
    writer: Any = SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained(bench.paths["target"]))
    (rows,) = source.chunks(writer, [], 0)
    written = run.sequences[run.sequences["arm"] == "sd"]
    assert [row.answer for row in rows] == [list(tokens) for tokens in written["tokens"]]
    assert [row.prompt for row in rows] == list(written["prompt_tokens"])
    assert list(source.chunks(writer, rows, 0)) == []
    assert source.identity != FinishedRun(str(finished)).identity
    with pytest.raises(InputError, match=r"recipe\.data\.arm: the run has no arm 'nosuch'"):
        FinishedRun(str(finished), "nosuch")


REFUSED = {
    "unknown recipe": (["recipe=destill"], "There is no training recipe 'destill'; did you mean 'distill'?"),
    "unknown source": (["data=answer"], "There is no source of training data 'answer'; did you mean 'answers'?"),
    "mistyped knob": (["recipe.layerz=[0]"], "'recipe' has no 'layerz'; did you mean 'layers'?"),
    "a source without its file": (["data=answers"], "recipe.data.prompts"),
    "a missing file": (["data=text_file", "recipe.data.path=/nosuch.txt"], "recipe.data.path: there is no file"),
    "layers": (["data=text_file", "recipe.data.path={texts}", "recipe.layers=[0,9]"], "recipe.layers is [0, 9]"),
    "vocabulary": (["data=text_file", "recipe.data.path={texts}", "recipe.vocabulary=9999"], "recipe.vocabulary is 9999"),
    "no template": ([], "has no chat template"),
    "evaluation": (["data=text_file", "recipe.data.path={texts}", "evaluation=/nosuch"], "evaluation: there is no"),
    "one sequence": (["data=text_file", "recipe.data.path={texts}"], "gave 1 sequences"),
    "no set": (["data=text_file", "recipe.data.path={texts}", "+held_out.a.b=1"], "held_out.a is no source of sequences"),
    "out is a file": (["data=text_file", "recipe.data.path={texts}", "out={texts}"], "is a file; name a folder"),
    "work is a file": (["data=text_file", "recipe.data.path={texts}", "work={texts}"], "is a file; name a folder"),
    "no recipe": (["recipe._target_=sdbench.training.sources.TextFile", "data=text_file", "recipe.data.path={texts}"], "no knob"),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_sentence(bench, words, tmp_path, capsys):
    texts, out = tmp_path / "texts.txt", tmp_path / "out"
    texts.write_text("one line of text\n")
    given = [*SMALL, f"models.target.path={bench.paths['target']}", f"out={out}"]
    code, shown, said = train(capsys, *given, *(word.format(texts=texts) for word in words[0]))
    assert (code, shown) == (2, "")
    last = said.splitlines()[-1]
    assert last.startswith("sdbench: ")
    assert words[1] in last
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("corpus.jsonl")) or "gave 1 sequences" in last
    assert not (out / "model").exists()


def test_other_settings_need_another_folder(bench, drafted, capsys):
    code, _, said = train(capsys, *answered(bench), f"out={drafted}", "recipe.learning_rate=0.1")
    assert code == 2
    assert "was begun with recipe.learning_rate=0.0003, and this training has 0.1: choose another out" in said


@pytest.mark.parametrize("verb", ["run", "doctor"])
def test_a_draft_that_is_not_there_names_its_command(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["models=smollm2_135m", "arms=[ar,sd]", "--dry-run", "tracker=none"] if verb == "run" else []
    with pytest.raises(SystemExit) as stop:
        main([verb, *words])
    said = capsys.readouterr()
    assert stop.value.code == (2 if verb == "run" else 0)
    role = "draft" if verb == "run" else "qualifier"  # no arm of the run uses the qualifier
    assert (
        f"models.{role}.derive.weights: the folder results/models/smollm2-135m/{role} holds no model.safetensors; "
        "`make models-smollm2` makes it." in said.out + said.err
    )


@pytest.mark.parametrize("name", choices("train"))
def test_every_recipe_is_made(name, tmp_path):
    """Its file has the knobs of its class."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\n")
    more = {"pard": ["recipe.mask_token=3"]}.get(name, [])
    if name in ("branch_classifier", "decision_model", "pacer"):
        more = [f"recipe.data.prompts={prompts}"]
    config = compose(recipe_words([f"recipe={name}", *more]), name="train", schema=Training)
    assert callable(build(config["recipe"], {}, "recipe").run)


def test_a_recipe_that_measures_no_drafter_takes_no_sets(bench, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    words = [
        "recipe=layerskip",
        "data=text_file",
        f"recipe.data.path={tmp_path / 'texts.txt'}",
        f"out={tmp_path / 'out'}",
    ]
    words += ["+data@held_out.a=text_file", f"held_out.a.path={tmp_path / 'texts.txt'}"]
    code, _, said = train(capsys, *words)
    assert (code, "LayerSkip measures no drafter on sets of texts" in said) == (2, True)
    assert not (tmp_path / "out").exists()
