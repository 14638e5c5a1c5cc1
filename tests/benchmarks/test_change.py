"""Two checkouts are compared block by block, and the ratio of a known change is found."""

import json

import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks import change

FAKE = """
import json, sys
from pathlib import Path
import pandas as pd
words = dict(word.split("=", 1) for word in sys.argv[2:])
if "fail" in words:
    sys.exit("ValueError: no such arm")
out = Path(words["out"])
out.mkdir(parents=True)
seconds = SECONDS * (1 + int(words["seed"]))
row = dict(arm="ar", prompt_id="p", block=0, repeat=0, tokens=[1, 2, 3], finish_reason="eos", prefill_seconds=0.1,
           decode_seconds=seconds, block_decode_seconds=seconds)
pd.DataFrame([row]).to_parquet(out / "sequences.parquet")
machine = {"cpu": {"model": "made up"}, "packages": {"torch": "1", "transformers": "2"}, "git": {"sha": "SHA"}}
(out / "environment.json").write_text(json.dumps(machine))
"""


def _checkout(folder, seconds, sha):
    """A package that answers `python -m sdbench run` with a made-up run."""
    package = folder / "sdbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(FAKE.replace("SECONDS", str(seconds)).replace("SHA", sha))
    return folder


def test_a_known_change_is_found(tmp_path, capsys):
    before, after = _checkout(tmp_path / "a", 3.0, "aaaa"), _checkout(tmp_path / "b", 2.0, "bbbb")
    words = [str(before), str(after), "name", "--blocks", "3", "--out", str(tmp_path / "out"), "seed={block}"]
    assert change.main(words) == 0
    found = json.loads((tmp_path / "out" / "name.json").read_text())
    assert found["arms"]["ar"]["ratio"] == pytest.approx(1.5)  # tokens per second, after / before
    assert (found["arms"]["ar"]["blocks"], found["arms"]["ar"]["same"]) == (3, 3)
    assert found["revisions"] == {"before": "aaaa", "after": "bbbb"}
    assert "| `ar` | 1.500x" in capsys.readouterr().out


def test_wrong_input_is_refused(tmp_path, capsys):
    checkout = str(_checkout(tmp_path / "a", 1.0, "a"))
    assert change.main([checkout, str(tmp_path), "name"]) == 2
    assert "is no checkout of sdbench" in capsys.readouterr().err
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "one"}\n')
    assert change.main([checkout, checkout, "name", "--blocks", "2", "--prompts", str(few)]) == 2
    assert "has 1 lines; 2 blocks need one each" in capsys.readouterr().err
    assert change.main([checkout, checkout, "name", "--out", str(tmp_path / "out"), "seed=0", "fail=1"]) == 2
    assert "ValueError: no such arm" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_runs_are_the_units_and_other_tokens_are_counted():
    generator = np.random.default_rng(0)
    rows = [
        {"arm": "ar", "prompt_id": f"{run}/{prompt}", "block": run * 10 + prompt, "repeat": 0, "run": run,
         "tokens": [1, 2, prompt], "finish_reason": "eos", "prefill_seconds": 0.1, "decode_seconds": 1.0,
         "block_decode_seconds": 1.0}
        for run in range(12)
        for prompt in range(5)
    ]  # fmt: skip
    before = pd.DataFrame(rows)
    speeds = np.repeat(generator.normal(1.0, 0.1, 12), 5)  # the pace of a whole run
    after = before.assign(decode_seconds=1 / speeds, block_decode_seconds=1 / speeds)
    after["tokens"] = [[1, 2, 9] if row.prompt_id.endswith("/0") else row.tokens for row in after.itertuples()]
    found = change.compare(before, after)["arms"]["ar"]
    assert (found["blocks"], found["answers"], found["same"]) == (12, 60, 48)
    low, high = found["ci95"]
    assert low < 1 < high
    assert (high - low) / 2 == pytest.approx(1.96 * 0.1 / np.sqrt(12), rel=0.35), (
        "prompts of one run are no independent units"
    )
