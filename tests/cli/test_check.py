"""``--check``: a run that keeps to the specification says so, one that leaves it ends there and shows both states."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from gunyah.abi.objects import ObjectType
from gunyah.cli.main import main
from gunyah.host.check import EXIT_DIVERGENCE, Check, rows, shown
from gunyah.hypervisor.cspace import CSpace
from gunyah.hypervisor.specification.checker import Divergence
from gunyah.hypervisor.specification.state import Extent, Slot, Space, Thing, World
from gunyah.vmm.guests import guest_bytes


@pytest.fixture(autouse=True)
def own_run_directories_and_nobody_who_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        yield


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    kernel = tmp_path / "demo.bin"
    kernel.write_bytes(guest_bytes("demo"))
    return kernel


@pytest.fixture
def a_space_that_gives_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect: a copied capability gets a right that its source need not have."""
    original = CSpace.copy_from

    def generous(self: CSpace, source: CSpace, capid: int, mask: int) -> int:
        new = original(self, source, capid, mask)
        self.capability(new).rights |= 0x40
        return new

    monkeypatch.setattr(CSpace, "copy_from", generous)


def test_the_demo_keeps_to_the_specification(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json", "--seed", "1", "--check"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["rm"]["ok"]
    checked = int(err.split()[1])
    assert err == f"gunyah: {checked} hypercalls were as the specification has them\n" and checked > 200


def test_a_native_guest_keeps_to_the_specification(guest: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--kernel", str(guest), "--check", "--timeout", "60"]) == 0
    assert "hypercalls were as the specification has them" in capfd.readouterr().err


def test_without_the_flag_nothing_is_checked(
    guest: Path, capfd: pytest.CaptureFixture[str], a_space_that_gives_too_much: None
) -> None:
    assert main(["run", "--kernel", str(guest), "--timeout", "60"]) == 0
    assert "specification" not in capfd.readouterr().err


@pytest.mark.parametrize("what", ["demo", "kernel", "file", "native file"])
def test_the_first_divergence_ends_the_run_and_both_states_are_shown(
    what: str, guest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], a_space_that_gives_too_much: None
) -> None:
    file = tmp_path / "system.toml"
    file.write_text('[primary]\nkind = "native"\nimage = "demo.bin"\n' if what == "native file" else "seed = 1\n")
    arguments = {
        "demo": ["demo", "--seed", "1"],
        "kernel": ["run", "--kernel", str(guest)],
        "file": ["run", str(file)],
        "native file": ["run", str(file)],
    }[what]
    assert main([*arguments, "--check"]) == EXIT_DIVERGENCE
    shown = capfd.readouterr().err
    assert "diverges" in shown.splitlines()[0] and "cspace_copy_cap_from(" in shown.splitlines()[0]
    assert "the specification allows" in shown and "found" in shown
    assert "other objects and ranges are the same on both sides" in shown
    assert "Traceback" not in shown


def divergence() -> Divergence:
    space = Space(4, {7: Slot(2, 1, True)})
    extent = Thing(ObjectType.MEMEXTENT, extent=Extent(0x1000, 0x2000, 7, 1))
    same = Thing(ObjectType.DOORBELL, pins=1)
    expected = World(
        {1: Thing(ObjectType.CSPACE, space=space, holds=(4,)), 2: extent, 4: same, 5: same},
        ((0, 0x1000, "partition root"), (0x1000, 0x3000, 2)),
    )
    found = World({1: Thing(ObjectType.CSPACE, space=Space(4)), 4: same, 5: same}, ((0, 0x3000, "partition root"),))
    return Divergence(
        "object_activate(0x7) = 0x0 by vm3", ("object #2: expected something, found nothing",), expected, found
    )


def test_rows_are_what_differs_and_what_has_to_do_with_it() -> None:
    changed, kept, left_out = rows(divergence())
    assert [what for what, *_ in changed] == ["#1", "#2", "memory", "memory", "memory"]
    assert changed[1][2] == ("(not there)",)
    assert any("0x7: #2 rights 0x1 master" in line for line in changed[0][1])
    assert [what for what, *_ in kept] == ["#4"]
    assert left_out == 1


def test_both_states_stand_side_by_side() -> None:
    console = Console(record=True, width=120)
    console.print(shown(divergence(), 17))
    text = console.export_text()
    assert "0x1000..0x3000 #2" in text and "0x0..0x3000 partition root" in text
    assert "0x1000+0x2000 basic, access 0x7" in text
    assert "1 other objects and ranges are the same on both sides; 17 calls were checked" in text


def test_a_verdict_without_a_machine_is_the_status_it_was_given(capfd: pytest.CaptureFixture[str]) -> None:
    assert Check().verdict(4) == 4
    assert capfd.readouterr().err == "gunyah: 0 hypercalls were as the specification has them\n"
