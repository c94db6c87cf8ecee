"""Python VMs: interrupts, waiting, memory, exceptions, tasks, and their end (two kinds of VM, one hypervisor)."""

from __future__ import annotations

from typing import ClassVar

import pytest
from greenlet import getcurrent, greenlet
from tests.hypervisor.yard import DATA, ENTRY, GICD, GICR, Yard, call, sleep_for_ever, smccc, spin

from gunyah.guest.cpu import Cpu, GuestAbort
from gunyah.guest.gic import Gic
from gunyah.hypervisor.hypercall import DEFERRED
from gunyah.hypervisor.instruments import Instrument
from gunyah.hypervisor.vcpu import Block, ThreadState

SGI = 3
SEND_TO_SELF = SGI << 24 | 1


class TestInterrupts:
    """Taken after the call that made them pending, or when they are unmasked."""

    def test_one_that_is_unmasked_is_taken_right_after_the_call_that_raised_it(self) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            gic = Gic(cpu)
            gic.start()
            gic.enable(SGI, lambda: log.append(("handler", cpu.irq_masked)))
            cpu.msr("ICC_SGI1R_EL1", SEND_TO_SELF)
            log.append(("after", cpu.irq_masked))

        yard.vm(program)
        yard.settle()
        assert log == [("handler", True), ("after", False)]

    def test_masked_it_waits_and_wfi_returns_at_once(self) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            gic = Gic(cpu)
            gic.start()
            gic.enable(SGI, lambda: log.append("handler"))
            cpu.irq_masked = True
            cpu.msr("ICC_SGI1R_EL1", SEND_TO_SELF)
            for _ in range(200):
                cpu.hvc(0x6000)
            cpu.wfi()
            log.append("unmask")
            cpu.irq_masked = False
            log.append("done")

        yard.vm(program)
        yard.settle()
        assert log == ["unmask", "handler", "done"]

    def test_interrupts_do_not_nest(self) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            gic = Gic(cpu)
            depth = 0

            def handler() -> None:
                nonlocal depth
                depth += 1
                log.append(depth)
                if len(log) < 4:
                    cpu.msr("ICC_SGI1R_EL1", SEND_TO_SELF)
                cpu.hvc(0x6000)
                depth -= 1

            gic.start()
            gic.enable(SGI, handler)
            cpu.msr("ICC_SGI1R_EL1", SEND_TO_SELF)

        yard.vm(program)
        yard.settle()
        assert log == [1, 1, 1, 1]

    def test_without_a_vector_it_stays_pending_and_wakes(self) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            gic = Gic(cpu)
            gic.start()
            gic.enable(SGI, lambda: log.append("handler"))
            cpu.set_vector(None)  # type: ignore[arg-type]
            cpu.msr("ICC_SGI1R_EL1", SEND_TO_SELF)
            cpu.wfi()
            cpu.wfi()
            log.append("awake")
            cpu.set_vector(gic.vector)
            cpu.hvc(0x6000)
            cpu.irq_masked = False

        yard.vm(program)
        yard.settle()
        assert log == ["awake", "handler"]

    def test_registers_of_the_interrupted_code_survive(self) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            gic = Gic(cpu)
            gic.start()
            gic.enable(SGI, lambda: call(cpu, "hypervisor_identify"))
            cpu.x[0:8] = range(8)
            cpu.msr("ICC_SGI1R_EL1", SEND_TO_SELF)
            log.append(list(cpu.x[0:8]))

        yard.vm(program)
        yard.settle()
        assert log == [list(range(8))]

    def test_an_interrupt_of_another_vcpu_is_taken_there(self) -> None:
        yard, log = Yard(), []

        def first(cpu: Cpu, x0: int) -> None:
            Gic(cpu).start()
            cpu.msr("ICC_SGI1R_EL1", SGI << 24 | 1 << 40)

        def second(cpu: Cpu, x0: int) -> None:
            gic = Gic(cpu)
            gic.start()
            gic.enable(SGI, lambda: log.append(cpu.mrs("MPIDR_EL1") & 0xFF))
            while True:
                cpu.wfi()

        vm = yard.vm(second, second, first, on=False)
        for index in (0, 1, 2):
            yard.ok("vcpu_poweron", vm.threads[index], vm.entries[index], 0, 0)
            yard.settle()
        assert sorted(log) == [0, 1]


