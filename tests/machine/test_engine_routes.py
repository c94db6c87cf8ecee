"""Exits that go straight to a function: routes of an exception class, pages of a device."""

from __future__ import annotations

import pytest

from gunyah.machine.bus import Refused
from gunyah.machine.engine import EC, Page, Stop

from .rig import CODE, DEVICE, FINISHED, Rig

HVC_FINISHED = 0xD4001FE2
HVC_60 = 0xD4000C02
LDR_W1_X0 = 0xB9400001
STR_W1_X0_8 = 0xB9000801
LDR_W1_X0_POST_4 = 0xB8404401
KEPT = list(range(100, 131))


class RoutedRig(Rig):
    """The functions of this rig take HVC by a route, and one device has the page at DEVICE."""

    def __init__(self, *, native_entry: bool = True) -> None:
        super().__init__(native_entry=native_entry)
        self.syndromes: list[int] = []
        self.accesses: list[tuple[str, int, int, int]] = []
        self.aborts: list[int] = []
        self.core.route(EC.HVC64, self._routed, range(0x60, 0x70))
        self.exits.data_abort = self._abort
        self.core.pages[DEVICE >> 12 << 4] = Page(self._read, self._write, "owner", 0x3000)

    def _routed(self, syndrome: int) -> None:
        self.syndromes.append(syndrome)
        if syndrome & 0xFFFF == FINISHED:
            self.core.leave()
        elif syndrome & 0xFFFF == 0x62:
            self.core.fail(ValueError("no such call"))

    def _read(self, owner: str, offset: int, size: int) -> int:
        if offset == 0x3FF0:
            raise Refused("nothing is there")
        self.accesses.append((owner, offset, size, 0))
        return 0xFEDC_BA98

    def _write(self, owner: str, offset: int, size: int, value: int) -> None:
        self.accesses.append((owner, offset, size, value))

    def _abort(self, esr: int, far: int, ipa: int) -> bool:
        self.aborts.append(ipa)
        return False


@pytest.fixture
def rig() -> RoutedRig:
    return RoutedRig()


@pytest.mark.parametrize("native", [True, False])
def test_a_routed_call_has_its_syndrome_and_gives_up_x9_to_x17(native: bool) -> None:
    rig = RoutedRig(native_entry=native)
    assert rig.run((HVC_60, HVC_FINISHED), *KEPT) is Stop.HANDLER
    assert rig.syndromes == [0x5A00_0060, 0x5A00_0000 | FINISHED]
    after = list(KEPT)
    after[9:18] = [CODE + 4, 0, 0, 0, 0, 0, 0, 0, 0]
    assert list(rig.x) == after


@pytest.mark.parametrize("immediate", [0x5F, 0x70, 0x1_0060 & 0xFFFF ^ 0x8000])
@pytest.mark.parametrize("native", [True, False])
def test_other_immediates_keep_every_register(native: bool, immediate: int) -> None:
    rig = RoutedRig(native_entry=native)
    assert rig.run((0xD4000002 | immediate << 5, HVC_FINISHED), *KEPT) is Stop.HANDLER
    assert list(rig.x) == KEPT


def test_what_a_routed_function_hands_to_fail_comes_out_of_run(rig: RoutedRig) -> None:
    with pytest.raises(ValueError, match="no such call"):
        rig.run((0xD4000C42, HVC_FINISHED))
    assert rig.go_on() is Stop.HANDLER


def test_a_page_is_asked_with_its_owner_and_its_own_offsets(rig: RoutedRig) -> None:
    loop = (LDR_W1_X0, STR_W1_X0_8, LDR_W1_X0, STR_W1_X0_8, 0xF1000442, 0x54FFFF61, HVC_FINISHED)
    # subs x2, x2, #1; b.ne -20: the second time round, each place in code is known.
    assert rig.run(loop, DEVICE + 0x10, 0, 2) is Stop.HANDLER
    assert rig.accesses == [("owner", 0x3010, 4, 0), ("owner", 0x3018, 4, 0xFEDC_BA98)] * 4
    assert rig.x[1] == 0xFEDC_BA98


def test_write_back_on_a_page_changes_the_base_every_time(rig: RoutedRig) -> None:
    assert rig.run((LDR_W1_X0_POST_4, LDR_W1_X0_POST_4, LDR_W1_X0, HVC_FINISHED), DEVICE) is Stop.HANDLER
    assert rig.x[0] == DEVICE + 8
    assert [offset for _, offset, _, _ in rig.accesses] == [0x3000, 0x3004, 0x3008]


def test_what_a_page_refuses_is_a_data_abort(rig: RoutedRig) -> None:
    loop = (LDR_W1_X0, 0x8B030000, 0xF1000442, 0x54FFFFA1, HVC_FINISHED)
    # add x0, x0, x3; subs x2, x2, #1; b.ne -12: the second access comes from a known place.
    assert rig.run(loop, DEVICE, 0, 2, 0xFF0) is Stop.HANDLER
    assert rig.aborts == [DEVICE + 0xFF0]
    assert rig.registers.pc == CODE
