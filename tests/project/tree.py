"""The source tree as data: modules, the rooms they live in, and what they import (design rules of ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "gunyah"


@dataclass(frozen=True)
class Import:
    """One imported module: ``typing_only`` under ``if TYPE_CHECKING``, ``lazy`` inside a function."""

    module: str
    line: int
    typing_only: bool
    lazy: bool


def sources(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sources()}


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _walk(node: ast.AST, typing_only: bool, lazy: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, typing_only, lazy
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            for statement in child.body:
                if isinstance(statement, ast.Import | ast.ImportFrom):
                    yield statement, True, lazy
        else:
            inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, typing_only, inside)


def imports_of(module: str) -> list[Import]:
    """Every import of the package's own modules in ``module``, named as far down as a module goes."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[Import] = []
    for statement, typing_only, lazy in _walk(ast.parse(path.read_text(), str(path)), False, False):
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        else:
            base = statement.module or ""
            if statement.level:
                up = package.split(".")[: len(package.split(".")) - statement.level + 1]
                base = ".".join([*up, base] if base else up)
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in statement.names]
        own = [name for name in dict.fromkeys(names) if name == "gunyah" or name.startswith("gunyah.")]
        found += [Import(name, statement.lineno, typing_only, lazy) for name in own]
    return found


def room_of(module: str) -> str:
    """``gunyah.abi.errors`` -> ``abi``; a module right under the package is a room of its own (``system``)."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""
