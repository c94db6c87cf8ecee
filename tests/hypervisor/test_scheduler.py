"""Who runs when: priorities, slices, affinity and yields (objects.md 6)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.hypervisor.yard import MILLISECOND, Vm, Yard, call, sleep_for_ever, spin

from gunyah.abi.errors import Error
from gunyah.guest.cpu import Cpu
from gunyah.hypervisor.instruments import Instrument
from gunyah.hypervisor.vcpu import Vcpu

RUN_TO = 0x10
THREAD_RIGHTS = 0x3FF


class Switches(Instrument):
    """Whom the core 0 went on with, in order; None for idle."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def switch(self, core, old, new, ticks) -> None:  # type: ignore[no-untyped-def]
        if core == 0:
            self.seen.append(new)


def counter(counts: dict[int, int], number: int) -> Callable[[Cpu, int], None]:
    """A program that makes calls for ever and counts them."""

    def count(cpu: Cpu, x0: int) -> None:
        while True:
            counts[number] = counts.get(number, 0) + 1
            cpu.hvc(0x6000)

    return count


class TestPriorities:
    """Strict priority, at once."""

    def test_a_lower_priority_gets_nothing_while_a_higher_one_can_run(self) -> None:
        yard, counts = Yard(), {}
        yard.vm(counter(counts, 1), priority=10)
        yard.vm(counter(counts, 2), priority=11)
        yard.run(ms=20)
        assert 1 not in counts
        assert counts[2] > 1000

    def test_a_vcpu_that_becomes_ready_preempts_a_lower_one_before_its_next_instruction(self) -> None:
        yard, order = Yard(), []

        def high(cpu: Cpu, x0: int) -> None:
            while True:
                order.append("high")
                cpu.wfi()

        def low(cpu: Cpu, x0: int) -> None:
            while True:
                order.append("low before")
                call(cpu, "vcpu_poweron", target, high_vm.entries[0], 0, 0)
                order.append("low after")
                cpu.wfi()

        high_vm = yard.vm(high, priority=30, on=False)
        low_vm = yard.vm(low, priority=10, on=False)
        target = yard.give(low_vm, high_vm.threads[0])
        yard.ok("vcpu_poweron", low_vm.threads[0], low_vm.entries[0], 0, 0)
        yard.run(ms=5)
        assert order == ["low before", "high", "low after"]

    def test_a_masked_interrupt_that_waits_does_not_keep_the_scheduler_out(self) -> None:
        yard, order = Yard(), []

        def high(cpu: Cpu, x0: int) -> None:
            order.append("high")

        def low(cpu: Cpu, x0: int) -> None:
            assert cpu.irq_masked
            cpu.store(0x0800_0000, 2, 4)
            cpu.store(0x080A_0000 + 0x1_0080, 0xFFFF_FFFF, 4)
            cpu.store(0x080A_0000 + 0x1_0100, 1, 4)
            cpu.msr("ICC_PMR_EL1", 0xFF)
            cpu.msr("ICC_IGRPEN1_EL1", 1)
            cpu.msr("ICC_SGI1R_EL1", 1)
            assert yard.vcpu_of(low_vm.threads[0]).virq
            call(cpu, "vcpu_poweron", target, high_vm.entries[0], 0, 0)
            order.append("low")

        high_vm = yard.vm(high, priority=30, on=False)
        low_vm = yard.vm(low, priority=10, on=False)
        target = yard.give(low_vm, high_vm.threads[0])
        yard.ok("vcpu_poweron", low_vm.threads[0], low_vm.entries[0], 0, 0)
        yard.run(ms=5)
        assert order == ["high", "low"]

    @pytest.mark.parametrize(("priority", "error"), [(0, 0), (62, 0), (63, Error.DENIED), (1 << 31, Error.DENIED)])
    def test_the_highest_priority_is_the_hypervisors(self, priority: int, error: int) -> None:
        yard = Yard()
        assert yard.call("vcpu_set_priority", yard.create("thread"), priority).error == error

    def test_priority_and_slice_are_set_before_activation_only(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever)
        assert yard.call("vcpu_set_priority", vm.threads[0], 3).error == Error.OBJECT_STATE
        assert yard.call("vcpu_set_timeslice", vm.threads[0], 1_000_000).error == Error.OBJECT_STATE
        assert yard.call("vcpu_configure", vm.threads[0], 0).error == Error.OBJECT_STATE

    @pytest.mark.parametrize(
        ("nanoseconds", "error"),
        [(99_999, Error.ARGUMENT_INVALID), (100_000, 0), (100_000_000, 0), (100_000_001, Error.ARGUMENT_INVALID)],
    )
    def test_a_slice_is_100_us_to_100_ms(self, nanoseconds: int, error: int) -> None:
        yard = Yard()
        assert yard.call("vcpu_set_timeslice", yard.create("thread"), nanoseconds).error == error


