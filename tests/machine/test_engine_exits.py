"""Exits to EL2: a guest's traps arrive with the right syndrome, and it goes on from where it should."""

from __future__ import annotations

import pytest

from gunyah.machine.engine import EC, HCR, MDCR, Stop, UnhandledExit
from gunyah.machine.engine.decode import SysregAccess, fault_kind
from gunyah.machine.engine.registers import SYSTEM_REGISTERS

from .rig import CODE, DATA, DEVICE, FINISHED, RAM, READ_ONLY, READ_WRITE, Rig


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_guest_starts_at_el1_with_its_entry_state(rig: Rig) -> None:
    program = (
        0xD5384241,  # mrs x1, CurrentEL
        0xD53B4222,  # mrs x2, daif
        0xD5381003,  # mrs x3, sctlr_el1
        0xD5384204,  # mrs x4, spsel
        0xD4001FE2,  # hvc #0xff
    )
    assert rig.run(program, 0x1234) is Stop.HANDLER
    assert rig.calls == [(FINISHED, 0x1234)]
    assert (rig.x[1], rig.x[2], rig.x[3], rig.x[4]) == (4, 0x3C0, 0x30D0_0800, 1)
    assert rig.registers.pc == CODE + 4 * len(program)


def test_hvc_brings_registers_out_and_results_back(rig: Rig) -> None:
    program = (
        0xD28000E0,  # mov x0, #7
        0xD4000C02,  # hvc #0x60
        0x8B010000,  # add x0, x0, x1
        0xD4001FE2,  # hvc #0xff
    )

    def hypercall(immediate: int) -> bool:
        rig.calls.append((immediate, rig.x[0]))
        rig.x[1] = 35
        return immediate != FINISHED

    rig.exits.hvc = hypercall
    assert rig.run(program) is Stop.HANDLER
    assert rig.calls == [(0x60, 7), (FINISHED, 42)]


def test_smc_is_trapped_with_pc_behind_it(rig: Rig) -> None:
    program = (
        0xD4000063,  # smc #3
        0xD4001FE2,  # hvc #0xff
    )
    seen: list[tuple[int, int]] = []

    def smc(immediate: int) -> bool:
        seen.append((immediate, rig.registers.pc))
        rig.x[0] = 99
        return True

    rig.exits.smc = smc
    rig.run(program)
    assert seen == [(3, CODE + 4)]
    assert rig.calls == [(FINISHED, 99)]


def test_exception_in_a_handler_comes_out_of_run_and_the_guest_can_go_on(rig: Rig) -> None:
    program = (
        0xD4000022,  # hvc #1
        0xD28000A0,  # mov x0, #5
        0xD4001FE2,  # hvc #0xff
    )

    def broken(immediate: int) -> bool:
        rig.exits.hvc = rig._hvc
        raise LookupError("no such thing")

    rig.exits.hvc = broken
    with pytest.raises(LookupError, match="no such thing"):
        rig.run(program)
    assert rig.go_on() is Stop.HANDLER
    assert rig.calls == [(FINISHED, 5)]


def test_unhandled_exit_is_an_error_that_says_what_happened(rig: Rig) -> None:
    program = (
        0xD4000243,  # smc #0x12
    )
    with pytest.raises(UnhandledExit, match="SMC #0x12"):
        rig.run(program)


def test_device_read_completes_with_width_and_sign(rig: Rig) -> None:
    program = (
        0x39400001,  # ldrb w1, [x0]
        0x39C00002,  # ldrsb w2, [x0]
        0x39800003,  # ldrsb x3, [x0]
        0x79400404,  # ldrh w4, [x0, #2]
        0x79800405,  # ldrsh x5, [x0, #2]
        0xB9400406,  # ldr w6, [x0, #4]
        0xB9800407,  # ldrsw x7, [x0, #4]
        0xF9400408,  # ldr x8, [x0, #8]
        0xB940001F,  # ldr wzr, [x0]
        0xD4001FE2,  # hvc #0xff
    )
    reads: list[tuple[int, int]] = []

    def read(ipa: int, size: int) -> int:
        reads.append((ipa - DEVICE, size))
        return 0xFEDC_BA98_8765_4380

    rig.exits.mmio_read = read
    rig.run(program, DEVICE)
    assert reads == [(0, 1), (0, 1), (0, 1), (2, 2), (2, 2), (4, 4), (4, 4), (8, 8), (0, 4)]
    assert list(rig.x[1:9]) == [
        0x80, 0xFFFF_FF80, 0xFFFF_FFFF_FFFF_FF80, 0x4380, 0x4380, 0x8765_4380, 0xFFFF_FFFF_8765_4380,
        0xFEDC_BA98_8765_4380,
    ]  # fmt: skip


