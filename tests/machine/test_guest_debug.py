"""A vCPU debugs itself: breakpoints, watchpoints and software steps as the architecture has them."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from tests.native.code import Code

from .rig import CODE, DATA, DEVICE, FINISHED, Rig

VECTORS = CODE + 0x1_0000
USER = CODE + 0x2_0000
EXCEPTION = 0x10
"""HVC immediate of the vectors."""

SS, KDE, MDE = 1 << 0, 1 << 13, 1 << 15
MASK_D, ALL = 8, 15
SPSR_SS = 1 << 21
BREAKPOINT, STEP, WATCHPOINT = 0x30, 0x32, 0x34
"""Exception classes from EL0; from EL1 itself they are one more."""
EL0, EL1, BOTH = 2, 1, 3
LOADS, STORES = 1, 2
ZVA = 0xD50B_7420
"""DC ZVA, X0."""


class Taken(NamedTuple):
    """One exception that EL1 took."""

    kind: int
    elr: int
    far: int
    iss: int


def breakpoint_at(levels: int) -> int:
    return 0xF << 5 | levels << 1 | 1


def watch(levels: int, kinds: int, *, first: int = 0, count: int = 8) -> int:
    """DBGWCR: ``count`` bytes from ``first`` of a doubleword."""
    return ((1 << count) - 1 << first) << 5 | kinds << 3 | levels << 1 | 1


class Debugged(Rig):
    """Code at EL1 with vectors that note each exception and go back, with debug exceptions off unless it was a step."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Taken] = []
        self.steps = 0
        self.exits.hvc = self._call
        self.place((0xD400_0002 | EXCEPTION << 5, 0xD69F_03E0), VECTORS + 0x200)
        self.place((0xD400_0002 | EXCEPTION << 5, 0xD69F_03E0), VECTORS + 0x400)

    def _call(self, immediate: int) -> bool:
        if immediate != EXCEPTION:
            return self._hvc(immediate)
        registers = self.registers
        esr = registers.read("ESR_EL1")
        self.taken.append(Taken(esr >> 26, registers.elr_el1, registers.read("FAR_EL1"), esr & 0x1FF_FFFF))
        if esr >> 26 in (STEP, STEP + 1) and len(self.taken) < self.steps:
            registers.spsr_el1 |= SPSR_SS
        else:
            registers.write("MDSCR_EL1", 0)
        return True

    def debug(self, body: Code, *arguments: int) -> list[Taken]:
        """Run code from EL1 to its end; what was taken."""
        code = Code().mov(9, VECTORS).msr("VBAR_EL1", 9)
        data = code.pack() + body.hvc(FINISHED).pack()
        self.run(struct.unpack(f"<{len(data) // 4}I", data), *arguments)
        assert self.calls and self.calls[-1][0] == FINISHED, hex(self.registers.pc)
        return self.taken


def enabled(code: Code, flags: int = MDE | KDE) -> Code:
    """MDSCR_EL1 set, PSTATE.D clear."""
    return code.mov(9, flags).msr("MDSCR_EL1", 9).isb().daifclr(MASK_D)


def set_watch(value: int, control: int) -> Code:
    return Code().mov(9, value).msr("DBGWVR0_EL1", 9).mov(9, control).msr("DBGWCR0_EL1", 9)


@pytest.fixture
def rig() -> Debugged:
    return Debugged()


def test_a_breakpoint_is_taken_before_its_instruction_and_once_debugging_is_off_it_goes_on(rig: Debugged) -> None:
    code = Code().adr(10, "there").msr("DBGBVR0_EL1", 10).mov(9, breakpoint_at(BOTH)).msr("DBGBCR0_EL1", 9)
    enabled(code).mov(0, 1).label("there").mov(0, 2)
    (taken,) = rig.debug(code)
    assert (taken.kind, taken.elr) == (BREAKPOINT + 1, rig.x[10])
    assert rig.calls == [(FINISHED, 2)]


@pytest.mark.parametrize("write", (True, False))
def test_a_watchpoint_is_taken_before_the_access(rig: Debugged, write: bool) -> None:
    code = enabled(set_watch(DATA + 8, watch(EL1, STORES if write else LOADS)))
    code.store(0, 1).load(2, 1).store_at(0, 1, 16).load_at(2, 1, 16).adr(10, "there").label("there")
    code.store_at(0, 1, 8) if write else code.load_at(0, 1, 8)
    rig.memory.write_u64(DATA + 8, 5)
    (taken,) = rig.debug(code, 77, DATA)
    assert taken == (WATCHPOINT + 1, rig.x[10], DATA + 8, 0x22 | (1 << 6 if write else 0))
    assert rig.memory.read_u64(DATA + 8) == (77 if write else 5)
    assert rig.x[0] == (77 if write else 5)