class TestSlices:
    """Round robin among equals."""

    def test_equals_take_turns_of_their_slices(self) -> None:
        yard, counts = Yard(), {}
        one = yard.vm(counter(counts, 1), timeslice=2_000_000)
        two = yard.vm(counter(counts, 2), timeslice=6_000_000)
        yard.run(ms=80)
        ratio = two.vcpus[0].run_ticks / one.vcpus[0].run_ticks
        assert 2.7 < ratio < 3.3
        assert counts[2] > 2 * counts[1]

    def test_a_lone_vcpu_is_not_switched_when_its_slice_ends(self) -> None:
        yard = Yard()
        yard.vm(spin, timeslice=100_000)
        yard.run(ms=1)
        switches = Switches()
        yard.hv.instruments.append(switches)
        yard.run(ms=20)
        assert switches.seen == []

    def test_a_preempted_vcpu_goes_on_with_the_rest_of_its_slice(self) -> None:
        yard = Yard()
        first = yard.vm(spin, timeslice=10_000_000)
        yard.vm(spin, timeslice=10_000_000)
        waker = yard.vm(_wakes_every_millisecond, priority=40)
        yard.run(until=lambda: first.vcpus[0].run_ticks > 0, ms=5)
        switches = Switches()
        yard.hv.instruments.append(switches)
        yard.run(ms=4)
        others = [vcpu for vcpu in switches.seen if vcpu is not waker.vcpus[0]]
        assert others
        assert set(others) == {first.vcpus[0]}

    def test_a_yield_gives_the_rest_of_the_slice_to_the_next_equal(self) -> None:
        yard, order = Yard(), []

        def polite(cpu: Cpu, x0: int) -> None:
            for _ in range(3):
                order.append(("polite", x0))
                assert call(cpu, "scheduler_yield", 0, 0).ok

        yard.vm(polite, polite)
        yard.run(ms=20)
        assert order == [("polite", 0), ("polite", 1)] * 3


def _wakes_every_millisecond(cpu: Cpu, x0: int) -> None:
    frame = 0x080A_0000 + 0x1_0000
    cpu.store(0x0800_0000, 2, 4)
    cpu.store(frame + 0x80, 0xFFFF_FFFF, 4)
    cpu.store(frame + 0x100, 1 << 27, 4)
    cpu.msr("ICC_PMR_EL1", 0xFF)
    cpu.msr("ICC_IGRPEN1_EL1", 1)
    while True:
        cpu.msr("CNTV_TVAL_EL0", MILLISECOND)
        cpu.msr("CNTV_CTL_EL0", 1)
        cpu.wfi()
        cpu.msr("CNTV_CTL_EL0", 0)
        while cpu.mrs("ICC_IAR1_EL1") == 27:
            cpu.msr("ICC_EOIR1_EL1", 27)


