"""PARD: the laws of masked places are those of a plain reading, a short training raises the acceptance, and the draft serves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sdbench.acceptance import Exact
from sdbench.decoding import Request, Speculative
from sdbench.drafting import ParallelDrafter
from sdbench.errors import InputError
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.models.family import check_family
from sdbench.models.spec import family_specs
from sdbench.models.vocabulary import IDS_FILE
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from sdbench.training.recipes.pard import Pard, masked_logits
from sdbench.training.student import Student
from tests.training.made import Drawn, job, target_folder

MASK, DEPTH = 20, 3  # the texts of Drawn hold the tokens 3 to 11


def recipe(**more) -> Pard:
    settings = {
        "tokens": 12_000,
        "batch_tokens": 256,
        "vocabulary": 200,
        "top": 24,
        "learning_rate": 1e-2,
        "depth": DEPTH,
    }
    return Pard(**{"layers": [0], "mask_token": MASK, "data": Drawn(), "data_tokens": 1500, **settings, **more})


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return target_folder(tmp_path_factory.mktemp("target"))


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdbench.training.network_calls.product_dtype", lambda: torch.float32)


@torch.inference_mode()
@pytest.mark.parametrize("ids", [None, list(range(0, 300, 2))])
def test_masked_places_read_the_text_and_their_own_masks(target: Path, ids: list[int] | None) -> None:
    raw = AutoModelForCausalLM.from_pretrained(target)
    student = Student(raw, [0, 2], ids)
    tokens = torch.randint(3, 12, (2, 9), generator=torch.Generator().manual_seed(0))
    first = torch.rand(2, 9, generator=torch.Generator().manual_seed(1)) < 0.7
    second = first & (torch.arange(9) % 2 == 0)
    third = second & (torch.arange(9) > 3)
    found = masked_logits(student, tokens, [first, second, third], MASK)
    plain = student.deployed().model
    for depth, (logits, chosen) in enumerate(zip(found, [first, second, third], strict=True)):
        for got, (row, place) in zip(logits, chosen.nonzero().tolist(), strict=True):
            text = [*tokens[row, : place + 1].tolist(), *[MASK] * depth]
            wanted = plain(torch.tensor([text])).logits[0, -1]
            torch.testing.assert_close(got, wanted[: len(got)], atol=1e-4, rtol=1e-4)


def test_a_short_training_raises_the_acceptance_of_every_depth(target: Path, tmp_path: Path) -> None:
    made = job(target, tmp_path)
    card = recipe().run(made)
    measured = card["measured"]
    for depth in range(1, DEPTH + 1):
        assert measured[f"alpha_{depth}"] > measured[f"alpha_{depth}_before_training"] + 0.025
    assert card["recipe"]["mask_token"] == MASK
    derive = {"from": "target", "weights": str(made.out)}
    role = {"target": {"path": str(target)}, "draft": {"derive": derive, "vocabulary": {"ids": str(made.out)}}}
    family = check_family(family_specs(role))
    assert family.members["draft"].config.num_hidden_layers == 1
    raw = AutoModelForCausalLM.from_pretrained(target)
    student = Student(raw, [0], json.loads((made.out / IDS_FILE).read_text()))
    student.load_folder(str(made.out))
    trace = Trace()
    main = Transformer("target", raw)
    method = Speculative(main, Exact(), ParallelDrafter(student.deployed(), MASK), DEPTH)
    requests = [Request([3, 4, 5, 6], "a"), Request([7, 8, 9], "b")]
    done = list(method.generate(requests, Sampling(), NeverStop(), 24, trace=trace))
    plain = list(Speculative(main).generate(requests, Sampling(), NeverStop(), 24))
    assert [one.tokens for one in done] == [one.tokens for one in plain]
    assert max(row["accepted"] for row in trace.rounds) > 0


def test_the_drop_is_nested_and_as_often_as_asked(target: Path, tmp_path: Path) -> None:
    made, one = job(target, tmp_path), recipe(depth=6, keep=0.5, floor=0.1)
    lesson = one.lesson(made, made.corpus(one.data, one.data_tokens))
    taught = torch.cat([lesson.drawn(lesson.training[:40]).flatten() for _ in range(20)])
    for depth, wanted in enumerate([1.0, 0.5, 0.25, 0.125, 0.1, 0.1], 1):
        assert float((taught >= depth).float().mean()) == pytest.approx(wanted, abs=0.02)


def test_what_is_refused(target: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"leave recipe\.divergence=streak"):
        recipe(divergence="streak")
    with pytest.raises(InputError, match=r"recipe\.mask_token is 999, but the target has 300 tokens"):
        recipe(mask_token=999).run(job(target, tmp_path / "far"))
    with pytest.raises(InputError, match="a text of the corpus holds this token"):
        recipe(mask_token=5).run(job(target, tmp_path / "met"))