def test_device_write_carries_the_value_cut_to_its_size(rig: Rig) -> None:
    program = (
        0x39000001,  # strb w1, [x0]
        0x79000401,  # strh w1, [x0, #2]
        0xB9000401,  # str w1, [x0, #4]
        0xF9000401,  # str x1, [x0, #8]
        0xF900081F,  # str xzr, [x0, #16]
        0xD4001FE2,  # hvc #0xff
    )
    writes: list[tuple[int, int, int]] = []

    def write(ipa: int, size: int, value: int) -> bool:
        writes.append((ipa - DEVICE, size, value))
        return True

    rig.exits.mmio_write = write
    rig.run(program, DEVICE, 0x1122_3344_5566_7788)
    assert writes == [
        (0, 1, 0x88), (2, 2, 0x7788), (4, 4, 0x5566_7788), (8, 8, 0x1122_3344_5566_7788), (16, 8, 0)
    ]  # fmt: skip


def test_write_back_forms_on_devices_change_the_base(rig: Rig) -> None:
    program = (
        0xB8404401,  # ldr w1, [x0], #4
        0xB8008C01,  # str w1, [x0, #8]!
        0xF9400002,  # ldr x2, [x0]
        0xD4001FE2,  # hvc #0xff
    )
    touched: list[int] = []

    def read(ipa: int, size: int) -> int:
        touched.append(ipa - DEVICE)
        return 1

    def write(ipa: int, size: int, value: int) -> bool:
        touched.append(ipa - DEVICE)
        return True

    rig.exits.mmio_read, rig.exits.mmio_write = read, write
    rig.run(program, DEVICE)
    assert touched == [0, 12, 12]
    assert rig.x[0] == DEVICE + 12


def test_access_that_no_device_takes_is_a_data_abort_exit(rig: Rig) -> None:
    program = (
        0xF9000C01,  # str x1, [x0, #0x18]
        0xD4001FE2,  # hvc #0xff
    )
    seen: list[tuple[int, int, int, int]] = []

    def abort(esr: int, far: int, ipa: int) -> bool:
        seen.append((esr, far, ipa, rig.registers.pc))
        return False

    rig.exits.data_abort = abort
    rig.run(program, 0x2_0000_0000)
    ((esr, far, ipa, pc),) = seen
    assert esr >> 26 == EC.DATA_ABORT_LOWER
    assert esr & 0x3F == 0x05, "translation fault, level 1: nothing is mapped in that gigabyte"
    assert esr >> 24 & 1 and esr >> 22 & 3 == 3 and esr >> 16 & 31 == 1 and esr & 1 << 6
    assert (far, ipa, pc) == (0x2_0000_0018, 0x2_0000_0018, CODE)


def test_pair_access_has_no_syndrome_and_is_left_to_the_handler(rig: Rig) -> None:
    program = (
        0xA9400801,  # ldp x1, x2, [x0]
        0xD4001FE2,  # hvc #0xff
    )
    seen: list[int] = []

    def abort(esr: int, far: int, ipa: int) -> bool:
        seen.append(esr)
        return False

    rig.exits.data_abort = abort
    rig.exits.mmio_read = lambda ipa, size: pytest.fail("a pair has no single size")
    rig.run(program, DEVICE)
    assert seen[0] >> 24 & 1 == 0


