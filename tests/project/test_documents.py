"""Documents keep their word: promises name tests that exist, links lead somewhere, generated pages are current."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from .tree import ROOT

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SECTION_OR_PROMISE = re.compile(r"^(?:## (\d+)\.|\* \*\*(\d+\.\d+)\*\*) ", re.MULTILINE)
TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?(?:::(\w+))?`")


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        return [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file() and ".venv" not in p.parts]
    return listed.stdout.splitlines()


DOCUMENTS = [name for name in _tracked() if name.endswith(".md")]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_inside_the_project_lead_somewhere(name: str) -> None:
    path = ROOT / name
    targets = [t.split("#")[0] for t in LINK.findall(path.read_text()) if "://" not in t and not t.startswith("#")]
    assert not [target for target in targets if not (path.parent / target).exists()]


def _tests_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def test_every_promise_of_the_specification_names_a_test_that_exists() -> None:
    text = (ROOT / "SPECIFICATION.md").read_text()
    missing = []
    for file, *names in TEST_NAME.findall(text):
        if not (ROOT / file).is_file():
            missing.append(file)
        else:
            missing += [f"{file}::{n}" for n in names if n and n not in _tests_in(file)]
    assert not missing


def test_every_numbered_promise_has_its_test() -> None:
    paragraphs = re.split(r"\n(?=\* \*\*\d)", (ROOT / "SPECIFICATION.md").read_text())[1:]
    assert paragraphs
    assert not [p.splitlines()[0] for p in paragraphs if not TEST_NAME.search(p)]


def test_promises_are_numbered_in_order() -> None:
    expected: list[str] = []
    section = promise = 0
    found = SECTION_OR_PROMISE.findall((ROOT / "SPECIFICATION.md").read_text())
    for heading, _ in found:
        section, promise = (section + 1, 0) if heading else (section, promise + 1)
        expected.append(f"{section}" if heading else f"{section}.{promise}")
    assert [heading or number for heading, number in found] == expected


def test_generated_pages_are_current() -> None:
    command = [sys.executable, "-m", "tools.generate_docs", "--check"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_no_text_names_a_place_on_a_developers_machine_or_is_left_for_later() -> None:
    # The patterns are written so that they do not match themselves.
    unwanted = re.compile(r"(?<![\w./])/(?:work|home|root)/\w|\bT[O]DO\b|\bF[I]XME\b|\bX[X]X\b")
    found = []
    for name in _tracked():
        path = ROOT / name
        if not path.is_file() or path.suffix in {".png", ".svg", ".dtb", ".bin"} or name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if unwanted.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)
