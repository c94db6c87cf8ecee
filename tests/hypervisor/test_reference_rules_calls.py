"""Which of two complaints a call makes, and the small rules that the fact sheets leave between the lines
(hypercalls.md 2 and 3, objects.md 5 to 7 and 11)."""

from __future__ import annotations

import pytest
from tests.hypervisor.root_rig import RootRig
from tests.hypervisor.test_proxy import BLOCKED, OFF, READY, RESET, WAKEUP, Proxied
from tests.hypervisor.yard import Yard, call, sleep_for_ever, smccc, spin

from gunyah.abi.errors import Error
from gunyah.abi.types import U64
from gunyah.guest.cpu import Cpu

NOBODY = 0xFFFF
DEEPEST = 0x1_0001


class TestTrace:
    """trace_update_class_flags (hypercalls.md 3.13)."""

    def test_a_class_in_both_words_is_on_afterwards(self) -> None:
        rig = RootRig()
        assert rig.call("trace_update_class_flags", 1 << 20, 1 << 20).results == (0x3_00E5 | 1 << 20,)
        assert rig.call("trace_update_class_flags", 0, 1 << 20).results == (0x3_00E5,)
        assert rig.call("trace_update_class_flags", U64, U64).results == (U64,)

    def test_errors_and_the_log_buffer_stay_on(self) -> None:
        rig = RootRig()
        assert rig.call("trace_update_class_flags", 0, U64).results == (0x21,)


class TestCopies:
    """cspace_copy_cap_from (hypercalls.md 3.4): the slot is taken before the source is looked at."""

    def test_a_full_space_answers_so_whatever_is_copied(self) -> None:
        rig = RootRig()
        full = rig.active("cspace", 1)
        bell = rig.active("doorbell")
        assert rig.call("cspace_copy_cap_from", rig.cspace, bell, full, 1).ok
        rig.call("cspace_delete_cap_from", rig.cspace, bell)
        for source, mask in ((bell, 1), (0, 1), (0x1234, 1), (rig.vic, 0), (rig.vic, 1)):
            assert rig.call("cspace_copy_cap_from", rig.cspace, source, full, mask).error == Error.CSPACE_FULL

    def test_a_wrong_space_comes_before_a_full_one(self) -> None:
        rig = RootRig()
        assert rig.call("cspace_copy_cap_from", rig.partition, 0, 0, 0).error == Error.CSPACE_WRONG_OBJECT_TYPE
        assert rig.call("cspace_copy_cap_from", rig.cspace, 0, rig.partition, 0).error == (
            Error.CSPACE_WRONG_OBJECT_TYPE
        )


class TestVcpuCalls:
    """Order of the checks of the vCPU calls (hypercalls.md 3.7)."""

    def test_a_register_write_looks_at_the_vcpu_before_the_register(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, sleep_for_ever, on=False)
        on, killed = vm.threads
        yard.ok("vcpu_poweron", on, vm.entries[0], 0, 0)
        yard.ok("vcpu_kill", killed)
        for kind, index, value in ((0, 0, 0), (0, 31, 0), (1, 0, 2), (2, 0, 8), (9, 0, 0)):
            assert yard.call("vcpu_register_write", on, kind, index, value).error == Error.BUSY
            assert yard.call("vcpu_register_write", killed, kind, index, value).error == Error.OBJECT_STATE

    def test_a_time_slice_is_judged_only_while_it_can_be_set(self) -> None:
        yard = Yard()
        active = yard.vm(sleep_for_ever).threads[0]
        fresh = yard.create("thread")
        for nanoseconds in (0, 99_999, 100_000_001, U64):
            assert yard.call("vcpu_set_timeslice", active, nanoseconds).error == Error.OBJECT_STATE
            assert yard.call("vcpu_set_timeslice", fresh, nanoseconds).error == Error.ARGUMENT_INVALID

    def test_a_priority_is_judged_first(self) -> None:
        active = (yard := Yard()).vm(sleep_for_ever).threads[0]
        assert yard.call("vcpu_set_priority", active, 63).error == Error.DENIED
        assert yard.call("vcpu_set_priority", active, 62).error == Error.OBJECT_STATE

    @pytest.mark.parametrize("options", [0, 1])
    def test_the_affinity_it_has_is_no_change_and_never_refused(self, options: int) -> None:
        yard = Yard()
        thread = yard.vm(sleep_for_ever, cpus=(3,), options=options).threads[0]
        assert yard.call("vcpu_set_affinity", thread, 3).ok
        assert yard.call("vcpu_set_affinity", thread, 4).error == (Error.DENIED if options else Error.OK)

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ("", Error.OBJECT_CONFIG),
            ("group", Error.DENIED),
            ("group vic", Error.DENIED),
            ("vic", Error.BUSY),
            ("addrspace", Error.ARGUMENT_INVALID),
            ("space", Error.OBJECT_CONFIG),
            ("addrspace space group", Error.DENIED),
        ],
    )
    def test_an_activation_complains_of_taken_places_before_missing_holders(self, given: str, error: int) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever)
        thread = yard.create("thread")
        for holder in given.split():
            match holder:
                case "group":
                    yard.ok("vpm_group_attach_vcpu", vm.group, thread, 0)
                case "vic":
                    yard.ok("vic_attach_vcpu", vm.vic, thread, 0)
                case "addrspace":
                    yard.ok("addrspace_attach_thread", vm.addrspace, thread)
                case _:
                    yard.ok("cspace_attach_thread", vm.space, thread)
        # Without an affinity a pinned vCPU is refused too, but last.
        yard.ok("vcpu_configure", thread, 1)
        assert yard.call("object_activate", thread).error == error

    def test_power_on_asks_for_power_before_it_asks_for_life(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, sleep_for_ever, on=False)
        was_on, was_off = vm.threads
        yard.ok("vcpu_poweron", was_on, vm.entries[0], 0, 0)
        for thread in vm.threads:
            yard.ok("vcpu_kill", thread)
        for _ in range(2):
            assert yard.call("vcpu_poweron", was_on, vm.entries[0], 0, 0).error == Error.BUSY
            assert yard.call("vcpu_poweron", was_off, vm.entries[1], 0, 0).error == Error.FAILURE
            assert yard.call("vcpu_poweron", was_off, vm.entries[1], 0, 4).error == Error.ARGUMENT_INVALID
            yard.settle()

    def test_the_wake_up_interrupt_of_a_running_vcpu_cannot_be_bound(self) -> None:
        rig = RootRig()
        assert rig.call("vcpu_bind_virq", rig.own_vcpu, rig.vic, 40, 1).error == Error.BUSY
        assert rig.call("vcpu_bind_virq", rig.own_vcpu, rig.vic, 4000, 1).error == Error.BUSY
        assert rig.call("vcpu_bind_virq", rig.own_vcpu, rig.vic, 40, 2).error == Error.ARGUMENT_INVALID
        assert rig.call("vcpu_bind_virq", rig.own_vcpu, rig.vic, 40, 0).ok