def test_access_without_syndrome_can_be_emulated_register_by_register(rig: Rig) -> None:
    program = (
        0x29C10801,  # ldp w1, w2, [x0, #8]!
        0x68FF1003,  # ldpsw x3, x4, [x0], #-8
        0x3DC00401,  # ldr q1, [x0, #16]
        0xA9020801,  # stp x1, x2, [x0, #32]
        0xA94A1805,  # ldp x5, x6, [x0, #0xa0]
        0xD4001FE2,  # hvc #0xff
    )
    writes: list[tuple[int, int, int]] = []

    def read(ipa: int, size: int) -> int | None:
        return 0x8000_0000 | ipa & 0xFF if ipa < DEVICE + 0x80 else None

    def write(ipa: int, size: int, value: int) -> bool:
        writes.append((ipa - DEVICE, size, value))
        return True

    refused: list[tuple[int, int]] = []

    def abort(esr: int, far: int, ipa: int) -> bool:
        if not rig.core.emulate(far, ipa):
            refused.append((ipa - DEVICE, rig.registers.pc))
            rig.registers.pc += 4
        return True

    rig.exits.mmio_read, rig.exits.mmio_write, rig.exits.data_abort = read, write, abort
    rig.run(program, DEVICE)
    assert list(rig.x[:5]) == [DEVICE, 0x8000_0008, 0x8000_000C, 0xFFFF_FFFF_8000_0008, 0xFFFF_FFFF_8000_000C]
    assert rig.registers.vector(1) == 0x8000_0018 << 64 | 0x8000_0010
    assert writes == [(32, 8, 0x8000_0008), (40, 8, 0x8000_000C)]
    assert refused == [(0xA0, CODE + 16)]
    assert rig.calls[-1][0] == FINISHED


def test_external_abort_reaches_the_guest_as_the_architecture_says(rig: Rig) -> None:
    program = (
        0x10004001,  # adr x1, vectors
        0xD518C001,  # msr vbar_el1, x1
        0xF9400002,  # ldr x2, [x0]
        0xD4001FC2,  # hvc #0xfe
        *(0xD503201F,) * 636,  # padding
        0xD5385203,  # mrs x3, esr_el1
        0xD5386004,  # mrs x4, far_el1
        0xD5384025,  # mrs x5, elr_el1
        0xD5384006,  # mrs x6, spsr_el1
        0xD4001FE2,  # hvc #0xff
    )
    program = program[: 512 + 128] + program[512 + 128 :]

    def abort(esr: int, far: int, ipa: int) -> bool:
        rig.core.inject_data_abort(far)
        return True

    rig.exits.data_abort = abort
    rig.run(program, DEVICE + 4)
    assert rig.calls[-1][0] == FINISHED
    assert rig.x[3] == 0x9600_0010
    assert (rig.x[4], rig.x[5], rig.x[6]) == (DEVICE + 4, CODE + 8, 0x3C5)


def test_write_to_read_only_page_is_a_permission_fault_with_its_ipa(rig: Rig) -> None:
    program = (
        0xF9400001,  # ldr x1, [x0]
        0xF9000001,  # str x1, [x0]
        0xD4001FE2,  # hvc #0xff
    )
    ipa = 0x1_2345_6000
    rig.map(rig.stage2, ipa, DATA, 4096, READ_ONLY)
    rig.memory.write_u64(DATA, 77)
    seen: list[tuple[int, int]] = []

    def abort(esr: int, far: int, fault_ipa: int) -> bool:
        seen.append((fault_kind(esr), fault_ipa))
        return False

    rig.exits.data_abort = abort
    rig.run(program, ipa)
    assert rig.x[1] == 77
    assert seen == [(0x0C, ipa)]


