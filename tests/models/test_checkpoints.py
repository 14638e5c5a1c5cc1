"""Checkpoints that do not fit, or are damaged: each is refused with the file or tensor that is wrong, and what to do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from sdbench.errors import InputError
from sdbench.models.family import check_family
from sdbench.models.gguf import check_whole
from sdbench.models.weights import load_weights
from tests.models.folders import VISION, config_of, saved, spec

IDS = torch.arange(3, 13)[None]


def tensors(change):
    """Damage by a change of the checkpoint's tensors."""

    def damage(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors", {"format": "pt"})

    return damage


def fields(**values):
    """Damage by fields of the config."""

    def damage(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return damage


def as_bin(content):
    """Damage by a .bin file in place of the safetensors file. content: what is written to it, given the tensors."""

    def damage(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        content(folder / "pytorch_model.bin", held)

    return damage


def cut_in_half(file: Path, held) -> None:
    torch.save(held, file)
    os.truncate(file, file.stat().st_size // 2)


def damaged(file: Path, held) -> None:
    torch.save(held, file)
    content = bytearray(file.read_bytes())
    start = content.find(b"data.pkl") + 60
    content[start : start + 60] = b"\xff" * 60
    file.write_bytes(content)


def half_of_an_old_one(file: Path, held) -> None:
    torch.save(held, file, _use_new_zipfile_serialization=False)
    os.truncate(file, file.stat().st_size // 2)


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "meta/x"}))
    save_file({"base_model.model.a.lora_A.weight": torch.zeros(4, 32)}, folder / "adapter_model.safetensors")


def adapter_alone(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    adapter(folder)


def layer(number: int, held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in held.items() if f"layers.{number}." in name}


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n"
MISFITS = {
    "a surplus tensor": (
        tensors(lambda held: held.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)})),
        r"the checkpoint holds model\.layers\.0\.self_attn\.q_proj\.bias, which LlamaForCausalLM with this config does not use",
    ),
    "a surplus layer": (
        tensors(
            lambda held: held.update({k.replace("layers.1", "layers.2"): v.clone() for k, v in layer(1, held).items()})
        ),
        r"holds model\.layers\.2\.input_layernorm\.weight \(and 8 more tensors\)",
    ),
    "a layer less in the config": (fields(num_hidden_layers=1), r"holds model\.layers\.1\..* \(and 8 more tensors\)"),
    "a missing layer": (
        tensors(lambda held: [held.pop(name) for name in layer(1, held)]),
        r"the checkpoint lacks model\.layers\.1\..* \(and 8 more tensors\)",
    ),
    "another width": (
        fields(intermediate_size=64),
        r"has model\.layers\.0\.mlp\.down_proj\.weight as 32x48, the config makes it 32x64 \(and 5 more tensors\)",
    ),
    "another vocabulary": (fields(vocab_size=320), r"has lm_head\.weight as 300x32, the config makes it 320x32"),
    "a NaN": (
        tensors(lambda held: held["model.layers.1.mlp.up_proj.weight"].__setitem__((0, 0), float("nan"))),
        r"not finite in float32: model\.layers\.1\.mlp\.up_proj\.weight holds a NaN",
    ),
    "an infinity": (
        tensors(lambda held: held["model.norm.weight"].__setitem__(0, float("inf"))),
        r"model\.norm\.weight holds an infinity",
    ),
    "integers": (
        tensors(lambda held: held.update({"lm_head.weight": held["lm_head.weight"].to(torch.int8)})),
        r"model\.safetensors stores lm_head\.weight as I8, but config\.json has no quantization_config",
    ),
    "half a bin file": (as_bin(cut_in_half), r"pytorch_model\.bin is no whole PyTorch weight file: .* fetch it again"),
    "a page in place of a bin file": (
        as_bin(lambda file, held: file.write_text("<html>404</html>")),
        r"pytorch_model\.bin is no whole PyTorch weight file",
    ),
    "an empty bin file": (
        as_bin(lambda file, held: file.touch()),
        r"pytorch_model\.bin is no whole PyTorch weight file",
    ),
    "objects in a bin file": (
        as_bin(lambda file, held: torch.save({"a": config_of("llama")}, file)),
        r"hold Python objects, not tensors alone, .* take the model in safetensors",
    ),
    "a damaged directory in a bin file": (as_bin(damaged), r"pytorch_model\.bin is no whole PyTorch weight file"),
    "half a bin file of an old torch": (
        as_bin(half_of_an_old_one),
        r"pytorch_model\.bin is no whole PyTorch weight file",
    ),
    "a list in a bin file": (
        as_bin(lambda file, held: torch.save([1, 2], file)),
        r"pytorch_model\.bin is no table of tensors by name",
    ),
    "a trainer's state in a bin file": (
        as_bin(lambda file, held: torch.save({"state_dict": held}, file)),
        r"pytorch_model\.bin is no table of tensors by name: take the file that `save_pretrained` wrote",
    ),
    "a pointer of Git LFS": (
        lambda folder: (folder / "model.safetensors").write_text(POINTER),
        r"model\.safetensors is a Git LFS pointer and not the weights: run `git lfs pull`",
    ),
    "another format": (
        lambda folder: (folder / "model.safetensors").rename(folder / "consolidated.safetensors"),
        r"it has consolidated\.safetensors, which is not that format",
    ),
    "an adapter beside the model": (
        adapter,
        r"holds an adapter \(adapter_config\.json\) for meta/x, not a whole model",
    ),
    "an adapter alone": (adapter_alone, r"holds an adapter .* merge the two \(peft's merge_and_unload\(\)"),
    "a broken generation config": (
        lambda folder: (folder / "generation_config.json").write_text("{"),
        r"The generation config of .* cannot be read .*: fetch its generation_config\.json again, or delete it",
    ),
    "a config of another architecture's numbers": (
        fields(num_attention_heads=5),
        r"The config of .* The hidden size \(32\) is not a multiple of the number of attention heads \(5\)",
    ),
    "code of its own": (
        fields(model_type="nonesuch", auto_map={"AutoConfig": "x.Y"}),
        r"brings Python code of its own, which sdbench does not run",
    ),
    "an unknown type": (
        fields(model_type="nonesuch"),
        r"has the model type 'nonesuch', which transformers [\d.]+ does not",
    ),
}


