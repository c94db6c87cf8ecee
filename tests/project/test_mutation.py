"""Mutation testing: what counts as a mutant, what counts as noticed, and that the configuration names what there is."""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import pytest
from tools import mutation

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]

MUTATED = """
def x_f__mutmut_orig(a):
    if a > 1:
        raise HypervisorError(Error.DENIED, f"{a + 1} is not it")
    step.demand(a == 1, "sentence")
    return "word"

def x_f__mutmut_1(a):
    if a >= 1:
        raise HypervisorError(Error.DENIED, f"{a + 1} is not it")
    step.demand(a == 1, "sentence")
    return "word"

def x_f__mutmut_2(a):
    if a > 1:
        raise HypervisorError(Error.DENIED, f"{a - 1} is not it")
    step.demand(a == 1, "sentence")
    return "word"

def x_f__mutmut_3(a):
    if a > 1:
        raise HypervisorError(None, f"{a + 1} is not it")
    step.demand(a == 1, "sentence")
    return "word"

def x_f__mutmut_4(a):
    if a > 1:
        raise HypervisorError(Error.DENIED, None)
    step.demand(a == 1, "sentence")
    return "word"

def x_f__mutmut_5(a):
    if a > 1:
        raise HypervisorError(Error.DENIED, f"{a + 1} is not it")
    step.demand(a == 1, "XXsentenceXX")
    return "word"

def x_f__mutmut_6(a):
    if a > 1:
        raise HypervisorError(Error.DENIED, f"{a + 1} is not it")
    step.demand(a != 1, "sentence")
    return "word"

class C:
    def xǁCǁg__mutmut_orig(self):
        return 1

    def xǁCǁg__mutmut_1(self):
        return 2
"""


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A directory as mutmut leaves it: 1 is a failed test, 0 none, -24 the end of the CPU time, None not run."""
    source = tmp_path / "mutants/src/gunyah/hypervisor/thing.py"
    source.parent.mkdir(parents=True)
    source.write_text(MUTATED)
    codes = dict(zip((f"x_f__mutmut_{number}" for number in range(1, 7)), (1, 0, -24, 0, 1, 0), strict=True))
    codes["xǁCǁg__mutmut_1"] = None  # type: ignore[assignment]
    named = {f"gunyah.hypervisor.thing.{name}": code for name, code in codes.items()}
    Path(f"{source}.meta").write_text(json.dumps({"exit_code_by_key": named}))
    return tmp_path


def test_a_change_of_a_sentence_alone_is_no_mutant(measured: Path) -> None:
    (module,) = mutation.modules(measured)
    assert module.name == "thing"
    assert [name.rpartition(".")[2] for name in module.mutants] == [
        "x_f__mutmut_1",
        "x_f__mutmut_3",
        "x_f__mutmut_6",
        "xǁCǁg__mutmut_1",
    ]


def test_a_failed_test_or_no_end_is_noticed_and_nothing_else(measured: Path) -> None:
    (module,) = mutation.modules(measured)
    assert (module.killed, [name[-1] for name in module.survivors]) == (2, ["6", "1"])
    table = list(mutation.report([module]))
    assert table[-1].split() == ["all", "4", "2", "2", "50.0"]
    lines = "\n".join(mutation.survivors([module]))
    assert "- step.demand(a == 1, 'sentence')" in lines
    assert "+ step.demand(a != 1, 'sentence')" in lines
    assert "- return 1\n    + return 2" in lines


def test_the_status_tells_whether_enough_was_noticed(
    measured: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["mutation", "--report", "--directory", str(measured)])
    assert mutation.main() == 1
    assert "survived" in capsys.readouterr().out
    assert "thing.x_f__mutmut_6" in (measured / "survivors.txt").read_text()
    monkeypatch.setattr(mutation, "LEAST", 50.0)
    assert mutation.main() == 0


def test_the_configuration_names_modules_and_tests_that_exist() -> None:
    for pattern in CONFIGURATION["only_mutate"]:
        assert list(ROOT.glob(pattern)), pattern
    for name in CONFIGURATION["pytest_add_cli_args_test_selection"]:
        assert (ROOT / name).is_file(), name


def test_the_slow_tests_that_are_left_out_exist() -> None:
    names = {
        node.name
        for path in CONFIGURATION["pytest_add_cli_args_test_selection"]
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    from tools import mutation_profile

    assert set(mutation_profile.SLOW) <= names