class TestWaiting:
    """wfi, nudge, time."""

    def test_a_nudge_ends_the_wait_or_the_next_one(self) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            for number in range(3):
                cpu.wfi()
                log.append(number)

        vm = yard.vm(program)
        executor = vm.vcpus[0].executor
        assert executor is not None
        yard.settle()
        assert log == []
        executor.nudge()  # type: ignore[attr-defined]
        yard.settle()
        assert log == [0]
        vm.vcpus[0].block(Block.PAUSED)
        executor.nudge()  # type: ignore[attr-defined]
        vm.vcpus[0].unblock(Block.PAUSED)
        yard.settle()
        assert log == [0, 1]

    def test_a_nudge_before_the_wait_counts(self) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            cpu.nudge()
            cpu.wfi()
            log.append("awake")
            cpu.wfi()
            log.append("never")

        yard.vm(program)
        yard.settle()
        assert log == ["awake"]

    def test_a_guest_that_makes_calls_for_ever_does_not_stop_the_clock_or_the_others(self) -> None:
        yard = Yard()
        greedy, other = yard.vm(spin), yard.vm(spin)
        start = yard.hv.clock.ticks()
        yard.run(ms=30)
        assert yard.hv.clock.ticks() - start >= 30 * 62_500
        assert greedy.vcpus[0].run_ticks > 0
        assert other.vcpus[0].run_ticks > 0

    def test_an_instrument_sees_the_wait(self) -> None:
        class Traps(Instrument):
            seen: ClassVar[list[str]] = []

            def trap(self, vcpu, reason, value, ticks) -> None:  # type: ignore[no-untyped-def]
                if str(vcpu) != "root":
                    self.seen.append(reason)

        yard = Yard()
        yard.hv.instruments.append(Traps())

        def program(cpu: Cpu, x0: int) -> None:
            cpu.load(GICD, 4)
            cpu.store(GICD, 0, 4)
            cpu.wfi()

        yard.vm(program)
        yard.settle()
        assert Traps.seen == ["device read", "device write", "wfi"]


class TestMemory:
    """Through stage 2, or an abort."""

    def test_loads_stores_and_copies(self) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            cpu.write(DATA, bytes(range(16)))
            log.append([cpu.load(DATA + 8, width) for width in (1, 2, 4, 8)])
            cpu.store(DATA, 0x1_1122, 2)
            log.append(cpu.read(DATA, 4))
            cpu.write(DATA + 0xFFF, b"ab")
            log.append(cpu.read(DATA + 0xFFE, 4))

        vm = yard.vm(program)
        yard.settle()
        assert log == [[8, 0x908, 0xB0A0908, 0xF0E0D0C0B0A0908], b"\x22\x11\x02\x03", b"\0ab\0"]
        assert yard.hv.memory.read(vm.base + DATA - ENTRY, 2) == b"\x22\x11"

    @pytest.mark.parametrize(
        "access",
        [
            lambda cpu: cpu.load(0x9999_0000, 4),
            lambda cpu: cpu.store(0x9999_0000, 1, 4),
            lambda cpu: cpu.read(0x9999_0000, 1),
            lambda cpu: cpu.write(0x9999_0000, b"x"),
            lambda cpu: cpu.load(DATA + 1, 4),
            lambda cpu: cpu.store(DATA + 2, 0, 8),
            lambda cpu: cpu.read(ENTRY + 0x1_FFF0, 32),
            lambda cpu: cpu.load(GICD + 1, 1),
            lambda cpu: cpu.load(GICD, 8),
            lambda cpu: cpu.store(GICD + 0x8, 0, 2),
            lambda cpu: cpu.load(1 << 60, 8),
            lambda cpu: cpu.read((1 << 64) - 8, 16),
        ],
    )
    def test_what_is_not_there_is_an_abort_that_the_guest_may_handle(self, access) -> None:  # type: ignore[no-untyped-def]
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            try:
                access(cpu)
            except GuestAbort as abort:
                log.append(abort.esr)

        yard.vm(program)
        yard.settle()
        assert log == [0x9600_0010]
        assert not yard.hv.reports

    def test_the_redistributors_of_the_vm_answer(self) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            log.append(cpu.load(GICR + 0x2_0000 + 8, 8) >> 32)

        yard.vm(program, sleep_for_ever, on=False)
        vm = yard.vm(program, sleep_for_ever)
        yard.settle()
        assert vm.vcpus[0].powered_off
        assert log == [1]


