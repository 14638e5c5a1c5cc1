"""Models made from the weights of another role: which layers, which casts, what they share, their identity and their refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from sdbench.decoding import Request, Speculative
from sdbench.drafting import ModelDrafter
from sdbench.errors import InputError
from sdbench.lm.early_exit import first_layers
from sdbench.lm.probe import check_steps
from sdbench.lm.transformer import Transformer
from sdbench.models.derivation import Derivation
from sdbench.models.derived import derived
from sdbench.models.family import check_family
from sdbench.models.identity import model_identity
from sdbench.models.memory import fit, size_of
from sdbench.models.mxfp4 import mxfp4
from sdbench.models.spec import family_specs
from sdbench.models.weights import load_weights
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import ARCHITECTURES, random_model
from tests.models.folders import saved

IDS = torch.arange(3, 23)[None]
CAST = Derivation("target", quantize="mxfp4")


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_first_layers_are_those_of_an_early_exit(architecture):
    model = random_model(architecture)
    before = model(IDS).logits
    made = derived(model, "draft", Derivation("target", 2))
    assert made.config.num_hidden_layers == 2
    assert torch.equal(made(IDS).logits, first_layers(model, 2, 4)(IDS, use_cache=False).logits)
    assert torch.equal(model(IDS).logits, before), "the source is as it was"


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chosen_layers_step_over_a_cache_of_their_own(architecture):
    """The layers 1 and 3, against the same network with the layers 0 and 2 left out of its forward."""
    model = random_model(architecture)
    made = derived(model, "draft", Derivation("target", (1, 3)))
    skipping = random_model(architecture)
    body = skipping.get_decoder()
    name = next(name for name, part in body.named_children() if isinstance(part, nn.ModuleList))
    for layer in (0, 2):
        body._modules[name][layer].forward = lambda hidden, *args, **kwargs: hidden  # pyright: ignore
    torch.testing.assert_close(made(IDS).logits, skipping(IDS, use_cache=False).logits)
    stepped = Transformer("draft", made)
    check_steps(stepped)
    decoded = Speculative(Transformer("target", model), None, ModelDrafter(stepped), 3)
    (done,) = decoded.generate([Request([5, 6, 7], "0")], Sampling(), NeverStop(), 8)
    (wanted,) = Speculative(Transformer("target", model)).generate(
        [Request([5, 6, 7], "0")], Sampling(), NeverStop(), 8
    )
    assert done.tokens == wanted.tokens


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_a_cast_changes_the_linear_layers_and_shares_the_rest(architecture):
    model = random_model(architecture)
    made = derived(model, "draft", CAST)
    head = made.get_output_embeddings()
    parts = dict(model.named_modules())
    cast = 0
    for name, part in made.named_modules():
        if part is head or not isinstance(part, nn.Linear | Conv1D):
            for own, theirs in zip(part.parameters(recurse=False), parts[name].parameters(recurse=False), strict=True):
                assert own is theirs
            continue
        cast += 1
        weight = parts[name].weight
        assert part.weight.equal(mxfp4(weight, 0 if isinstance(part, Conv1D) else 1))
        assert not part.weight.equal(weight)
        if part.bias is not None:
            assert part.bias is parts[name].bias
    assert cast == 4 * (4 if architecture == "gpt2" else 7)


def test_what_is_skipped():
    model = random_model("llama")

    def cast(*skip):
        made = derived(model, "draft", Derivation("target", quantize="mxfp4", skip=skip))
        own = dict(model.named_parameters())
        return {name for name, weight in made.named_parameters(remove_duplicate=False) if weight is not own.get(name)}

    every = cast()
    assert len(every) == 4 * 7 + 1
    assert every - cast("head") == {"lm_head.weight"} == every - cast("lm_head")
    assert {name for name in every if "q_proj" in name} == every - cast("q_proj")
    assert {name for name in every if ".0." in name} == every - cast("model.layers.0.*")
    with pytest.raises(InputError, match="no linear layer of LlamaForCausalLM is named 'qproj'"):
        cast("qproj")
    with pytest.raises(InputError, match="has no linear layer to cast"):
        cast("*")


def test_a_tied_head_is_cast_without_the_embedding():
    model: Any = random_model("gemma3")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    made: Any = derived(model, "draft", Derivation("target", quantize="mxfp4", skip=()))
    assert made.get_input_embeddings().weight is model.get_input_embeddings().weight
    assert made.get_output_embeddings().weight.equal(mxfp4(model.get_input_embeddings().weight))


def entries(folder, **derive):
    return {"target": {"path": str(folder)}, "draft": {"derive": {"from": "target", **derive}}}


def test_a_role_of_a_family(tmp_path):
    model = saved(tmp_path)
    specs = family_specs(entries(tmp_path, layers=1, quantize="mxfp4", skip=["head", "o_proj"]))
    family = check_family(specs)
    assert family.members["draft"].config.num_hidden_layers == 1
    loaded = load_weights(specs["draft"])
    expected = derived(model, "draft", Derivation("target", 1, "mxfp4", ("head", "o_proj")))
    assert torch.equal(loaded(IDS).logits, expected(IDS).logits)
    size, whole = size_of(specs["draft"]), size_of(specs["target"])
    assert size is not None
    assert whole is not None
    assert size.cache_values * 2 == whole.cache_values
    memory = {role.role: role.weight_bytes for role in fit(specs, slots=1, memory=10**12).roles}
    assert memory["draft"] == 4 * sum(weight.numel() for weight in loaded.parameters())


def test_the_recipe_enters_the_identity(tmp_path):
    saved(tmp_path)
    recipes = [
        {"layers": 1},
        {"layers": [0]},
        {"quantize": "mxfp4"},
        {"quantize": "mxfp4", "skip": []},
        {"layers": [1]},
    ]
    found = [model_identity(family_specs(entries(tmp_path, **recipe))["draft"]) for recipe in recipes]
    base = model_identity(family_specs(entries(tmp_path, layers=1))["target"])
    assert len({base, *found}) == len(recipes) + 1
    assert all(identity.startswith(f"{base} derived") for identity in found)


def test_a_derived_role_takes_what_it_does_not_name_from_its_source():
    given = {
        "target": {
            "path": "a/b",
            "revision": "r",
            "device": "cuda:1",
            "dtype": "bfloat16",
            "quantization": "torchao-int8",
        },
        "draft": {"path": None, "dtype": "float16", "derive": {"from": "target", "layers": 2}},
    }
    spec = family_specs(given)["draft"]
    assert (spec.path, spec.revision, spec.device, spec.dtype) == ("a/b", "r", "cuda:1", "float16")
    assert spec.quantization is None


@pytest.mark.parametrize(
    ("draft", "said"),
    [
        ({}, "models.draft has no source: give path, or derive"),
        ({"path": "a/b", "derive": {"from": "target", "layers": 1}}, "has both path and derive"),
        (
            {"derive": {"from": "nobody", "layers": 1}},
            "from is nobody, but the family has no such role; it has: target, draft",
        ),
        ({"derive": {"from": "draft", "layers": 1}}, "from is draft, which is derived itself"),
        ({"derive": {"layers": 1}}, "derive.from is null; it must name a role"),
        ({"derive": {"from": "target"}}, "changes nothing: give layers, weights=FOLDER, or quantize=mxfp4"),
        ({"derive": {"from": "target", "layer": 1}}, "has no 'layer'; did you mean 'layers'"),
        ({"derive": {"from": "target", "layers": 0}}, "at least 1"),
        ({"derive": {"from": "target", "layers": [1, 0]}}, "ascending order"),
        ({"derive": {"from": "target", "layers": []}}, "ascending order"),
        ({"derive": {"from": "target", "quantize": "fp4"}}, "it must be one of mxfp4"),
        (
            {"derive": {"from": "target", "quantize": "mxfp4", "skip": "head"}},
            "derive.skip is 'head'; it must be a list",
        ),
        (
            {"quantization": "torchao-int8", "derive": {"from": "target", "quantize": "mxfp4"}},
            "quantization and derive.quantize",
        ),
    ],
)
def test_entries_that_cannot_be(draft, said):
    with pytest.raises(InputError, match=said):
        family_specs({"target": {"path": "a/b"}, "draft": draft})


@pytest.mark.parametrize("layers", [2, 5, [0, 1], [0, 2]])
def test_layers_that_are_not_there(layers, tmp_path):
    saved(tmp_path)
    with pytest.raises(InputError, match=r"models.draft.derive.layers is .*, but target has 2 layers"):
        check_family(family_specs(entries(tmp_path, layers=layers)))
