"""A core's debug facilities: breakpoints before memory is mapped, watchpoints before the access happens."""

from __future__ import annotations

import pytest

from gunyah.machine.engine import EC, MDCR
from gunyah.machine.engine.debug import Debug, Hit, Range

from .rig import CODE, DATA, FINISHED, Rig

NOP = 0xD503201F
END = 0xD4000002 | FINISHED << 5
MDE = 1 << 15


class Debugged(Rig):
    """A rig whose debug exceptions go to EL2 and are noted as (class, PC)."""

    def __init__(self) -> None:
        super().__init__()
        self.debug = Debug(self.core)
        self.noted: list[tuple[int, int]] = []
        self.exits.debug = self._note
        self.vcpu.registers.write("MDCR_EL2", MDCR.TDE)
        self.vcpu.touch()

    def _note(self, esr: int) -> bool:
        self.noted.append((esr >> 26, self.registers.pc))
        return False

    def enable(self, mdscr: int) -> None:
        self.registers.write("MDSCR_EL1", mdscr)
        self.vcpu.touch()


def test_a_breakpoint_stops_before_its_instruction_and_not_when_debugging_is_off() -> None:
    rig = Debugged()
    rig.debug.break_at(2, CODE + 8)
    rig.enable(MDE)
    rig.run((NOP, NOP, NOP, END))
    assert rig.noted == [(EC.BREAKPOINT_LOWER, CODE + 8)]
    rig.enable(0)
    rig.go_on()
    assert rig.calls == [(FINISHED, 0)]


def test_a_cleared_breakpoint_is_gone() -> None:
    rig = Debugged()
    rig.debug.break_at(0, CODE + 4)
    rig.enable(MDE)
    rig.run((NOP, NOP, END))
    rig.debug.break_at(0, None)
    rig.run((NOP, NOP, END))
    assert len(rig.noted) == 1 and rig.calls == [(FINISHED, 0)]


STORE_BEFORE, STORE_INTO, LOAD, STORE_BEHIND = 0xF9000020, 0xF8004020, 0xF9400422, 0xF9000C20
# str x0, [x1]; stur x0, [x1, #4]; ldr x2, [x1, #8]; str x0, [x1, #24]


def test_a_watched_write_stops_before_it_happens_and_neighbours_do_not() -> None:
    rig = Debugged()
    rig.debug.watch([Range(DATA + 8, 8, read=False, write=True)])
    rig.debug.armed = True
    rig.run((STORE_BEFORE, STORE_BEHIND, LOAD, STORE_INTO, END), 0x1122_3344_5566_7788, DATA)
    assert rig.noted == [(EC.WATCHPOINT_LOWER, CODE + 12)]
    assert rig.debug.take_hit() == Hit(DATA + 4, 8, True)
    assert rig.debug.take_hit() is None
    assert rig.memory.read_u64(DATA + 8) == 0
    rig.debug.armed = False
    rig.go_on()
    assert rig.memory.read_u64(DATA + 8) == 0x1122_3344
    assert rig.calls == [(FINISHED, 0x1122_3344_5566_7788)]


def test_a_watched_read_stops_and_registers_are_those_before_it() -> None:
    rig = Debugged()
    rig.debug.watch([Range(DATA + 12, 1, read=True, write=False)])
    rig.debug.armed = True
    rig.memory.write_u64(DATA + 8, 77)
    rig.run((STORE_BEFORE, LOAD, END), 1, DATA, 5)
    assert rig.noted == [(EC.WATCHPOINT_LOWER, CODE + 4)]
    assert rig.x[2] == 5
    rig.debug.watch([])
    rig.go_on()
    assert rig.x[2] == 77 and rig.calls == [(FINISHED, 1)]


@pytest.mark.parametrize("write", (False, True))
@pytest.mark.parametrize("offset", range(-9, 3))
def test_an_unaligned_access_stops_if_it_touches_a_watched_byte(offset: int, write: bool) -> None:
    # Given a watch on the last two bytes of a page,
    rig = Debugged()
    watched = DATA + 0xFFE
    rig.debug.watch([Range(watched, 2, read=not write, write=write)])
    rig.debug.armed = True
    # when eight bytes are stored to or loaded from around it,
    access = (0xF800_0022 if write else 0xF840_0022) | (offset & 0x1FF) << 12  # stur or ldur x2, [x1, #offset]
    rig.run((access, END), 0, watched, 0x1111)
    hit = rig.debug.take_hit()
    # then it stops, or its hit is outside of what is watched and whoever asks can tell.
    inside = hit is not None and hit.address < watched + 2 and hit.address + hit.size > watched
    assert inside == (offset < 2 and offset + 8 > 0)
    if not rig.calls:
        rig.debug.armed = False
        rig.go_on()
    assert rig.calls == [(FINISHED, 0)]


def test_zeroing_a_block_is_a_write_to_all_of_it() -> None:
    rig = Debugged()
    rig.debug.watch([Range(DATA + 60, 4, read=False, write=True)])
    rig.debug.armed = True
    rig.memory.write_u64(DATA + 56, 5 << 32)
    rig.run((0xD50B_7421, END), 0, DATA + 8)  # dc zva, x1
    assert rig.noted == [(EC.WATCHPOINT_LOWER, CODE)]
    assert rig.debug.take_hit() in (Hit(DATA, 64, True), Hit(DATA + 60, 1, True))
    assert rig.memory.read_u64(DATA + 56) == 5 << 32


def test_ever_other_ranges_are_watched_and_then_none() -> None:
    rig = Debugged()
    rig.debug.armed = True
    for n in range(3):
        rig.debug.watch([Range(DATA + 8 * n, 8, read=True, write=True)])
        rig.debug.armed = True
        rig.run((0xF940_0020 | n << 10, END), 0, DATA)  # ldr x0, [x1, #8 * n]
        assert rig.debug.take_hit() == Hit(DATA + 8 * n, 8, False)
    rig.debug.watch([])
    rig.run((STORE_BEFORE, LOAD, END), 0, DATA)
    assert rig.calls == [(FINISHED, 0)] and len(rig.noted) == 3