def test_fetch_from_unmapped_memory_is_an_instruction_abort_exit(rig: Rig) -> None:
    program = (
        0xD61F0000,  # br x0
    )
    seen: list[tuple[int, int, int]] = []

    def abort(esr: int, far: int, ipa: int) -> bool:
        seen.append((esr >> 26, far, ipa))
        rig.core.inject_instruction_abort(far)
        return False

    rig.exits.instruction_abort = abort
    rig.run(program, 0x7000_0010)
    assert seen == [(EC.INSTRUCTION_ABORT_LOWER, 0x7000_0010, 0x7000_0010)]
    assert rig.registers.read("ESR_EL1") == 0x8600_0010
    assert rig.registers.read("FAR_EL1") == 0x7000_0010
    assert rig.registers.elr_el1 == 0x7000_0010


def test_stage2_that_leads_nowhere_is_an_external_abort_for_the_guest(rig: Rig) -> None:
    program = (
        0xF9400401,  # ldr x1, [x0, #8]
        0xD4001FC2,  # hvc #0xfe
    )
    vector = (
        0xD4001FE2,  # hvc #0xff
    )
    rig.map(rig.stage2, 0x0A00_0000, 0x7_0000_0000, 4096, READ_WRITE)
    rig.place(vector, RAM + 0x10_0200)
    rig.start(program, 0x0A00_0010)
    rig.registers.write("VBAR_EL1", RAM + 0x10_0000)
    assert rig.go_on() is Stop.HANDLER
    assert rig.calls == [(FINISHED, 0x0A00_0010)]
    assert rig.registers.read("ESR_EL1") == 0x9600_0010
    assert rig.registers.read("FAR_EL1") == 0x0A00_0018
    assert rig.registers.elr_el1 == CODE


def test_identification_registers_are_what_the_handler_says(rig: Rig) -> None:
    program = (
        0xD5380401,  # mrs x1, id_aa64pfr0_el1
        0xD5380622,  # mrs x2, id_aa64isar1_el1
        0xD5380003,  # mrs x3, midr_el1
        0xD53800A4,  # mrs x4, mpidr_el1
        0xD4001FE2,  # hvc #0xff
    )
    seen: list[SysregAccess] = []

    def sysreg(iss: int) -> bool:
        access = SysregAccess.from_iss(iss)
        seen.append(access)
        rig.x[access.rt] = 0x1234 + len(seen)
        rig.registers.pc += 4
        return True

    rig.exits.sysreg = sysreg
    rig.run(program)
    assert seen == [
        SysregAccess(SYSTEM_REGISTERS["ID_AA64PFR0_EL1"], 1, True),
        SysregAccess(SYSTEM_REGISTERS["ID_AA64ISAR1_EL1"], 2, True),
    ]
    assert list(rig.x[1:5]) == [0x1235, 0x1236, 0xF0480, 0x8000_0000]


def test_trapped_control_register_write_names_register_and_direction(rig: Rig) -> None:
    program = (
        0xD5181029,  # msr actlr_el1, x9
        0xD4001FE2,  # hvc #0xff
    )
    seen: list[SysregAccess] = []

    def sysreg(iss: int) -> bool:
        seen.append(SysregAccess.from_iss(iss))
        rig.registers.pc += 4
        return True

    rig.exits.sysreg = sysreg
    rig.run(program)
    assert seen == [SysregAccess(SYSTEM_REGISTERS["ACTLR_EL1"], 9, False)]


def test_undefined_instruction_can_be_injected_for_a_trap(rig: Rig) -> None:
    program = (
        0xD5181029,  # msr actlr_el1, x9
        0xD4001FC2,  # hvc #0xfe
    )
    vector = (
        0xD4001FE2,  # hvc #0xff
    )

    def sysreg(iss: int) -> bool:
        rig.core.inject_undefined()
        return True

    rig.exits.sysreg = sysreg
    rig.place(vector, RAM + 0x10_0200)
    rig.start(program)
    rig.registers.write("VBAR_EL1", RAM + 0x10_0000)
    rig.go_on()
    assert rig.calls[-1][0] == FINISHED
    assert rig.registers.read("ESR_EL1") == 0x0200_0000
    assert rig.registers.elr_el1 == CODE