class TestAffinity:
    """A vCPU runs on the core of its affinity, or nowhere."""

    def test_cores_share_the_time_whatever_their_priorities(self) -> None:
        yard, counts = Yard(), {}
        yard.vm(counter(counts, 1), cpus=(0,), priority=50)
        yard.vm(counter(counts, 2), cpus=(3,), priority=1)
        yard.run(ms=20)
        assert counts[1] > 1000
        assert counts[2] > 1000

    def test_without_affinity_it_is_never_picked(self) -> None:
        yard, counts = Yard(), {}
        yard.vm(counter(counts, 1), cpus=(0xFFFF,))
        yard.run(ms=20)
        assert counts == {}

    def test_a_change_moves_it_and_back(self) -> None:
        yard, counts = Yard(), {}
        vm = yard.vm(counter(counts, 1), cpus=(2,))
        yard.run(ms=2)
        assert vm.vcpus[0].queued_on == 2
        yard.ok("vcpu_set_affinity", vm.threads[0], 5)
        assert vm.vcpus[0].queued_on == 5
        yard.ok("vcpu_set_affinity", vm.threads[0], 0xFFFF)
        before = counts[1]
        yard.run(ms=2)
        assert counts[1] == before
        yard.ok("vcpu_set_affinity", vm.threads[0], 0)
        yard.run(ms=2)
        assert counts[1] > before

    def test_a_pinned_vcpu_stays_where_it_is(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, options=1)
        assert yard.call("vcpu_set_affinity", vm.threads[0], 1).error == Error.DENIED
        assert vm.vcpus[0].affinity == 0

    def test_there_are_eight_cores_and_taking_one_off_all_needs_a_right(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever)
        assert yard.call("vcpu_set_affinity", vm.threads[0], 8).error == Error.ARGUMENT_INVALID
        (weak,) = yard.ok("cspace_copy_cap_from", yard.cspace, vm.threads[0], yard.cspace, 0x2)
        assert yard.call("vcpu_set_affinity", weak, 0xFFFF).error == Error.CSPACE_INSUFFICIENT_RIGHTS
        assert yard.call("vcpu_set_affinity", weak, 7).ok

    def test_one_that_failed_to_activate_has_no_affinity_to_change(self) -> None:
        yard = Yard()
        thread = yard.create("thread")
        assert yard.call("object_activate", thread).error == Error.OBJECT_CONFIG
        assert yard.call("vcpu_set_affinity", thread, 1).error == Error.OBJECT_STATE


class Yielding:
    """VM A yields to VM B, which never runs by itself; ``log`` says who ran."""

    def __init__(self, after: Callable[[Cpu], None], *, b_cpu: int = 0xFFFF, times: int = 2) -> None:
        self.log: list[str] = []
        self.errors: list[int] = []
        self.yard = Yard()
        self._after = after
        self._times = times
        self.b = self.yard.vm(self._target, cpus=(b_cpu,), priority=1)
        self.a = self.yard.vm(self._yielder, on=False, timeslice=1_000_000)
        self.to_b = self.yard.give(self.a, self.b.threads[0], THREAD_RIGHTS)
        self.to_a = self.yard.give(self.b, self.a.threads[0], THREAD_RIGHTS)
        self.yard.ok("vcpu_poweron", self.a.threads[0], self.a.entries[0], 0, 0)

    def _yielder(self, cpu: Cpu, x0: int) -> None:
        for _ in range(self._times):
            self.log.append("a")
            self.errors.append(call(cpu, "scheduler_yield", 1, self.to_b).error)
        self.log.append("a done")

    def _target(self, cpu: Cpu, x0: int) -> None:
        while True:
            self.log.append("b")
            self._after(cpu)


