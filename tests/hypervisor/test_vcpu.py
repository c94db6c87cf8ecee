"""vCPUs: what they need, power, registers, kill and exit (objects.md 1.2, 5)."""

from __future__ import annotations

from itertools import combinations

import pytest
from tests.hypervisor.yard import ENTRY, Yard, call, sleep_for_ever, smccc

from gunyah.abi import pyimage
from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectState
from gunyah.guest.cpu import Cpu
from gunyah.hypervisor.vcpu import ThreadState

U64 = (1 << 64) - 1


class TestActivation:
    """What must be set up before."""

    NEEDED = ("cspace_attach_thread", "addrspace_attach_thread", "vic_attach_vcpu")

    @pytest.mark.parametrize(
        "given", [set(), *({each} for each in NEEDED), *(set(two) for two in combinations(NEEDED, 2))]
    )
    def test_without_one_of_its_holders_it_fails_for_good(self, given: set[str]) -> None:
        yard = Yard()
        vm = yard.vm()
        thread = yard.create("thread")
        holders = dict(zip(self.NEEDED, (vm.space, vm.addrspace, vm.vic), strict=True))
        for name in given:
            yard.ok(name, holders[name], thread, *((0,) if name.startswith("vic") else ()))
        vic_first = "vic_attach_vcpu" not in given and "addrspace_attach_thread" in given
        wanted = Error.ARGUMENT_INVALID if vic_first else Error.OBJECT_CONFIG
        assert yard.call("object_activate", thread).error == wanted
        assert yard.vcpu_of(thread).state == ObjectState.FAILED

    def test_a_taken_place_in_the_vic_is_busy_and_one_in_the_group_is_denied(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, sleep_for_ever)
        for index, group_index, error in ((0, 2, Error.BUSY), (1, 0, Error.DENIED)):
            thread = yard.create("thread")
            yard.ok("cspace_attach_thread", vm.space, thread)
            yard.ok("addrspace_attach_thread", vm.addrspace, thread)
            yard.ok("vic_attach_vcpu", vm.vic, thread, index)
            yard.ok("vpm_group_attach_vcpu", vm.group, thread, group_index)
            assert yard.call("object_activate", thread).error == error
        assert yard.call("vpm_group_attach_vcpu", vm.group, yard.create("thread"), 8).error == Error.ARGUMENT_INVALID

    @pytest.mark.parametrize(
        ("options", "affinity", "error"),
        [
            (0, 0xFFFF, 0),
            (1, 0, 0),
            (1, 0xFFFF, Error.OBJECT_CONFIG),
            (1 << 3, 0, Error.OBJECT_CONFIG),
            (1 << 3 | 1 << 63, 0, 0),
            (1 << 63, 0xFFFF, Error.OBJECT_CONFIG),
            (1 << 4, 0, 0),
            (1 << 8, 0, 0),
        ],
    )
    def test_options_are_judged_at_activation(self, options: int, affinity: int, error: int) -> None:
        yard = Yard()
        vm = yard.vm()
        thread = yard.create("thread")
        yard.ok("cspace_attach_thread", vm.space, thread)
        yard.ok("addrspace_attach_thread", vm.addrspace, thread)
        yard.ok("vic_attach_vcpu", vm.vic, thread, 0)
        yard.ok("vcpu_configure", thread, options)
        yard.ok("vcpu_set_affinity", thread, affinity)
        assert yard.call("object_activate", thread).error == error
        if not error:
            vcpu = yard.vcpu_of(thread)
            assert vcpu.pinned == bool(options & (1 | 1 << 63))
            assert vcpu.critical == bool(options & (1 << 8 | 1 << 63))

    @pytest.mark.parametrize("option", [1 << 8, 1 << 63])
    def test_a_critical_vcpu_needs_a_privileged_partition(self, option: int) -> None:
        yard = Yard()
        vm = yard.vm()
        thread = yard.create("thread")
        yard.ok("cspace_attach_thread", vm.space, thread)
        yard.ok("addrspace_attach_thread", vm.addrspace, thread)
        yard.ok("vic_attach_vcpu", vm.vic, thread, 0)
        yard.ok("vcpu_configure", thread, option)
        yard.ok("vcpu_set_affinity", thread, 0)
        yard.hv.root_partition.privileged = False
        assert yard.call("object_activate", thread).error == Error.OBJECT_CONFIG

    @pytest.mark.parametrize("bit", [6, 7, 10, 31, 62])
    def test_unknown_options_are_refused_before_the_capability(self, bit: int) -> None:
        assert Yard().call("vcpu_configure", 0, 1 << bit).error == Error.ARGUMENT_INVALID

    def test_a_later_choice_replaces_an_earlier_one_and_gives_it_back(self) -> None:
        yard = Yard()
        one, two = yard.vm(), yard.vm()
        thread = yard.create("thread")
        for vm in (one, two, two):
            yard.ok("cspace_attach_thread", vm.space, thread)
            yard.ok("addrspace_attach_thread", vm.addrspace, thread)
            yard.ok("vic_attach_vcpu", vm.vic, thread, 0)
            yard.ok("vpm_group_attach_vcpu", vm.group, thread, 0)
        vcpu = yard.vcpu_of(thread)
        held = [yard.root.cspace.capability(capid).object for capid in (one.space, one.addrspace, one.vic, one.group)]
        assert [obj.references for obj in held] == [1] * 4
        assert vcpu.cspace is yard.root.cspace.capability(two.space).object
        yard.ok("cspace_delete_cap_from", yard.cspace, thread)
        held = [yard.root.cspace.capability(capid).object for capid in (two.space, two.addrspace, two.vic, two.group)]
        assert [obj.references for obj in held] == [1] * 4

    def test_only_a_vcpu_in_init_is_attached(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever)
        for name, capid in (("cspace", vm.space), ("addrspace", vm.addrspace)):
            assert yard.call(f"{name}_attach_thread", capid, vm.threads[0]).error == Error.OBJECT_STATE
        assert yard.call("vic_attach_vcpu", vm.vic, vm.threads[0], 0).error == Error.OBJECT_STATE
        assert yard.call("vpm_group_attach_vcpu", vm.group, vm.threads[0], 0).error == Error.OBJECT_STATE


