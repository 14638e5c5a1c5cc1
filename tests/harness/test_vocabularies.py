"""`models.draft.vocabulary` through a whole run: what it changes, what enters the run_id, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as t

from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.harness.plan import load, prepare
from sdbench.runs.record import load as load_run
from sdbench.runs.run_id import run_id
from tests.tasks.tokenizers_made import byte_level


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A draft with a tokenizer of its own, whose embedding is padded."""
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(3)
    config = t.LlamaConfig(
        vocab_size=310, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, bos_token_id=None, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    t.LlamaForCausalLM(config).save_pretrained(folder)
    byte_level(300, ["<bos>", "<eos>"]).save_pretrained(folder)
    return folder


def words(bench, tmp_path, *more):
    return [word for word in bench.words(tmp_path / "out", *more) if not word.startswith("limit")] + ["limit=2"]


def planned(bench, tmp_path, *more):
    return prepare(compose(words(bench, tmp_path, *more)))


@pytest.mark.parametrize(
    ("arms", "vocabulary"),
    [("[ar,sd,pyramid,mcsd,dynamic_tree,hf_generate]", "intersection"), ("[ar,sd_reencode,hf_generate]", "reencode")],
)
def test_a_run_with_a_foreign_draft_gives_the_targets_tokens(bench, foreign, tmp_path, arms, vocabulary):
    more = [f"arms={arms}", f"models.draft.path={foreign}", f"models.draft.vocabulary={vocabulary}", "limit=2"]
    assert bench.call("run", tmp_path / "out", *more) == 0
    run = load_run(tmp_path / "out")
    for name, arm in run.summary["arms"].items():
        assert arm["identity"] == {"identical": 2, "ties": 0, "mismatches": 0, "tie_positions": 0}, name
        assert arm["lossless"]
    for _, of_prompt in run.sequences.groupby("prompt_id"):
        assert len({tuple(tokens) for tokens in of_prompt["tokens"]}) == 1
    if vocabulary == "intersection":
        (note,) = run.summary["notes"]
        assert note == "draft proposes 257 of the 258 tokens of the target (models.draft.vocabulary)."


def test_a_reduced_head_is_smaller_and_enters_the_run_id(bench, finished, tmp_path):
    """Two texts with other tokens give other runs; the tokens of a finished run can be counted too."""
    texts = [tmp_path / "few.txt", tmp_path / "few.jsonl"]
    texts[0].write_text("abcab\n")
    texts[1].write_text(json.dumps({"prompt": "xyzxy", "turns": ["xy"], "number": 3}) + "\n")
    ids, kept = set(), []
    for source in (*texts, finished):
        plan = planned(bench, tmp_path, "arms=[ar,sd]", f"models.draft.vocabulary={{size:20,text:{source}}}")
        ids.add(run_id({}, plan.identities, plan.prompts_sha256))
        kept.append(plan.maps["draft"].rows)
        assert len(kept[-1]) == 20
        assert 1 in kept[-1]  # the target's end token
    whole = planned(bench, tmp_path, "arms=[ar,sd]")
    ids.add(run_id({}, whole.identities, whole.prompts_sha256))
    assert len(ids) == 4
    number = whole.family.tokenizer.get_vocab()
    assert {number[letter] for letter in "abc"} <= set(kept[0]) - set(kept[1])
    assert {number[letter] for letter in "xyz"} <= set(kept[1]) - set(kept[0])
    assert set(kept[2]) & {token for tokens in load_run(finished).sequences["tokens"] for token in tokens}
    plan = planned(bench, tmp_path, "arms=[ar,sd]", f"models.draft.vocabulary={{size:20,text:{texts[0]}}}")
    draft = load(plan)["draft"]
    assert draft.model.get_output_embeddings().weight.shape[0] == draft.proposable == 20


REFUSED = {
    "no map": (["arms=[sd]"], r"differ: .*; models\.draft\.vocabulary=intersection or =reencode lets them differ"),
    "a chain of the draft": (
        ["arms=[sd]", "models.draft.vocabulary=reencode"],
        "The arm 'sd' needs tokens of the target",
    ),
    "a tree": (["arms=[mcsd]", "models.draft.vocabulary=reencode"], r"The arm 'mcsd' needs .*: take sd_reencode"),
    "ssd": (["arms=[ssd]", "models.draft.vocabulary=reencode"], "The arm 'ssd' needs tokens of the target from draft"),
    "a drafter of text": (
        ["arms=[sd_reencode]", "models.draft.vocabulary=intersection"],
        r"The arm 'sd_reencode' encodes text of draft again: set models\.draft\.vocabulary=reencode",
    ),
    "a peer": (
        ["arms=[ar,hf_assisted]", "models.draft.vocabulary=intersection"],
        r"arms\.hf_assisted: .* does not apply models\.draft\.vocabulary: leave the arm out",
    ),
    "the target": (
        ["arms=[ar]", "models.target.vocabulary=intersection"],
        "the target sets the vocabulary of the family",
    ),
    "a reduced draft of another tokenizer": (
        ["arms=[sd]", "models.draft.vocabulary={size:20,text:README.md}"],
        "vocabularies of target and draft differ",
    ),
    "another word": (
        ["arms=[sd]", "models.draft.vocabulary=slem"],
        r"models\.draft\.vocabulary is 'slem'; it must be one of",
    ),
    "no size": (
        ["arms=[sd]", "models.draft.vocabulary={text:README.md}"],
        r"models\.draft\.vocabulary\.size is missing",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(bench, foreign, tmp_path, name):
    more, reason = REFUSED[name]
    with pytest.raises(InputError, match=reason):
        planned(bench, tmp_path, f"models.draft.path={foreign}", *more)


@pytest.mark.parametrize(
    ("size", "text", "reason"),
    [
        (258, "few.txt", "a size of 258, but the vocabulary has 258 tokens"),
        (20, "none.txt", r"models\.draft\.vocabulary\.text: there is no file or run folder"),
        (20, "broken.jsonl", r"models\.draft\.vocabulary\.text: .* is neither text in UTF-8 nor JSON lines"),
    ],
)
def test_a_source_that_cannot_be_counted_is_refused(bench, tmp_path, size, text, reason):
    (tmp_path / "few.txt").write_text("abc")
    (tmp_path / "broken.jsonl").write_text("{")
    with pytest.raises(InputError, match=reason):
        planned(bench, tmp_path, "arms=[sd]", f"models.draft.vocabulary={{size:{size},text:{tmp_path / text}}}")
