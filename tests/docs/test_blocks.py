"""Every code block of the pages runs.

A page is read in one workspace, from top to bottom. A block with a title is a file: it is written there. Python is executed.
Commands are executed with few prompts and short answers; what needs a GPU, the hub or hours is composed, or taken with `--dry-run`.
A comment above a block may say why it is not run.
"""

import json
import os
import re
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
import yaml

from sdbench.cli import main
from sdbench.harness.config import choices
from tests.docs.pages import ROOT, Block, Command, blocks, commands, pages

PAGES = pages()
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
LANGUAGES = {"bash", "python", "yaml", "json", "toml", "text", "bibtex"}
PLANNED = ("docs/add-a-rule.md",)
NOT_RUN = 8  # blocks that may have a reason not to be run
SMALL = ["limit=2", "max_new_tokens=12", "tracker=none"]
LOCAL_TASKS = {"wordproblems", "records", "stories", "jsonl", "lm_eval/tiny_wordproblems"}
ELSEWHERE = re.compile(
    "hydra/launcher|hardware=cuda|experiment=|(vllm|sglang)_sd|flashspec|hf_generate_static|execution=compile"
)
REPORTED = "docs/getting-started.md"  # the page whose runs write their reports
CONFIGURED = ("run", "verify", "tune", "train")
TOOLS = {"git", "cd", "make", "mkdir", "pip", "export", "pre-commit", "wandb", "mkdocs"}  # not ours to test
every_block = [block for page in PAGES for block in blocks(page)]
every_command = [command for block in every_block if block.language == "bash" for command in commands(block)]


@pytest.mark.parametrize("block", every_block, ids=str)
def test_a_block_is_well_formed(block):
    assert block.language in LANGUAGES, f"{block}: name the language of the block"
    if block.language == "yaml":
        yaml.safe_load(block.text)
        assert block.title, f"{block}: a title says which file this is"
    elif block.language == "python":
        compile(block.text, str(block), "exec")
    elif block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "json":
        json.loads(block.text)
    if (ROOT / block.title).is_file():
        assert block.text.strip() in (ROOT / block.title).read_text(encoding="utf-8"), (
            f"{block}: not what the file says"
        )


def test_few_blocks_are_not_run():
    skipped = [block for block in every_block if block.marker == "not run"]
    assert len(skipped) <= NOT_RUN, ", ".join(map(str, skipped))


@pytest.mark.parametrize("command", every_command, ids=str)
def test_a_command_is_one_that_is_known(command):
    words = command.words
    if words[0] in ("sdbench", *TOOLS):
        return
    if words[:2] == ["python", "-m"]:
        assert (ROOT / words[2].replace(".", "/")).exists() or (ROOT / f"{words[2].replace('.', '/')}.py").exists() or words[2] in (
            "pytest", "venv",
        ), str(command)  # fmt: skip
        return
    if words[0] == "python":
        assert (ROOT / words[1]).is_file(), str(command)
        return
    assert words[0] == "torchrun", f"{command}: which program is that?"


def composed() -> list[list[str]]:
    """The different configs that the commands name, without those that need a file of their page or a sweep."""
    found = []
    for command in every_command:
        words = command.ours
        if not words or words[0] not in CONFIGURED or {"-m", "--multirun", "--config-dir"} & set(words):
            continue
        verb = "train" if words[0] == "train" else "run"
        plain = [verb, *[word for word in words[1:] if not word.startswith("-")]]
        recorded = any(".forced_acceptance=results/" in word for word in plain)  # a run that the page makes
        if plain not in found and not recorded:
            found.append(plain)
    return found


@pytest.mark.parametrize("words", composed(), ids=" ".join)
def test_a_command_composes(words, capsys):
    own = {block.title for block in every_block if block.title.startswith("mine/")}
    if any(Path(title).stem in " ".join(words) for title in own):
        pytest.skip("needs a file that its page gives; run with the page")
    status, error = call([*words, "--cfg"], capsys)
    assert status == 0, error


