"""Training length policies: the replay of decoding along a text, and networks that predict better than a constant."""

from __future__ import annotations

import json

import pytest
import torch

from sdbench.drafting import DecisionModel, Pacer
from sdbench.errors import InputError
from sdbench.models.identity import model_identity
from sdbench.sampling import Sampling, warp
from sdbench.tasks.texts import generate
from sdbench.training import job as jobs
from sdbench.training.corpus import Sample
from sdbench.training.job import Job
from sdbench.training.recipes.length_policy import Drafted, LengthPolicy
from sdbench.training.rounds import depths, drafted

FAMILY = {role: {"path": f"pkg://sdbench/assets/tiny/{role}"} for role in ("target", "draft")}


class Texts:
    """Word problems, whose law the target has learned: nothing is written, so a training takes seconds."""

    def __init__(self, count):
        self.count = count

    @property
    def identity(self):
        return {"kind": "word problems"}

    def chunks(self, writer, have, seed):
        texts = [generate("wordproblems", "train", 5, number) for number in range(self.count)]
        yield [
            Sample(writer.tokenizer(text.prompt + text.completion)["input_ids"], 4, str(number))
            for number, text in enumerate(texts)
        ]


def job_in(folder, models=None):
    return Job(models or FAMILY, folder / "model", folder / "work")


def laws(sampling, rows):
    generator = torch.Generator().manual_seed(3)
    p, q = (warp(torch.randn(1, 4, generator=generator), sampling).expand(rows, 4) for _ in range(2))
    text = torch.multinomial(p, 1, generator=generator)[:, 0]
    return p, q, text, generator


def test_drafted_tokens_have_the_drafts_law_and_the_exact_rules_acceptance():
    rows = 200_000
    p, q, text, generator = laws(Sampling(1.0), rows)
    tokens, kept, label = drafted(p, q, text, generator)
    assert torch.bincount(tokens, minlength=4) / rows == pytest.approx(q[0], abs=4e-3)
    assert float(kept.float().mean()) == pytest.approx(float(torch.minimum(p, q)[0].sum()), abs=4e-3)
    for token in range(4):  # given the drafted token, it is kept with the probability of its label
        of = tokens == token
        assert float(kept[of].float().mean()) == pytest.approx(float(label[of].mean()), abs=2e-2)
        assert float(label[of].std()) == pytest.approx(0, abs=1e-6)
    assert torch.equal(tokens[kept], text[kept])


def test_greedy_labels_say_whether_both_have_the_same_best_token():
    p = torch.eye(3)[[0, 1, 2]]
    q = torch.eye(3)[[0, 2, 2]]
    tokens, kept, label = drafted(p, q, torch.tensor([0, 1, 2]), torch.Generator().manual_seed(0))
    assert tokens.tolist() == [0, 2, 2]
    assert kept.tolist() == [True, False, True]
    assert label.tolist() == [1, 0, 1]


def test_rounds_end_at_a_correction_and_at_the_longest_draft():
    kept = [True, True, True, False, True, True, True, True, False, False]
    # The prefill's token; two kept and a correction; three kept, the target's own, two corrections.
    assert depths(kept, 3) == [-1, 0, 1, 2, 0, 1, 2, -1, 0, 0]


def test_blocks_hold_the_tokens_of_one_round_up_to_the_one_in_question():
    depth = torch.tensor(depths([True, True, True, True, False, True, True], 8))
    assert depth.tolist() == [-1, 0, 1, 2, 3, 0, 1]
    one = Drafted(torch.arange(7.0)[:, None], torch.zeros(7), depth)
    assert one.places.tolist() == [1, 2, 3, 4, 5, 6]
    blocks, place = one.blocks(one.places, 3)
    assert blocks[..., 0].tolist() == [[1, 0, 0], [1, 2, 0], [1, 2, 3], [4, 0, 0], [5, 0, 0], [5, 6, 0]]
    assert place.tolist() == [0, 1, 2, 0, 0, 1]


@pytest.mark.parametrize(
    ("policy", "knobs"),
    [
        ("decision_model", {"features": ("entropy", "top")}),
        pytest.param("pacer", {"features": ("entropy", "top", "token", "depth"), "block": 3}, marks=pytest.mark.slow),
        pytest.param("decision_model", {"features": ("hidden",), "widths": (32,)}, marks=pytest.mark.slow),
        pytest.param("decision_model", {"features": ("entropy", "top"), "temperature": 0}, marks=pytest.mark.slow),
    ],
)
def test_a_trained_network_predicts_better_than_a_constant(tmp_path, monkeypatch, policy, knobs):
    monkeypatch.setattr(jobs, "HELD_OUT_EVERY", 4)
    knobs = {"widths": (16,), **knobs}
    recipe = LengthPolicy(policy, Texts(24), 100_000, tokens=20_000, learning_rate=1e-2, **knobs)
    card = recipe.run(job_in(tmp_path))
    assert card["measured"]["bce"] < card["measured"]["constant_bce"] - 0.02
    made = {"decision_model": DecisionModel, "pacer": Pacer}[policy](str(tmp_path / "model"))
    assert made.network.shape.features == list(recipe.features)
    spec = job_in(tmp_path).specs["draft"]
    assert made.trained_for == card["draft"] == model_identity(spec)
    assert {"README.md", "SHA256SUMS", "card.json"} <= {file.name for file in (tmp_path / "model").iterdir()}
    assert json.loads((tmp_path / "model" / "card.json").read_text())["recipe"]["policy"] == policy


def test_no_lesson_from_labels_that_do_not_depend_on_the_features(tmp_path, monkeypatch):
    """The negative control of the test above: the network is no better than a constant where there is nothing to learn."""
    monkeypatch.setattr(jobs, "HELD_OUT_EVERY", 4)
    recipe = LengthPolicy("decision_model", Texts(16), 100_000, tokens=3000, widths=(16,), learning_rate=1e-2)

    def shuffled(corpus):
        generator = torch.Generator().manual_seed(0)
        return [
            Drafted(torch.rand(50, 11, generator=generator), (torch.rand(50, generator=generator) < 0.7).float(),
                    torch.tensor([-1] + [0] * 49))
            for _ in range(len(corpus))
        ]  # fmt: skip

    monkeypatch.setattr(LengthPolicy, "_examples", lambda self, job, corpus, draft: shuffled(corpus))
    measured = recipe.run(job_in(tmp_path))["measured"]
    assert measured["bce"] > measured["constant_bce"] - 0.02


def test_refusals(tmp_path):
    def recipe(policy="decision_model", **knobs):
        return LengthPolicy(policy, Texts(1), 100_000, **knobs)

    reduced = {**FAMILY, "draft": {**FAMILY["draft"], "vocabulary": "intersection"}}
    refused = [
        (lambda: recipe("mood"), "recipe.policy"),
        (lambda: recipe(block=2), "judges single tokens"),
        (lambda: recipe("pacer", block=9), "no block would end"),
        (lambda: recipe(features=["mood"]), "recipe.features is 'mood'"),
        (lambda: recipe(features=[]), "at least one feature"),
        (lambda: recipe(widths=[0]), "recipe.widths"),
        (lambda: recipe(temperature=-1), "recipe.temperature"),
        (lambda: recipe().run(job_in(tmp_path, {"target": FAMILY["target"]})), "this family has no role draft"),
        (lambda: recipe().run(job_in(tmp_path, reduced)), "target's vocabulary only"),
        (lambda: recipe().run(job_in(tmp_path)), "a training needs 2"),
    ]
    for made, said in refused:
        with pytest.raises(InputError, match=said):
            made()