class TestFailures:
    """An exception in a guest, or in the hypervisor's work for it, stops that vCPU with a report."""

    @pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(3), RecursionError(), GuestAbort(0, 0, "x")])
    def test_a_guest_that_raises_stops_alone(self, error: BaseException) -> None:
        yard = Yard()

        def program(cpu: Cpu, x0: int) -> None:
            raise error

        vm, other = yard.vm(program), yard.vm(spin)
        yard.run(ms=15)
        assert vm.vcpus[0].blocks & Block.FAULT
        assert type(error).__name__ in yard.hv.reports[0]
        assert other.vcpus[0].run_ticks > 0
        assert yard.hv.stopped is None

    def test_a_failure_of_the_hypervisor_cannot_be_caught_by_the_guest(self) -> None:
        yard, log = Yard(), []

        def broken(*_: object) -> None:
            raise KeyError("a defect")

        def program(cpu: Cpu, x0: int) -> None:
            calls = {
                0: lambda: cpu.hvc(0x6000),
                1: lambda: cpu.smc(0),
                2: lambda: cpu.mrs("CNTV_CTL_EL0"),
                3: lambda: cpu.msr("CNTV_CTL_EL0", 0),
                4: lambda: cpu.load(GICD, 4),
            }
            executor = yard.vcpu_of(vm.threads[x0]).executor
            for name in ("_hvc", "_smc", "_read_register", "_write_register", "_access"):
                setattr(executor, name, broken)
            try:
                calls[x0]()
            except Exception:
                log.append("caught")
            log.append("went on")

        vm = yard.vm(*[program] * 5)
        yard.run(ms=10)
        assert log == []
        assert len(yard.hv.reports) == 5
        assert all(vcpu.blocks & Block.FAULT for vcpu in vm.vcpus)
        for thread in vm.threads:
            yard.ok("vcpu_kill", thread)
        yard.settle()
        assert log == []

    def test_a_report_reaches_the_instruments(self) -> None:
        class Reports(Instrument):
            seen: ClassVar[list[str]] = []

            def report(self, vcpu, sentence, ticks) -> None:  # type: ignore[no-untyped-def]
                self.seen.append(sentence)

        yard = Yard()
        yard.hv.instruments.append(Reports())

        def program(cpu: Cpu, x0: int) -> None:
            raise ValueError("of no use")

        yard.vm(program)
        yard.settle()
        assert len(Reports.seen) == 1
        assert "of no use" in Reports.seen[0]

    def test_a_critical_guest_that_raises_takes_the_machine_with_it(self) -> None:
        yard = Yard()

        def program(cpu: Cpu, x0: int) -> None:
            raise ValueError("of no use")

        yard.vm(program, options=1 << 8)
        yard.run(ms=5)
        assert yard.hv.stopped == "fault"