@pytest.mark.parametrize("name", PLANNED)
def test_the_page_is_planned(name, tmp_path, monkeypatch, capsys):
    """The pages that newcomers copy from, in the fast tests too: their runs are only planned."""
    go_through(ROOT / name, tmp_path, monkeypatch, capsys, planned=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_page_runs(page, tmp_path, monkeypatch, capsys):
    """Execute the blocks of a page in order."""
    go_through(page, tmp_path, monkeypatch, capsys, planned=False)


def go_through(page: Path, folder: Path, monkeypatch, capsys, planned: bool) -> None:
    """Read a page in a workspace. planned: decode nothing where a plan can be had."""
    monkeypatch.chdir(workspace(folder))
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    if page != ROOT / REPORTED:
        monkeypatch.setattr("sdbench.harness.run._report", lambda *_: [])  # figures take most of the time
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    space: dict = {"__name__": "__main__"}
    try:
        for block in blocks(page):
            if block.marker != "not run":
                execute(block, space, capsys, planned)
    finally:
        if cores is not None:
            os.sched_setaffinity(0, cores)


def workspace(folder: Path) -> Path:
    """A folder to work in, with the reference results and the README in the places where a checkout has them."""
    (folder / "results" / "runs").mkdir(parents=True)
    for path in (ROOT / "results").iterdir():
        if path.name != "runs":
            (folder / "results" / path.name).symlink_to(path)
    (folder / "README.md").symlink_to(ROOT / "README.md")
    return folder


def execute(block: Block, space: dict, capsys, planned: bool) -> None:
    if block.title and not (ROOT / block.title).is_file():
        path = Path(block.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    elif block.language == "python" and not block.title:
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # a few prompts are enough here
            exec(compile(block.text, str(block), "exec"), space)
    elif block.language == "bash":
        for command in commands(block):
            perform(command, capsys, planned)


def perform(command: Command, capsys, planned: bool) -> None:
    """Execute a command, or as much of it as can be tried here in seconds."""
    words = command.ours
    if command.words[:3] == ["python", "-m", "pytest"]:
        if not all(
            (ROOT / word).exists() for word in command.words[3:]
        ):  # those of the repository run without their page
            assert pytest.main(["-q", "-p", "no:cacheprovider", "-o", "addopts=", *command.words[3:]]) == command.status
    elif command.words[0] == "export" and command.words[1].startswith("PYTHONPATH="):
        sys.path.insert(0, str(Path(command.words[1].partition("=")[2]).resolve()))
    elif command.words[:2] == ["mkdir", "-p"]:
        Path(command.words[2]).mkdir(parents=True, exist_ok=True)
    if not words or words[0] == "push" or (planned and words[0] not in ("run", "verify", "new")):  # push needs a server
        return
    if words[0] in CONFIGURED and "--cfg" not in words:
        words = shortened(words, planned)
    status, error = call(words, capsys)
    if "it with -m" in error:  # an experiment that is a sweep: it has been composed
        return
    allowed = (0, 1, command.status) if "--dry-run" in words else (command.status,)
    assert status in allowed, f"{command}\nexit status {status}: {error}"


def shortened(words: list[str], planned: bool) -> list[str]:
    """The same command over few prompts; only planned where that would still take minutes, a GPU or the hub."""
    if words[0] == "train":
        return [*words, "--cfg"]
    if words[0] == "tune":
        return [*words, "limit=2", "max_new_tokens=12"]
    text = " ".join(words)
    named = dict(re.findall(r"(?<!\S)(models|tasks)=([\w/]+)", text))
    is_default = words[0] == "run" and not any(word.startswith("arms=") for word in words)
    other_family = named.get("models", "tiny") != "tiny" or "models.target.path" in text
    other_task = named.get("tasks") in choices("tasks") and named["tasks"] not in LOCAL_TASKS
    if (planned and words[0] == "run") or is_default or other_family or other_task or ELSEWHERE.search(text):
        sweeping = ("-m", "--multirun", "--dry-run", "hydra/", "hydra.")
        plain = [word for word in words[1:] if not word.startswith(sweeping)]
        return ["run", *(first_value(word) for word in plain), "--dry-run"]
    return words if "--dry-run" in words else [*words, *SMALL]


def first_value(word: str) -> str:
    """The override with the first of the values that a sweep would go through."""
    return word if "[" in word or word.startswith("-") else word.partition(",")[0]


def call(words: list[str], capsys) -> tuple[int, str]:
    """Call the command line in this process: its exit status, and what it said on standard error."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    return int(stop.value.code or 0), capsys.readouterr().err
