"""vcpu_run: a VMM gives another VM's vCPU its own time (objects.md 7)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from tests.hypervisor.root_rig import Answer
from tests.hypervisor.yard import Yard, call, sleep_for_ever, smccc, spin

from gunyah.abi.errors import Error
from gunyah.guest.cpu import Cpu, GuestAbort
from gunyah.hypervisor.vcpu import Block

READY, WAKEUP, OFF, BLOCKED, VMMIO_READ, VMMIO_WRITE, FAULT, RESET = 0, 1, 2, 3, 4, 5, 6, 0x100
WINDOW = 0x1000_0000
VIRQ = 45


class Proxied:
    """A VMM that makes the calls of ``steps`` one after the other, and a VM that it runs."""

    def __init__(self, guest: Callable[[Cpu, int], None], *, options: int = 0, cpu: int = 0, on: bool = True) -> None:
        self.answers: list[Answer] = []
        self.data: list[tuple[int, int, int]] = []
        self.yard = Yard()
        self.vm = self.yard.vm(guest, proxied=True, options=options, cpus=(cpu,), on=on)
        self.yard.ok("addrspace_configure_vmmio", self.vm.addrspace, WINDOW, 0x1000, 0)
        self.vmm = self.yard.vm(self._main, timeslice=1_000_000)
        self.target = self.yard.give(self.vmm, self.vm.threads[0])
        self.vcpu = self.vm.vcpus[0]

    def _main(self, cpu: Cpu, x0: int) -> None:
        while True:
            if self.data:
                self.answers.append(call(cpu, "vcpu_run", self.target, *self.data.pop(0)))
            else:
                cpu.wfi()

    def run(self, *data: int) -> Answer:
        """One vcpu_run with resume data; its answer."""
        count = len(self.answers)
        self.data.append((*data, *(0,) * (3 - len(data))))  # type: ignore[arg-type]
        self.vmm.vcpus[0].unblock(Block.WFI)
        assert self.yard.run(until=lambda: len(self.answers) > count, ms=50)
        return self.answers[-1]

    def state(self, *data: int) -> tuple[int, ...]:
        """State and state data of one vcpu_run."""
        answer = self.run(*data)
        assert answer.ok, answer
        return answer.results


class TestStates:
    """What vcpu_run answers."""

    def test_nothing_else_gives_it_time(self) -> None:
        made = Proxied(spin)
        made.yard.run(ms=5)
        assert made.vcpu.run_ticks == 0

    def test_ready_when_the_callers_slice_ends(self) -> None:
        made = Proxied(spin)
        assert made.state() == (READY, 0, 0, 0)
        assert made.vcpu.run_ticks * 16 > 800_000

    def test_ready_at_once_when_the_caller_has_an_interrupt(self) -> None:
        made = Proxied(spin)
        made.yard.settle()
        made.vmm.vcpus[0].virq = True
        assert made.state() == (READY, 0, 0, 0)
        assert made.vcpu.run_ticks == 0

    def test_wfi_expects_a_wakeup(self) -> None:
        made = Proxied(sleep_for_ever)
        assert made.state() == (WAKEUP, 0, 1, 0)
        assert made.state() == (WAKEUP, 0, 1, 0)

    @pytest.mark.parametrize("state", [0, 0x1_0002])
    def test_cpu_suspend_expects_a_wakeup_and_tells_the_power_state(self, state: int) -> None:
        def guest(cpu: Cpu, x0: int) -> None:
            smccc(cpu, 0xC400_0001, state, 0x4000_0000, 5)

        assert Proxied(guest).state() == (WAKEUP, state, 2, 0)

    def test_powered_off_before_it_is_on_and_after_cpu_off(self) -> None:
        def guest(cpu: Cpu, x0: int) -> None:
            assert call(cpu, "vcpu_poweroff", made_own, 1)

        made = Proxied(guest, on=False)
        made_own = made.yard.give(made.vm, made.vm.threads[0])
        assert made.state() == (OFF, 0, 0, 0)
        made.yard.ok("vcpu_poweron", made.vm.threads[0], made.vm.entries[0], 0, 0)
        assert made.state() == (OFF, 0, 0, 0)

    def test_exited_for_good_after_a_kill(self) -> None:
        made = Proxied(spin)
        made.yard.ok("vcpu_kill", made.vm.threads[0])
        made.yard.run(ms=2)
        assert made.vcpu.killed
        assert made.state() == (OFF, 1, 0, 0)
        assert made.state() == (OFF, 1, 0, 0)

    def test_fault_after_an_error_that_nothing_cures(self) -> None:
        def guest(cpu: Cpu, x0: int) -> None:
            raise RuntimeError("broken")

        made = Proxied(guest)
        assert made.state() == (FAULT, 0, 0, 0)
        assert made.state() == (FAULT, 0, 0, 0)

    def test_blocked_while_something_inside_holds_it(self) -> None:
        made = Proxied(spin)
        made.vcpu.blocks |= int(Block.PAUSED)
        assert made.state() == (BLOCKED, 0, 0, 0)

    @pytest.mark.parametrize(
        ("function", "arguments", "data"),
        [
            (0x8400_0009, (), (1 << 63, 0)),
            (0xC400_0012, (0x8000_0001, 77), (1 << 62 | 0x8000_0001, 77)),
            (0x8400_0012, (3, 5), (3, 5)),
        ],
    )
    def test_a_reset_tells_its_type_and_cookie_and_stays(
        self, function: int, arguments: tuple[int, ...], data: tuple[int, int]
    ) -> None:
        made = Proxied(lambda cpu, x0: smccc(cpu, function, *arguments))  # type: ignore[arg-type, return-value]
        assert made.state() == (RESET, *data, 0)
        assert made.state() == (RESET, *data, 0)

    def test_system_off_is_powered_off(self) -> None:
        made = Proxied(lambda cpu, x0: smccc(cpu, 0x8400_0008))  # type: ignore[arg-type, return-value]
        assert made.state() == (OFF, 0, 0, 0)


class TestVmmio:
    """Accesses to a declared range go to the VMM."""

    @pytest.mark.parametrize("width", [1, 2, 4, 8])
    def test_a_read_takes_its_value_from_the_resume_data(self, width: int) -> None:
        values: list[int] = []

        def guest(cpu: Cpu, x0: int) -> None:
            values.append(cpu.load(WINDOW + 0x10, width))

        made = Proxied(guest)
        assert made.state() == (VMMIO_READ, WINDOW + 0x10, width, 0)
        assert made.state(0x1122_3344_5566_7788) == (OFF, 0, 0, 0)
        assert values == [0x1122_3344_5566_7788 & (1 << 8 * width) - 1]

    @pytest.mark.parametrize("width", [1, 2, 4, 8])
    def test_a_write_tells_address_width_and_value_and_goes_on(self, width: int) -> None:
        done: list[int] = []

        def guest(cpu: Cpu, x0: int) -> None:
            cpu.store(WINDOW + 0x20, 0x1122_3344_5566_7788, width)
            done.append(cpu.x[3])

        made = Proxied(guest)
        value = 0x1122_3344_5566_7788 & (1 << 8 * width) - 1
        assert made.state() == (VMMIO_WRITE, WINDOW + 0x20, width, value)
        assert made.state() == (OFF, 0, 0, 0)
        assert done == [0]

    def test_an_access_that_leaves_the_range_or_misses_it_aborts(self) -> None:
        aborts: list[int] = []

        def guest(cpu: Cpu, x0: int) -> None:
            for address in (WINDOW + 0x1000, WINDOW - 8, 0x2000_0000):
                try:
                    cpu.load(address, 8)
                except GuestAbort as abort:
                    aborts.append(abort.far)

        made = Proxied(guest)
        assert made.state() == (OFF, 0, 0, 0)
        assert aborts == [WINDOW + 0x1000, WINDOW - 8, 0x2000_0000]

    def test_a_vcpu_that_the_hypervisor_schedules_gets_an_abort_instead(self) -> None:
        yard, aborts = Yard(), []

        def guest(cpu: Cpu, x0: int) -> None:
            try:
                cpu.store(WINDOW, 1, 4)
            except GuestAbort as abort:
                aborts.append(abort.esr)

        vm = yard.vm(guest, on=False)
        yard.ok("addrspace_configure_vmmio", vm.addrspace, WINDOW, 0x1000, 0)
        yard.ok("vcpu_poweron", vm.threads[0], vm.entries[0], 0, 0)
        yard.settle()
        assert aborts == [0x9600_0010]

    def test_killed_while_it_waits_for_an_answer_it_never_gets_one(self) -> None:
        values: list[int] = []

        def guest(cpu: Cpu, x0: int) -> None:
            values.append(cpu.load(WINDOW, 4))

        made = Proxied(guest)
        made.state()
        made.yard.ok("vcpu_kill", made.vm.threads[0])
        assert made.state(5) == (OFF, 1, 0, 0)
        assert values == []


class TestRefusals:
    """Who may not be run, and when."""

    def test_one_that_is_not_proxy_scheduled(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever)
        assert yard.call("vcpu_run", vm.threads[0], 0, 0, 0).error == Error.BUSY

    def test_one_that_somebody_is_running(self) -> None:
        made = Proxied(spin)
        made.data.append((0, 0, 0))
        made.vmm.vcpus[0].unblock(Block.WFI)
        made.yard.run(until=lambda: made.vcpu.run_ticks > 0 or made.vcpu.proxy_caller is not None, ms=5)
        assert made.yard.call("vcpu_run", made.vm.threads[0], 0, 0, 0).error == Error.BUSY

    def test_one_that_cannot_run_is_never_busy(self) -> None:
        """Two hosts may ask at a time: RM, which waits for its end, and the host that lent it its time."""
        made = Proxied(sleep_for_ever)
        asked = partial(made.yard.call, "vcpu_run", made.vm.threads[0], 0, 0, 0)
        assert made.state() == (WAKEUP, 0, 1, 0)
        assert [asked().results, asked().results] == 2 * [(WAKEUP, 0, 1, 0)]
        made.yard.ok("vcpu_kill", made.vm.threads[0])
        assert [asked().results, asked().results] == 2 * [(OFF, 1, 0, 0)]
        assert made.vcpu.proxy_caller is None

    def test_oneself(self) -> None:
        made = Proxied(sleep_for_ever)
        assert made.yard.call("vcpu_run", made.vm.threads[0], 0, 0, 0, vcpu=made.vcpu).error == Error.ARGUMENT_INVALID
        made.vcpu.cspace = made.yard.root.cspace
        assert made.yard.call("vcpu_run", made.vm.threads[0], 0, 0, 0, vcpu=made.vcpu).error == Error.BUSY

    def test_one_that_is_pinned_to_another_core_stays_blocked(self) -> None:
        made = Proxied(spin, options=1, cpu=3)
        assert made.run().error == Error.DENIED
        assert made.vcpu.affinity == 3
        assert made.vcpu.blocks & Block.PROXY
        made.yard.run(ms=2)
        assert made.vcpu.run_ticks == 0

    def test_the_caller_needs_two_rights(self) -> None:
        made = Proxied(sleep_for_ever)
        for rights in (0x2, 0x10):
            (weak,) = made.yard.ok(
                "cspace_copy_cap_from", made.yard.cspace, made.vm.threads[0], made.yard.cspace, rights
            )
            assert made.yard.call("vcpu_run", weak, 0, 0, 0).error == Error.CSPACE_INSUFFICIENT_RIGHTS


class TestWakeup:
    """The virq that tells a VMM to run its vCPU again."""

    def test_binding_it_turns_proxy_scheduling_on_and_unbinding_leaves_it_on(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever)
        yard.settle()
        assert not vm.vcpus[0].proxied
        yard.ok("vcpu_bind_virq", vm.threads[0], yard.vic, VIRQ, 1)
        assert vm.vcpus[0].proxied
        yard.ok("vcpu_unbind_virq", vm.threads[0], 1)
        assert vm.vcpus[0].proxied
        assert vm.vcpus[0].queued_on == -1

    def test_it_cannot_be_bound_to_a_vcpu_that_is_running(self) -> None:
        yard = Yard()
        assert yard.call("vcpu_bind_virq", yard.own_vcpu, yard.vic, VIRQ, 1).error == Error.BUSY

    @pytest.mark.parametrize("kind", [2, 255])
    def test_there_are_two_kinds_of_vcpu_interrupts(self, kind: int) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever)
        assert yard.call("vcpu_bind_virq", vm.threads[0], yard.vic, VIRQ, kind).error == Error.ARGUMENT_INVALID
        assert yard.call("vcpu_unbind_virq", vm.threads[0], kind).error == Error.ARGUMENT_INVALID

    def _asserted(self, made: Proxied, action: Callable[[], object]) -> bool:
        made.yard.ok("vcpu_bind_virq", made.vm.threads[0], made.yard.vic, VIRQ, 1)
        irq = made.yard.root.vic.delivery.spi(VIRQ)
        assert not irq.latch
        action()
        return irq.latch

    def test_it_rings_when_an_interrupt_wakes_the_vcpu(self) -> None:
        made = Proxied(sleep_for_ever)
        made.state()
        assert self._asserted(made, lambda: made.vcpu.set_virq(True))
        assert made.state()[0] == READY

    def test_it_rings_when_the_vcpu_is_powered_on(self) -> None:
        made = Proxied(sleep_for_ever, on=False)
        power_on = ("vcpu_poweron", made.vm.threads[0], made.vm.entries[0], 0, 0)
        assert self._asserted(made, lambda: made.yard.ok(*power_on))

    def test_it_rings_when_the_vcpu_is_killed(self) -> None:
        made = Proxied(sleep_for_ever)
        assert self._asserted(made, lambda: made.yard.ok("vcpu_kill", made.vm.threads[0]))

    def test_a_vcpu_that_had_yielded_is_run_with_its_own_code_afterwards(self) -> None:
        log: list[str] = []
        yard = Yard()

        def guest(cpu: Cpu, x0: int) -> None:
            call(cpu, "scheduler_yield", 1, to_other)
            log.append("back")
            cpu.wfi()

        def vmm(cpu: Cpu, x0: int) -> None:
            while not log:
                call(cpu, "vcpu_run", to_guest, 0, 0, 0)

        other = yard.vm(spin, cpus=(0xFFFF,))
        vm = yard.vm(guest, on=False, timeslice=100_000_000)
        to_other = yard.give(vm, other.threads[0])
        yard.ok("vcpu_poweron", vm.threads[0], vm.entries[0], 0, 0)
        yard.run(until=lambda: other.vcpus[0].run_ticks > 0, ms=3)
        assert vm.vcpus[0].yield_target is other.vcpus[0]
        yard.ok("vcpu_bind_virq", vm.threads[0], yard.vic, VIRQ, 1)
        runner = yard.vm(vmm, on=False)
        to_guest = yard.give(runner, vm.threads[0])
        yard.ok("vcpu_poweron", runner.threads[0], runner.entries[0], 0, 0)
        yard.run(until=lambda: bool(log), ms=20)
        assert log == ["back"]


class TestCheck:
    """vcpu_run_check tells why a vCPU does not run."""

    def test_a_vcpu_that_can_run_is_busy(self) -> None:
        yard = Yard()
        vm = yard.vm(spin)
        assert yard.call("vcpu_run_check", vm.threads[0]) == Answer(Error.BUSY, (0, 0, 0, 0))

    def test_one_that_waits_to_be_run_is_busy_and_called_blocked(self) -> None:
        made = Proxied(spin)
        assert made.yard.call("vcpu_run_check", made.vm.threads[0]) == Answer(Error.BUSY, (BLOCKED, 0, 0, 0))

    def test_a_vcpu_of_the_hypervisors_scheduler_is_told_of_too(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever)
        yard.settle()
        assert yard.ok("vcpu_run_check", vm.threads[0]) == (WAKEUP, 0, 1, 0)
        yard.ok("vcpu_kill", vm.threads[0])
        yard.settle()
        assert yard.ok("vcpu_run_check", vm.threads[0]) == (OFF, 1, 0, 0)

    def test_it_needs_the_rights_to_bind_and_to_see(self) -> None:
        made = Proxied(sleep_for_ever)
        (weak,) = made.yard.ok("cspace_copy_cap_from", made.yard.cspace, made.vm.threads[0], made.yard.cspace, 0x40)
        assert made.yard.call("vcpu_run_check", weak).error == Error.CSPACE_INSUFFICIENT_RIGHTS


class TestCallers:
    """A caller that does not come back does not take its vCPU with it."""

    def test_after_the_death_of_its_caller_somebody_else_may_run_it(self) -> None:
        made = Proxied(spin)
        made.data.append((0, 0, 0))
        made.vmm.vcpus[0].unblock(Block.WFI)
        made.yard.run(until=lambda: made.vcpu.proxy_caller is not None and made.vcpu.run_ticks > 0, ms=1)
        made.yard.ok("vcpu_kill", made.vmm.threads[0])
        made.yard.run(ms=2)
        assert made.vmm.vcpus[0].thread_state == 3
        assert made.vcpu.proxy_caller is None
        assert made.vcpu.blocks & Block.PROXY

    def test_a_vcpu_that_is_run_may_run_another_one(self) -> None:
        states: list[tuple[str, tuple[int, ...]]] = []
        yard = Yard()

        def inner(cpu: Cpu, x0: int) -> None:
            cpu.store(WINDOW, 7, 4)
            cpu.wfi()

        def middle(cpu: Cpu, x0: int) -> None:
            states.append(("middle", call(cpu, "vcpu_run", to_inner, 0, 0, 0).results))
            states.append(("middle", call(cpu, "vcpu_run", to_inner, 0, 0, 0).results))

        def outer(cpu: Cpu, x0: int) -> None:
            while True:
                results = call(cpu, "vcpu_run", to_middle, 0, 0, 0).results
                states.append(("outer", results))
                if results[0] == OFF:
                    return

        innermost = yard.vm(inner, proxied=True)
        yard.ok("addrspace_configure_vmmio", innermost.addrspace, WINDOW, 0x1000, 0)
        between = yard.vm(middle, proxied=True, on=False)
        vmm = yard.vm(outer, on=False)
        to_inner = yard.give(between, innermost.threads[0])
        to_middle = yard.give(vmm, between.threads[0])
        yard.ok("vcpu_poweron", between.threads[0], between.entries[0], 0, 0)
        yard.ok("vcpu_poweron", vmm.threads[0], vmm.entries[0], 0, 0)
        assert yard.run(until=lambda: states[-1:] == [("outer", (OFF, 0, 0, 0))], ms=50)
        assert [state for who, state in states if who == "middle"] == [
            (VMMIO_WRITE, WINDOW, 4, 7),
            (WAKEUP, 0, 1, 0),
        ]
