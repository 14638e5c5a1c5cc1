"""What the pages name exists: paths, options, arms, config names, make targets, extras, modules, variables, links."""

import importlib
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from sdbench.harness.config import GROUPS, choices
from tests.docs.pages import ROOT, blocks, commands, inline_code, pages
from tests.docs.prose import check, sentences

PAGES = pages()
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
TOP = {path.name for path in ROOT.iterdir()}
FILES = (".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".csv", ".cff", ".svg", ".png", ".ipynb")
MADE = ("results/runs/", "site/", ".venv", "docs/results/")  # folders and files that commands make
OTHER_TOOLS = {
    "--nproc-per-node",
    "--model",
    "--model_args",
    "--tasks",
    "--limit",
    "--extra-index-url",
    "--durations",
    "--use_cache",
}
each_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def spoken(page: Path) -> list[tuple[str, str]]:
    """All code of a page with the place where it stands: what is in backticks, and each command."""
    found = [(f"line {line}", code) for line, code in inline_code(page)]
    for block in blocks(page):
        if block.language == "bash":
            found += [(str(block), line.partition(" # ")[0]) for line in block.text.replace("\\\n", " ").splitlines()]
    return found


def defined(page: Path) -> set[str]:
    """The paths of the files that a page gives, or has `sdbench new` write, from the folder in which its reader works."""
    found = {block.title for block in blocks(page) if block.title}
    for block in blocks(page):
        for command in commands(block) if block.language == "bash" else []:
            if command.ours[:1] == ["new"]:
                _, kind, name, folder = command.ours
                group = {"rule": "acceptance", "drafter": "arms", "task": "tasks"}[kind]
                found |= {f"{folder}/{name}.py", f"{folder}/{group}/{name}.yaml", f"{folder}/test_{name}.py"}
    return found


@cache
def verbs() -> dict[str, set[str]]:
    """The options of each verb of the command line."""
    from sdbench.cli import _parser

    (group,) = (action for action in _parser()._actions if action.nargs == "A...")
    assert group.choices
    return {name: set(parser._option_string_actions) for name, parser in dict(group.choices).items()}


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert len(text.encode()) <= 12_000


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_outside_the_site(name):
    """MkDocs checks the links of docs/; these files lie beside it."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http:", "https:")):
            assert (ROOT / target).exists(), target


@each_page
def test_paths(page):
    own = defined(page)
    for where, code in inline_code(page):
        if not re.fullmatch(r"[\w.-]+(/[\w.*<>-]+)*/?", code) or any(sign in code for sign in "<>*"):
            continue
        known = code.split("/")[0] in TOP and "/" in code
        if not known and not code.endswith(FILES):
            continue
        if (
            code.startswith(MADE)
            or code in own
            or any(path.startswith(code) or path.endswith(f"/{code}") for path in own)
        ):
            continue
        if "/" not in code and code not in TOP:  # a file of a run's folder, or of the folder that the sentence names
            named = any((ROOT / folder).rglob(code) for folder in ("sdbench", "conf", "experiments", "tests", "docs"))
            assert named or code in run_files(), f"{where}: {code}"
            continue
        assert (ROOT / code).exists() or (ROOT / "sdbench" / code).exists(), f"{where}: {code}"


@cache
def run_files() -> set[str]:
    """The files that a run, a report or a training writes, as the source names them."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "sdbench").rglob("*.py"))
    return set(re.findall(r"\"([\w-]+\.\w+)\"", source)) | {
        f"{name}.parquet" for name in ("sequences", "rounds", "steps")
    }


@each_page
def test_options(page):
    everything = set().union(*verbs().values()) | {"--version", "--help"} | OTHER_TOOLS
    for where, code in spoken(page):
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
            assert option in everything, f"{where}: {option}"


@each_page
def test_commands_have_their_options(page):
    for block in blocks(page):
        for command in commands(block) if block.language == "bash" else []:
            words = command.words
            if words[0] == "sdbench" and not words[1].startswith("-"):
                assert words[1] in verbs(), str(command)
                used = {word.partition("=")[0] for word in words[2:] if word.startswith("-")}
                assert used <= verbs()[words[1]], str(command)


@each_page
def test_names_in_configs(page):
    """`GROUP=NAME`, `acceptance@arms.ARM.rule=NAME`, `arms=[...]` and `arms.ARM.KNOB` name what there is, or what the page adds."""
    own: dict[str, set[str]] = {}
    for title in defined(page):
        if title.endswith(".yaml"):
            own.setdefault(Path(title).parent.name, set()).add(Path(title).stem)
    for where, code in spoken(page):
        for group, value in re.findall(r"(?<![\w.@/])(\w+)=([\w/\[\],.-]+)", code):
            if group in GROUPS and value.islower() and not value.endswith((".yaml", ".")):
                for name in value.strip("[]").split(","):
                    known = name in choices(group) or name in own.get(group, ()) or name.startswith("lm_eval/")
                    assert known or not name, f"{where}: {group}={name}"
        for group, arm, name in re.findall(r"(acceptance|lengths)@arms\.(\w+)\.[\w.]*=(\w+)", code):
            assert name in choices(group) or name in own.get(group, ()) or name.isupper(), f"{where}: {group}, {name}"
            assert arm in choices("arms") or arm in own.get("arms", ()) or arm.isupper(), f"{where}: {arm}"
        for arm in re.findall(r"(?<![\w@.])arms\.(\w+)\.\w", code):
            assert arm in choices("arms") or arm in own.get("arms", ()) or arm.isupper(), f"{where}: {arm}"


@each_page
def test_make_targets(page):
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {name for line in re.findall(r"^([\w %-]+):(?!=)", text, re.M) for name in line.split()}
    for where, code in spoken(page):
        named = re.match(r"make ((?:[a-z-]+(?: |$))+)", code)
        for target in named[1].split() if named else []:
            assert target in targets, f"{where}: make {target}"


@each_page
def test_extras(page):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for where, code in spoken(page):
        for extras in re.findall(r"sdbench\[([\w,]+)\]", code):
            assert set(extras.split(",")) <= project["optional-dependencies"].keys(), f"{where}: {code}"


@each_page
def test_dotted_names(page):
    """`sdbench.module.Name` in backticks can be imported."""
    for where, code in inline_code(page):
        if re.fullmatch(r"sdbench(\.\w+)+", code) and not code.endswith((".conf", ".yaml")):
            assert found(code), f"{where}: {code}"


def found(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    path, names = dotted.split("."), []
    while path:
        try:
            thing = importlib.import_module(".".join(path))
        except ModuleNotFoundError:
            names.insert(0, path.pop())
            continue
        for name in names:
            if not hasattr(thing, name):
                return False
            thing = getattr(thing, name)
        return True
    return False


@each_page
def test_variables(page):
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "sdbench").rglob("*.py"))
    source += (ROOT / "Makefile").read_text(encoding="utf-8")
    for where, code in spoken(page):
        for variable in re.findall(r"\bSDBENCH_[A-Z]+\b", code):
            assert variable in source, f"{where}: {variable}"


def test_the_prose_check_finds_what_it_looks_for(tmp_path):
    page = tmp_path / "page.md"
    long = " ".join(["word"] * 31)
    page.write_text(f"# Title\n\n{long}.\n\nA short one. Nobody reads `nobody` here.\n\n```text\nnobody {long}\n```\n")
    assert [line.split(": ")[1][:8] for line in check(page)] == ["31 words", "'nobody'"]
    module = tmp_path / "module.py"
    module.write_text('"""A docstring."""\n\n# It goes through\n# the motions.\n')
    assert any("motions" in line for line in check(module))


def test_sentences_are_told_apart():
    text = "One sentence, e.g. this. `Code` opens the second! Does [a link](page.md) open the third?"
    assert len(sentences(text)) == 3