class TestDirectedYield:
    """The target runs in place of the yielder until one of the ends of objects.md 6."""

    def test_it_ends_when_the_target_blocks(self) -> None:
        made = Yielding(lambda cpu: cpu.wfi())
        made.yard.run(ms=5)
        # The second yield finds B asleep.
        assert made.log == ["a", "b", "a", "a done"]
        assert made.errors == [0, 0]

    def test_it_ends_when_the_target_yields(self) -> None:
        made = Yielding(lambda cpu: call(cpu, "scheduler_yield", 0, 0))  # type: ignore[arg-type, return-value]
        made.yard.run(ms=5)
        assert made.log == ["a", "b", "a", "b", "a done"]

    def test_it_ends_when_the_target_yields_back(self) -> None:
        made = Yielding(lambda cpu: call(cpu, "scheduler_yield", 1, made.to_a))  # type: ignore[arg-type, return-value]
        made.yard.run(ms=5)
        assert made.log == ["a", "b", "a", "b", "a done"]

    def test_it_ends_with_the_yielders_slice(self) -> None:
        made = Yielding(lambda cpu: cpu.hvc(0x6000), times=1)
        made.yard.run(until=lambda: "a done" in made.log, ms=5)
        assert made.log[-1] == "a done"
        assert 900_000 < made.b.vcpus[0].run_ticks * 16 < 1_200_000

    def test_it_ends_when_the_yielder_gets_an_interrupt(self) -> None:
        made = Yielding(lambda cpu: cpu.hvc(0x6000), times=1)
        made.yard.run(until=lambda: len(made.log) > 20, ms=5)
        assert made.yard.hv.scheduler.queues[0].current is made.a.vcpus[0]
        made.a.vcpus[0].set_virq(True)
        count = len(made.log)
        made.yard.run(until=lambda: "a done" in made.log, ms=5)
        assert len(made.log) <= count + 2

    def test_it_is_ignored_while_the_yielder_has_an_interrupt(self) -> None:
        made = Yielding(lambda cpu: cpu.wfi())
        made.a.vcpus[0].virq = True
        made.yard.run(ms=5)
        assert made.log == ["a", "a", "a done"]

    def test_it_ends_when_the_yielder_is_killed(self) -> None:
        made = Yielding(lambda cpu: cpu.hvc(0x6000), times=1)
        made.yard.run(until=lambda: len(made.log) > 20, ms=5)
        made.yard.ok("vcpu_kill", made.a.threads[0])
        count = len(made.log)
        made.yard.run(ms=5)
        assert made.a.vcpus[0].thread_state == 3
        assert len(made.log) <= count + 1

    def test_a_target_of_another_core_does_not_run_here(self) -> None:
        made = Yielding(lambda cpu: cpu.wfi(), b_cpu=4)
        made.yard.run(ms=5)
        assert made.log[:2] == ["a", "a"] or made.log[0] == "b"
        assert made.log.count("b") == 1

    def test_yielding_to_oneself_does_nothing(self) -> None:
        made = Yielding(lambda cpu: cpu.wfi())
        made.to_b = made.yard.give(made.a, made.a.threads[0], THREAD_RIGHTS)
        made.yard.run(ms=5)
        assert made.log == ["a", "a", "a done"]
        assert made.errors == [0, 0]

    def test_a_target_that_yields_on_is_replaced(self) -> None:
        log: list[str] = []
        yard = Yard()

        def third(cpu: Cpu, x0: int) -> None:
            log.append("c")
            cpu.wfi()

        def second(cpu: Cpu, x0: int) -> None:
            log.append("b")
            call(cpu, "scheduler_yield", 1, to_c)
            log.append("b again")
            cpu.wfi()

        def first(cpu: Cpu, x0: int) -> None:
            log.append("a")
            call(cpu, "scheduler_yield", 1, to_b)
            log.append("a again")
            call(cpu, "scheduler_yield", 1, to_b)
            log.append("a done")

        c = yard.vm(third, cpus=(0xFFFF,))
        b = yard.vm(second, cpus=(0xFFFF,))
        a = yard.vm(first, on=False)
        to_c, to_b = yard.give(b, c.threads[0]), yard.give(a, b.threads[0])
        yard.ok("vcpu_poweron", a.threads[0], a.entries[0], 0, 0)
        yard.run(ms=5)
        assert log == ["a", "b", "c", "a again", "b again", "a done"]

    def test_a_target_that_had_yielded_itself_goes_on_with_its_own_code(self) -> None:
        log: list[str] = []
        yard = Yard()

        def worker(cpu: Cpu, x0: int) -> None:
            while True:
                log.append("worker")
                cpu.hvc(0x6000)

        def middle(cpu: Cpu, x0: int) -> None:
            log.append("middle yields")
            call(cpu, "scheduler_yield", 1, to_worker)
            log.append("middle again")
            cpu.wfi()

        def high(cpu: Cpu, x0: int) -> None:
            call(cpu, "scheduler_yield", 1, to_middle)
            log.append("high done")
            cpu.wfi()

        slow = yard.vm(worker, cpus=(0xFFFF,))
        mid = yard.vm(middle, priority=10, timeslice=100_000_000, on=False)
        top = yard.vm(high, priority=40, on=False)
        to_worker, to_middle = yard.give(mid, slow.threads[0]), yard.give(top, mid.threads[0])
        yard.ok("vcpu_poweron", mid.threads[0], mid.entries[0], 0, 0)
        yard.run(until=lambda: log.count("worker") > 10, ms=5)
        yard.ok("vcpu_poweron", top.threads[0], top.entries[0], 0, 0)
        yard.run(until=lambda: "high done" in log, ms=5)
        assert [entry for entry in log if entry != "worker"] == ["middle yields", "middle again", "high done"]

    @pytest.mark.parametrize("control", [2, 3, 255, 1 << 31, 1 << 31 | 1])
    def test_other_kinds_are_refused(self, control: int) -> None:
        yard = Yard()
        assert yard.call("scheduler_yield", control, 0).error == Error.ARGUMENT_INVALID

    def test_bits_30_to_16_do_not_matter(self) -> None:
        yard = Yard()
        assert yard.call("scheduler_yield", 0x7FFF_0000, 0).ok

    def test_the_target_needs_a_capability_with_the_right_to_yield(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever)
        (weak,) = yard.ok("cspace_copy_cap_from", yard.cspace, vm.threads[0], yard.cspace, 0x1)
        assert yard.call("scheduler_yield", 1, weak).error == Error.CSPACE_INSUFFICIENT_RIGHTS
        assert yard.call("scheduler_yield", 1, vm.space).error == Error.CSPACE_WRONG_OBJECT_TYPE
        assert yard.call("scheduler_yield", 1, 0).error == Error.ARGUMENT_INVALID


