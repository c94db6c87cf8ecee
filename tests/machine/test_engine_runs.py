"""Running: interrupts, preemption, world switches, timers and code that changes."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time

import pytest

from gunyah.machine.clock import RealClock, VirtualClock
from gunyah.machine.engine import PHYSICAL_TIMER, VIRTUAL_TIMER, Context, Core, EngineError, Stop

from .rig import CODE, DATA, FINISHED, NO_EXECUTE, RAM, READ_WRITE, Rig

VECTORS = RAM + 0x10_0000
MILLISECOND = 1_000_000


@pytest.fixture
def rig() -> Rig:
    return Rig()


SPIN = (
    0x91000400,  # add x0, x0, #1
    0x17FFFFFF,  # b .-4
)


def test_virtual_interrupt_is_taken_when_unmasked_and_not_before(rig: Rig) -> None:
    program = (
        0xD4000022,  # hvc #1
        0xD2800021,  # mov x1, #1
        0xD50342FF,  # msr daifclr, #2
        0xD2800041,  # mov x1, #2
        0xD4001FC2,  # hvc #0xfe
    )
    vector = (
        0xD5384022,  # mrs x2, elr_el1
        0xD4001FE2,  # hvc #0xff
    )

    def hypercall(immediate: int) -> bool:
        rig.core.set_virq(True)
        return immediate != FINISHED

    rig.exits.hvc = hypercall
    rig.place(vector, VECTORS + 0x280)
    rig.start(program)
    rig.registers.write("VBAR_EL1", VECTORS)
    rig.go_on()
    assert rig.x[1] == 1
    assert rig.x[2] == CODE + 12
    assert rig.registers.pstate & 0x80


def test_lowered_line_is_no_interrupt(rig: Rig) -> None:
    program = (
        0xD50342FF,  # msr daifclr, #2
        0xD4000022,  # hvc #1
        0xD503201F,  # nop
        0xD4001FE2,  # hvc #0xff
    )

    def hypercall(immediate: int) -> bool:
        rig.core.set_virq(True)
        rig.core.set_virq(False)
        return immediate != FINISHED

    rig.exits.hvc = hypercall
    rig.run(program)
    assert rig.registers.pc == CODE + 16


def test_pending_interrupt_of_a_saved_vcpu_is_taken_when_it_runs(rig: Rig) -> None:
    vector = (
        0xD4001FE2,  # hvc #0xff
    )
    rig.place(vector, VECTORS + 0x280)
    rig.start(SPIN)
    rig.registers.write("VBAR_EL1", VECTORS)
    rig.registers.pstate &= ~0x80
    rig.vcpu.touch()
    rig.core.save()
    rig.vcpu.set_virq(True)
    assert rig.core.context is None
    rig.core.load(rig.vcpu)
    assert rig.go_on() is Stop.HANDLER
    assert rig.calls[-1][0] == FINISHED


def test_pending_interrupt_makes_wfi_fall_through(rig: Rig) -> None:
    program = (
        0xD503207F,  # wfi
        0xD4001FE2,  # hvc #0xff
    )
    rig.exits.wfi = lambda: pytest.fail("an interrupt is pending")
    rig.start(program)
    rig.vcpu.set_virq(True)
    rig.go_on()
    assert rig.calls[-1][0] == FINISHED


def test_deadline_stops_a_tight_loop(rig: Rig) -> None:
    rig.start(SPIN)
    for count in range(5):
        while rig.x[0] <= count:
            deadline = time.monotonic_ns() + MILLISECOND
            assert rig.core.run(deadline) is Stop.DEADLINE
            assert time.monotonic_ns() >= deadline
    assert rig.core.run(time.monotonic_ns() - 1) is Stop.DEADLINE


def test_preemption_never_repeats_a_load(rig: Rig) -> None:
    program = (
        0xF9400000,  # ldr x0, [x0]
        0xF9400000,  # ldr x0, [x0]
        0x91000821,  # add x1, x1, #2
        0x17FFFFFD,  # b .-12
    )
    order = list(range(1, 1024))
    random.Random(1).shuffle(order)
    ring = [0, *order]
    for here, there in itertools.pairwise([*ring, 0]):
        rig.memory.write_u64(DATA + here * 8, DATA + there * 8)
    rig.start(program, DATA, 0)
    for _ in range(300):
        rig.core.run(time.monotonic_ns() + 300_000)
        assert rig.registers.pc == CODE, "stops come between blocks only"
        assert rig.x[0] == DATA + ring[rig.x[1] % 1024] * 8


def test_kick_before_a_run_and_from_another_thread_is_not_lost(rig: Rig) -> None:
    rig.start(SPIN)
    rig.core.kick()
    assert rig.core.run() is Stop.KICK
    for _ in range(5):
        thread = threading.Timer(0.002, rig.core.kick)
        thread.start()
        assert rig.core.run() is Stop.KICK
        thread.join()


def test_kick_from_a_handler_comes_after_the_handler(rig: Rig) -> None:
    program = (
        0xD4000022,  # hvc #1
        0x17FFFFFF,  # b .-4
    )

    def hypercall(immediate: int) -> bool:
        rig.core.kick()
        return True

    rig.exits.hvc = hypercall
    assert rig.run(program) is Stop.KICK
    assert rig.registers.pc == CODE + 4


def test_forked_child_runs_on_with_its_own_kicks(rig: Rig) -> None:
    rig.start(SPIN)
    assert rig.core.run(time.monotonic_ns() + MILLISECOND) is Stop.DEADLINE
    count = rig.x[0]
    child = os.fork()
    if child == 0:
        while rig.x[0] == count:
            rig.core.run(time.monotonic_ns() + MILLISECOND)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert rig.x[0] == count


def test_two_vms_share_a_core_and_not_their_memory(rig: Rig) -> None:
    program = (
        0xF9400022,  # ldr x2, [x1]
        0x91000442,  # add x2, x2, #1
        0xF9000022,  # str x2, [x1]
        0x91000400,  # add x0, x0, #1
        0xD4000022,  # hvc #1
        0x17FFFFFB,  # b .-20
    )
    other_stage2 = rig.new_stage2()
    rig.map(other_stage2, RAM, RAM, 1 << 21)
    rig.map(other_stage2, DATA, DATA + 0x20_0000, 4096)
    other = rig.new_vcpu(other_stage2, vmid=2)
    rig.exits.hvc = lambda immediate: False
    for vcpu in (rig.vcpu, other):
        rig.start(program, 0, DATA, vcpu=vcpu)
    for count in range(1, 50):
        for vcpu in (rig.vcpu, other, other):
            rig.core.load(vcpu)
            assert vcpu.registers is rig.core.registers
            rig.go_on()
        assert rig.memory.read_u64(DATA) == count
        assert rig.memory.read_u64(DATA + 0x20_0000) == 2 * count
    rig.core.save()
    assert (rig.vcpu.registers.x[0], other.registers.x[0]) == (49, 98)


def test_world_switch_keeps_every_register_and_the_vectors(rig: Rig) -> None:
    program = (
        0x9E670020,  # fmov d0, x1
        0x9EAF005F,  # fmov v31.d[1], x2
        0xD51BD043,  # msr tpidr_el0, x3
        0xD518D084,  # msr tpidr_el1, x4
        0xD5184105,  # msr sp_el0, x5
        0x910000DF,  # mov sp, x6
        0xD5184027,  # msr elr_el1, x7
        0xD51B4208,  # msr nzcv, x8
        0xD4000022,  # hvc #1
        0xD53B4209,  # mrs x9, nzcv
        0x9E66000A,  # fmov x10, d0
        0x9EAE03EB,  # fmov x11, v31.d[1]
        0x910003EC,  # mov x12, sp
        0xD53BD04D,  # mrs x13, tpidr_el0
        0xD4001FE2,  # hvc #0xff
    )
    rig.exits.hvc = lambda immediate: False
    other = rig.new_vcpu(rig.stage2, vmid=1)
    rig.start(program, *range(1, 9), vcpu=other)
    rig.start(program, 0, *(0x1111 * n for n in range(1, 8)), 0xA000_0000)
    rig.go_on()
    rig.core.load(other)
    rig.go_on()
    rig.core.load(rig.vcpu)
    rig.go_on()
    assert list(rig.x[9:14]) == [0xA000_0000, 0x1111, 0x2222, 0x6666, 0x3333]
    registers = rig.vcpu.registers
    rig.core.save()
    registers = rig.vcpu.registers
    assert registers.vector(0) == 0x1111
    assert registers.vector(31) >> 64 == 0x2222
    assert (registers.sp, registers.sp_el1, registers.sp_el0) == (0x6666, 0x6666, 0x5555)
    assert (registers.read("TPIDR_EL1"), registers.elr_el1) == (0x4444, 0x7777)
    assert registers.pstate >> 28 == 0xA


def test_world_switch_clears_the_exclusive_monitor(rig: Rig) -> None:
    program = (
        0xC85F7C22,  # ldxr x2, [x1]
        0xD4000022,  # hvc #1
        0xC8037C22,  # stxr w3, x2, [x1]
        0xD4001FE2,  # hvc #0xff
    )
    rig.exits.hvc = lambda immediate: False
    other = rig.new_vcpu(rig.stage2, vmid=1)
    rig.start(program, 0, DATA)
    rig.x[3] = 7
    rig.go_on()
    rig.core.load(other)
    rig.core.load(rig.vcpu)
    rig.go_on()
    assert rig.x[3] == 1, "the store exclusive has to fail"


def test_context_moves_between_cores(rig: Rig) -> None:
    program = (
        0xD2800160,  # mov x0, #11
        0xD4000022,  # hvc #1
        0x91000400,  # add x0, x0, #1
        0xD4001FE2,  # hvc #0xff
    )
    rig.exits.hvc = lambda immediate: False
    rig.run(program)
    second = Core(rig.memory, 1, rig.exits, buffer_size=4 << 20)
    second.load(rig.vcpu)
    assert rig.core.context is None
    assert second.run() is Stop.HANDLER
    assert second.x[0] == 12


def test_code_written_by_the_host_replaces_what_was_translated(rig: Rig) -> None:
    first = (
        0xD2800020,  # mov x0, #1
        0xD4001FE2,  # hvc #0xff
    )
    second = (
        0xD2800040,  # mov x0, #2
        0xD4001FE2,  # hvc #0xff
    )
    for n in range(6):
        rig.run((first, second)[n % 2])
        assert rig.calls[-1] == (FINISHED, 1 + n % 2)


def test_code_written_by_another_vm_through_its_own_mapping_is_seen(rig: Rig) -> None:
    writer = (
        0xB9000001,  # str w1, [x0]
        0xD4001FE2,  # hvc #0xff
    )
    victim = (
        0xD2800020,  # mov x0, #1
        0xD4001FE2,  # hvc #0xff
    )
    other_stage2 = rig.new_stage2()
    rig.map(other_stage2, RAM, RAM + 0x40_0000, 1 << 21)
    other = rig.new_vcpu(other_stage2, vmid=2)
    rig.run(victim)
    rig.core.load(other)
    rig.place(writer, RAM + 0x40_0000)
    other.reset(RAM, RAM + 0x8000)
    # The other VM reaches the victim's page under an address of its own.
    rig.map(other_stage2, 0x8000_0000, CODE, 1 << 21)
    rig.x[0], rig.x[1] = 0x8000_0000, 0xD280_0040  # mov x0, #2
    rig.go_on()
    rig.core.load(rig.vcpu)
    rig.vcpu.reset(CODE, 0)
    rig.go_on()
    assert rig.calls[-1] == (FINISHED, 2)


def test_code_written_by_another_core_is_seen_after_cache_maintenance(rig: Rig) -> None:
    writer = (
        0xB9000001,  # str w1, [x0]
        0xD50B7B20,  # dc cvau, x0
        0xD5033B9F,  # dsb ish
        0xD50B7520,  # ic ivau, x0
        0xD5033B9F,  # dsb ish
        0xD5033FDF,  # isb
        0xD4001FE2,  # hvc #0xff
    )
    victim = (
        0xD2800020,  # mov x0, #1
        0xD4001FE2,  # hvc #0xff
    )
    rig.run(victim)
    second = Core(rig.memory, 1, rig.exits, buffer_size=4 << 20)
    other = rig.new_vcpu(rig.stage2, vmid=1)
    rig.start(writer, CODE, 0xD280_0040, vcpu=other, at=CODE + 0x1000)  # mov x0, #2
    second.load(other)
    second.run()
    rig.vcpu.reset(CODE, 0)
    rig.go_on()
    assert rig.calls[-1] == (FINISHED, 2)


@pytest.mark.parametrize("everything", [False, True], ids=["ic ivau", "ic iallu"])
def test_code_written_through_an_alias_is_seen_after_cache_maintenance(rig: Rig, everything: bool) -> None:
    program = (
        0xAA1E03EA,  # mov x10, x30
        0xB9000003,  # str w3, [x0]
        0xD63F0040,  # blr x2
        0xAA0503E6,  # mov x6, x5
        0xB9000004,  # str w4, [x0]
        0xD50B7B22,  # dc cvau, x2
        0xD5033B9F,  # dsb ish
        0xD50B7522,  # ic ivau, x2
        0xD5033B9F,  # dsb ish
        0xD5033FDF,  # isb
        0xD63F0040,  # blr x2
        0xD4001FE2,  # hvc #0xff
    )
    callee = (
        0xD2800005,  # mov x5, #0
        0xD65F03C0,  # ret
    )
    alias, target = 0x8000_0000, CODE + 0x1000
    rig.map(rig.stage2, alias, CODE, 1 << 21, READ_WRITE | NO_EXECUTE)
    rig.place(callee, target)
    if everything:
        program = tuple(0xD508751F if word == 0xD50B7522 else word for word in program)  # ic iallu
    rig.run(program, alias + 0x1000, 0, target, 0xD280_0025, 0xD280_0045)  # mov x5, #1; mov x5, #2
    assert (rig.x[6], rig.x[5]) == (1, 2)


def test_two_vcpus_count_together_with_exclusives(rig: Rig) -> None:
    program = (
        0xC85F7C22,  # ldxr x2, [x1]
        0x91000442,  # add x2, x2, #1
        0xC8037C22,  # stxr w3, x2, [x1]
        0x35FFFFA3,  # cbnz w3, .-12
        0xF1000400,  # subs x0, x0, #1
        0x54FFFF61,  # b.ne .-20
        0xD4001FE2,  # hvc #0xff
    )
    rig.exits.hvc = lambda immediate: False
    vcpus = [rig.vcpu, rig.new_vcpu(rig.stage2, vmid=1)]
    for vcpu in vcpus:
        rig.start(program, 200_000, DATA, vcpu=vcpu)
    while vcpus:
        for vcpu in list(vcpus):
            rig.core.load(vcpu)
            if rig.core.run(time.monotonic_ns() + 50_000) is Stop.HANDLER:
                vcpus.remove(vcpu)
    assert rig.memory.read_u64(DATA) == 400_000


def test_interrupt_controller_registers_are_python(rig: Rig) -> None:
    program = (
        0xD538CC01,  # mrs x1, s3_0_c12_c12_0
        0xD518CC21,  # msr s3_0_c12_c12_1, x1
        0xD5384602,  # mrs x2, s3_0_c4_c6_0
        0xD5184600,  # msr s3_0_c4_c6_0, x0
        0xD5384602,  # mrs x2, s3_0_c4_c6_0
        0xD4001FE2,  # hvc #0xff
    )
    state = {"pmr": 0, "eoi": []}
    rig.core.define_sysreg("ICC_IAR1_EL1", lambda: 27, None)
    rig.core.define_sysreg("ICC_EOIR1_EL1", None, lambda value: state["eoi"].append(value))
    rig.core.define_sysreg("ICC_PMR_EL1", lambda: state["pmr"], lambda value: state.update(pmr=value))
    rig.run(program, 0xFFFF_FFFF_FFFF_FFF0)
    assert rig.x[1] == 27
    assert rig.x[2] == 0xFFFF_FFFF_FFFF_FFF0
    assert state == {"pmr": 0xFFFF_FFFF_FFFF_FFF0, "eoi": [27]}


def test_write_only_register_is_undefined_to_read(rig: Rig) -> None:
    program = (
        0xD538CC21,  # mrs x1, s3_0_c12_c12_1
        0xD4001FC2,  # hvc #0xfe
    )
    vector = (
        0xD4001FE2,  # hvc #0xff
    )
    rig.core.define_sysreg("ICC_EOIR1_EL1", None, lambda value: None)
    rig.place(vector, VECTORS + 0x200)
    rig.start(program)
    rig.registers.write("VBAR_EL1", VECTORS)
    rig.go_on()
    assert rig.calls[-1][0] == FINISHED


def test_register_write_can_raise_an_interrupt_at_once_and_leave(rig: Rig) -> None:
    program = (
        0xD50342FF,  # msr daifclr, #2
        0xD518CBA0,  # msr s3_0_c12_c11_5, x0
        0xD2800021,  # mov x1, #1
        0xD4001FE2,  # hvc #0xff
    )
    vector = (
        0xD5384022,  # mrs x2, elr_el1
        0xD4001FE2,  # hvc #0xff
    )

    def sgi(value: int) -> None:
        rig.core.set_virq(True)
        rig.core.leave()

    rig.core.define_sysreg("ICC_SGI1R_EL1", None, sgi)
    rig.place(vector, VECTORS + 0x280)
    rig.start(program, 5, 0)
    rig.registers.write("VBAR_EL1", VECTORS)
    assert rig.go_on() is Stop.HANDLER
    assert rig.calls == []
    rig.go_on()
    assert (rig.x[1], rig.x[2]) == (0, CODE + 8)


def test_exception_in_a_register_handler_comes_out_of_run(rig: Rig) -> None:
    program = (
        0xD538CC01,  # mrs x1, s3_0_c12_c12_0
        0xD4001FE2,  # hvc #0xff
    )

    def broken() -> int:
        raise LookupError("no interrupt")

    rig.core.define_sysreg("ICC_IAR1_EL1", broken, None)
    with pytest.raises(LookupError, match="no interrupt"):
        rig.run(program)


@pytest.mark.parametrize("real", [True, False])
def test_timer_registers_keep_what_is_written_and_tell(real: bool) -> None:
    program = (
        0xD51BE340,  # msr cntv_cval_el0, x0
        0xD2800021,  # mov x1, #1
        0xD51BE321,  # msr cntv_ctl_el0, x1
        0xD53BE322,  # mrs x2, cntv_ctl_el0
        0xD53BE343,  # mrs x3, cntv_cval_el0
        0xD2807D04,  # mov x4, #1000
        0xD51BE204,  # msr cntp_tval_el0, x4
        0xD53BE245,  # mrs x5, cntp_cval_el0
        0xD53BE046,  # mrs x6, cntvct_el0
        0xD51BE35F,  # msr cntv_cval_el0, xzr
        0xD53BE327,  # mrs x7, cntv_ctl_el0
        0xD53BE008,  # mrs x8, cntfrq_el0
        0xD4001FE2,  # hvc #0xff
    )
    clock = RealClock() if real else VirtualClock(5000)
    rig = Rig(clock)
    told: list[int] = []
    rig.exits.timer = told.append
    before = clock.ticks()
    rig.run(program, 1 << 60)
    assert told == [VIRTUAL_TIMER, VIRTUAL_TIMER, PHYSICAL_TIMER, VIRTUAL_TIMER]
    assert rig.x[2] == 1 and rig.x[3] == 1 << 60
    assert before + 1000 <= rig.x[5] <= clock.ticks() + 1000
    assert before <= rig.x[6] <= clock.ticks()
    assert rig.x[7] == 5, "enabled and expired"
    assert rig.x[8] == 62_500_000
    rig.core.save()
    assert rig.vcpu.registers.read("CNTV_CTL_EL0") & 3 == 1
    assert rig.vcpu.registers.read("CNTP_CVAL_EL0") == rig.vcpu.registers.x[5]


def test_virtual_clock_moves_under_a_delay_loop() -> None:
    program = (
        0xD53BE041,  # mrs x1, cntvct_el0
        0x8B000021,  # add x1, x1, x0
        0xD53BE042,  # mrs x2, cntvct_el0
        0xEB01005F,  # cmp x2, x1
        0x54FFFFC3,  # b.lo .-8
        0xD4001FE2,  # hvc #0xff
    )
    clock = VirtualClock()
    rig = Rig(clock)
    assert rig.run(program, 10_000) is Stop.HANDLER
    assert 10_000 <= clock.ticks() < 20_000


def test_virtual_clock_stops_the_same_program_at_the_same_place_every_time() -> None:
    program = (
        0xD53BE043,  # mrs x3, cntvct_el0
        0x8B030021,  # add x1, x1, x3
        0x92400824,  # and x4, x1, #7
        0xF1000484,  # 1: subs x4, x4, #1
        0x54FFFFE5,  # b.pl 1b
        0xF9000001,  # str x1, [x0]
        0x361FFF41,  # tbz x1, #3, .-24
        0xD4000022,  # hvc #1
        0x17FFFFF8,  # b .-32
    )

    def trace(disturbed: bool) -> list[tuple[int, ...]]:
        rig = Rig(VirtualClock())
        rig.exits.hvc = lambda immediate: True
        rig.start(program, DATA)
        stops = []
        kicker = threading.Event()

        def disturb() -> None:
            while not kicker.wait(0.0005):
                rig.core.kick()

        thread = threading.Thread(target=disturb)
        if disturbed:
            thread.start()
        for slice_number in range(1, 30):
            while rig.core.run_until(1000 * slice_number) is not Stop.DEADLINE:
                pass
            stops.append((rig.core.clock.ticks(), rig.registers.pc, rig.registers.pstate, *rig.x))
        kicker.set()
        if disturbed:
            thread.join()
        return stops

    expected = trace(False)
    assert trace(False) == expected
    assert trace(True) == expected
    assert all(1000 * n <= stop[0] < 1000 * n + 20 for n, stop in enumerate(expected, 1))


def test_deadline_in_ticks_is_host_time_on_a_real_clock(rig: Rig) -> None:
    rig.start(SPIN)
    deadline = rig.core.clock.ticks() + 62_500
    assert rig.core.run_until(deadline) is Stop.DEADLINE
    assert rig.core.clock.ticks() >= deadline


def test_nothing_runs_without_a_context_or_inside_a_handler(rig: Rig) -> None:
    program = (
        0xD4000022,  # hvc #1
    )
    rig.exits.hvc = lambda immediate: bool(rig.core.run())
    with pytest.raises(EngineError, match="running already"):
        rig.run(program)
    rig.core.save()
    with pytest.raises(EngineError, match="no context"):
        rig.core.run()


def test_system_registers_can_be_read_by_name(rig: Rig) -> None:
    assert rig.core.read_sysreg("MIDR_EL1") == 0xF0480, "VPIDR_EL2, as the vCPU sees it"
    assert rig.core.read_sysreg("ID_AA64MMFR0_EL1") & 0xF in range(7)
    rig.core.write_sysreg("VBAR_EL1", 0x1000)
    assert rig.registers.read("VBAR_EL1") == 0x1000
    with pytest.raises(EngineError, match="S3_0_C12_C12_0"):
        rig.core.read_sysreg("ICC_IAR1_EL1")


def test_pstate_reads_back_what_was_written(rig: Rig) -> None:
    context = Context()
    for pstate in (0x3C5, 0x5, 0x0, 0xF000_03C4, 0x6000_0005, 0x9020_0000):
        context.registers.sp_el0, context.registers.sp_el1 = 0x10, 0x20
        context.registers.pstate = pstate
        assert context.registers.pstate == pstate
        assert (context.registers.sp_el0, context.registers.sp_el1) == (0x10, 0x20)
        assert context.registers.sp == (0x20 if pstate & 0xF == 5 else 0x10)