def test_wfi_comes_out_and_goes_on_behind_itself(rig: Rig) -> None:
    program = (
        0xD503207F,  # wfi
        0xD503205F,  # wfe
        0xD4001FE2,  # hvc #0xff
    )
    waits: list[int] = []

    def wfi() -> bool:
        waits.append(rig.registers.pc)
        return len(waits) != 1

    rig.exits.wfi = wfi
    assert rig.run(program) is Stop.HANDLER
    assert waits == [CODE + 4] and rig.calls == []
    assert rig.go_on() is Stop.HANDLER
    assert waits == [CODE + 4] and rig.calls == [(FINISHED, 0)]


@pytest.mark.parametrize("hcr", [HCR.GUEST, HCR.GUEST & ~HCR.TWI])
def test_wfi_without_handler_stops_the_run(rig: Rig, hcr: int) -> None:
    program = (
        0xD503207F,  # wfi
        0xD4001FE2,  # hvc #0xff
    )
    rig.start(program)
    rig.core.set_stage2(rig.registers.read("VTTBR_EL2"), rig.registers.read("VTCR_EL2"), hcr)
    assert rig.go_on() is Stop.WFI
    assert rig.registers.pc == CODE + 4
    assert rig.go_on() is Stop.HANDLER


@pytest.mark.parametrize("native", [True, False])
def test_guest_takes_its_own_exceptions_without_the_hypervisor(native: bool) -> None:
    program = (
        0xD40000A1,  # svc #5
        0xD42000C0,  # brk #6
        0x00000000,  # padding
        0xD4001FE2,  # hvc #0xff
    )
    vector = (
        0xD538520A,  # mrs x10, esr_el1
        0x9100056B,  # add x11, x11, #1
        0xD35AFD4C,  # lsr x12, x10, #26
        0xF100559F,  # cmp x12, #0x15
        0x54000080,  # b.eq 1f
        0xD538402D,  # mrs x13, elr_el1
        0x910011AD,  # add x13, x13, #4
        0xD518402D,  # msr elr_el1, x13
        0xD69F03E0,  # 1: eret
    )
    rig = Rig(native_entry=native)
    rig.place(vector, RAM + 0x10_0200)
    rig.start(program)
    rig.x[11] = 0
    rig.registers.write("VBAR_EL1", RAM + 0x10_0000)
    rig.go_on()
    assert rig.calls == [(FINISHED, 0)]
    assert rig.x[11] == 3
    assert rig.core.native_entries == (3 if native else 0)


def test_debug_exceptions_come_to_el2_when_asked(rig: Rig) -> None:
    program = (
        0xD4200EE0,  # brk #0x77
        0xD4001FE2,  # hvc #0xff
    )
    seen: list[tuple[int, int]] = []

    def debug(esr: int) -> bool:
        seen.append((esr & 0xFFFF, rig.registers.pc))
        rig.registers.pc += 4
        return True

    rig.exits.debug = debug
    rig.start(program)
    rig.registers.write("MDCR_EL2", MDCR.TDE)
    rig.vcpu.touch()
    rig.go_on()
    assert seen == [(0x77, CODE)]
    assert rig.calls == [(FINISHED, 0)]


def test_single_step_stops_after_each_instruction(rig: Rig) -> None:
    program = (
        0xD2800021,  # mov x1, #1
        0xD2800042,  # mov x2, #2
        0xD2800063,  # mov x3, #3
        0xD4001FE2,  # hvc #0xff
    )
    seen: list[tuple[int, int]] = []

    def debug(esr: int) -> bool:
        seen.append((esr >> 26, rig.registers.pc - CODE))
        return False

    rig.exits.debug = debug
    rig.start(program)
    rig.registers.write("MDCR_EL2", MDCR.TDE)
    rig.registers.write("MDSCR_EL1", 1)
    for _ in range(3):
        rig.registers.pstate = rig.registers.pstate & ~0x200 | 1 << 21
        rig.vcpu.touch()
        assert rig.go_on() is Stop.HANDLER
    assert seen == [(EC.STEP_LOWER, 4), (EC.STEP_LOWER, 8), (EC.STEP_LOWER, 12)]
