"""PSCI of the vCPUs of a power group, and without one (objects.md 11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from tests.hypervisor.yard import Yard, sleep_for_ever, smccc, spin

from gunyah.abi.errors import Error
from gunyah.guest.cpu import Cpu
from gunyah.hypervisor.vcpu import Block, ThreadState

T = TypeVar("T")
U64 = (1 << 64) - 1
M32 = {error: error & 0xFFFF_FFFF for error in range(-9, 0)}
NOT_SUPPORTED, INVALID, DENIED, ALREADY_ON, INTERNAL = -1, -2, -3, -4, -6
FUNCTIONS_32 = [0x8400_0000 + number for number in (0, 2, 3, 4, 8, 9, 0xA, 0xC, 0xF, 0x12)]
FUNCTIONS_64 = [0xC400_0000 + number for number in (3, 4, 0xC, 0x12)]


def ask(function: Callable[[Cpu], T], **shape: object) -> T:
    """What a guest with this code found out."""
    yard, answers = Yard(), []
    yard.vm(lambda cpu, x0: answers.append(function(cpu)), **shape)  # type: ignore[arg-type]
    yard.settle()
    assert len(answers) == 1
    return answers[0]


def test_a_vcpu_without_a_group_has_no_psci() -> None:
    def guest(cpu: Cpu) -> list[int]:
        return [smccc(cpu, function, 0, 0, 0)[0] for function in FUNCTIONS_32 + FUNCTIONS_64]

    answers = dict(zip(FUNCTIONS_32 + FUNCTIONS_64, ask(guest, group=False), strict=True))
    # PSCI_FEATURES is there for everybody, and knows nothing of the others.
    assert answers.pop(0x8400_000A) == 0xFFFF_FFFF
    assert set(answers.values()) == {U64}


@pytest.mark.parametrize("conduit", ["hvc", "smc"])
def test_version(conduit: str) -> None:
    assert ask(lambda cpu: smccc(cpu, 0x8400_0000, conduit=conduit)[0]) == 0x1_0001


def test_features_of_every_function() -> None:
    def guest(cpu: Cpu) -> dict[int, int]:
        asked = [*FUNCTIONS_32, *FUNCTIONS_64, 0x8400_0001, 0xC400_0001, 0x8000_0000, 0x8400_0005, 0x8400_000E, 0x1234]
        return {function: smccc(cpu, 0x8400_000A, function)[0] for function in asked}

    answers = ask(guest)
    for function in (*FUNCTIONS_32, *FUNCTIONS_64, 0x8000_0000):
        assert answers[function] == 0, hex(function)
    assert answers[0x8400_0001] == answers[0xC400_0001] == 2
    assert answers[0x8400_0005] == answers[0x8400_000E] == answers[0x1234] == 0xFFFF_FFFF


def test_features_without_a_group_knows_smccc_only() -> None:
    answers = ask(lambda cpu: [smccc(cpu, 0x8400_000A, each)[0] for each in (0x8000_0000, 0x8400_0000)], group=False)
    assert answers == [0, 0xFFFF_FFFF]


@pytest.mark.parametrize("number", [5, 6, 7, 0xB, 0xD, 0xE, 0x10, 0x11, 0x13, 0x14])
def test_functions_that_are_not_built(number: int) -> None:
    assert ask(lambda cpu: [smccc(cpu, base + number)[0] for base in (0x8400_0000, 0xC400_0000)]) == [U64, U64]


@pytest.mark.parametrize(("mode", "answer"), [(0, 0), (1, M32[INVALID]), (2, M32[INVALID])])
def test_only_platform_coordinated_suspend(mode: int, answer: int) -> None:
    assert ask(lambda cpu: smccc(cpu, 0x8400_000F, mode)[0]) == answer


class TestCpuOn:
    """CPU_ON and AFFINITY_INFO name vCPUs by affinity."""

    @pytest.mark.parametrize(("function", "context"), [(0x8400_0003, 0x8765_4321), (0xC400_0003, 0x1_8765_4321)])
    def test_it_starts_the_vcpu_with_that_affinity(self, function: int, context: int) -> None:
        yard, seen = Yard(), []

        def first(cpu: Cpu, x0: int) -> None:
            seen.append(smccc(cpu, 0xC400_0004, 1, 0)[0])
            seen.append(smccc(cpu, function, 1, vm.entries[1], context)[0])
            seen.append(smccc(cpu, 0xC400_0004, 1, 0)[0])
            seen.append(smccc(cpu, function, 1, vm.entries[1], context)[0])

        def second(cpu: Cpu, x0: int) -> None:
            seen.append((x0, cpu.mrs("MPIDR_EL1")))
            while True:
                cpu.wfi()

        vm = yard.vm(first, second, cpus=(0, 0), on=False)
        yard.ok("vcpu_poweron", vm.threads[0], vm.entries[0], 0, 0)
        yard.settle()
        already = M32[ALREADY_ON] if function < 0xC000_0000 else ALREADY_ON & U64
        assert sorted(seen, key=str) == sorted([1, 0, 0, already, (context, 0x8000_0001)], key=str)

    @pytest.mark.parametrize(
        ("affinity", "answer"),
        [(0, ALREADY_ON), (5, INTERNAL), (8, INVALID), (0x100, INVALID), (1 << 32, INVALID), (U64, INVALID)]
        + [(1 << 24, ALREADY_ON), (0x8000_0001, INTERNAL), (1 << 40, ALREADY_ON)],
    )
    def test_who_is_not_there_and_who_cannot_be(self, affinity: int, answer: int) -> None:
        assert ask(lambda cpu: smccc(cpu, 0xC400_0003, affinity, 0, 0)[0]) == answer & U64

    def test_a_killed_vcpu_cannot_be_started_and_the_caller_goes_on(self) -> None:
        yard, seen = Yard(), []

        def first(cpu: Cpu, x0: int) -> None:
            seen.append(smccc(cpu, 0xC400_0003, 1, vm.entries[1], 0)[0])

        vm = yard.vm(first, sleep_for_ever, on=False)
        yard.ok("vcpu_kill", vm.threads[1])
        yard.settle()
        yard.ok("vcpu_poweron", vm.threads[0], vm.entries[0], 0, 0)
        yard.settle()
        assert seen == [INTERNAL & U64]
        assert not yard.hv.reports

    def test_a_mapping_of_its_own_decides_what_an_affinity_names(self) -> None:
        yard, seen = Yard(), []

        def first(cpu: Cpu, x0: int) -> None:
            seen.extend(smccc(cpu, 0xC400_0004, affinity, 0)[0] for affinity in (0x1, 0x100, 0x200, 0x0))

        vm = yard.vm()
        vic = yard.create("vic")
        yard.ok("vic_configure", vic, 2, 64, 0, 0)
        yard.ok("vgic_set_mpidr_mapping", vic, 0x0000_0300, 0, 0, 0, 0, 0)
        yard.ok("object_activate", vic)
        vm.vic = vic
        for index in range(2):
            yard.thread(vm, index)
        from tests.hypervisor.root_rig import load

        yard.hv.memory.write(vm.base, load(yard.hv, first))
        yard.ok("vcpu_poweron", vm.threads[0], 0x4000_0000, 0, 0)
        yard.settle()
        assert seen == [INVALID & U64, 1, INVALID & U64, 0]

    @pytest.mark.parametrize("level", [1, 2, 3])
    def test_affinity_info_knows_level_0_only(self, level: int) -> None:
        answers = ask(lambda cpu: [smccc(cpu, 0x8400_0004, 0, each)[0] for each in (0, level)])
        assert answers == [0, M32[INVALID]]

    @pytest.mark.parametrize("affinity", [3, 8, 0x8000_0100])
    def test_affinity_info_of_nobody(self, affinity: int) -> None:
        assert ask(lambda cpu: smccc(cpu, 0x8400_0004, affinity, 0)[0]) == M32[INVALID]

    def test_arguments_of_the_32_bit_functions_are_32_bits(self) -> None:
        assert ask(lambda cpu: smccc(cpu, 0x8400_0004, 1 << 40, 1 << 40)[0]) == 0


class TestOff:
    """CPU_OFF, SYSTEM_OFF and SYSTEM_RESET."""

    @pytest.mark.parametrize(("aggregate", "others", "off"), [(True, 0, False), (True, 1, True), (False, 0, True)])
    def test_the_last_one_of_an_aggregating_group_may_not_go(self, aggregate: bool, others: int, off: bool) -> None:
        yard, answers = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            answers.append(smccc(cpu, 0x8400_0002)[0])
            cpu.wfi()

        vm = yard.vm(program, *[sleep_for_ever] * others, aggregate=aggregate, on=False)
        for index, thread in reversed(list(enumerate(vm.threads))):
            yard.ok("vcpu_poweron", thread, vm.entries[index], 0, 0)
        yard.settle()
        assert vm.vcpus[0].powered_off == off
        assert answers == ([] if off else [M32[DENIED]])

    @pytest.mark.parametrize("function", [0x8400_0008, 0x8400_0009, 0x8400_0012, 0xC400_0012])
    def test_the_end_of_a_vm_kills_its_other_vcpus_and_nobody_else(self, function: int) -> None:
        yard = Yard()
        other = yard.vm(spin)
        vm = yard.vm(lambda cpu, x0: smccc(cpu, function), spin, sleep_for_ever, on=False)
        for index, thread in reversed(list(enumerate(vm.threads))):
            yard.ok("vcpu_poweron", thread, vm.entries[index], 0, 0)
        yard.run(ms=40)
        assert vm.vcpus[0].powered_off
        assert vm.vcpus[0].thread_state == ThreadState.READY
        assert [vcpu.thread_state for vcpu in vm.vcpus[1:]] == [ThreadState.EXITED] * 2
        assert other.vcpus[0].thread_state == ThreadState.READY
        assert yard.hv.stopped is None

    @pytest.mark.parametrize(("function", "why"), [(0x8400_0008, "off"), (0x8400_0009, "reset")])
    def test_a_critical_vcpu_ends_the_machine(self, function: int, why: str) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            smccc(cpu, function)
            log.append("went on")

        yard.vm(program, options=1 << 8)
        assert not yard.run(ms=5)
        assert yard.hv.stopped == why
        assert log == []

    def test_a_critical_vcpu_has_no_second_kind_of_reset(self) -> None:
        for function in (0x8400_0012, 0xC400_0012):
            asked = ask(lambda cpu, function=function: smccc(cpu, function, 0, 0)[0], options=1 << 8)  # type: ignore[misc]
            assert asked == 0xFFFF_FFFF


class TestSuspend:
    """CPU_SUSPEND and CPU_DEFAULT_SUSPEND."""

    def _arm(self, cpu: Cpu) -> None:
        frame = 0x080A_0000 + 0x1_0000
        cpu.store(0x0800_0000, 2, 4)
        cpu.store(frame + 0x80, 0xFFFF_FFFF, 4)
        cpu.store(frame + 0x100, 1 << 27, 4)
        cpu.msr("ICC_PMR_EL1", 0xFF)
        cpu.msr("ICC_IGRPEN1_EL1", 1)
        cpu.msr("CNTV_TVAL_EL0", 10_000)
        cpu.msr("CNTV_CTL_EL0", 1)

    def test_standby_returns_success_after_an_interrupt(self) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            self._arm(cpu)
            start = cpu.ticks()
            log.append(smccc(cpu, 0xC400_0001, 1, 0, 0)[0])
            log.append(cpu.ticks() - start >= 9_000)

        vm = yard.vm(program)
        yard.run(until=lambda: bool(vm.vcpus[0].blocks & Block.SUSPENDED), ms=5)
        assert yard.ok("vpm_group_get_state", vm.group) == (2,)
        yard.settle()
        assert log == [0, True]

    @pytest.mark.parametrize("function", [0x8400_0001, 0xC400_0001, 0x8400_000C, 0xC400_000C])
    def test_power_down_comes_back_through_the_entry_point(self, function: int) -> None:
        yard, log = Yard(), []

        def program(cpu: Cpu, x0: int) -> None:
            log.append(("start", x0, cpu.irq_masked, cpu.mrs("SCTLR_EL1")))
            if x0 == 0:
                cpu.irq_masked = False
                self._arm(cpu)
                arguments = (vm.entries[1], 77) if function & 0xF == 0xC else (0x1_0000, vm.entries[1], 77)
                smccc(cpu, function, *arguments)
                log.append("went on")

        def resumed(cpu: Cpu, x0: int) -> None:
            log.append(("resumed", x0, cpu.irq_masked, cpu.mrs("SCTLR_EL1")))

        vm = yard.vm(program, resumed, on=False)
        yard.ok("vcpu_poweron", vm.threads[0], vm.entries[0], 0, 0)
        yard.settle()
        assert log == [("start", 0, True, 0x30D0_0800), ("resumed", 77, True, 0x30D0_0800)]

    def test_with_an_interrupt_pending_it_returns_at_once(self) -> None:
        def guest(cpu: Cpu) -> list[int]:
            self._arm(cpu)
            cpu.wfi()
            return [smccc(cpu, 0xC400_0001, state, 0x4000_0000, 9)[0] for state in (0, 0x1_0000)]

        assert ask(guest) == [0, 0]

    def test_an_entry_point_that_the_host_cannot_run_is_a_fault(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from gunyah.hypervisor import hypervisor
        from gunyah.hypervisor.errors import HypervisorError

        def none(*_: object) -> None:
            raise HypervisorError(Error.FAILURE, "no engine here")

        monkeypatch.setattr(hypervisor, "native_executor", none)
        yard = Yard()

        def program(cpu: Cpu, x0: int) -> None:
            self._arm(cpu)
            smccc(cpu, 0xC400_0001, 0x1_0000, 0x4000_9000, 0)

        vm = yard.vm(program)
        yard.settle()
        assert vm.vcpus[0].blocks & Block.FAULT
        assert any("no engine" in remark for remark in yard.hv.remarks)

    @pytest.mark.parametrize("function", [0x8400_0001, 0xC400_0001, 0x8400_000C, 0xC400_000C])
    def test_nobody_suspends_without_a_group(self, function: int) -> None:
        assert ask(lambda cpu: smccc(cpu, function, 0x1_0001, 0, 0)[0], group=False) == U64


class TestGroup:
    """The group as its owner sees it."""

    def test_it_runs_while_a_member_is_awake(self) -> None:
        yard = Yard()
        vm = yard.vm(spin, sleep_for_ever)
        yard.run(ms=2)
        assert yard.ok("vpm_group_get_state", vm.group) == (1,)
        yard.ok("vcpu_kill", vm.threads[0])
        yard.settle()
        assert yard.ok("vpm_group_get_state", vm.group) == (1,), "WFI is no suspend"
        yard.ok("vcpu_kill", vm.threads[1])
        yard.settle()
        assert yard.ok("vpm_group_get_state", vm.group) == (2,)

    def test_a_group_left_out_of_aggregation_keeps_no_record(self) -> None:
        yard = Yard()
        vm = yard.vm(spin, aggregate=False)
        yard.run(ms=2)
        assert yard.ok("vpm_group_get_state", vm.group) == (2,)

    def test_its_interrupt_can_be_bound_once_and_goes_with_it(self) -> None:
        yard = Yard()
        one, two = yard.active("vpm_group"), yard.active("vpm_group")
        yard.ok("vpm_group_unbind_virq", one)
        yard.ok("vpm_group_bind_virq", one, yard.vic, 40)
        assert yard.call("vpm_group_bind_virq", one, yard.vic, 41).error == Error.VIRQ_BOUND
        assert yard.call("vpm_group_bind_virq", two, yard.vic, 40).error == Error.BUSY
        yard.ok("cspace_delete_cap_from", yard.cspace, one)
        yard.ok("vpm_group_bind_virq", two, yard.vic, 40)
        yard.ok("vpm_group_unbind_virq", two)

    def test_unknown_options_are_not_implemented(self) -> None:
        yard = Yard()
        assert yard.call("vpm_group_configure", yard.create("vpm_group"), 2).error == Error.UNIMPLEMENTED
        assert yard.call("vpm_group_configure", yard.active("vpm_group"), 1).error == Error.OBJECT_STATE

    def test_a_member_leaves_when_it_is_gone(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, sleep_for_ever)
        group = yard.root.cspace.capability(vm.group).object
        assert set(group.members) == {0, 1}  # type: ignore[attr-defined]
        yard.ok("vcpu_kill", vm.threads[0])
        yard.settle()
        yard.ok("cspace_delete_cap_from", yard.cspace, vm.threads[0])
        assert set(group.members) == {1}  # type: ignore[attr-defined]
