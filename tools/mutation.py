"""Mutation testing of the ownership and capability modules: which wrong versions of the code do the tests not notice?

mutmut makes the wrong versions, one change each, and runs the tests that reach the changed function. All of it happens
in a copy of the tree, so that no mutant ever stands in the checkout. What is changed in the sentence of an error, and
there alone, is no mutant: tests hold error codes, not words; nor is the type that a cast names. `[tool.mutmut]` in
pyproject.toml names modules and tests.
"""

from __future__ import annotations

import argparse
import ast
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("src", "tests", "tools", "pyproject.toml")
LEAST = 85.0
"""Percent of mutants that must be noticed."""

# mutmut's exit codes: a failed test, pytest itself fell over; CPU time over, which is a failure too.
FAILED, OVER = {1, 3}, {-24, 24, 36, 152, 255}
# Calls with a sentence for people behind their first argument.
SPEAKING = frozenset({"HypervisorError", "Forbidden", "ValueError", "demand", "stop"})
# mutmut makes its mutants as the first part of a run; this one is run to have them.
FIRST = "gunyah.hypervisor.memdb.*owner_at__mutmut_1"


@dataclass
class Module:
    """One mutated module: exit codes by mutant, None for one that did not run; ``words`` are those left out."""

    name: str
    codes: dict[str, int | None]
    diffs: dict[str, str] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)

    @property
    def mutants(self) -> list[str]:
        """Those that count."""
        return [name for name in self.codes if name not in self.words]

    @property
    def killed(self) -> int:
        """How many a test noticed."""
        return sum(self.codes[name] in FAILED | OVER for name in self.mutants)

    @property
    def survivors(self) -> list[str]:
        """Those that no test noticed, or reached."""
        return [name for name in self.mutants if self.codes[name] not in FAILED | OVER]


def copy_tree(directory: Path) -> None:
    """Bring the copy up to date with the checkout; mutmut keeps the mutants of files that did not change."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *COPIED],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    wanted = {Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()}
    for path in wanted:
        source, target = ROOT / path, directory / path
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    for top in (directory, directory / "mutants"):
        for kind in COPIED[:3]:
            for path in (top / kind).rglob("*.py"):
                if path.relative_to(top) not in wanted:
                    path.unlink()


def mutmut(directory: Path, children: int, *names: str) -> None:
    """Run the named mutants; mutmut ends with an error only if the tests fail without any mutant."""
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(children), *names]
    with (directory / "mutmut.log").open("w") as log:
        done = subprocess.run(command, cwd=directory, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"mutmut ended with {done.returncode}; see {directory / 'mutmut.log'}")


class _Silence(ast.NodeTransformer):
    """Takes out of a function what only people and the type checker read."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Keep the first argument, the error or the condition; of a cast, what is cast."""
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in SPEAKING:
            node.args = [] if name == "ValueError" else node.args[:1]
        if name == "cast":
            node.args = node.args[1:]
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Keep the condition."""
        self.generic_visit(node)
        node.msg = None
        return node


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in tree.body:
        for each in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(each, ast.FunctionDef) and "__mutmut_" in each.name:
                yield each


def _silent(function: ast.FunctionDef) -> str:
    copy = ast.parse(ast.unparse(function)).body[0]
    assert isinstance(copy, ast.FunctionDef)
    copy.name = "mutant"
    return ast.dump(_Silence().visit(copy))


def _difference(original: ast.FunctionDef, mutant: ast.FunctionDef) -> str:
    before, after = ("\n".join(map(ast.unparse, each.body)).splitlines() for each in (original, mutant))
    gone = [line.strip() for line in before if line not in after]
    come = [line.strip() for line in after if line not in before]
    return "\n".join([*(f"    - {line}" for line in gone), *(f"    + {line}" for line in come)])


def modules(directory: Path) -> list[Module]:
    """What mutmut made and found out."""
    found = []
    for meta in sorted((directory / "mutants" / "src").rglob("*.meta")):
        codes = json.loads(meta.read_text())["exit_code_by_key"]
        source = meta.with_suffix("")
        prefix = ".".join(source.relative_to(directory / "mutants" / "src").with_suffix("").parts)
        module = Module(prefix.removeprefix("gunyah.hypervisor."), codes)
        functions = {each.name: each for each in _functions(ast.parse(source.read_text()))}
        originals: dict[str, str] = {}
        for key in codes:
            name = key.removeprefix(f"{prefix}.")
            stem = name.rpartition("__mutmut_")[0]
            original = functions[f"{stem}__mutmut_orig"]
            if stem not in originals:
                originals[stem] = _silent(original)
            if _silent(functions[name]) == originals[stem]:
                module.words.add(key)
            else:
                module.diffs[key] = _difference(original, functions[name])
        if codes:
            found.append(module)
    return found


def report(found: list[Module]) -> Iterator[str]:
    """The table, and each survivor with its change."""
    total = Module("all", {}, {}, set())
    for module in found:
        total.codes.update(module.codes)
        total.words.update(module.words)
    yield f"{'module':28}{'mutants':>9}{'killed':>9}{'survived':>10}{'%':>8}"
    for module in (*found, total):
        count = len(module.mutants)
        rate = 100 * module.killed / max(1, count)
        yield f"{module.name:28}{count:>9}{module.killed:>9}{len(module.survivors):>10}{rate:>8.1f}"


def survivors(found: list[Module]) -> Iterator[str]:
    """Each mutant that is alive, with its change."""
    for module in found:
        for name in module.survivors:
            yield f"{name}\n{module.diffs[name]}"


def main() -> int:
    """Measure; status 1 when too many mutants survive."""
    parser = argparse.ArgumentParser(prog="make mutation", description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()) / "gunyah-mutation")
    parser.add_argument("--children", type=int, default=2, help="mutants that run at a time")
    parser.add_argument("--survivors", action="store_true", help="run again only what was alive the last time")
    parser.add_argument("--report", action="store_true", help="run nothing, show what was found the last time")
    parser.add_argument("only", nargs="*", help="modules, as the table names them")
    options = parser.parse_args()
    directory = options.directory
    directory.mkdir(parents=True, exist_ok=True)
    if not options.report:
        copy_tree(directory)
        if not options.survivors:
            shutil.rmtree(directory / "mutants", ignore_errors=True)
        mutmut(directory, options.children, FIRST)
        names = [
            name
            for module in modules(directory)
            if not options.only or module.name in options.only
            for name in (module.survivors if options.survivors else module.mutants)
        ]
        print(f"{len(names)} mutants; progress in {directory / 'mutmut.log'}", flush=True)
        mutmut(directory, options.children, *names)
    found = [module for module in modules(directory) if not options.only or module.name in options.only]
    (directory / "survivors.txt").write_text("\n".join(survivors(found)) + "\n")
    print("\n".join(report(found)))
    print(f"what survived: {directory / 'survivors.txt'}")
    count = sum(len(module.mutants) for module in found)
    return int(100 * sum(module.killed for module in found) < LEAST * count)


if __name__ == "__main__":
    sys.exit(main())
