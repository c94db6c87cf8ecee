"""The whole: loop, time, stop, ledger, root environment, and the same run from the same seed."""

from __future__ import annotations

import struct
from typing import ClassVar

import pytest
from tests.hypervisor.root_rig import RAM_BASE, RAM_SIZE, RootRig, load, machine
from tests.hypervisor.yard import MILLISECOND, Yard, call, sleep_for_ever, smccc, spin

from gunyah.abi import cbor
from gunyah.abi.objects import ObjectState, ObjectType
from gunyah.abi.types import CAP_INVALID
from gunyah.guest.cpu import Cpu
from gunyah.hypervisor.boot import start_root_vm
from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.hypervisor.instruments import Instrument
from gunyah.hypervisor.ledger import ledger_of
from gunyah.machine import board
from gunyah.machine.clock import RealClock, VirtualClock
from gunyah.machine.memory import PhysicalMemory

ENVIRONMENT_KEYS = {
    "cspace_capid",
    "partition_capid",
    "vcpu_capid",
    "free_ranges",
    "gicd_base",
    "gicr_stride",
    "gicr_ranges",
    "vic",
    "vic_hwirq",
    "addrspace_capid",
    "me_ipa_base",
    "me_size",
    "ipa_offset",
    "me_capid",
    "device_me_capid",
    "uart_me_capid",
    "uart_address",
    "device_me_base",
    "device_me_size",
    "hlos_vm_base",
    "hlos_vm_size",
    "entry_hlos",
    "hlos_dt_base",
    "hlos_ramfs_base",
    "boot_core",
    "usable_cores",
    "watchdog_supported",
    "sve_supported",
}
"""Those that the reference gives its root VM (boot.md 5)."""


class TestEnvironment:
    """What the root VM is told at its start."""

    def test_it_has_the_reference_keys_and_no_other(self) -> None:
        rig = RootRig()
        assert set(rig.root.environment) == ENVIRONMENT_KEYS

    def test_it_is_read_from_memory_through_the_two_blocks(self) -> None:
        rig = RootRig()
        at = rig.root.environment_ipa
        signature, version = struct.unpack("<IH", rig.root.addrspace.read(at, 6))
        assert (signature, version) == (0x454D_5652, 1)
        header = rig.root.addrspace.read(at + 88, 16)
        signature, version, offset, size = struct.unpack("<IHxxII", header)
        assert (signature, version) == (0x524D_4544, 1)
        payload = rig.root.addrspace.read(at + 88 + offset, size)
        assert cbor.decode(payload) == dict(rig.root.environment)

    def test_addresses_are_the_boards(self) -> None:
        environment = RootRig().root.environment
        assert environment["gicd_base"] == board.GICD.base
        assert environment["hlos_vm_base"] == board.HLOS.base
        assert environment["gicr_ranges"] == [[board.GICR.base, 8]]
        assert environment["free_ranges"] == [[0x4000_0000, 0x4000_0000], [0x8040_0000, 0x3D80_0000]]

    def test_every_capability_names_what_it_should(self) -> None:
        rig = RootRig()
        kinds = {
            "cspace_capid": ObjectType.CSPACE,
            "partition_capid": ObjectType.PARTITION,
            "vcpu_capid": ObjectType.THREAD,
            "vic": ObjectType.VIC,
            "addrspace_capid": ObjectType.ADDRSPACE,
            "me_capid": ObjectType.MEMEXTENT,
            "device_me_capid": ObjectType.MEMEXTENT,
            "uart_me_capid": ObjectType.MEMEXTENT,
        }
        for key, kind in kinds.items():
            capability = rig.root.cspace.capability(rig.root.capabilities[key])
            assert capability.object.type is kind
            assert capability.master
            assert capability.object.state == ObjectState.ACTIVE
        lines = rig.root.environment["vic_hwirq"]
        assert isinstance(lines, list)
        for number, capid in enumerate(lines):
            if capid != CAP_INVALID:
                assert rig.root.cspace.capability(capid).object is rig.root.hwirqs[number]  # type: ignore[arg-type]

    def test_the_root_vm_starts_with_its_address_in_x0(self) -> None:
        hv, seen = machine(), []
        root = start_root_vm(hv, load(hv, lambda cpu, x0: seen.append(x0)))
        hv.run(lambda: bool(seen), 1000 * MILLISECOND)
        assert seen == [root.environment_ipa]

    def test_what_does_not_fit_is_refused(self) -> None:
        hv = machine()
        with pytest.raises(ValueError, match="larger"):
            start_root_vm(hv, bytes(0x1001))
        with pytest.raises(ValueError, match="environment"):
            start_root_vm(machine(), b"", extra={"long": "x" * 0x4000})


