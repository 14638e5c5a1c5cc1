"""Training resumes to the same bits, and growing a model does not change it."""

from pathlib import Path

import pytest
import torch

from sdbench.training.muon import orthogonalised
from sdbench.training.recipes.tiny_family import family_tokenizer
from sdbench.training.tiny.fit import Trainer
from sdbench.training.tiny.network import build, grown
from sdbench.training.tiny.recipe import TrainRecipe


class KilledError(Exception):
    """Stands for a kill in the middle of a pool of batches."""


def test_resumed_training_gives_the_same_bits(
    micro: TrainRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = family_tokenizer(micro)
    straight = Trainer(micro, "target", tokenizer, tmp_path / "straight")
    straight.train()

    take_step = Trainer._take_step

    def take_step_or_die(trainer: Trainer, batch: object) -> None:
        if trainer.step == 6:
            raise KilledError
        take_step(trainer, batch)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Trainer, "_take_step", take_step_or_die)
    with pytest.raises(KilledError):
        Trainer(micro, "target", tokenizer, tmp_path / "killed").train()
    monkeypatch.setattr(Trainer, "_take_step", take_step)
    resumed = Trainer(micro, "target", tokenizer, tmp_path / "killed")
    resumed.train()

    assert resumed.step == straight.step == micro.models["target"].steps
    wanted, found = straight.model.state_dict(), resumed.model.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert len(resumed.model.model.layers) == micro.models["target"].layers
    assert [row["train_loss"] for row in resumed.log] == [row["train_loss"] for row in straight.log]


def test_growing_keeps_the_function(micro: TrainRecipe) -> None:
    shape = micro.models["target"]
    small = build(shape, 1, 300, 512, 0, 1)
    large = grown(small, build(shape, 2, 300, 512, 0, 1))
    tokens = torch.arange(20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(large(tokens).logits, small(tokens).logits)


@pytest.mark.parametrize("shape", [(2, 16, 48), (2, 48, 16), (1, 32, 32)])
def test_muon_steps_are_nearly_orthogonal(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrices))
    assert values.min() > 0.1
    assert values.max() < 2.5
