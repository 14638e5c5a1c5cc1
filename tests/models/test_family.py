"""What is refused before weights are loaded, and with which sentence."""

from __future__ import annotations

from pathlib import Path

import httpx
import huggingface_hub
import pytest
import transformers as t
from huggingface_hub import errors
from omegaconf import OmegaConf

from sdbench.errors import InputError
from sdbench.models import hub
from sdbench.models.architecture import check_architecture
from sdbench.models.family import check_family, check_files
from sdbench.models.spec import ModelSpec, resolve
from tests.models.folders import ARCHITECTURES, config_of, saved, spec
from tests.tasks.tokenizers_made import SPECIAL, byte_level

CONF = sorted((Path(__file__).parents[2] / "conf" / "models").glob("*.yaml"))
ROLES = ("target", "qualifier", "draft")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures_that_work(architecture, tmp_path):
    saved(tmp_path, architecture)
    family = check_family({"target": spec(tmp_path)})
    assert (family.vocab, family.context, family.eos) == (300, 128, (1,))
    assert len(family.tokenizer) <= 300


REFUSED = {
    "RoFormerForCausalLM takes no position_ids": t.RoFormerConfig(is_decoder=True),
    "RecurrentGemmaForCausalLM cannot be called .*its recurrent layers keep their states outside": t.RecurrentGemmaConfig(),
    "t5 is an encoder-decoder": t.T5Config(),
    "BloomForCausalLM uses ALiBi": t.BloomConfig(),
    "FalconForCausalLM uses ALiBi": t.FalconConfig(alibi=True),
    "vit is not a causal language model": t.ViTConfig(),
    "XmodForCausalLM cannot be called over a cache of slots .Input language unknown": t.XmodConfig(
        num_hidden_layers=2, hidden_size=32, num_attention_heads=4, intermediate_size=48, vocab_size=97
    ),
    "BltForCausalLM has no single stack of decoder layers": t.BltConfig(),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_architectures_that_do_not(reason):
    with pytest.raises(InputError, match=f"^draft: .*{reason}"):
        check_architecture("draft", REFUSED[reason])


def test_a_refused_architecture_needs_no_weights(tmp_path):
    t.BloomConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="target: BloomForCausalLM uses ALiBi"):
        check_family({"target": spec(tmp_path)})


def pair(tmp_path, tokenizer, width: int = 300):
    saved(tmp_path / "target")
    saved(tmp_path / "draft", width=width, tokenizer=tokenizer)
    return {role: spec(tmp_path / role, role) for role in ("target", "draft")}


@pytest.mark.parametrize("width", [384, 280])
def test_the_vocabulary_is_the_targets_whatever_the_drafts_width(tmp_path, width):
    family = check_family(pair(tmp_path, None, width=width))
    assert family.vocab == 300
    assert family.members["draft"].width == width
    (note,) = family.notes
    assert f"draft has {width} rows, that of target 300" in note


def test_different_vocabularies_are_refused(tmp_path):
    other = byte_level(300, special=[*SPECIAL[:2], "<call>", "<turn>"])
    with pytest.raises(InputError, match="of target and draft differ: token 2 is '<turn>' for target and '<call>' for"):
        check_family(pair(tmp_path, other))


def test_a_smaller_vocabulary_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"of target and draft differ: token 270 is '.*' for target and no token for draft"
    ):
        check_family(pair(tmp_path, byte_level(270)))


def test_a_special_token_that_only_one_has_is_fine(tmp_path):
    tokenizer = byte_level(300)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert check_family(pair(tmp_path, tokenizer)).vocab == 300


def test_other_ends_are_refused(tmp_path):
    tokenizer = byte_level(300)
    tokenizer.eos_token = "<turn>"
    with pytest.raises(InputError, match="eos_token_id is 1 for target and 2 for draft"):
        check_family(pair(tmp_path, tokenizer))


def test_a_target_narrower_than_its_tokenizer_is_refused(tmp_path):
    saved(tmp_path, width=280)
    with pytest.raises(
        InputError, match="embedding of target has 280 entries, fewer than the 300 tokens of its tokenizer"
    ):
        check_family({"target": spec(tmp_path)})