class TestLedger:
    """Every object, its holders and its memory."""

    def test_it_names_objects_holders_rights_and_memory(self) -> None:
        yard = Yard()
        before = ledger_of(yard.hv)
        extent = yard.active("memextent", 0x6000_0000, 0x3000, 7)
        space = yard.active("cspace", 8)
        yard.ok("cspace_copy_cap_from", yard.cspace, extent, space, 1)
        new = ledger_of(yard.hv).since(before)
        assert [entry.type for entry in new] == [ObjectType.MEMEXTENT, ObjectType.CSPACE]
        entry = new[0]
        assert entry.state == ObjectState.ACTIVE
        assert entry.references == 1
        assert entry.memory == ((0x6000_0000, 0x3000),)
        assert entry.heap >= 512
        assert [(holder.cspace, holder.master) for holder in entry.holders] == [
            (yard.root.cspace.serial, True),
            (new[1].serial, False),
        ]
        assert entry.holders[1].rights == "map"
        assert entry.name == f"memextent #{entry.serial}"

    def test_heap_and_free_memory_add_up(self) -> None:
        yard = Yard()
        before = ledger_of(yard.hv)
        assert before.heap_used == yard.hv.root_partition.heap.used
        extent = yard.active("memextent", 0x6000_0000, 0x3000, 7)
        after = ledger_of(yard.hv)
        assert sum(size for _, size in before.free_memory) - sum(size for _, size in after.free_memory) == 0x3000
        yard.ok("cspace_delete_cap_from", yard.cspace, extent)
        assert ledger_of(yard.hv) == before

    def test_looking_changes_nothing(self) -> None:
        yard = Yard()
        yard.vm(spin)
        yard.run(ms=2)
        assert ledger_of(yard.hv) == ledger_of(yard.hv)


class TestLoop:
    """run, its ends, and time."""

    def test_it_ends_when_the_condition_holds(self) -> None:
        yard = Yard()
        vm = yard.vm(spin)
        assert yard.hv.run(lambda: vm.vcpus[0].run_ticks > 0)

    def test_it_ends_at_the_deadline(self) -> None:
        yard = Yard()
        yard.vm(spin)
        end = yard.hv.clock.ticks() + 10 * MILLISECOND
        assert not yard.hv.run(None, end)
        assert end <= yard.hv.clock.ticks() < end + MILLISECOND // 8

    def test_it_ends_when_nothing_can_happen_any_more(self) -> None:
        yard = Yard()
        assert not yard.hv.run()

    def test_an_idle_machine_jumps_to_the_next_timer(self) -> None:
        yard, log = Yard(), []
        yard.settle()
        yard.hv.timers.at(yard.hv.clock.ticks() + 60 * 62_500_000, lambda: log.append(1))
        assert yard.hv.run(lambda: bool(log))

    def test_with_a_real_clock_it_waits(self) -> None:
        hv = Hypervisor(PhysicalMemory([(RAM_BASE, RAM_SIZE)]), RealClock(), seed=1)
        log: list[int] = []
        start = hv.clock.ticks()
        hv.timers.at(start + MILLISECOND, lambda: log.append(1))
        assert hv.run(lambda: bool(log))
        assert hv.clock.ticks() - start >= MILLISECOND

    def test_a_request_to_stop_ends_it_soon(self) -> None:
        yard = Yard()

        def program(cpu: Cpu, x0: int) -> None:
            while True:
                yard.hv.request_stop()
                cpu.hvc(0x6000)

        yard.vm(program)
        assert not yard.hv.run()
        assert yard.hv.stopped is None

    def test_the_host_is_polled_between_slices_and_waited_for_when_all_sleep(self) -> None:
        class Host:
            polls: ClassVar[list[float | None]] = []

            def poll(self, timeout: float | None, /) -> None:
                self.polls.append(timeout)
                if timeout is None:
                    yard.hv.request_stop()

        yard = Yard()
        yard.hv.host = Host()
        busy = yard.vm(spin)
        yard.run(ms=20)
        assert len(Host.polls) >= 10
        assert set(Host.polls) == {0.0}
        yard.ok("vcpu_kill", busy.threads[0])
        assert not yard.hv.run()
        assert Host.polls[-1] is None

    def test_a_host_on_a_real_clock_gets_the_time_there_is(self) -> None:
        class Host:
            polls: ClassVar[list[float | None]] = []

            def poll(self, timeout: float | None, /) -> None:
                self.polls.append(timeout)

        hv = Hypervisor(PhysicalMemory([(RAM_BASE, RAM_SIZE)]), RealClock(), seed=1)
        hv.host = Host()
        log: list[int] = []
        hv.timers.at(hv.clock.ticks() + MILLISECOND, lambda: log.append(1))
        assert hv.run(lambda: bool(log))
        assert Host.polls
        assert all(timeout is not None and 0 <= timeout <= 0.001 for timeout in Host.polls)

    def test_a_host_that_brings_work_while_time_would_jump_is_served_first(self) -> None:
        yard, log = Yard(), []
        vm = yard.vm(sleep_for_ever)
        yard.settle()
        start = yard.hv.clock.ticks()

        class Host:
            def poll(self, timeout: float | None, /) -> None:
                if not log:
                    log.append(yard.hv.clock.ticks())
                    vm.vcpus[0].unblock(8)

        yard.hv.host = Host()
        yard.hv.timers.at(start + 62_500_000, lambda: log.append(0))
        yard.hv.run(lambda: len(log) == 2)
        assert log[0] == start

    def test_a_stopped_machine_runs_nobody(self) -> None:
        yard = Yard()
        vm = yard.vm(spin)
        yard.hv.stop("off", "a test")
        yard.hv.stop("reset", "too late")
        assert not yard.run(ms=5)
        yard.hv.enter(vm.vcpus[0], 0)
        assert vm.vcpus[0].run_ticks == 0
        assert yard.hv.stopped == "off"
        assert yard.hv.remarks[-1] == "a test"