def checked_and_loaded(folder: Path) -> None:
    check_family({"target": spec(folder)})
    load_weights(spec(folder))


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_refused(name, tmp_path):
    folder = tmp_path / "model"
    saved(folder)
    damage, reason = MISFITS[name]
    damage(folder)
    with pytest.raises(InputError, match=reason) as caught:
        checked_and_loaded(folder)
    assert "\n" not in str(caught.value)


def test_a_damaged_bin_file_is_refused_before_the_weights_are_read(tmp_path):
    saved(tmp_path)
    as_bin(half_of_an_old_one)(tmp_path)
    with pytest.raises(InputError, match=r"pytorch_model\.bin is no whole PyTorch weight file"):
        check_family({"target": spec(tmp_path)})


def test_other_sizes_are_refused_before_the_weights_are_read(tmp_path):
    saved(tmp_path)
    fields(intermediate_size=64)(tmp_path)
    with pytest.raises(
        InputError, match=r"down_proj\.weight as 32x48, the config makes it 32x64 \(and 5 more tensors\)"
    ):
        check_family({"target": spec(tmp_path)})


@pytest.mark.parametrize("zipped", [True, False])
def test_a_sound_bin_file_is_read(tmp_path, zipped):
    expected = saved(tmp_path)(IDS).logits
    as_bin(lambda file, held: torch.save(held, file, _use_new_zipfile_serialization=zipped))(tmp_path)
    assert torch.equal(load_weights(spec(tmp_path))(IDS).logits, expected)


def test_tensors_that_every_model_computes_are_no_surplus(tmp_path):
    expected = saved(tmp_path)(IDS).logits
    tensors(lambda held: held.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}))(tmp_path)
    assert torch.equal(load_weights(spec(tmp_path))(IDS).logits, expected)


@pytest.mark.parametrize("architecture", ["gemma3-with-images", "gemma4-with-images", "qwen3_5-with-images"])
def test_of_an_image_and_text_checkpoint_the_language_model_is_read(architecture, tmp_path):
    whole = saved(tmp_path, architecture, auto=AutoModelForImageTextToText)
    alone = load_weights(spec(tmp_path))
    assert type(whole).__name__.endswith("ForConditionalGeneration")
    assert type(alone).__name__.endswith("ForCausalLM")
    expected = whole(input_ids=IDS, attention_mask=torch.ones_like(IDS), mm_token_type_ids=torch.zeros_like(IDS))
    assert torch.equal(alone(IDS).logits, expected.logits)


def test_of_an_image_and_text_checkpoint_only_surplus_text_is_refused(tmp_path):
    assert VISION["num_hidden_layers"] == 1
    saved(tmp_path, "gemma3-with-images")
    load_weights(spec(tmp_path))  # its image part is no surplus
    held = load_file(tmp_path / "model.safetensors")
    text = next(name for name in held if "layers.1.mlp.up_proj" in name and "vision" not in name)
    tensors(lambda held: held.update({text.replace("layers.1", "layers.2"): held[text].clone()}))(tmp_path)
    with pytest.raises(InputError, match=r"the checkpoint holds model\.layers\.2\.mlp\.up_proj\.weight"):
        load_weights(spec(tmp_path))


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory) -> Path:
    """A small GGUF file of two tensors."""
    writer_of = pytest.importorskip("gguf").GGUFWriter
    file = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = writer_of(str(file), "llama")
    writer.add_block_count(1)
    for name in ("token_embd.weight", "output_norm.weight"):
        writer.add_tensor(name, torch.ones(64, 32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_whole_gguf_file_passes(gguf_file):
    check_whole(gguf_file)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_a_cut_gguf_file_is_named(gguf_file, tmp_path, share):
    file = tmp_path / "cut.gguf"
    shutil.copy(gguf_file, file)
    os.truncate(file, int(file.stat().st_size * share))
    with pytest.raises(InputError, match=r"cut\.gguf is cut short") as caught:
        check_whole(file)
    assert "fetch it again" in str(caught.value)
