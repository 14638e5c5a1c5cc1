"""The files of heads that predict several tokens in one pass: written and read again, published formats, refusals, a run's plan."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as t

from sdbench.errors import InputError
from sdbench.harness.arms import build_on_stubs
from sdbench.harness.config import compose
from sdbench.harness.model_checks import check_heads
from sdbench.harness.plan import load, prepare
from sdbench.heads.kinds import KINDS, kind_of
from sdbench.heads.parallel import EMBEDDING, HEAD, ParallelConfig, ParallelHead
from sdbench.lm.parallel_model import ParallelModel
from sdbench.models.family import check_family
from sdbench.models.head_files import head_config, load_any_head
from sdbench.models.identity import model_identity
from sdbench.models.memory import size_of
from sdbench.models.spec import ModelSpec, resolve
from tests.family import overrides, save_family
from tests.models.folders import saved, spec

V, W = 300, 32  # of the target in `saved`
IDS = list(range(0, V, 3))


def head_spec(folder: Path) -> ModelSpec:
    return ModelSpec("head", str(folder), head_of="target")


def made(target, kind: str, ids=None, **more) -> ParallelHead:
    torch.manual_seed(2)
    head = kind_of(kind).fresh(target, ids, 2, **more)
    for weight in head.parameters():
        if weight.requires_grad:
            weight.data.normal_(std=0.2)
    return head


def loaded(folder: Path, target) -> ParallelHead:
    one = head_spec(folder)
    config = head_config(one, resolve(one), target.config)
    head = load_any_head(one, resolve(one), config, target, torch.float32, "cpu")
    assert isinstance(head, ParallelHead)
    return head


def same(one: ParallelHead, other: ParallelHead) -> bool:
    ids = torch.randint(0, V, (1, 6))
    taps = one.head_config.layers or (2,)
    hidden = torch.randn(1, 6, len(taps) * W)
    pairs = zip(one.unrolled(ids, hidden, 2), other.unrolled(ids, hidden, 2), strict=True)
    return all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in pairs)


@pytest.mark.parametrize("ids", [None, IDS])
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_is_read_as_it_was_written(kind, ids, tmp_path):
    target = saved(tmp_path / "target")
    head = made(target, kind, ids, **({"layers": 2} if kind == "parallelspec" else {}))
    head.write(tmp_path / "head", "some/target")
    own = loaded(tmp_path / "head", target)
    assert same(own, head)
    assert own.proposed.tolist() == (ids or list(range(V)))
    assert not any(weight.requires_grad for weight in own.parameters())
    family = check_family({"head": head_spec(tmp_path / "head"), "target": spec(tmp_path / "target")})
    assert family.members["head"].head == own.head_config
    size = size_of(head_spec(tmp_path / "head"))
    assert size is not None
    lent = {name for name in own.borrows if ids is None or name == EMBEDDING}
    assert size.parameters == sum(w.numel() for name, w in own.named_parameters() if name not in lent)
    if ids is None and HEAD in own.borrows:
        assert own.lm_head.weight.data_ptr() == target.lm_head.weight.data_ptr()
    first = model_identity(head_spec(tmp_path / "head"))
    next(iter(head.parameters())).data.add_(1)
    head.write(tmp_path / "head", "some/target")
    assert model_identity(head_spec(tmp_path / "head")) != first


@pytest.mark.parametrize("binary", [True, False])
def test_a_published_medusa_checkpoint_is_read(binary, tmp_path):
    """Its config.json gives no sizes, and fewer heads than the file has."""
    from safetensors.torch import save_file

    target = saved(tmp_path / "target")
    head, folder = made(target, "medusa"), tmp_path / "head"
    folder.mkdir()
    tensors = {name: tensor for name, tensor in head.state_dict().items() if name != "d2t"}
    names = ("0.linear.bias", "0.linear.weight", "1.weight")
    assert sorted(tensors) == [f"{head}.{name}" for head in (0, 1) for name in names]
    if binary:
        torch.save(tensors, folder / "medusa_lm_head.pt")
    else:
        save_file(tensors, folder / "medusa_lm_head.safetensors")
    document = {"medusa_num_heads": 1, "medusa_num_layers": 1, "base_model_name_or_path": "lmsys/vicuna-7b-v1.3"}
    (folder / "config.json").write_text(json.dumps(document))
    check_family({"head": head_spec(folder), "target": spec(tmp_path / "target")})
    own = loaded(folder, target)
    assert own.depth == 2
    assert same(own, head)
    assert model_identity(head_spec(folder)).startswith("sha256:")


def test_a_published_dflash_checkpoint_is_read(tmp_path):
    from safetensors.torch import save_file

    target = saved(tmp_path / "target", "qwen3")
    head, folder = made(target, "block_diffusion", taps=(1, 2), layers=2, mask_id=7), tmp_path / "head"
    folder.mkdir()
    save_file(
        {name: tensor for name, tensor in head.state_dict().items() if name not in ("d2t", *head.borrows)},
        folder / "model.safetensors",
    )
    document = {
        **head.config.to_dict(), "architectures": ["DFlashDraftModel"], "block_size": 3, "num_target_layers": 2,
        "dflash_config": {"mask_token_id": 7, "target_layer_ids": [0, 1]},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(document))
    check_family({"head": head_spec(folder), "target": spec(tmp_path / "target")})
    assert same(loaded(folder, target), head)
    edited(folder, dflash_config={**document["dflash_config"], "selector_rank": 8})
    with pytest.raises(InputError, match="DFlash head with selector_rank"):
        loaded(folder, target)


def edited(folder: Path, **fields) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


REFUSED = {
    "width 64, but its target has width 32": {"target_hidden_size": 64},
    r"hidden states \[3\], but its target has 2 layers": {"target_layers": [3]},
    "'hydra' is no kind of head": {"sdbench_head": "hydra"},
    "layers of the kind 'gpt2'": {"layer": {"model_type": "gpt2"}},
    "the checkpoint has masks as 1x32, the config makes it 3x32": {"depth": 4},
    "lacks 'depth'": {"depth": None},
}


@pytest.mark.parametrize("said", REFUSED)
def test_a_head_that_does_not_fit_is_refused_before_its_weights_are_loaded(said, tmp_path):
    target = saved(tmp_path / "target")
    made(target, "parallelspec").write(tmp_path / "head")
    edited(tmp_path / "head", **REFUSED[said])
    if said == "lacks 'depth'":
        document = json.loads((tmp_path / "head" / "config.json").read_text())
        del document["depth"]
        (tmp_path / "head" / "config.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=said):
        check_family({"target": spec(tmp_path / "target"), "head": head_spec(tmp_path / "head")})


def test_damaged_tensors_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    target = saved(tmp_path / "target")
    made(target, "parallelspec", IDS).write(tmp_path / "head")
    file = tmp_path / "head" / "model.safetensors"
    tensors = load_file(file)
    wrong = {
        "lacks the tensor fc.weight": {"fc.weight": None},
        "has the tensor extra, which nothing uses": {"extra": torch.ones(1)},
        r"has norm.weight as \[4\]": {"norm.weight": torch.ones(4)},
        "names no different tokens": {"d2t": tensors["d2t"] - 1},
    }
    for said, change in wrong.items():
        save_file({name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}, file)
        with pytest.raises(InputError, match=said):
            loaded(tmp_path / "head", target)


def test_a_run_plans_and_loads_heads(tmp_path):
    paths = save_family(tmp_path)
    target = t.AutoModelForCausalLM.from_pretrained(paths["target"]).requires_grad_(False)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "how many"}\n')
    arms = ["medusa", "medusa_tree", "parallelspec", "specformer", "block_diffusion", "specdec"]
    words = [*overrides(paths, prompts, tmp_path / "out"), f"arms=[ar,{','.join(arms)}]"]
    for kind in KINDS:
        torch.manual_seed(0)
        kind_of(kind).fresh(target, None, 7).write(tmp_path / kind)
        words += [f"+models.{kind}.path={tmp_path / kind}", f"+models.{kind}.head_of=target"]
    plan = prepare(compose(words))
    models = load(plan)
    for kind in KINDS:
        assert plan.identities[kind].startswith("sha256:")
        assert isinstance(models[kind], ParallelModel)


def test_arms_and_heads_must_fit():
    target, other = SimpleNamespace(spec=ModelSpec("target", "a"), head=None), ModelSpec("draft", "b")
    config = ParallelConfig(t.LlamaConfig(), V, W, (1,), kind="medusa", depth=3)
    head = SimpleNamespace(spec=ModelSpec("medusa", "c", head_of="target"), head=config)
    family: Any = SimpleNamespace(
        members={
            "target": target,
            "draft": SimpleNamespace(spec=other, head=None, config=SimpleNamespace(ptd_token_id=4)),
            "medusa": head,
        }
    )

    def check(drafter: str, length: int, **knobs) -> None:
        proposer = {"_target_": f"sdbench.drafting.{drafter}", **knobs}
        arm = {
            "_target_": "sdbench.decoding.Speculative",
            "verifier": "target",
            "draft_length": length,
            "proposer": proposer,
        }
        check_heads(build_on_stubs({"one": arm}, ["target", "draft", "medusa"]), family, False)

    check("ParallelDrafter", 3, model="medusa")
    check("ParallelDrafter", 9, model="draft", mask_token=1)
    check("ParallelDrafter", 9, model="draft", mask_token="config")
    family.members["draft"].config = SimpleNamespace()
    with pytest.raises(InputError, match=r"config\.json of models\.draft names no mask \(pard_token or ptd_token_id\)"):
        check("ParallelDrafter", 9, model="draft", mask_token="config")
    refused = {
        "drafts 4 tokens, but medusa predicts 3: draft at most 3": ("ParallelDrafter", 4, "medusa"),
        "reads medusa token by token, but medusa is a head that predicts 3 tokens": ("ModelDrafter", 2, "medusa"),
        "in one pass of draft, which is no such head": ("ParallelDrafter", 2, "draft"),
    }
    for said, (drafter, length, model) in refused.items():
        with pytest.raises(InputError, match=said):
            check(drafter, length, model=model)
