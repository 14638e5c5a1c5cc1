"""Folders as people have them: signs of Hydra's grammar in their names, relative paths, and `~`."""

import shutil

import pytest

from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.harness.plan import prepare
from sdbench.harness.run import folder_of
from sdbench.harness.sweep import sweep
from tests.harness.conftest import Bench

NAMES = [
    "k=1", "a,b", "a(b", "a)b", "a[b", "a]b", "a{b", "a}b", "a#b", "a'b", 'a"b', "a b", "é", "日本", "a%20b", "$b", "${b}", "a~b",
    "~c", "a\\b", "a:b", "a!b", "a;b", "a+b", "a@b", "a*b", "a?b", "null", "true", "7", "'q'", '"q"',
]  # fmt: skip
ALL = "k=1,b (c) [d] #e 'f' \"g\" é %20 $h {i} ~j;!"


def made(bench: Bench, folder) -> None:
    """Fill a folder with a config folder, prompts and a model."""
    arms = folder / "conf" / "arms"
    arms.mkdir(parents=True)
    (arms / "mine.yaml").write_text("# @package arms.mine\n_target_: sdbench.decoding.Speculative\nverifier: target\n")
    shutil.copy(bench.prompts, folder / "p.jsonl")
    shutil.copytree(bench.paths["target"], folder / "model")


@pytest.mark.parametrize(
    ("name", "relative"),
    [*((name, False) for name in NAMES), *((name, True) for name in ("k=1", "a,b", "${b}", "~c", "7", "'q'"))],
)
def test_a_run_with_all_its_paths_in_the_folder(bench, tmp_path, monkeypatch, name, relative):
    made(bench, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    base = name if relative else str(tmp_path / name)
    own = [f"models.target.path={base}/model", f"tasks.path={base}/p.jsonl", f"out={base}/new"]
    extra, arm = (None, "ar") if "${" in name else (tmp_path / name / "conf", "mine")
    plan = prepare(compose([*bench.words(tmp_path / "unused", f"arms=[{arm}]"), *own], extra))
    assert len(plan.prompts) == 4
    assert plan.specs["target"].path == f"{base}/model"
    assert folder_of(plan).path.resolve() == (tmp_path / name / "new").resolve()


def test_the_home_folder(bench, tmp_path, monkeypatch):
    """A shell leaves `~` behind an equals sign."""
    made(bench, tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    own = ["models.target.path=~/model", "tasks.path=~/p.jsonl", "out=~/new"]
    plan = prepare(compose([*bench.words(tmp_path / "unused", "arms=[ar]"), *own]))
    assert len(plan.prompts) == 4
    assert folder_of(plan).path == tmp_path / "new"


def test_a_sweep_from_such_a_folder(bench, tmp_path, monkeypatch):
    here = tmp_path / ALL
    made(bench, here)
    monkeypatch.chdir(here)
    own = [
        f"models.target.path={here}/model",
        f"tasks.path={here}/p.jsonl",
        "arms=[mine]",
        "max_new_tokens=2,3",
        "limit=1",
    ]
    words = [word for word in bench.words(tmp_path / "unused", *own) if not word.startswith("out=")]
    document = sweep(words, here / "conf")
    assert [run["summary"]["arms"]["mine"]["prompts"] for run in document["runs"]] == [1, 1]
    assert not document["failed"]


def test_a_folder_that_hydra_cannot_name(bench, tmp_path, monkeypatch):
    here = tmp_path / "x${k}"
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(InputError, match="which Hydra reads as a reference: rename the folder"):
        sweep(["max_new_tokens=2,3"], None)
    with pytest.raises(InputError, match=r"--config-dir: the path .* reads as a reference"):
        compose([], here)