def test_a_watched_store_has_not_happened_when_the_exception_is_taken(rig: Debugged) -> None:
    seen: list[int] = []
    call = rig.exits.hvc

    def look(immediate: int) -> bool:
        if immediate == EXCEPTION:
            seen.append(rig.memory.read_u64(DATA))
        return call(immediate)

    rig.exits.hvc = look
    rig.debug(enabled(set_watch(DATA, watch(EL1, STORES))).store(0, 1), 77, DATA)
    assert seen == [0]


@pytest.mark.parametrize("offset", range(-8, 9))
@pytest.mark.parametrize("size", (1, 2, 4, 8))
def test_exactly_the_accesses_that_touch_a_watched_byte_are_taken(rig: Debugged, size: int, offset: int) -> None:
    # Given a watch on bytes 3 and 4 of a doubleword, at the end of a page
    middle = DATA + 0xFF0
    code = enabled(set_watch(middle, watch(EL1, LOADS | STORES, first=3, count=2)))
    touched = offset <= 4 and offset + size > 3
    # when it is loaded from and stored to, aligned or not,
    for access in (code.load_at, code.store_at):
        access(2, 1, offset, size).mov(9, MDE | KDE).msr("MDSCR_EL1", 9).isb()
    taken = rig.debug(code, 0, middle)
    # then each access that touches one of them is taken.
    assert len(taken) == (2 if touched else 0)
    assert all(middle + 3 <= each.far <= middle + 4 for each in taken)


def test_a_pair_is_taken_for_its_second_register(rig: Debugged) -> None:
    code = enabled(set_watch(DATA + 8, watch(EL1, LOADS)))
    (taken,) = rig.debug(code.word(0xA940_0C22), 0, DATA)  # ldp x2, x3, [x1]
    assert taken.far == DATA + 8


def test_zeroing_a_block_is_a_store_to_all_of_it(rig: Debugged) -> None:
    (taken,) = rig.debug(enabled(set_watch(DATA + 40, watch(EL1, STORES))).word(ZVA), DATA + 8)
    assert taken.kind == WATCHPOINT + 1 and taken.iss & 1 << 6


def test_a_mask_watches_a_large_area(rig: Debugged) -> None:
    code = enabled(set_watch(DATA, watch(EL1, STORES) | 20 << 24))
    code.store(0, 1).mov(9, MDE | KDE).msr("MDSCR_EL1", 9).isb().store(0, 2)
    (taken,) = rig.debug(code, 0, DATA + (1 << 20), DATA + (1 << 20) - 8)
    assert taken.far == DATA + (1 << 20) - 8


def test_while_pstate_d_is_set_el1_takes_none(rig: Debugged) -> None:
    code = set_watch(DATA, watch(EL1, STORES)).mov(9, MDE | KDE).msr("MDSCR_EL1", 9).isb()
    code.store(0, 1).daifclr(MASK_D).daifset(MASK_D).store(0, 1).daifclr(MASK_D).adr(10, "there").label("there")
    (taken,) = rig.debug(code.store(0, 1), 0, DATA)
    assert taken.elr == rig.x[10]


def test_without_kernel_debugging_el1_takes_none_and_el0_does(rig: Debugged) -> None:
    rig.place((0xF900_0020, 0xD400_0001), USER)  # str x0, [x1]; svc #0
    code = enabled(set_watch(DATA, watch(BOTH, STORES)), MDE).store(0, 1)
    code.mov(9, USER).msr("ELR_EL1", 9).mov(9, 0).msr("SPSR_EL1", 9).eret()
    code = Code().mov(9, VECTORS).msr("VBAR_EL1", 9).word(*struct.unpack(f"<{code.here // 4}I", code.pack()))
    rig.place((0xD400_0002 | EXCEPTION << 5, 0xD400_0002 | FINISHED << 5), VECTORS + 0x400)
    rig.run(struct.unpack(f"<{code.here // 4}I", code.pack()), 3, DATA)
    assert rig.taken == [(WATCHPOINT, USER, DATA, 0x62)]