class TestRunStates:
    """vcpu_run and vcpu_run_check (objects.md 7)."""

    def test_a_killed_vcpu_is_blocked_until_it_has_been_run(self) -> None:
        made = Proxied(sleep_for_ever)
        made.state()
        yard, thread = made.yard, made.vm.threads[0]
        yard.ok("vcpu_kill", thread)
        for _ in range(2):
            check = yard.call("vcpu_run_check", thread)
            assert (check.error, check.results) == (Error.BUSY, (BLOCKED, 0, 0, 0))
        assert made.state() == (OFF, 1, 0, 0)
        assert yard.ok("vcpu_run_check", thread) == (OFF, 1, 0, 0)

    def test_a_killed_vcpu_that_was_off_is_blocked_too(self) -> None:
        made = Proxied(sleep_for_ever, on=False)
        yard, thread = made.yard, made.vm.threads[0]
        assert yard.ok("vcpu_run_check", thread) == (OFF, 0, 0, 0)
        yard.ok("vcpu_kill", thread)
        check = yard.call("vcpu_run_check", thread)
        assert (check.error, check.results) == (Error.BUSY, (BLOCKED, 0, 0, 0))

    def test_a_vcpu_that_can_run_tells_nothing(self) -> None:
        yard = Yard()
        thread = yard.vm(spin, cpus=(0,), priority=1).threads[0]
        check = yard.call("vcpu_run_check", thread)
        assert (check.error, check.results) == (Error.BUSY, (0, 0, 0, 0))

    @pytest.mark.parametrize(("group", "state"), [(True, (WAKEUP, 0, 1, 0)), (False, (WAKEUP, DEEPEST, 2, 0))])
    def test_waiting_without_a_group_shows_as_a_suspend_in_the_deepest_state(
        self, group: bool, state: tuple[int, ...]
    ) -> None:
        yard = Yard()
        thread = yard.vm(sleep_for_ever, group=group).threads[0]
        yard.settle()
        assert yard.ok("vcpu_run_check", thread) == state

    def test_a_vm_that_asked_for_a_reset_and_can_run_again_is_ready(self) -> None:
        def guest(cpu: Cpu, x0: int) -> None:
            if not x0:
                smccc(cpu, 0x8400_0009)
            while True:
                cpu.hvc(0x6000)

        made = Proxied(guest)
        assert made.state() == (RESET, 1 << 63, 0, 0)
        assert made.state() == (RESET, 1 << 63, 0, 0)
        made.yard.ok("vcpu_poweron", made.vm.threads[0], made.vm.entries[0], 1, 0)
        assert made.state() == (READY, 0, 0, 0)

    def test_a_pinned_vcpu_elsewhere_is_refused_only_when_it_could_run(self) -> None:
        made = Proxied(spin, options=1, cpu=3, on=False)
        assert made.state() == (OFF, 0, 0, 0)
        made.yard.ok("vcpu_poweron", made.vm.threads[0], made.vm.entries[0], 0, 0)
        assert made.run().error == Error.DENIED


class TestGroupState:
    """vpm_group_get_state (objects.md 11): what PSCI knows of the members."""

    def test_a_vcpu_is_awake_from_when_it_first_runs(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, proxied=True)
        assert yard.ok("vpm_group_get_state", vm.group) == (2,)

        def run(cpu: Cpu, x0: int) -> None:
            call(cpu, "vcpu_run", target, 0, 0, 0)
            sleep_for_ever(cpu, x0)

        vmm = yard.vm(run, on=False)
        target = yard.give(vmm, vm.threads[0])
        yard.ok("vcpu_poweron", vmm.threads[0], vmm.entries[0], 0, 0)
        yard.settle()
        assert yard.ok("vpm_group_get_state", vm.group) == (1,), "waiting for an interrupt is no suspend"

    @pytest.mark.parametrize(("state", "answer"), [(0x1_0001, 2), (1, 2), (0x1_0000, 1), (0x10, 1)])
    def test_the_cpu_level_of_the_suspend_state_decides(self, state: int, answer: int) -> None:
        yard = Yard()

        def guest(cpu: Cpu, x0: int) -> None:
            smccc(cpu, 0xC400_0001, state, 0, 0)

        vm = yard.vm(guest)
        yard.settle()
        assert yard.ok("vpm_group_get_state", vm.group) == (answer,)
        assert yard.ok("vcpu_run_check", vm.threads[0]) == (WAKEUP, state, 2, 0)
