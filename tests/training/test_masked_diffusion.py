"""The recipe of the masked diffusion model: it resumes, and the folder that it writes decodes."""

from __future__ import annotations

import torch
import yaml

from sdbench.decoding import Request, SelfSpeculativeDiffusion, StepwiseDiffusion
from sdbench.harness.config import config_dir
from sdbench.lm.diffusion import DiffusionTransformer
from sdbench.models.family import check_family
from sdbench.models.memory import size_of
from sdbench.models.spec import ModelSpec
from sdbench.models.weights import load_weights
from sdbench.sampling import Sampling
from sdbench.stopping import StopAtTokens
from sdbench.training.recipes.masked_diffusion import MaskedDiffusion

SMALL = {
    "layers": 1, "width": 32, "heads": 2, "mlp_width": 32, "steps": 6, "rows": 4, "pool_texts": 8, "vocabulary": 300,
    "tokenizer_texts": 5, "held_out_texts": 4, "log_every": 3, "threads": 1, "positions": 256,
}  # fmt: skip


def recipe(**knobs):
    document = yaml.safe_load((config_dir() / "train" / "masked_diffusion.yaml").read_text())
    return MaskedDiffusion(
        **{**{k: v for k, v in document.items() if k != "_target_"}, **SMALL, "canvas": 150, **knobs}
    )


def test_training_resumes_and_its_folder_decodes(tmp_path, monkeypatch):
    whole = recipe()
    last = whole.train(tmp_path / "whole", tmp_path / "work")
    assert last["step"] == 6
    halved = recipe()
    save = halved._save

    def save_and_stop(file):
        save(file)
        raise KeyboardInterrupt

    monkeypatch.setattr(halved, "_save", save_and_stop)
    try:
        halved.train(tmp_path / "halved", tmp_path / "other")
    except KeyboardInterrupt:
        assert 0 < halved.step < 6
    again = recipe()
    again.train(tmp_path / "halved", tmp_path / "other")
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])
    assert "wordproblems_loss" in (tmp_path / "halved" / "README.md").read_text()

    spec = ModelSpec("target", str(tmp_path / "whole" / "target"))
    member = check_family({"target": spec}).main
    assert member.mask_token == whole.mask_token
    size = size_of(spec)
    assert size is not None
    assert size.cache_values == 0
    target = DiffusionTransformer("target", load_weights(spec))
    prompt = member.tokenizer.encode("Question: Tom has 3 pens. How many are left?\nAnswer:")
    decoders = StepwiseDiffusion(target), SelfSpeculativeDiffusion(target, draft_length=3)
    one, other = (
        next(decoder.generate([Request(prompt, "one")], Sampling(), StopAtTokens(member.eos), 12)).tokens
        for decoder in decoders
    )
    assert one == other
    assert whole.mask_token not in one


def test_masks_lie_in_the_canvas_and_the_loss_counts_masked_positions():
    one = recipe(in_order=1.0, block=4)
    (examples, *_) = one._pool(0)
    batch = one.masked(examples, torch.Generator().manual_seed(0))
    masked = batch.tokens == one.mask_token
    assert bool((batch.counted <= masked).all())
    assert bool(batch.counted.any(1).all())
    for row, example in enumerate(examples):
        first = batch.tokens.shape[1] - int(batch.lengths[row])
        assert not bool(masked[row, : first + example.prompt_tokens].any())
        whole = batch.wanted[row, first : first + len(example.tokens)]
        assert whole.tolist() == example.tokens
        last = int(masked[row].nonzero()[0])  # behind the current block, everything is masked
        assert bool(masked[row, last + 4 :].all())
