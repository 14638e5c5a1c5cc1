"""Write the files of a new rule, drafter or task: the method, its YAML and its test, ready to run.

Each kind has a template, a folder of `sdbench/templates/`. A template is a method that works. Its module has the name `my_rule`,
`my_drafter` or `my_task`. The copy has the new name in its place, in file names and in texts.
"""

from __future__ import annotations

import keyword
import re
import shlex
import sys
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tokenize import NAME, generate_tokens

from sdbench.errors import InputError
from sdbench.harness.config import GROUPS, choices
from sdbench.paths import refuse_file
from sdbench.validate import choice

TEMPLATES = Path(__file__).parent / "templates"
GROUP_OF = {"rule": "acceptance", "drafter": "arms", "task": "tasks"}  # the config group of each kind
COMMANDS = {
    "rule": (
        "run --config-dir {folder} arms=[ar,sd] acceptance@arms.sd.rule={name} sampling.temperature=1 limit=4",
        "verify --config-dir {folder} arms=[sd] acceptance@arms.sd.rule={name} arms.sd.rule.lenience=1 "
        "sampling.temperature=1 limit=4",
    ),
    "drafter": (
        "run --config-dir {folder} arms=[ar,sd,{name}] tasks=records limit=4",
        "verify --config-dir {folder} arms=[{name}] limit=4",
    ),
    "task": ("run --config-dir {folder} tasks={name} arms=[ar,sd] limit=4",),
}  # what to try first


def create(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the files of a new method and return their paths.

    kind: rule, drafter or task. name: of the module and in configs. folder: where the files go; it is created if it is missing.
    Raises InputError if the kind is unknown, the name cannot be used, a file exists, or the folder cannot be written.
    """
    choice("The kind", kind, GROUP_OF)
    files = _rendered(kind, name)
    refuse_file("DIR", folder)
    for path in files:
        if (folder / path).exists():
            raise InputError(f"{folder / path} exists, and no file is overwritten; choose another name or folder.")
    _check_free(kind, name)
    try:
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); choose another folder.") from error
    return [folder / path for path in files]


def commands(kind: str, name: str, folder: Path) -> list[str]:
    """Return the shell commands that test the new method and compare it with others."""
    here = shlex.quote(str(folder))
    tests = f"PYTHONPATH={here} python -m pytest {shlex.quote(str(folder / f'test_{name}.py'))}"
    return [tests, *(f"sdbench {words.format(folder=here, name=name)}" for words in COMMANDS[kind])]


def _rendered(kind: str, name: str) -> dict[Path, str]:
    """Return the texts of the new files by their path in the folder."""
    new = _class(name)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or keyword.iskeyword(new):
        raise InputError(
            f"The name '{name}' is no module name; it must have lower-case letters, digits and underscores, "
            "open with a letter, and be no keyword of Python."
        )
    old, folder = f"my_{kind}", TEMPLATES / kind
    sources = [path for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".yaml")]
    files = {path.relative_to(folder): path.read_text(encoding="utf-8") for path in sources}
    used = {word for path, text in files.items() if path.suffix == ".py" for word in _names(text)}
    if new in used - {_class(old)}:
        raise InputError(f"The class of '{name}' would hide the {new} that a {kind} uses; choose another name.")
    return {
        Path(str(path).replace(old, name)): text.replace(old, name).replace(_class(old), new)
        for path, text in files.items()
    }


def _check_free(kind: str, name: str) -> None:
    """Refuse a name that a config file or a Python module has already."""
    group = GROUP_OF[kind]
    if name in choices(group):
        raise InputError(f"sdbench has the {GROUPS[group]} '{name}' already; choose another name.")
    if name in sys.stdlib_module_names or find_spec(name):
        raise InputError(f"There is a Python module '{name}' already; choose another name.")


def _names(source: str) -> set[str]:
    """Return the names in a Python source, without its strings and comments."""
    return {token.string for token in generate_tokens(StringIO(source).readline) if token.type == NAME}


def _class(name: str) -> str:
    """Return the name of the class: `my_rule` gives `MyRule`."""
    return "".join(part.capitalize() for part in name.split("_"))
