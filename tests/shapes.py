"""Check shape annotations while tests run; `tests/conftest.py` installs the check.

A function or dataclass of sdbench whose annotations state a shape, such as Float[Tensor, "B V"], gets a wrapper at import.
jaxtyping and beartype then check its first `CALLS` calls in each test. Other annotations are pyright's business.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections import Counter
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any, TypeVar

from beartype import beartype
from jaxtyping import jaxtyped

F = TypeVar("F", bound=Callable[..., Any])
SHAPED = ("Float[", "Int[", "Bool[", "UInt8[", "Shaped[")
CALLS = (
    3  # in each test; an enumeration calls a function many thousand times, and a check takes longer than most functions
)
DEFINITIONS = (
    20  # a function inside a function is defined again in each call, and a wrapper takes a millisecond to make
)

_test = 0  # the number of the running test
_defined: Counter[str] = Counter()  # how often each function was defined


def begin_test() -> None:
    """Check the first calls of every function anew."""
    global _test
    _test += 1


def check(function: F) -> F:
    """Check the shapes of the arguments and the result of `function` in its first calls of a test."""
    name = f"{function.__module__}.{function.__qualname__}"
    _defined[name] += 1
    if _defined[name] > DEFINITIONS:
        return function
    checked = jaxtyped(function, typechecker=_check_shapes)
    test, calls = _test, 0

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal test, calls
        if test != _test:
            test, calls = _test, 0
        calls += 1
        return checked(*args, **kwargs) if calls <= CALLS else function(*args, **kwargs)

    return counted  # pyright: ignore[reportReturnType]


def check_fields(made: type) -> type:
    """Check the shapes of the fields of a dataclass."""
    made.__init__ = check(made.__init__)
    return made


def _check_shapes(function: F) -> F:
    notes = getattr(function, "__annotations__", {})
    function.__annotations__ = {name: note for name, note in notes.items() if _states_a_shape(str(note))}
    return beartype(function)


def _states_a_shape(note: str) -> bool:
    return any(kind in note for kind in SHAPED)


class _Decorate(ast.NodeTransformer):
    """Put `check` below the other decorators of each function with a shape, and `check_fields` above those of a dataclass."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        if _states_a_shape(ast.unparse(node.args)) or (node.returns and _states_a_shape(ast.unparse(node.returns))):
            node.decorator_list.append(_named("check"))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        fields = [part.annotation for part in node.body if isinstance(part, ast.AnnAssign)]
        is_dataclass = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
        if is_dataclass and any(_states_a_shape(ast.unparse(field)) for field in fields):
            node.decorator_list.insert(0, _named("check_fields"))
        return node


def _named(name: str) -> ast.expr:
    return ast.parse(f"__import__('sys').modules['{__name__}'].{name}", mode="eval").body


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        source = self.get_data(path)
        if not _states_a_shape(source.decode()):
            return super().get_code(fullname)
        tree = ast.fix_missing_locations(_Decorate().visit(ast.parse(source, path)))  # never in __pycache__
        return compile(tree, path, "exec", dont_inherit=True)


class _Finder:
    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.partition(".")[0] == "sdbench" else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Wrap the functions of the modules of sdbench that are imported from now on."""
    sys.meta_path.insert(0, _Finder)