class TestPowerOn:
    """vcpu_poweron and vcpu_register_write."""

    def test_entry_and_context_are_where_it_starts(self) -> None:
        yard, seen = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            seen.append((x0, cpu.x[0], cpu.x[5], cpu.irq_masked, cpu.mrs("SCTLR_EL1"), cpu.mrs("CURRENTEL")))

        vm = yard.vm(program, on=False)
        yard.ok("vcpu_register_write", vm.threads[0], 0, 5, 0x55)
        yard.ok("vcpu_poweron", vm.threads[0], vm.entries[0], 0x1234, 0)
        yard.settle()
        assert seen == [(0x1234, 0x1234, 0x55, True, 0x30D0_0800, 4)]

    def test_written_registers_are_kept_when_asked_for(self) -> None:
        yard, seen = Yard(), []
        vm = yard.vm(lambda cpu, x0: seen.append(x0), on=False)
        thread = vm.threads[0]
        yard.ok("vcpu_register_write", thread, 0, 0, 77)
        yard.ok("vcpu_register_write", thread, 1, 0, vm.entries[0])
        yard.ok("vcpu_register_write", thread, 2, 0, 0x1000)
        yard.ok("vcpu_register_write", thread, 2, 1, 0x2000)
        yard.ok("vcpu_poweron", thread, 0xDEAD, 0xBEEF, 3)
        yard.settle()
        assert seen == [77]
        assert (vm.vcpus[0].sp_el0, vm.vcpus[0].sp_el1) == (0x1000, 0x2000)

    @pytest.mark.parametrize(
        ("kind", "index", "value"),
        [(0, 31, 0), (1, 1, 0), (1, 0, 2), (2, 2, 0), (2, 0, 8), (3, 0, 0), (0xFFFF_FFFF, 0, 0)],
    )
    def test_registers_that_cannot_be_written(self, kind: int, index: int, value: int) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, on=False)
        answer = yard.call("vcpu_register_write", vm.threads[0], kind, index, value)
        assert answer.error == Error.ARGUMENT_INVALID

    def test_registers_of_a_running_or_dead_vcpu_are_its_own(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever)
        assert yard.call("vcpu_register_write", vm.threads[0], 0, 0, 1).error == Error.BUSY
        yard.ok("vcpu_kill", vm.threads[0])
        assert yard.call("vcpu_register_write", vm.threads[0], 0, 0, 1).error == Error.OBJECT_STATE

    def test_unknown_flags_and_a_vcpu_that_is_on(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever)
        assert yard.call("vcpu_poweron", vm.threads[0], ENTRY, 0, 4).error == Error.ARGUMENT_INVALID
        assert yard.call("vcpu_poweron", vm.threads[0], ENTRY, 0, 0).error == Error.BUSY

    def test_a_host_that_cannot_run_the_code_leaves_the_vcpu_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from gunyah.hypervisor import hypervisor
        from gunyah.hypervisor.errors import HypervisorError

        def none(*_: object) -> None:
            raise HypervisorError(Error.FAILURE, "no engine here")

        monkeypatch.setattr(hypervisor, "native_executor", none)
        yard = Yard()
        vm = yard.vm(sleep_for_ever, on=False)
        vcpu = vm.vcpus[0]
        yard.ok("vcpu_register_write", vm.threads[0], 0, 0, 9)
        assert yard.call("vcpu_poweron", vm.threads[0], ENTRY + 0x8000, 5, 0).error == Error.FAILURE
        assert (vcpu.powered_off, vcpu.pc, vcpu.x[0], vcpu.executor) == (True, 0, 9, None)

    def test_switched_on_again_it_starts_anew_and_what_it_did_before_is_unwound(self) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            log.append(f"start {x0}")
            try:
                smccc(cpu, 0x8400_0002)
                log.append("went on")
            finally:
                log.append(f"unwound {x0}")
                # What a guest still asks for while it unwinds does not happen.
                call(cpu, "doorbell_send", bell, 1)
                log.append("rang")

        vm = yard.vm(program, aggregate=False, on=False)
        root_bell = yard.active("doorbell")
        bell = yard.give(vm, root_bell)
        for context in (1, 2):
            yard.ok("vcpu_poweron", vm.threads[0], vm.entries[0], context, 0)
            yard.settle()
        assert log == ["start 1", "unwound 1", "start 2"]
        assert yard.ok("doorbell_receive", root_bell, U64) == (0,)