class TestDeterminism:
    """A system is a value: the same description and seed give the same run."""

    class Trace(Instrument):
        def __init__(self) -> None:
            self.lines: list[tuple[object, ...]] = []

        def hypercall_exit(self, vcpu, call, args, results, ticks) -> None:  # type: ignore[no-untyped-def]
            self.lines.append((str(vcpu), call.name, tuple(args), tuple(results), ticks))

        def switch(self, core, old, new, ticks) -> None:  # type: ignore[no-untyped-def]
            self.lines.append((core, str(old), str(new), ticks))

        def trap(self, vcpu, reason, value, ticks) -> None:  # type: ignore[no-untyped-def]
            self.lines.append((str(vcpu), reason, value, ticks))

        def object_event(self, obj, event, ticks) -> None:  # type: ignore[no-untyped-def]
            self.lines.append((str(obj), event, ticks))

    def _trace(self, seed: int) -> list[tuple[object, ...]]:
        yard, trace = Yard(seed), self.Trace()
        yard.hv.instruments.append(trace)

        def program(cpu: Cpu, x0: int) -> None:
            cpu.msr("CNTV_CTL_EL0", 1)
            for number in range(40):
                call(cpu, "prng_get_entropy", 16)
                smccc(cpu, 0xC400_0053, 100 + number)
                cpu.msr("CNTV_TVAL_EL0", 5000 + 100 * x0)
                call(cpu, "scheduler_yield", 0, 0)
                cpu.load(0x0800_0000, 4)

        yard.vm(program, program, timeslice=100_000)
        yard.vm(program, cpus=(3,))
        yard.run(ms=20)
        return trace.lines

    def test_the_same_seed_gives_the_same_trace(self) -> None:
        first = self._trace(7)
        assert len(first) > 500
        assert first == self._trace(7)

    def test_another_seed_gives_other_numbers(self) -> None:
        assert self._trace(7) != self._trace(8)


def test_objects_tell_the_instruments_of_their_life() -> None:
    events: list[tuple[str, str]] = []

    class Watch(Instrument):
        def object_event(self, obj, event, ticks) -> None:  # type: ignore[no-untyped-def]
            events.append((str(obj).split(" ")[0], event))

    rig = RootRig()
    rig.hv.instruments.append(Watch())
    rig.active("doorbell")
    rig.call("object_activate", rig.create("msgqueue"))
    assert events[:3] == [("doorbell", "create"), ("doorbell", "activate"), ("msgqueue", "create")]


def test_messages_tell_the_instruments_of_their_way() -> None:
    seen: list[tuple[object, ...]] = []

    class Watch(Instrument):
        def message_send(self, queue, vcpu, data, flow, ticks) -> None:  # type: ignore[no-untyped-def]
            seen.append(("sent", data, flow))

        def message_receive(self, queue, vcpu, data, flow, ticks) -> None:  # type: ignore[no-untyped-def]
            seen.append(("received", data, flow))

    rig = RootRig()
    rig.hv.instruments.append(Watch())
    queue = rig.active("msgqueue", 16 << 16 | 4)
    for text in (b"one", b"two", b"three"):
        rig.root.addrspace.write(0x8048_8000, text)
        rig.call("msgqueue_send", queue, len(text), 0x8048_8000, 0)
    rig.call("msgqueue_receive", queue, 0x8048_8000, 16)
    rig.call("msgqueue_receive", queue, 0x8048_8000, 16)
    flows = {text: flow for what, text, flow in seen if what == "sent"}
    assert len(set(flows.values())) == 3
    assert [(text, flow) for what, text, flow in seen if what == "received"] == [
        (b"one", flows[b"one"]),
        (b"two", flows[b"two"]),
    ]


def test_a_machine_without_anything_has_a_clock_at_zero() -> None:
    hv = machine()
    assert isinstance(hv.clock, VirtualClock)
    assert not hv.run()
    assert not hv.due()
    assert list(hv.objects()) == []
