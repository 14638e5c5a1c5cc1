"""The README says what is true: its quotations are those of the results, and its page "Add a rule" works as it stands."""

import json
import re
from pathlib import Path

import pytest

from sdbench.cli import main
from tests.family import overrides, save_family

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_pictures_are_there():
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture


def test_add_a_rule(tmp_path, capsys):
    page = README.split("## Add a rule")[1].split("\n## ")[0]
    python = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    yaml = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert python
    assert yaml
    mine = tmp_path / "mine"
    (mine / "acceptance").mkdir(parents=True)
    (mine / "coin.py").write_text(python[1])
    (mine / "acceptance" / "coin.yaml").write_text(yaml[1])
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": f"prompt {i}"}) for i in range(4)))
    words = overrides(save_family(tmp_path), prompts, tmp_path / "out")
    own = ["--config-dir", str(mine), "acceptance@arms.sd.rule=coin", "sampling.temperature=1"]
    with pytest.raises(SystemExit) as stop:
        main(["run", *words, *own, "arms=[ar,sd]"])
    assert stop.value.code == 0
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["summary"]
    assert not summary["arms"]["sd"]["lossless"]
    with pytest.raises(SystemExit) as stop:
        main(["verify", *words, *own, "arms=[sd]"])
    assert stop.value.code == 1
    with pytest.raises(SystemExit) as stop:
        main(["run", *words, *own, "arms=[ar,sd]", "arms.sd.rule.heads=2", f"out={tmp_path / 'other'}"])
    assert stop.value.code == 2
    assert "heads is 2" in capsys.readouterr().err