@pytest.mark.parametrize("context", (7, 8))
def test_a_linked_watchpoint_wants_its_context(rig: Debugged, context: int) -> None:
    code = Code().mov(9, 7).msr("DBGBVR5_EL1", 9).mov(9, 3 << 20 | breakpoint_at(BOTH)).msr("DBGBCR5_EL1", 9)
    code.mov(9, context).msr("CONTEXTIDR_EL1", 9)
    linked = set_watch(DATA, watch(EL1, STORES) | 1 << 20 | 5 << 16)
    code.word(*struct.unpack(f"<{linked.here // 4}I", linked.pack()))
    taken = rig.debug(enabled(code).store(0, 1), 0, DATA)
    assert len(taken) == (1 if context == 7 else 0)


def test_a_step_that_waits_for_pstate_d_is_taken_when_it_is_cleared(rig: Debugged) -> None:
    code = Code().mov(9, SS | KDE).msr("MDSCR_EL1", 9).isb().mov(0, 1).adr(10, "there").daifclr(MASK_D).label("there")
    (taken,) = rig.debug(code.mov(0, 2))
    # Active and pending: no instruction was stepped, so the syndrome does not say which.
    assert taken == (STEP + 1, rig.x[10], taken.far, 0x22)
    assert rig.calls == [(FINISHED, 2)]


def test_instructions_that_el2_completes_are_steps_too(rig: Debugged) -> None:
    rig.exits.mmio_read = lambda ipa, size: 0x55
    rig.exits.mmio_write = lambda ipa, size, value: True

    def skip(iss: int) -> bool:
        rig.registers.pc += 4
        return True

    rig.exits.sysreg = skip
    rig.exits.smc = lambda immediate: True
    rig.steps = 12
    code = Code().mov(9, SS | KDE).msr("MDSCR_EL1", 9).isb().mov(1, DEVICE).adr(10, "there").daifclr(MASK_D)
    code.label("there").load(2, 1, 4).store(2, 1, 4).mrs(3, "ID_AA64MMFR0_EL1").hvc(1).smc(1).mov(4, 4).mov(5, 5)
    taken = rig.debug(code.mov(6, 6).mov(7, 7).mov(8, 8).mov(0, 9).mov(0, 10).mov(0, 11).mov(0, 12))
    assert [each.elr - rig.x[10] for each in taken] == [4 * n for n in range(rig.steps)]
    assert all(each.kind == STEP + 1 for each in taken)
    assert rig.x[2] == 0x55


def test_watchpoints_are_those_of_their_vcpu(rig: Debugged) -> None:
    assert len(rig.debug(enabled(set_watch(DATA, watch(EL1, STORES))).store(0, 1), 0, DATA)) == 1
    # Another vCPU, with debug exceptions on, stores to the same place.
    other = rig.new_vcpu(rig.stage2, vmid=2)
    code = Code().mov(9, VECTORS).msr("VBAR_EL1", 9)
    code = enabled(code).store(0, 1).hvc(FINISHED)
    rig.start(struct.unpack(f"<{code.here // 4}I", code.pack()), 9, DATA, vcpu=other, at=USER)
    rig.core.load(other)
    rig.go_on()
    assert len(rig.taken) == 1 and rig.memory.read_u64(DATA) == 9
    # The first one still has its own.
    rig.core.load(rig.vcpu)
    rig.registers.write("MDSCR_EL1", MDE | KDE)
    rig.place((0xF900_0020, 0xD400_0002 | FINISHED << 5))
    rig.registers.pc = CODE
    rig.go_on()
    assert len(rig.taken) == 2


def test_breakpoints_of_a_vcpu_that_is_gone_are_forgotten(rig: Debugged) -> None:
    code = Code().adr(10, "there").msr("DBGBVR0_EL1", 10).mov(9, breakpoint_at(BOTH)).msr("DBGBCR0_EL1", 9)
    assert len(rig.debug(enabled(code).label("there").mov(0, 2))) == 1
    assert rig.core.guest_debug.has_breakpoints(rig.vcpu)
    rig.core.guest_debug.forget_breakpoints()
    assert not rig.core.guest_debug.has_breakpoints(rig.vcpu)
    rig.registers.write("MDSCR_EL1", MDE | KDE)
    rig.registers.pc = rig.x[10]
    rig.go_on()
    assert len(rig.taken) == 1
