"""Heads on disk: both published formats, what is refused before weights are loaded, and a run with a head."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as t
from omegaconf import OmegaConf

from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.harness.plan import load, prepare
from sdbench.heads.config import HeadConfig, is_head, read_head_config
from sdbench.heads.eagle3 import Eagle3
from sdbench.heads.files import write_head
from sdbench.lm.feature_head import FeatureHead
from sdbench.models.family import check_family
from sdbench.models.head_files import load_head
from sdbench.models.identity import model_identity
from sdbench.models.memory import count, head_size, size_of
from sdbench.models.spec import ModelSpec, family_specs, resolve
from tests.family import overrides, save_family
from tests.models.folders import saved, spec

V, W = 300, 32  # of the target in `saved`
CONF = Path(__file__).parents[2] / "conf" / "models"
LAYER = {
    "vocab_size": V, "hidden_size": W, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def made(kind: str = "llama", embedding: torch.nn.Parameter | None = None, **more) -> Eagle3:
    """A head with random weights over every third token. Some of them are left out."""
    layer = (t.LlamaConfig if kind == "llama" else t.Qwen3Config)(**LAYER, head_dim=8)
    torch.manual_seed(2)
    head = Eagle3(HeadConfig(layer, 90, W, (0, 1, 2), **more), embedding)
    head.d2t.copy_(2 * torch.arange(90))
    head.t2d.fill_(False)[head.proposed] = True
    return head


def write_eagle(folder: Path, head: Eagle3, binary: bool = True) -> None:
    """Write a head as SafeAILab/EAGLE does."""
    folder.mkdir()
    tensors = {name.replace("layers.0.", "midlayer."): tensor for name, tensor in head.state_dict().items()}
    del tensors["embed_tokens.weight"]
    if binary:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        from safetensors.torch import save_file

        save_file(tensors, folder / "model.safetensors")
    document = {**LAYER, "model_type": "llama", "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": 90}
    # SpecForge numbers the layers whose outputs are read.
    ids = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [-1, 0, 1], "use_aux_hidden_state": True}}
    (folder / "config.json").write_text(json.dumps({**document, **ids}))


def head_spec(folder: Path) -> ModelSpec:
    return ModelSpec("eagle3", str(folder), head_of="target")


def loaded(folder: Path, target) -> Eagle3:
    one = head_spec(folder)
    config = read_head_config("eagle3", json.loads((folder / "config.json").read_text()))
    return load_head(one, resolve(one), config, target, torch.float32, "cpu")


@pytest.mark.parametrize("form", ["bin", "safetensors", "speculators", "qwen3", "own embedding"])
def test_a_head_is_read_as_it_was_written(form, tmp_path):
    target = saved(tmp_path / "target")
    kind, more = ("qwen3", {"norm_before_residual": True}) if form == "qwen3" else ("llama", {})
    embedding = None if form == "own embedding" else target.get_input_embeddings().weight.requires_grad_(False)
    head, folder = made(kind, embedding, **more), tmp_path / "head"
    if form in ("bin", "safetensors"):
        write_eagle(folder, head, form == "bin")
    else:
        write_head(folder, head, head.head_config, "some/target")
    own = loaded(folder, target)
    assert own.head_config.layers == (0, 1, 2)
    assert own.head_config.norm_before_residual == head.head_config.norm_before_residual
    assert all(torch.equal(tensor, head.state_dict()[name]) for name, tensor in own.state_dict().items())
    text, hidden = torch.tensor([[5, 6, 7, 8]]), torch.randn(1, 4, 3 * W)
    for ours, theirs in zip(own.unrolled(text, hidden, 2), head.unrolled(text, hidden, 2), strict=True):
        torch.testing.assert_close(ours, theirs)
    shares = own.embed_tokens.weight.data_ptr() == target.get_input_embeddings().weight.data_ptr()
    assert shares == (form != "own embedding")
    family = check_family({"eagle3": head_spec(folder), "target": spec(tmp_path / "target")})
    assert family.main.spec.role == "target"
    assert family.members["eagle3"].head == own.head_config
    size = size_of(head_spec(folder))
    assert size is not None
    weights = sum(w.numel() for name, w in own.named_parameters() if name != "embed_tokens.weight")
    assert (size.parameters, size.cache_values) == (weights, 2 * 2 * 8 + W + 3 * W)


def test_the_identity_of_a_head_is_that_of_its_files(tmp_path):
    head = made()
    write_head(tmp_path / "one", head, head.head_config)
    first = model_identity(head_spec(tmp_path / "one"))
    head.fc.weight.data[0, 0] += 1
    write_head(tmp_path / "one", head, head.head_config)
    assert model_identity(head_spec(tmp_path / "one")) != first


def edited(folder: Path, **fields) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


REFUSED = {
    "width 64, but its target has width 32": {"target_hidden_size": 64},
    r"hidden states \[0, 1, 3\] of a target with 2 layers": {"eagle_aux_hidden_state_layer_ids": [0, 1, 3]},
    r"hidden states \[2, 1, -1\]": {"eagle_aux_hidden_state_layer_ids": None},
    "a head of the kind 'dflash'": {"speculators_model_type": "dflash"},
    "with norm_before_fc": {"norm_before_fc": True},
    "made for 200 tokens": {"transformer_layer_config": {**LAYER, "vocab_size": 200}},
    "2 layers of the kind 'llama'": {"transformer_layer_config": {**LAYER, "num_hidden_layers": 2}},
    "layers of the kind 'gpt2'": {"transformer_layer_config": {**LAYER, "model_type": "gpt2"}},
    r"the checkpoint has d2t as 90, the config makes it 80 \(and 1 more tensor\)": {"draft_vocab_size": 80},
}


@pytest.mark.parametrize("said", REFUSED)
def test_a_head_that_does_not_fit_is_refused_before_its_weights_are_loaded(said, tmp_path):
    saved(tmp_path / "target")
    head = made()
    write_head(tmp_path / "head", head, head.head_config)
    edited(tmp_path / "head", **REFUSED[said])
    with pytest.raises(InputError, match=said):
        check_family({"target": spec(tmp_path / "target"), "eagle3": head_spec(tmp_path / "head")})


def test_a_role_and_its_path_must_agree_on_being_a_head(tmp_path):
    saved(tmp_path / "target")
    head = made()
    write_head(tmp_path / "head", head, head.head_config)
    target = spec(tmp_path / "target")
    with pytest.raises(InputError, match=r"is a head, .*: set models\.draft\.head_of"):
        check_family({"target": target, "draft": ModelSpec("draft", str(tmp_path / "head"))})
    with pytest.raises(InputError, match="describes no head"):
        check_family({"target": target, "eagle3": head_spec(tmp_path / "target")})
    with pytest.raises(InputError, match="hidden states of target, which no arm steps"):
        check_family({"eagle3": head_spec(tmp_path / "head")})
    entry = {"path": "a/b", "head_of": "target"}
    with pytest.raises(InputError, match="the family has no such role; it has: eagle3"):
        family_specs({"eagle3": entry})
    with pytest.raises(InputError, match="must name a whole model"):
        family_specs({"eagle3": entry, "target": {"path": "a/b", "head_of": "eagle3"}})
    with pytest.raises(InputError, match="a head, which has no quantization"):
        family_specs({"target": {"path": "a/b"}, "eagle3": {**entry, "quantization": "torchao-int8"}})


def test_damaged_tensors_are_refused(tmp_path):
    target = saved(tmp_path / "target")
    head = made()
    write_eagle(tmp_path / "head", head)
    tensors = torch.load(tmp_path / "head" / "pytorch_model.bin", weights_only=True)
    wrong = {
        "lacks the tensor fc.weight": {"fc.weight": None},
        "has the tensor midlayers.w": {"midlayers.w": torch.ones(1)},
        r"has norm.weight as \[4\]": {"norm.weight": torch.ones(4)},
        "names no different tokens": {"d2t": tensors["d2t"] - 1},
    }
    for said, change in wrong.items():
        kept = {name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}
        torch.save(kept, tmp_path / "head" / "pytorch_model.bin")
        with pytest.raises(InputError, match=said):
            loaded(tmp_path / "head", target)
    narrow = saved(tmp_path / "narrow", width=200)
    torch.save(tensors, tmp_path / "head" / "pytorch_model.bin")
    with pytest.raises(InputError, match="has no embedding, and that of its target is not of the same size"):
        loaded(tmp_path / "head", narrow)


PUBLISHED = {
    "llama31_8b_eagle3": (
        t.LlamaConfig(
            vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
            num_key_value_heads=8, head_dim=128,
        ),
        0,
    ),
    "qwen3_8b_eagle3": (
        t.Qwen3Config(
            vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
            num_key_value_heads=8, head_dim=128,
        ),
        151936 * 4096,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_numbers_of_the_families_with_a_head(name):
    """The published heads have the shapes of one Llama layer of their target, and propose 32000 tokens."""
    target, embedding = PUBLISHED[name]
    fields = {key: getattr(target, key) for key in (*LAYER, "head_dim")}
    layer = t.LlamaConfig(**{**fields, "num_hidden_layers": 1})
    size = head_size(HeadConfig(layer, 32000, target.hidden_size))
    stated = {role: ModelSpec(role=role, **entry) for role, entry in OmegaConf.load(CONF / f"{name}.yaml").items()}
    whole = count(target)
    assert (stated["target"].parameters, stated["target"].cache_values) == (whole.parameters, whole.cache_values)
    assert (stated["eagle3"].parameters, stated["eagle3"].cache_values) == (
        size.parameters + embedding, size.cache_values
    )  # fmt: skip


def test_a_run_plans_and_loads_a_head(tmp_path):
    """The arms on a family whose head is added on the command line, up to the loaded models; and without the head."""
    paths = save_family(tmp_path)
    target = t.AutoModelForCausalLM.from_pretrained(paths["target"]).requires_grad_(False)
    layer = t.LlamaConfig(**{**LAYER, "vocab_size": target.config.vocab_size, "hidden_size": 48, "head_dim": 12})
    head = Eagle3(HeadConfig(layer, target.config.vocab_size, 48, (1, 2, 3)), target.get_input_embeddings().weight)
    write_head(tmp_path / "head", head, head.head_config)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "how many"}\n')
    words = [
        *overrides(paths, prompts, tmp_path / "out"),
        "arms=[ar,eagle3,eagle3_tree]",
        "arms.eagle3_tree.proposer.budget=9",
    ]
    with pytest.raises(InputError, match="The arm 'eagle3' needs a model that this family lacks, in the role 'eagle3'"):
        prepare(compose(words))
    words += [f"+models.eagle3.path={tmp_path / 'head'}", "+models.eagle3.head_of=target"]
    plan = prepare(compose(words))
    assert plan.identities["eagle3"].startswith("sha256:")
    models = load(plan)
    loaded_head = models["eagle3"]
    assert isinstance(loaded_head, FeatureHead)
    assert loaded_head.target is models["target"]
    assert loaded_head.tapped == (1, 2, 3)
    assert loaded_head.bytes == 4 * sum(w.numel() for n, w in head.named_parameters() if n != "embed_tokens.weight")
    others = [word for word in words if not word.startswith("arms")]
    apart = compose([*others, "arms=[ssd]", "arms.ssd.proposer.model=eagle3"])
    with pytest.raises(InputError, match="The arm 'ssd' drafts with eagle3 in another process than target"):
        prepare(apart)


def test_a_document_of_neither_format_is_no_head():
    assert not is_head({"architectures": ["LlamaForCausalLM"]})
    assert is_head({"architectures": ["Eagle3Speculator"]})
    document = {**LAYER, "model_type": "llama", "draft_vocab_size": None, "architectures": ["LlamaForCausalLMEagle3"]}
    config = read_head_config("eagle3", document)
    assert (config.draft_vocab, config.layers) == (V, None)
    assert replace(config, layers=None).tapped("eagle3", 32) == (2, 16, 29)
