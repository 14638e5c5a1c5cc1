"""Training of heads: the laws of each depth, the hidden states, and a head that learns and is read back."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from sdbench.errors import InputError
from sdbench.heads.config import read_head_config
from sdbench.heads.parallel import ParallelConfig
from sdbench.models.family import check_family
from sdbench.models.head_files import load_head
from sdbench.models.spec import family_specs, resolve
from sdbench.training.head_makers import NewEagle3, NewParallel
from sdbench.training.recipes.heads import HeadLesson, TrainHead
from tests.training.made import Drawn, job, target_folder

KNOBS = {"data_tokens": 1500, "batch_tokens": 256, "vocabulary": 200, "top": 24, "steps": 3, "learning_rate": 1e-2}


@pytest.fixture
def target(tmp_path):
    return target_folder(tmp_path / "target")


@pytest.fixture
def lesson(target, tmp_path):
    made = job(target, tmp_path)
    corpus = made.corpus(Drawn(), 600)
    vocab = made.family.vocab
    return made, HeadLesson(made, corpus, made.teacher(corpus, vocab, (1, 2)), range(vocab))


class Knowing:
    """A head that knows the target's logits. late: it gives each depth the law of the token before."""

    def __init__(self, target, late=0):
        self.target, self.late = target, late

    def unrolled(self, input_ids, hidden, steps):
        logits = self.target(input_ids=input_ids).logits
        count = input_ids.shape[1] - 1
        return [logits[:, 1 + k - self.late : 1 + count - self.late] for k in range(steps)]


def test_each_depth_is_compared_with_the_law_of_its_own_token(lesson):
    made, its = lesson
    found = its.held_out(Knowing(made.target), 3)
    assert all(abs(found[f"alpha_{depth}"] - 1) < 1e-2 for depth in (1, 2, 3))
    late = its.held_out(Knowing(made.target, late=1), 3)
    assert all(late[f"alpha_{depth}"] < 0.95 for depth in (1, 2, 3))


def test_hidden_states_are_those_of_the_target(lesson):
    made, its = lesson
    place = its.training[0]
    tokens = torch.tensor([its.corpus.samples[place].tokens])
    states = made.target(input_ids=tokens, output_hidden_states=True).hidden_states
    found = its.teacher.states([place])
    for wanted, near in ((torch.cat([states[1], states[2]], -1), True), (torch.cat([states[0], states[1]], -1), False)):
        error = (found - wanted).norm() / wanted.norm()
        assert (error < 0.05) == near  # products and states may be in bfloat16


def test_a_head_learns_and_is_written_in_a_format_that_is_read(target, tmp_path):
    maker = NewEagle3((0, 1, 2))
    short = TrainHead(maker, Drawn(), tokens=1, **KNOBS).run(job(target, tmp_path / "short", work=tmp_path / "work"))
    sets = {"other": Drawn("other", count=8)}
    made = job(target, tmp_path / "long", work=tmp_path / "work", held_out=sets)
    long = TrainHead(maker, Drawn(), tokens=4000, **KNOBS).run(made)
    assert long["measured"]["alpha_1"] > short["measured"]["alpha_1"] + 0.03
    assert "held_out" not in short
    other = long["held_out"]["other"]
    assert other["alpha_1"] == pytest.approx(long["measured"]["alpha_1"], abs=0.05), "texts of the same kind"
    assert other["alpha_1_ci95"][0] < other["alpha_1"] < other["alpha_1_ci95"][1]
    config = read_head_config("eagle3", json.loads((made.out / "config.json").read_text()))
    assert (config.draft_vocab, config.layers) == (200, (0, 1, 2))
    assert str(target) not in (made.out / "config.json").read_text(), "no path of this machine"


def test_a_head_may_use_the_targets_output_head_and_does_not_store_it(target, tmp_path):
    made = job(target, tmp_path / "made")
    TrainHead(NewEagle3((0, 1, 2), own_head=False), Drawn(), tokens=600, **KNOBS).run(made)
    assert "lm_head.weight" not in load_file(made.out / "model.safetensors")
    entries = {"target": {"path": str(target)}, "head": {"path": str(made.out), "head_of": "target"}}
    spec = family_specs(entries)["head"]
    config = read_head_config("head", json.loads((made.out / "config.json").read_text()))
    head = load_head(spec, resolve(spec), config, made.target, torch.float32, "cpu")
    assert torch.equal(head.lm_head.weight, made.target.get_output_embeddings().weight[head.proposed])
    other = torch.nn.Linear(7, 300)
    with pytest.raises(InputError, match="has no lm_head"):
        load_head(spec, resolve(spec), config, Other(made.target, other), torch.float32, "cpu")


class Other:
    """A target with another output head."""

    def __init__(self, target, head):
        self.get_input_embeddings, self.get_output_embeddings = target.get_input_embeddings, lambda: head


@pytest.mark.parametrize(
    "kind",
    [
        "medusa",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("parallelspec", "specformer", "block_diffusion", "specdec")
        ),
    ],
)
def test_heads_that_predict_in_one_pass_learn_too(kind, target, tmp_path):
    maker = NewParallel(kind, 3)
    short = TrainHead(maker, Drawn(), tokens=1, **KNOBS).run(job(target, tmp_path / "short", work=tmp_path / "work"))
    made = job(target, tmp_path / "long", work=tmp_path / "work")
    long = TrainHead(maker, Drawn(), tokens=5000, **KNOBS).run(made)
    assert long["measured"]["alpha_2"] > short["measured"]["alpha_2"] + 0.02
    role = {"target": {"path": str(target)}, "head": {"path": str(made.out), "head_of": "target"}}
    member = check_family(family_specs(role)).members["head"]
    assert isinstance(member.head, ParallelConfig)
    assert (member.head.kind, member.head.depth, member.head.draft_vocab) == (kind, 3, 200)


def test_a_law_of_more_tokens_than_there_are_is_refused(target, tmp_path):
    with pytest.raises(InputError, match=r"recipe\.top is 100000"):
        TrainHead(NewEagle3((0, 1, 2)), Drawn(), **{**KNOBS, "top": 100_000}).run(job(target, tmp_path))