class TestPowerOff:
    """vcpu_poweroff: the accounting of objects.md 5.4."""

    @pytest.mark.parametrize(
        ("group", "aggregate", "others", "flag", "error"),
        [
            (False, True, 0, 0, Error.DENIED),
            (False, True, 0, 1, 0),
            (True, True, 0, 0, Error.DENIED),
            (True, True, 0, 1, 0),
            (True, True, 1, 0, 0),
            (True, True, 1, 1, Error.DENIED),
            (True, False, 0, 0, 0),
            (True, False, 1, 1, 0),
            (True, True, 0, 2, Error.ARGUMENT_INVALID),
        ],
    )
    def test_the_last_flag_must_tell_the_truth(
        self, group: bool, aggregate: bool, others: int, flag: int, error: int
    ) -> None:
        yard, answers = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            if x0 == 0:
                answers.append(call(cpu, "vcpu_poweroff", own, flag).error)
            while True:
                cpu.wfi()

        vm = yard.vm(program, *[sleep_for_ever] * others, group=group, aggregate=aggregate, on=False)
        own = yard.give(vm, vm.threads[0])
        for index, thread in reversed(list(enumerate(vm.threads))):
            yard.ok("vcpu_poweron", thread, vm.entries[index], index, 0)
        yard.settle()
        assert answers == ([error] if error else [])
        assert vm.vcpus[0].powered_off == (not error)

    def test_nobody_switches_off_somebody_else(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever)
        assert yard.call("vcpu_poweroff", vm.threads[0], 0).error == Error.ARGUMENT_INVALID

    def test_it_disables_the_timers_and_leaves_the_interrupt_controller_in_reset(self) -> None:
        yard = Yard()

        def program(cpu: Cpu, x0: int) -> None:
            cpu.msr("CNTV_CVAL_EL0", 1 << 40)
            cpu.msr("CNTV_CTL_EL0", 1)
            cpu.msr("CNTP_CTL_EL0", 3)
            cpu.msr("ICC_PMR_EL1", 0xF0)
            cpu.msr("ICC_IGRPEN1_EL1", 1)
            smccc(cpu, 0x8400_0002)

        vm = yard.vm(program, aggregate=False)
        yard.settle()
        vcpu = vm.vcpus[0]
        assert vcpu.powered_off
        assert (vcpu.virtual_timer.control, vcpu.physical_timer.control) == (0, 0)
        assert vcpu.gic is not None
        assert (vcpu.gic.read("ICC_PMR_EL1"), vcpu.gic.read("ICC_IGRPEN1_EL1")) == (0, 0)
        assert yard.hv.timers.next() is None

    def test_a_program_that_returns_has_switched_its_vcpu_off(self) -> None:
        yard = Yard()
        vm = yard.vm(lambda cpu, x0: None)
        yard.settle()
        assert vm.vcpus[0].powered_off
        assert vm.vcpus[0].thread_state == ThreadState.READY


