"""Distillation: the target's laws, the student, and trainings that are resumed, shared or refused."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sdbench.acceptance.exact import Exact
from sdbench.decoding.base import Request
from sdbench.decoding.speculative import Speculative
from sdbench.drafting import ModelDrafter
from sdbench.errors import InputError
from sdbench.harness.token_maps import token_maps
from sdbench.lm.transformer import Transformer
from sdbench.models.family import check_family
from sdbench.models.identity import model_identity
from sdbench.models.spec import family_specs
from sdbench.models.token_map import keep_head_rows
from sdbench.models.weights import load_weights
from sdbench.sampling import Sampling
from sdbench.stopping import StopAtTokens
from sdbench.training.corpus import Corpus
from sdbench.training.optimise import Loss, Optimiser, Schedule
from sdbench.training.recipes import distill
from sdbench.training.recipes.distill import DraftLesson
from sdbench.training.student import Student
from tests.training.made import LAYERS, Drawn, job, recipe, target_folder


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return target_folder(tmp_path_factory.mktemp("target"))


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in float32 on any processor."""
    monkeypatch.setattr("sdbench.training.network_calls.product_dtype", lambda: torch.float32)


@pytest.fixture(scope="module")
def trained(target: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], float]:
    """A finished training: its folder, its card, and the held-out acceptance before it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdbench.training.network_calls.product_dtype", lambda: torch.float32)
        folder = tmp_path_factory.mktemp("trained")
        made, one = job(target, folder, held_out={"drawn": Drawn(), "other": Drawn("other", count=1)}), recipe()
        card = one.run(made)
        corpus = made.corpus(one.data, one.data_tokens)
        lesson = DraftLesson(made, corpus, made.teacher(corpus, one.top))
        return folder, card, lesson.held_out(one.student(made, corpus))["alpha"]


def test_a_short_distillation_raises_the_acceptance(trained: tuple[Path, dict[str, Any], float]) -> None:
    _, card, before = trained
    assert card["measured"]["alpha"] > before + 0.04
    low, high = card["measured"]["alpha_ci95"]
    assert before < low < card["measured"]["alpha"] < high < card["measured"]["alpha"] + 0.1
    assert card["trained_tokens"] >= 3000
    assert card["made_with"]["dtype"] == "float32"
    assert card["made_with"]["processor"]


def test_each_held_out_set_is_measured_by_the_weights_that_were_written(
    trained: tuple[Path, dict[str, Any], float], target: Path, tmp_path: Path
) -> None:
    folder, card, _ = trained
    assert card["held_out"]["drawn"]["sequences"] == 64 * 16
    found = card["held_out"]["other"]
    assert found["sequences"] == 16
    assert found["alpha_ci95"][0] < found["alpha"] < found["alpha_ci95"][1]
    made, one = job(target, tmp_path), recipe(start=str(folder / "model"))
    samples = [sample for chunk in Drawn("other", count=1).chunks(made.writer, [], 0) for sample in chunk]
    corpus = made.corpus(one.data, one.data_tokens)
    draft, plain = one.student(made, corpus), AutoModelForCausalLM.from_pretrained(target)
    same = []
    for sample in samples:
        tokens = torch.tensor([sample.tokens])
        wanted = torch.arange(tokens.shape[1])[None] >= sample.prompt
        with torch.no_grad():
            best = plain(tokens).logits[0, sample.prompt - 1 : -1].argmax(-1)
            logits = draft.logits(tokens[:, :-1], wanted[:, 1:])
        assert draft.ids is not None
        same += (torch.tensor(draft.ids)[logits.argmax(-1)] == best).tolist()
    assert found["greedy"] == pytest.approx(sum(same) / len(same), abs=1e-6)


def test_a_set_without_answers_is_refused_before_the_training(target: Path, tmp_path: Path) -> None:
    made = job(target, tmp_path, held_out={"none": Drawn("none", count=0)})
    with pytest.raises(InputError, match=r"held_out\.none: its source gives no answer"):
        recipe().run(made)
    assert not made.out.exists()


def test_laws_are_those_of_a_plain_forward(target: Path, tmp_path: Path) -> None:
    made = job(target, tmp_path)
    corpus = made.corpus(Drawn(), 300)
    teacher = made.teacher(corpus, 5)
    plain = AutoModelForCausalLM.from_pretrained(target)
    for place, sample in enumerate(corpus.samples):
        with torch.inference_mode():
            logits = plain(torch.tensor([sample.tokens])).logits[0, sample.prompt - 1 : -1]
        wanted = logits.softmax(-1).topk(5)
        ids, probs = teacher.law(place)
        assert len(ids) == len(sample.answer)
        torch.testing.assert_close(torch.from_numpy(probs).float(), wanted.values, atol=1e-6, rtol=1e-3)
        assert (torch.from_numpy(ids) == wanted.indices)[:, 0].all()


def test_laws_are_read_once_and_again_for_more_sequences(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdbench.training.teacher.SHARD", 20)
    made = job(target, tmp_path)
    few = made.teacher(made.corpus(Drawn(), 300), 5)
    assert (number := len(few.corpus)) % 20 != 0
    calls = []
    write = type(few)._write
    monkeypatch.setattr(type(few), "_write", lambda *words: (calls.append(len(words[3])), write(*words)))
    made.teacher(few.corpus, 5)
    assert calls == []
    more = made.teacher(made.corpus(Drawn(), 700), 5)
    assert sum(calls) == len(more.corpus) - number // 20 * 20  # the unfinished shard is read again
    assert all((few.law(place)[0] == more.law(place)[0]).all() for place in range(number))


def test_a_student_of_all_layers_is_the_target(target: Path, tmp_path: Path) -> None:
    made = job(target, tmp_path)
    tokens = torch.arange(3, 23).view(2, 10)
    wanted = torch.ones(2, 10, dtype=torch.bool)
    whole = made.target(tokens).logits.view(20, -1)
    torch.testing.assert_close(Student(made.target, range(LAYERS)).logits(tokens, wanted), whole)
    ids = [1, 5, 9, 100]
    torch.testing.assert_close(Student(made.target, range(LAYERS), ids).logits(tokens, wanted), whole[:, ids])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_written_draft_loads_as_it_was_trained(
    target: Path, trained: tuple[Path, dict[str, Any], float], tmp_path: Path, dtype: str
) -> None:
    folder = trained[0] / "model"
    entries = {
        "target": {"path": str(target)},
        "draft": {"derive": {"from": "target", "weights": str(folder)}, "vocabulary": {"ids": str(folder)}},
    }
    specs = family_specs(entries)
    ids = token_maps(check_family(specs))["draft"]
    made = job(target, tmp_path, dtype=dtype)
    student = Student(made.target, [0], json.loads((folder / "vocabulary.json").read_text()))
    student.load_folder(str(folder))
    loaded = load_weights(specs["draft"], dtype)
    keep_head_rows("draft", loaded, ids.rows)
    tokens, wanted = torch.arange(3, 23).view(2, 10), torch.ones(2, 10, dtype=torch.bool)
    expected = student.logits(tokens, wanted).detach()
    found = loaded(tokens).logits.view(20, -1).float()
    if dtype == "bfloat16":
        assert float((found - expected).abs().mean()) < 0.01 * float(expected.abs().mean())
        return
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    draft, verifier = Transformer("draft", loaded, ids=ids), Transformer("target", made.target)
    requests = [Request([0, *range(3, 3 + length)], f"{length}") for length in (4, 9)]
    answers = [
        {one.request.name: one.tokens for one in decoder.generate(requests, Sampling(0.0), StopAtTokens({1}), 24, 0, 2)}
        for decoder in (Speculative(verifier), Speculative(verifier, Exact(), ModelDrafter(draft), 3))
    ]
    assert answers[0] == answers[1]
    deployed = Speculative(verifier, Exact(), ModelDrafter(student.deployed()), 3)
    done = deployed.generate(requests, Sampling(0.0), StopAtTokens({1}), 24, 0, 2)
    assert {one.request.name: one.tokens for one in done} == answers[0]


def test_changed_weights_are_another_model_and_foreign_ones_are_refused(
    target: Path, trained: tuple[Path, dict[str, Any], float], tmp_path: Path
) -> None:
    folder = tmp_path / "draft"
    folder.mkdir()
    (folder / "layers.json").write_text("[0]")
    weights = load_file(trained[0] / "model" / "model.safetensors")

    def identity(changed: dict[str, torch.Tensor]) -> str:
        save_file(changed, folder / "model.safetensors")
        entries = {"target": {"path": str(target)}, "draft": {"derive": {"from": "target", "weights": str(folder)}}}
        load_weights(family_specs(entries)["draft"])
        return model_identity(family_specs(entries)["draft"])

    name = "model.norm.weight"
    first, again, other = identity(weights), identity(weights), identity({**weights, name: weights[name] + 1})
    assert first == again != other
    with pytest.raises(InputError, match="trained from another model"):
        identity({**weights, name: torch.ones(5)})
    with pytest.raises(InputError, match="no such weight"):
        identity({**weights, "model.other": torch.ones(5)})
    with pytest.raises(InputError, match=r"recipe\.start.*another target"):
        Student(job(target, tmp_path).target, [0]).load_folder(str(folder))
    with pytest.raises(InputError, match=r"recipe.start.*holds the layers \[0\], and recipe.layers is \[1\]"):
        Student(job(target, tmp_path).target, [1]).load_folder(str(trained[0] / "model"))


class KilledError(Exception):
    """Stands for a kill in the middle of a pass."""


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"on_policy": 0.5, "refresh": 4}, id="on_policy", marks=pytest.mark.slow),
        pytest.param({"mask": "loss_gap", "divergence": "rkl"}, id="loss_gap"),
        pytest.param({"divergence": "streak", "vocabulary": 100}, id="streak", marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_ends_as_if_it_had_run_through(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    plain = {"tokens": 1200, "data_tokens": 300, **more}
    monkeypatch.setattr(Optimiser.run, "__defaults__", (None, 4, 2, None))  # rows and checkpoints often
    straight = recipe(**plain).run(job(target, tmp_path / "straight"))
    with pytest.raises(KeyboardInterrupt):
        recipe(**plain, data=Drawn(stop_after=1)).run(job(target, tmp_path / "killed"))
    step, calls = Optimiser.step, count()

    def step_or_die(self: Optimiser, *words: Any) -> Loss:
        if next(calls) == 7:
            raise KilledError
        return step(self, *words)

    monkeypatch.setattr(Optimiser, "step", step_or_die)
    with pytest.raises(KilledError):
        recipe(**plain).run(job(target, tmp_path / "killed"))
    resumed = recipe(**plain).run(job(target, tmp_path / "killed"))
    ours, theirs = weights_of(tmp_path / "straight"), weights_of(tmp_path / "killed")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert straight["measured"] == resumed["measured"]
    assert straight["data"] == resumed["data"]
    assert straight["trained_tokens"] == resumed["trained_tokens"]


def test_masks_spend_the_same_budget(target: Path, tmp_path: Path) -> None:
    spent = {}
    for mask in ("every", "rejected", "loss_gap"):
        made = job(target, tmp_path / mask, work=tmp_path / "work")
        card = recipe(tokens=700, data_tokens=300, mask=mask, least_rejected=0.85).run(made)
        log = json.loads((made.out / "training_log.json").read_text())
        assert [row["tokens"] for row in log] == sorted(row["tokens"] for row in log)
        assert card["trained_tokens"] == log[-1]["tokens"]
        spent[mask] = card["trained_tokens"]
        assert (log[-1]["kept"] < 1) == (mask != "every")
    batch = 256  # the last batch of each stage may pass the budget
    assert all(700 <= tokens < 700 + 2 * batch for tokens in spent.values())
    assert (
        len({json.dumps(json.loads((tmp_path / mask / "model" / "card.json").read_text())["data"]) for mask in spent})
        == 1
    )


def test_a_work_folder_keeps_one_corpus(target: Path, tmp_path: Path) -> None:
    """A larger budget adds sequences behind the old ones; a training with the smaller one reads the same as before."""
    made = job(target, tmp_path)
    first = made.corpus(Drawn(), 300)
    assert made.corpus(Drawn(), 900).samples[: len(first)] == first.samples
    again = job(target, tmp_path).corpus(Drawn(), 300)
    assert (again.samples, again.sha256) == (first.samples, first.sha256)
    for other, said in (
        (job(target, tmp_path, seed=1), "seed=0, and this training has 1"),
        (job(target, tmp_path, dtype="bfloat16"), "dtype='float32'"),
        (job(target_folder(tmp_path / "other", 1), tmp_path), "target="),
    ):
        with pytest.raises(InputError, match=f"work: the folder .* was begun with {said}"):
            other.corpus(Drawn(), 300)
    with pytest.raises(InputError, match=r"was begun with recipe.data.kind='drawn', and this training has 'another'"):
        made.corpus(Drawn("another"), 300)
    assert len(Corpus(tmp_path / "work" / "corpus.jsonl")) >= len(first)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"layers": [0, 3]}, r"recipe.layers is \[0, 3\]; it must list some of the target's layers 0 to 2"),
        ({"layers": [1, 0]}, "recipe.layers"),
        ({"layers": []}, "recipe.layers"),
        ({"vocabulary": 5000}, "recipe.vocabulary is 5000, but the target has"),
        ({"top": 5000}, "recipe.top is 5000, but the target has"),
        ({"start": "/nosuch"}, "recipe.start: the folder /nosuch holds no"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_settings_that_do_not_fit_are_refused_before_the_corpus(
    target: Path, tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        recipe(**more).run(job(target, tmp_path))
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tokens": 0}, "recipe.tokens"),
        ({"learning_rate": 0}, "recipe.learning_rate"),
        ({"warmup": 1}, "recipe.warmup"),
        ({"batch_tokens": 0}, "recipe.batch_tokens"),
        ({"vocabulary": 1}, "recipe.vocabulary"),
        ({"divergence": "fkl"}, "recipe.divergence"),
        ({"divergence": "streak", "mask": "rejected"}, "recipe.mask"),
        ({"on_policy": 0.01, "refresh": 10}, "recipe.refresh"),
        ({"data": 3}, "recipe.data"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_settings_are_checked_when_they_are_given(more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        recipe(**more)


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimiser = Optimiser({"weight": weight}, Schedule(10), tmp_path)
    with pytest.raises(InputError, match=r"recipe\.learning_rate"):
        optimiser.step(None, lambda _: Loss((weight * float("nan")).sum(), 1))
    assert torch.equal(weight.detach(), torch.ones(2, 2))


def test_texts_of_the_draft_come_from_the_draft(target: Path, tmp_path: Path) -> None:
    made, one = job(target, tmp_path), recipe()
    corpus = made.corpus(one.data, 300)
    lesson = DraftLesson(made, corpus, made.teacher(corpus, 24))
    student = one.student(made, corpus)
    own = distill.own_texts(made, lesson, student, [1, 2, 3], "0-0")
    assert [sample.tokens[:3] for sample in own.corpus.samples] == [corpus.samples[n].tokens[:3] for n in (1, 2, 3)]
    assert student.ids is not None
    assert {token for sample in own.corpus.samples for token in sample.answer} <= set(student.ids)
    again = distill.own_texts(made, lesson, one.student(made, corpus), [1, 2, 3], "0-0")
    assert again.corpus.samples == own.corpus.samples
    assert own.compared(student, [0, 1, 2]).alpha.shape[0] == sum(len(one.answer) for one in own.corpus.samples)


def test_a_result_belongs_to_its_corpus(target: Path, tmp_path: Path) -> None:
    """Another corpus, in another work folder, is not mistaken for the one that the weights were trained on."""
    recipe(tokens=300).run(job(target, tmp_path, work=tmp_path / "one"))
    with pytest.raises(InputError, match=r"out: the folder .* was begun with corpus="):
        recipe(tokens=300, data=Drawn("other")).run(job(target, tmp_path, work=tmp_path / "two"))


def test_the_reference_and_the_draft_write_their_own_texts(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    own = distill.own_texts
    monkeypatch.setattr(distill, "own_texts", lambda *given: written.append(given[-1]) or own(*given))
    recipe(tokens=3000, mask="loss_gap", on_policy=0.5, refresh=4).run(job(target, tmp_path))
    assert len(written) == len(set(written))
    assert {name.split("-")[0] for name in written} == {"reference", "draft"}


def test_an_endless_source_gives_a_set_of_limited_size(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdbench.training.job.SET_TOKENS", 100)
    made = job(target, tmp_path, held_out={"long": Drawn("long", count=10**9)})
    made.corpus(Drawn(), 100)
    assert 100 <= made.sets["long"].answer_tokens < 100 + 30


def test_one_sequence_gives_no_interval(target: Path, tmp_path: Path) -> None:
    made, one = job(target, tmp_path), recipe()
    corpus = made.corpus(one.data, 300)
    lesson = DraftLesson(made, corpus, made.teacher(corpus, 24))
    lesson.watched = lesson.watched[:1]
    assert set(lesson.results(lesson.named(one.student(made, corpus)))) == {"alpha", "greedy"}
