"""``gunyah lint``: findings one per line, exit status 1 if there are any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gunyah.cli.main import main

GOOD = """/dts-v1/;
/ {
    hypervisor {
        compatible = "gunyah-hypervisor-1.0", "gunyah-hypervisor";
        #address-cells = <2>;
        #size-cells = <0>;
        gunyah-resource-mgr@0 {
            compatible = "gunyah-resource-manager-1-0", "gunyah-resource-manager";
            interrupts = <0 3 1>, <0 4 1>;
            reg = <0x0 0x0>, <0x0 0x1>;
        };
    };
};
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.dts"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.dts"
    path.write_text(GOOD.replace("#size-cells = <0>", "#size-cells = <1>").replace("<0 4 1>", "<0 4 2>"))
    return path


def test_nothing_to_say_is_exit_status_0(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(good)]) == 0
    assert capsys.readouterr().out == f"{good}: nothing to say\n"


def test_findings_are_lines_with_node_property_and_reason(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(bad)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{bad}: /hypervisor: #size-cells: is 1, it must be 0")
    assert "/hypervisor/gunyah-resource-mgr@0: interrupts: the RX interrupt has flags 2" in lines[1]


def test_json_is_one_object(good: Path, bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "--json", str(good), str(bad)]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert answer["files"][str(good)] == []
    assert {finding["property"] for finding in answer["files"][str(bad)]} == {"#size-cells", "interrupts"}
