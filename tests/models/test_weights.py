"""Loading: the same model comes back, in the wanted form; damaged files and missing means are refused."""

from __future__ import annotations

import os
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file

from sdbench import paths
from sdbench.errors import InputError
from sdbench.models import gguf, weight_files as files
from sdbench.models.family import check_family
from sdbench.models.identity import model_identity
from sdbench.models.weights import load_weights
from tests.models.folders import ARCHITECTURES, saved, spec
from tests.tasks.tokenizers_made import CHAT, byte_level

IDS = torch.arange(3, 23)[None]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_model_comes_back(architecture, tmp_path):
    expected = saved(tmp_path, architecture)(IDS).logits
    model = load_weights(spec(tmp_path))
    assert torch.equal(model(IDS).logits, expected)
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any("vision" in name for name, _ in model.named_parameters())


def test_the_spec_goes_before_the_hardware(tmp_path):
    saved(tmp_path)
    assert load_weights(spec(tmp_path), dtype="float32").dtype == torch.float32
    assert load_weights(spec(tmp_path), dtype="bfloat16").dtype == torch.bfloat16
    assert load_weights(spec(tmp_path, dtype="float16"), dtype="bfloat16").dtype == torch.float16


@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ({"dtype": "int7"}, "The dtype of target is 'int7'; it must be one of float32, bfloat16, float16"),
        ({"device": "gpu"}, "The device of target is 'gpu'; it must be"),
        ({"device": "cuda:99"}, r"The device of target is 'cuda:99', but this machine has"),
        ({"quantization": "int3"}, "models.target.quantization is 'int3'; it must be null or one of torchao-int8"),
        ({"quantization": "bitsandbytes-4bit"}, "pip install .*bitsandbytes|runs on CUDA only"),
        ({"quantization": "torchao-int4"}, "pip install .*torchao|runs on CUDA only"),
    ],
)
def test_knobs_that_cannot_be(knobs, reason, tmp_path):
    saved(tmp_path)
    with pytest.raises(InputError, match=reason):
        load_weights(spec(tmp_path, **knobs))


def cut(file: Path, size: int) -> None:
    os.truncate(file, size)


def scribble(file: Path) -> None:
    file.write_bytes(b"\xff" * 4096)


def drop_a_tensor(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop("model.norm.weight")
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: cut(file, file.stat().st_size - 1), "is corrupted: it has"),
        (lambda file: cut(file, 100), "is not a readable safetensors file"),
        (lambda file: cut(file, 0), "is not a readable safetensors file"),
        (scribble, "is not a readable safetensors file"),
        (Path.unlink, "holds no weight files"),
    ],
    ids=["last byte", "header", "empty", "scribbled", "gone"],
)
def test_damaged_weights_are_refused_before_loading(damage, reason, tmp_path):
    saved(tmp_path)
    damage(tmp_path / "model.safetensors")
    for check in (lambda: check_family({"target": spec(tmp_path)}), lambda: load_weights(spec(tmp_path))):
        with pytest.raises(InputError, match=reason) as caught:
            check()
        assert "\n" not in str(caught.value)


def test_missing_tensors_are_not_made_up(tmp_path):
    saved(tmp_path)
    drop_a_tensor(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"the checkpoint lacks model\.norm\.weight\. Take both"):
        load_weights(spec(tmp_path))


def test_a_hub_model_whose_weights_are_not_here(tmp_path, monkeypatch):
    """The cache holds a model's config and tokenizer, and there is no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    home = tmp_path / "models--sdbench--half"
    folder = home / "snapshots" / ("0" * 40)
    saved(folder)
    (folder / "model.safetensors").unlink()
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    half = spec("sdbench/half")
    assert check_family({"target": half}).vocab == 300
    with pytest.raises(InputError, match=r"sdbench/half \(target\).* run `hf download sdbench/half`"):
        load_weights(half)


def test_a_missing_shard_is_named(tmp_path):
    model = saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    sorted(tmp_path.glob("*.safetensors"))[-1].unlink()
    with pytest.raises(InputError, match=r"lacks the weight file model-.*\.safetensors"):
        check_family({"target": spec(tmp_path)})


def test_packaged_weights_must_match_their_checksums(tmp_path, monkeypatch):
    folder = tmp_path / "assets" / "tiny" / "target"
    saved(folder)
    monkeypatch.setattr(paths.resources, "files", lambda package: tmp_path)
    packaged = spec("pkg://sdbench/assets/tiny/target")
    with pytest.raises(InputError, match="SHA256SUMS is missing"):
        load_weights(packaged)
    names = ["model.safetensors", "config.json"]
    lines = [f"{files.sha256_of(folder / name)}  target/{name}" for name in names]
    (folder.parent / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    load_weights(packaged)
    with (folder / "model.safetensors").open("r+b") as content:
        content.seek(-1, os.SEEK_END)
        content.write(b"\x7f")
    with pytest.raises(InputError, match="does not match its checksum; reinstall the package, or in a checkout: git"):
        check_family({"target": packaged})


def test_gguf_is_converted_once(tmp_path, monkeypatch):
    """The reader of `transformers` is replaced here; the slow test below reads a real file."""
    monkeypatch.setenv("SDBENCH_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF and more")
    calls = []

    def convert(source, folder):
        calls.append(source)
        saved(folder)

    monkeypatch.setattr(gguf, "_convert", convert)
    monkeypatch.setattr(gguf, "check_whole", lambda file: None)
    folder = gguf.converted(file)
    assert folder.parent == tmp_path / "cache" / "gguf"
    assert [child.name for child in folder.parent.iterdir()] == [files.sha256_of(file)]
    gguf._converted.cache_clear()
    load_weights(spec(file))
    assert calls == [file]
    assert model_identity(spec(file)) == f"sha256:{files.sha256_of(file)}"
    cut(folder / "model.safetensors", 50)
    gguf._converted.cache_clear()
    load_weights(spec(file))
    assert len(calls) == 2


def test_gguf_that_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("SDBENCH_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "small.gguf"
    file.write_bytes(b"PK and more")
    with pytest.raises(InputError, match="is not a GGUF file"):
        load_weights(spec(file))
    file.write_bytes(b"GGUF and not more")
    with pytest.raises(InputError, match=r"small\.gguf is cut short or corrupted \(17 bytes\): fetch it again"):
        load_weights(spec(file))
    assert not (tmp_path / "cache").exists()


def test_a_chat_template_survives_the_folder(tmp_path):
    saved(tmp_path, tokenizer=byte_level(300, template=CHAT))
    assert check_family({"target": spec(tmp_path)}).tokenizer.chat_template == CHAT


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("SDBENCH_SMOLLM2"), reason="SDBENCH_SMOLLM2 names no GGUF file of SmolLM2-135M")
def test_a_real_gguf_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SDBENCH_CACHE", str(tmp_path))
    file = Path(os.environ["SDBENCH_SMOLLM2"])
    family = check_family({"target": spec(file)})
    assert (family.vocab, family.eos) == (49152, (2,))
    assert "<|im_start|>" in (family.tokenizer.chat_template or "")
    model = load_weights(spec(file))
    direct = t.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ids = torch.tensor([family.tokenizer("The capital of France is")["input_ids"]])
    assert torch.equal(model(ids).logits, direct(ids).logits)
    tokenizer = t.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    text = "Hello  world, 12345 naïve 日本語\n\tif x==1:\n        return  'a'"
    assert tokenizer(text)["input_ids"] == family.tokenizer(text)["input_ids"]
