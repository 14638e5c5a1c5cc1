"""A run of a model without attention, from its folder to the summary."""

import json

import pytest

from sdbench.cli import main
from sdbench.runs.record import load
from tests.lm.recurrent_models import recurrent_model
from tests.tasks.tokenizers_made import byte_level


def test_a_model_of_recurrent_layers_only_is_measured(tmp_path):
    tokenizer = byte_level(300)
    recurrent_model("mamba2", width=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"number {n}, again number {n}: "}) + "\n" for n in range(2)))
    words = [f"models.target.path={tmp_path / 'model'}", "~models.qualifier", "~models.draft", "arms=[ar,lookup]"]
    words += ["tasks=jsonl", f"tasks.path={prompts}", "max_new_tokens=8", "tracker=none", f"out={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as stop:
        main(["run", *words])
    assert not stop.value.code
    arms = load(tmp_path / "out").summary["arms"]
    assert arms["lookup"]["identity"] == {"identical": 2, "ties": 0, "mismatches": 0, "tie_positions": 0}
    assert 0 < arms["ar"]["model_time_fraction"] < 1.5