class TestKill:
    """vcpu_kill and exit."""

    def test_it_exits_before_its_next_instruction_whatever_it_waits_for(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, lambda cpu, x0: smccc(cpu, 0xC400_0001, 0))
        yard.settle()
        for thread, vcpu in zip(vm.threads, vm.vcpus, strict=True):
            yard.ok("vcpu_kill", thread)
            assert vcpu.thread_state == ThreadState.KILLED
            yard.ok("vcpu_kill", thread)
        yard.settle()
        assert [vcpu.thread_state for vcpu in vm.vcpus] == [ThreadState.EXITED] * 2
        for thread in vm.threads:
            yard.ok("vcpu_kill", thread)
            assert yard.call("vcpu_poweron", thread, ENTRY, 0, 0).error == Error.BUSY

    def test_one_that_was_never_on_dies_too(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, on=False)
        yard.ok("vcpu_kill", vm.threads[0])
        yard.settle()
        assert vm.vcpus[0].thread_state == ThreadState.EXITED

    def test_one_without_a_core_dies_when_somebody_yields_to_it(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, cpus=(0xFFFF,))
        yard.ok("vcpu_kill", vm.threads[0])
        yard.settle()
        assert vm.vcpus[0].thread_state == ThreadState.KILLED

        def helper(cpu: Cpu, x0: int) -> None:
            call(cpu, "scheduler_yield", 1, target)

        other = yard.vm(helper, on=False)
        target = yard.give(other, vm.threads[0])
        yard.ok("vcpu_poweron", other.threads[0], other.entries[0], 0, 0)
        yard.settle()
        assert vm.vcpus[0].thread_state == ThreadState.EXITED

    def test_one_that_is_not_active_is_not_killed(self) -> None:
        yard = Yard()
        assert yard.call("vcpu_kill", yard.create("thread")).error == Error.OBJECT_STATE

    def test_a_vcpu_kills_itself(self) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            call(cpu, "vcpu_kill", own)
            log.append("still here")

        vm = yard.vm(program, on=False)
        own = yard.give(vm, vm.threads[0])
        yard.ok("vcpu_poweron", vm.threads[0], vm.entries[0], 0, 0)
        yard.settle()
        assert vm.vcpus[0].thread_state == ThreadState.EXITED
        assert log == []

    def test_the_machine_stops_with_a_critical_vcpu(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, options=1 << 8)
        yard.ok("vcpu_kill", vm.threads[0])
        assert not yard.run(ms=5)
        assert yard.hv.stopped == "fault"
        assert not yard.run(ms=5)

    def test_the_place_in_the_vic_is_free_when_the_object_is_gone(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever)
        yard.ok("vcpu_kill", vm.threads[0])
        yard.settle()
        yard.ok("cspace_delete_cap_from", yard.cspace, vm.threads.pop())
        vm.vcpus.clear()
        yard.thread(vm, 0)
        yard.ok("vcpu_poweron", vm.threads[0], vm.entries[0], 0, 0)


class TestHalt:
    """The interrupt that tells of a VM's end (objects.md 5.4)."""

    @pytest.mark.parametrize("how", ["fault", "off"])
    def test_it_rings_at_a_fault_and_at_system_off(self, how: str) -> None:
        yard = Yard()

        def program(cpu: Cpu, x0: int) -> None:
            if how == "off":
                smccc(cpu, 0x8400_0008)
            raise RuntimeError("broken")

        vm = yard.vm(program, on=False)
        yard.ok("vcpu_bind_virq", vm.threads[0], yard.vic, 50, 0)
        assert yard.call("vcpu_bind_virq", vm.threads[0], yard.vic, 51, 0).error == Error.VIRQ_BOUND
        yard.ok("vcpu_poweron", vm.threads[0], vm.entries[0], 0, 0)
        yard.settle()
        assert yard.root.vic.delivery.spi(50).latch
        assert not vm.vcpus[0].proxied
        yard.ok("vcpu_unbind_virq", vm.threads[0], 0)
        yard.ok("vcpu_bind_virq", vm.threads[0], yard.vic, 51, 0)


def test_a_vcpu_without_a_name_is_called_by_its_number() -> None:
    yard = Yard()
    thread = yard.create("thread")
    assert str(yard.vcpu_of(thread)).startswith("thread #")
    assert yard.vcpu_of(thread).vmid == 0
    assert yard.vcpu_of(thread).is_init
    assert pyimage.program_id(b"\0" * 8) is None