class TestPrimary:
    """One vCPU of the primary VM per core."""

    def test_a_second_primary_vcpu_of_a_core_is_refused_and_the_place_is_free_after_the_first(self) -> None:
        yard = Yard()
        hlos = 1 << 63
        vm = yard.vm(sleep_for_ever, options=hlos)
        assert yard.hv.scheduler.primary(0) is vm.vcpus[0]
        other = yard.vm()
        thread = yard.create("thread")
        for name, capid in (("cspace", other.space), ("addrspace", other.addrspace)):
            yard.ok(f"{name}_attach_thread", capid, thread)
        yard.ok("vic_attach_vcpu", other.vic, thread, 0)
        yard.ok("vcpu_configure", thread, hlos)
        yard.ok("vcpu_set_affinity", thread, 0)
        assert yard.call("object_activate", thread).error == Error.OBJECT_CONFIG
        yard.hv.scheduler.forget(vm.vcpus[0])
        assert yard.hv.scheduler.primary(0) is None


def test_a_vcpu_that_goes_while_it_is_current_is_forgotten() -> None:
    yard = Yard()
    vm: Vm = yard.vm(spin)
    yard.run(ms=2)
    vcpu: Vcpu = vm.vcpus[0]
    assert yard.hv.scheduler.queues[0].current is vcpu
    yard.ok("cspace_delete_cap_from", yard.cspace, vm.threads[0])
    vcpu.kill()
    yard.run(ms=2)
    assert yard.hv.scheduler.queues[0].current is not vcpu
    assert vcpu.serial not in yard.hv.vcpus
