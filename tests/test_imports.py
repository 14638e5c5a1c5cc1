"""Who imports whom in sdbench: no circles, and one direction between packages (docs/design.md).

The test reads the source with `ast`. So it sees every import: at the top of a module, inside a function and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import sdbench

ROOT = Path(sdbench.__file__).parent

BASE = {
    "child_process", "device", "errors", "hub_access", "keyed_random", "paths", "sampling", "stopping", "theory", "topology",
    "validate",
}  # fmt: skip
STEPS = BASE | {"models", "lm", "heads"}
DRAFTS = STEPS | {"acceptance", "drafting"}
DECODES = DRAFTS | {"asynchronous", "decoding"}
RECORDS = BASE | {"runs", "simulate", "analysis"}
# The packages and modules of sdbench that each of them may import, besides itself.
ALLOWED = {
    "child_process": set(),
    "device": set(),
    "errors": set(),
    "hub_access": set(),
    "paths": {"errors"},
    "stopping": set(),
    "theory": set(),
    "topology": {"errors"},
    "validate": {"errors"},
    "keyed_random": {"device"},
    "sampling": {"device", "errors", "hub_access", "keyed_random", "validate"},
    "heads": BASE,
    "models": BASE | {"heads"},
    "lm": BASE | {"models", "heads"},
    "acceptance": BASE,  # rules take tensors; they know no models
    "drafting": STEPS | {"acceptance"},
    "asynchronous": DRAFTS,
    "decoding": DRAFTS | {"asynchronous"},
    "exactness": DECODES,
    "peers": STEPS | {"decoding"},
    "tasks": BASE | {"runs"},
    "training": DECODES | {"tasks", "runs"},
    "runs": BASE,
    "simulate": BASE | {"runs"},
    "analysis": RECORDS,
    "harness": DECODES | RECORDS | {"exactness", "peers", "tasks", "training"},
    "lm_eval": DECODES | RECORDS | {"harness", "tasks"},
    "papers": DECODES | RECORDS | {"harness", "tasks"},
    "templates": DECODES | {"exactness", "tasks"},
    "new": BASE | {"harness"},
    "api": DECODES | RECORDS | {"harness"},
    "cli": DECODES | RECORDS | {"exactness", "harness", "lm_eval", "new", "papers", "peers", "tasks", "training"},
    "__main__": {"cli"},
}
# Imports against this direction, each with its reason.
EXCEPTIONS = {
    ("lm_eval.__main__", "cli"): "the command of the lm-eval adapter ends with the exit statuses of `sdbench`",
    ("training.tiny.card", "analysis.report.grid"): "a model card prints its numbers with the one table model",
}


def modules() -> dict[str, Path]:
    """The modules of sdbench, named from the package on: `lm.model`; `lm` is its __init__, and the empty name sdbench's own."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """The modules of sdbench that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: a relative import"
            assert node.level == 0, f"{path}: a relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if inside(name) in MODULES else node.module for name in whole]
        else:
            continue
        yield from (inside(name) for name in names if name.split(".")[0] == "sdbench")


def inside(name: str) -> str:
    return name.removeprefix("sdbench").removeprefix(".")


def graph() -> dict[str, set[str]]:
    return {name: {other for other in imported(path) if other != name} for name, path in MODULES.items()}


def circle(edges: dict[str, set[str]]) -> list[str] | None:
    """The modules of a circle, in the order of its imports; None if there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for other in sorted(edges.get(name, ())):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return None

    return next((found for name in sorted(edges) if (found := visit(name, []))), None)


def test_a_circle_is_found():
    """A negative control."""
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_no_module_imports_itself_by_way_of_others():
    found = circle(graph())
    assert found is None, " imports ".join(found or [])


def test_imports_between_packages_go_one_way():
    wrong, used = [], set()
    for name, others in graph().items():
        package = name.split(".")[0]
        for other in others:
            target = other.split(".")[0]
            if not name or not other or target == package or target in ALLOWED[package]:
                continue
            if (name, other) in EXCEPTIONS:
                used.add((name, other))
            else:
                wrong.append(f"{name} imports {other}")
    assert not wrong, "; ".join(sorted(wrong))
    assert used == set(EXCEPTIONS), "an exception that is no longer needed"


def test_the_allowed_imports_have_no_circle():
    assert circle({name: others - {name} for name, others in ALLOWED.items()}) is None
    assert {name.split(".")[0] for name in MODULES} - {""} <= set(ALLOWED), "a package without a place in the layout"


@cache
def third_party(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("library", ["hydra", "omegaconf", "wandb", "tokenizers", "datasets", "lm_eval", "pandas"])
def test_the_engine_knows_no_configs_trackers_or_tokenizers(library):
    engine = {
        "sampling",
        "keyed_random",
        "lm",
        "acceptance",
        "drafting",
        "asynchronous",
        "decoding",
        "exactness",
        "theory",
    }
    users = [name for name, path in MODULES.items() if library in third_party(path)]
    assert users, f"nothing imports {library}: is the test reading imports?"
    assert not [name for name in users if name.split(".")[0] in engine]