class TestTasks:
    """A guest may have greenlets of its own."""

    def test_whichever_left_is_the_one_that_goes_on(self) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            main = getcurrent()

            def task() -> None:
                log.append("task waits")
                cpu.wfi()
                log.append("task goes on")
                main.switch()

            child = greenlet(task)
            child.switch()
            log.append("main goes on")

        vm = yard.vm(program)
        yard.settle()
        assert log == ["task waits"]
        vm.vcpus[0].unblock(Block.WFI)
        yard.settle()
        assert log == ["task waits", "task goes on", "main goes on"]
        assert vm.vcpus[0].powered_off

    def test_a_killed_guest_unwinds_and_its_calls_come_to_nothing(self) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            actions = {
                "hvc": lambda: call(cpu, "doorbell_send", bell, 1),
                "smc": lambda: smccc(cpu, 0x8400_0002, conduit="smc"),
                "wfi": cpu.wfi,
                "mrs": lambda: cpu.mrs("ICC_IAR1_EL1"),
                "msr": lambda: cpu.msr("ICC_SGI1R_EL1", 1 << 40),
                "load": lambda: cpu.load(GICD, 4),
            }
            try:
                cpu.wfi()
            finally:
                for name, action in actions.items():
                    try:
                        action()
                        log.append(name)
                    except BaseException as error:
                        log.append((name, type(error).__name__))

        vm = yard.vm(program, on=False)
        root_bell = yard.active("doorbell")
        bell = yard.give(vm, root_bell)
        yard.ok("vcpu_poweron", vm.threads[0], vm.entries[0], 0, 0)
        yard.settle()
        yard.ok("vcpu_kill", vm.threads[0])
        yard.settle()
        assert log == [(name, "GreenletExit") for name in ("hvc", "smc", "wfi", "mrs", "msr", "load")]
        assert vm.vcpus[0].thread_state == ThreadState.EXITED
        assert yard.ok("doorbell_receive", root_bell, 1) == (0,)

    def test_a_guest_that_was_never_entered_is_killed_without_a_trace(self) -> None:
        yard, log = Yard(), []
        vm = yard.vm(lambda cpu, x0: log.append(1), cpus=(0xFFFF,))
        executor = vm.vcpus[0].executor
        assert executor is not None
        executor.kill()
        executor.kill()
        executor.run(0)
        assert log == []


class TestDeferred:
    """A call whose answer comes later."""

    def test_it_is_answered_in_the_encoding_it_was_made_in(self) -> None:
        yard = Yard()
        seen: ClassVar[list[str]] = []

        class Watch(Instrument):
            def hypercall_exit(self, vcpu, call, args, results, ticks) -> None:  # type: ignore[no-untyped-def]
                seen.append(call.name)

        target = yard.vm(sleep_for_ever, proxied=True)

        def program(cpu: Cpu, x0: int) -> None:
            cpu.x[:] = [7] * 31
            cpu.x[0:6] = [0xC600_8065, to_target, 0, 0, 0, 99]
            cpu.hvc(0)
            seen.append(str(list(cpu.x[0:9])))
            call(cpu, "vcpu_run", to_target, 0, 0, 0)
            seen.append(str(list(cpu.x[0:8])))

        vm = yard.vm(program, on=False)
        to_target = yard.give(vm, target.threads[0])
        yard.hv.instruments.append(Watch())
        yard.ok("vcpu_poweron", vm.threads[0], vm.entries[0], 0, 0)
        yard.settle()
        assert seen == [
            "vcpu_poweron",
            "vcpu_run",
            str([0, 1, 0, 1, 0, 99, 7, 7, 7]),
            "vcpu_run",
            str([0, 1, 0, 1, 0, 0, 0, 0]),
        ]
        assert DEFERRED.value == "deferred"


def test_a_python_image_is_found_by_its_first_bytes() -> None:
    yard = Yard()
    from gunyah.hypervisor.python_executor import program_at_entry

    vm = yard.vm(sleep_for_ever)
    vcpu = vm.vcpus[0]
    assert program_at_entry(yard.hv, vcpu, vm.entries[0]) is not None
    assert program_at_entry(yard.hv, vcpu, DATA) is None
    assert program_at_entry(yard.hv, vcpu, 0x7777_0000) is None