def test_all_end_tokens_of_the_target_count(tmp_path):
    saved(tmp_path)
    t.GenerationConfig(eos_token_id=[1, 2]).save_pretrained(tmp_path)
    assert check_family({"target": spec(tmp_path)}).eos == (1, 2)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none/at/all", r"models\.target\.path: there is no folder none/at/all, and it is not a hub id"),
        ("none.gguf", r"models\.target\.path: there is no file none\.gguf"),
        ("pkg://sdbench/none", r"the package sdbench lacks none; install it again"),
        ("pkg://nosuchpackage/x", r"there is no installed package 'nosuchpackage'"),
        (
            "sdbench/owner-of-nothing",
            r"not in the local cache and the hub cannot be reached: run `hf download sdbench/",
        ),
    ],
)
def test_absent_sources(path, reason):
    with pytest.raises(InputError, match=reason) as caught:
        check_family({"target": spec(path)})
    assert "\n" not in str(caught.value)


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(InputError, match=r"has no config\.json"):
        check_family({"target": spec(tmp_path)})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config of .* cannot be read"):
        check_family({"target": spec(tmp_path)})
    (tmp_path / "weights.bin").write_text("")
    with pytest.raises(InputError, match=r"is a file; give a \.gguf file, a model folder or a hub id"):
        check_family({"target": spec(tmp_path / "weights.bin")})


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (errors.GatedRepoError, r"is gated: accept its licence at https://huggingface.co/a/b and run `hf auth login`"),
        (errors.RepositoryNotFoundError, "There is no public model a/b"),
        (errors.RevisionNotFoundError, "has no revision 'v9' on the hub"),
    ],
)
def test_what_the_hub_refuses(kind, reason, monkeypatch):
    def refuse(*args, **options):
        response = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co/a/b"))
        raise kind("refused", response=response)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(hub, "reachable", lambda: True)
    source = ModelSpec("draft", "a/b", revision="v9")
    for read in (hub.read_config, hub.config_file):
        with pytest.raises(InputError, match=reason):
            read(source, resolve(source))


def test_without_hub_and_cache_no_reader_is_asked(monkeypatch):
    monkeypatch.setattr(t.AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("the cache lacks the model"))
    monkeypatch.setattr(hub, "reachable", lambda: False)
    source = ModelSpec("draft", "a/b")
    with pytest.raises(InputError, match=r"a/b \(draft\) is not in the local cache .*run `hf download a/b`"):
        hub.read_config(source, resolve(source))


@pytest.mark.parametrize("file", CONF, ids=lambda file: file.stem)
def test_conf_says_what_a_spec_takes(file):
    conf = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    assert isinstance(conf, dict)
    specs = [ModelSpec(role=role, **fields) for role, fields in conf.items() if "derive" not in fields]
    whole = [spec.role for spec in specs if spec.head_of is None]
    assert whole == [role for role in ROLES if role in whole]
    published = [one for one in specs if not one.path.startswith(("pkg://", "results/models/"))]
    assert all(resolve(one).kind == "hub" for one in published)
    assert all(bool(one.parameters) == bool(one.cache_values) for one in published)
    assert not published or published[0].parameters or file.stem in ("gemma4", "gpt_oss", "qwen3_5")


def test_the_families():
    names = [
        "gemma3",
        "gemma4",
        "gpt_oss",
        "llama3",
        "llama31_8b_eagle3",
        "llama3_70b",
        "qwen3",
        "qwen3_5",
        "qwen3_8b_eagle3",
        "smollm2",
        "smollm2_135m",
        "smollm2_135m_eagle3",
        "smollm2_family",
        "tiny",
        "tiny_diffusion",
    ]
    assert [file.stem for file in CONF] == names
    assert config_of("llama").vocab_size == 300


def test_files_are_looked_for_without_a_reader(tmp_path, monkeypatch):
    """The look takes no reader, and still refuses a damaged file."""
    saved(tmp_path, "llama")
    monkeypatch.setattr(t.AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("the config was read"))
    check_files(spec(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"model\.safetensors"):
        check_files(spec(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json \(target\) cannot be read .*fetch it again"):
        check_files(spec(tmp_path))
