"""Memory hypercalls as the root VM makes them: rights, order of checks, results in registers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gunyah.abi import pyimage
from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.objects import ALL_RIGHTS, AddrspaceRight, MemextentRight, ObjectType, PartitionRight, VicRight
from gunyah.hypervisor.boot import RootVm, start_root_vm
from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.machine.clock import VirtualClock
from gunyah.machine.memory import PhysicalMemory

PAGE = 4096
MIB = 1 << 20
RAM = 0x4000_0000
V = 0x1_0000_0000
RW = 0xF_0066
OK = int(Error.OK)


@dataclass
class Machine:
    """The root VM's hypercalls, one at a time."""

    hv: Hypervisor
    root: RootVm

    def call(self, name: str, *arguments: int) -> list[int]:
        """X0..X4 after the call."""
        x = self.root.vcpu.x
        x[:] = [*arguments, *[0] * (31 - len(arguments))]
        self.hv.dispatcher.hvc(self.root.vcpu, BY_NAME[name].hvc)
        return list(x[:5])

    def error(self, name: str, *arguments: int) -> Error:
        result = self.call(name, *arguments)
        error = Error(result[0] - (1 << 32) if result[0] >> 31 else result[0])
        if error:
            assert result[1:] == [0, 0, 0, 0]
        return error

    def cap(self, key: str) -> int:
        return self.root.capabilities[key]

    def create(self, kind: str) -> int:
        error, capid, *_ = self.call(f"partition_create_{kind}", self.cap("partition_capid"), self.cap("cspace_capid"))
        assert error == OK
        return capid

    def extent(self, base: int, size: int, attributes: int = 7) -> int:
        capid = self.create("memextent")
        assert self.error("memextent_configure", capid, base, size, attributes) is Error.OK
        assert self.error("object_activate", capid) is Error.OK
        return capid

    def derive(self, parent: int, offset: int, size: int, attributes: int = 7) -> int:
        capid = self.create("memextent")
        assert self.error("memextent_configure_derive", capid, parent, offset, size, attributes) is Error.OK
        assert self.error("object_activate", capid) is Error.OK
        return capid

    def space(self, vmid: int = 7) -> int:
        capid = self.create("addrspace")
        assert self.error("addrspace_configure", capid, vmid) is Error.OK
        assert self.error("object_activate", capid) is Error.OK
        return capid

    def weaken(self, capid: int, rights: int) -> int:
        cspace = self.cap("cspace_capid")
        error, copy, *_ = self.call("cspace_copy_cap_from", cspace, capid, cspace, rights)
        assert error == OK
        return copy


@pytest.fixture
def machine() -> Iterator[Machine]:
    hv = Hypervisor(PhysicalMemory([(RAM, 2 << 30)]), VirtualClock(), seed=1)
    number = hv.register_program(lambda cpu, x0: None)
    machine = Machine(hv, start_root_vm(hv, pyimage.pack(number)))
    yield machine
    hv.root_partition.system.database.check()


def test_each_right_is_needed_and_enough(machine: Machine) -> None:
    extent, addrspace = machine.extent(RAM, 2 * MIB), machine.space()
    assert machine.error("addrspace_map", addrspace, extent, V, RW) is Error.OK
    calls: list[tuple[str, int, int, tuple[int, ...]]] = [
        ("addrspace_map", AddrspaceRight.MAP, MemextentRight.MAP, (V, RW)),
        ("addrspace_update_access", AddrspaceRight.MAP, MemextentRight.MAP, (V, 0x44)),
        ("addrspace_lookup", AddrspaceRight.LOOKUP, MemextentRight.LOOKUP, (V, PAGE)),
        ("addrspace_unmap", AddrspaceRight.MAP, MemextentRight.MAP, (V,)),
    ]
    for name, space_right, extent_right, rest in calls:
        space_only = machine.weaken(addrspace, space_right)
        space_without = machine.weaken(addrspace, ALL_RIGHTS[ObjectType.ADDRSPACE] & ~space_right)
        extent_only = machine.weaken(extent, extent_right)
        extent_without = machine.weaken(extent, ALL_RIGHTS[ObjectType.MEMEXTENT] & ~extent_right)
        assert machine.error(name, space_without, extent_only, *rest) is Error.CSPACE_INSUFFICIENT_RIGHTS
        assert machine.error(name, space_only, extent_without, *rest) is Error.CSPACE_INSUFFICIENT_RIGHTS
        assert machine.error(name, space_only, extent_only, *rest) is Error.OK


def test_reserved_bits_come_before_the_capabilities(machine: Machine) -> None:
    for name, arguments in (
        ("addrspace_map", (0, 0, V, RW | 8, 0)),
        ("addrspace_map", (0, 0, V, RW, 2)),
        ("addrspace_unmap", (0, 0, V, 2)),
        ("addrspace_update_access", (0, 0, V, 8, 0)),
        ("memextent_modify", (0, 0x100)),
        ("memextent_donate", (0x100, 0, 0, 0, PAGE)),
    ):
        partition = machine.cap("partition_capid")
        wrong = [partition if argument == 0 else argument for argument in arguments[:2]]
        assert machine.error(name, *wrong, *arguments[2:]) is Error.ARGUMENT_INVALID


def test_look_up_gives_offset_size_and_attributes(machine: Machine) -> None:
    extent, addrspace = machine.extent(RAM, 4 * MIB), machine.space()
    child = machine.derive(extent, 3 * MIB, MIB)
    assert machine.error("addrspace_map", addrspace, extent, V, 0x5_0054 | 1) is Error.OK
    assert machine.call("addrspace_lookup", addrspace, extent, V + MIB, 1 << 40) == [OK, MIB, 2 * MIB, 0x5_0055, 0]
    assert machine.error("addrspace_lookup", addrspace, child, V, PAGE) is Error.MEMDB_NOT_OWNER
    assert machine.error("addrspace_map", addrspace, child, V + 3 * MIB, 0x5_0055) is Error.OK
    assert machine.error("addrspace_lookup", addrspace, extent, V, 4 * MIB) is Error.MEMDB_NOT_OWNER
    assert machine.call("addrspace_lookup", addrspace, child, V + 3 * MIB, 1 << 40)[:3] == [OK, 0, MIB]


def test_modify_wants_the_right_sync_flag(machine: Machine) -> None:
    extent = machine.extent(RAM, 2 * MIB)
    memory = machine.hv.memory
    memory.write(RAM, b"\xff" * 2 * PAGE)
    no_sync = 1 << 31
    for flags, error in (
        (1, Error.ARGUMENT_INVALID),
        (2, Error.ARGUMENT_INVALID),
        (3, Error.ARGUMENT_INVALID),
        (4 | no_sync, Error.ARGUMENT_INVALID),
        (255 | no_sync, Error.ARGUMENT_INVALID),
        (255, Error.OK),
        (0, Error.OK),
        (0 | no_sync, Error.OK),
        (2 | no_sync, Error.OK),
        (3 | no_sync, Error.OK),
    ):
        assert machine.error("memextent_modify", extent, flags, 0, PAGE) is error, hex(flags)
    assert memory.read(RAM, 2 * PAGE) == b"\xff" * 2 * PAGE
    assert machine.error("memextent_modify", extent, 1 | no_sync, 0, PAGE) is Error.OK
    assert memory.read(RAM, 2 * PAGE) == bytes(PAGE) + b"\xff" * PAGE


def test_donation_checks_child_then_parent_then_their_relation(machine: Machine) -> None:
    partition = machine.cap("partition_capid")
    parent = machine.extent(0, 1 << 36, 0x1_0007)
    child = machine.derive(parent, RAM, 2 * MIB, 0x1_0007)
    other = machine.derive(parent, RAM, 2 * MIB, 0x1_0007)
    no_donate = machine.weaken(child, ALL_RIGHTS[ObjectType.MEMEXTENT] & ~MemextentRight.DONATE)
    no_partition = machine.weaken(partition, ALL_RIGHTS[ObjectType.PARTITION] & ~PartitionRight.DONATE)
    donate = "memextent_donate"
    assert machine.error(donate, 0, partition, parent, RAM, 2 * MIB) is Error.OK
    for arguments, error in (
        ((0, parent, no_donate, 0, PAGE), Error.CSPACE_INSUFFICIENT_RIGHTS),
        ((0, partition, child, 0, PAGE), Error.CSPACE_WRONG_OBJECT_TYPE),
        ((0, parent, partition, 0, PAGE), Error.CSPACE_WRONG_OBJECT_TYPE),
        ((0, no_partition, parent, RAM, PAGE), Error.CSPACE_INSUFFICIENT_RIGHTS),
        ((0, other, child, 0, PAGE), Error.ARGUMENT_INVALID),
        ((1, child, other, 0, PAGE), Error.ARGUMENT_INVALID),
        ((2, parent, child, RAM, PAGE), Error.ARGUMENT_INVALID),
        ((3, parent, child, 0, PAGE), Error.ARGUMENT_INVALID),
        ((0, parent, child, 0, PAGE), Error.OK),
        ((2, child, other, 0, PAGE), Error.OK),
        ((1, other, parent, 0, PAGE), Error.OK),
        ((1, parent, partition, RAM, 2 * MIB), Error.OK),
        ((1, parent, partition, RAM, 2 * MIB), Error.MEMDB_NOT_OWNER),
    ):
        assert machine.error(donate, *arguments) is error, arguments
    assert (RAM, 0x4000_0000) in list(machine.hv.root_partition.free_ranges())


def test_a_mapping_beyond_the_ipa_space_is_refused_where_the_reference_dies(machine: Machine) -> None:
    extent, addrspace = machine.extent(RAM, 2 * MIB), machine.space()
    assert machine.error("addrspace_map", addrspace, extent, 1 << 36, RW) is Error.ADDR_INVALID
    assert machine.error("addrspace_map", addrspace, extent, (1 << 36) - PAGE, RW) is Error.ADDR_OVERFLOW
    assert machine.error("addrspace_map", addrspace, extent, V, RW) is Error.OK


def test_frames_of_a_vic_are_attached_once(machine: Machine) -> None:
    vic, addrspace = machine.create("vic"), machine.space()
    attach = "addrspace_attach_vdevice"
    assert machine.error(attach, addrspace, vic, 0, 0x800_0000, 0x1_0000, 0) is Error.OBJECT_STATE
    assert machine.error("vic_configure", vic, 2, 10, 0, 0) is Error.OK
    assert machine.error("object_activate", vic) is Error.OK
    weak = machine.weaken(vic, ALL_RIGHTS[ObjectType.VIC] & ~VicRight.ATTACH_VDEVICE)
    for arguments, error in (
        ((machine.cap("partition_capid"), 0, 0x800_0000, 0x1_0000, 0), Error.CSPACE_WRONG_OBJECT_TYPE),
        ((weak, 0, 0x800_0000, 0x1_0000, 0), Error.CSPACE_INSUFFICIENT_RIGHTS),
        ((vic, 3, 0x800_0000, 0x1_0000, 0), Error.ARGUMENT_INVALID),
        ((vic, 0, 0x800_0000, 0x1_0000, 1), Error.ARGUMENT_INVALID),
        ((vic, 1, 0x80A_0000, 0x2_0000, 4), Error.ARGUMENT_INVALID),
        ((vic, 1, 0x80A_0000, 0x2_0000, 0), Error.IDLE),
        ((vic, 0, 0x800_0000, 0, 0), Error.ARGUMENT_INVALID),
        ((vic, 0, 0x800_0000, 0x1_0000, 0), Error.OK),
        ((vic, 0, 0x900_0000, 0x1_0000, 0), Error.BUSY),
    ):
        assert machine.error(attach, addrspace, *arguments) is error, arguments
    assert machine.error("cspace_delete_cap_from", machine.cap("cspace_capid"), vic) is Error.OK


def test_no_object_has_a_dma_port(machine: Machine) -> None:
    addrspace = machine.space()
    for capid in (0, addrspace, machine.cap("device_me_capid"), (1 << 64) - 1):
        error = machine.error("addrspace_attach_vdma", addrspace, capid, 0)
        assert error is Error.CSPACE_WRONG_OBJECT_TYPE


def test_vmmio_ranges_can_be_declared_before_and_after_activation(machine: Machine) -> None:
    capid, failed = machine.create("addrspace"), machine.create("addrspace")
    vmmio = "addrspace_configure_vmmio"
    assert machine.error(vmmio, capid, 0x1000, 0x1000, 0) is Error.OK
    assert machine.error("addrspace_configure", capid, 9) is Error.OK
    assert machine.error("object_activate", capid) is Error.OK
    assert machine.error(vmmio, capid, 0x2000, 0x1000, 0) is Error.OK
    assert machine.error(vmmio, capid, 0x2000, 0x1000, 1) is Error.BUSY
    assert machine.error(vmmio, capid, 0x3000, 0x1000, 2) is Error.UNIMPLEMENTED
    assert machine.error("object_activate", failed) is Error.BUSY
    assert machine.error(vmmio, failed, 0x1000, 0x1000, 0) is Error.OBJECT_STATE


def test_an_information_page_is_checked_in_order(machine: Machine) -> None:
    page, active, fresh = machine.extent(RAM, PAGE, 6), machine.space(), machine.create("addrspace")
    info = "addrspace_configure_info_area"
    assert machine.error(info, page, page, V) is Error.CSPACE_WRONG_OBJECT_TYPE
    assert machine.error(info, active, fresh, V) is Error.CSPACE_WRONG_OBJECT_TYPE
    assert machine.error(info, active, page, V) is Error.OBJECT_STATE
    assert machine.error(info, fresh, page, V | 1) is Error.ADDR_INVALID
    assert machine.error(info, fresh, page, V) is Error.OK


def test_a_hundred_vms_in_small_pages_fit_into_the_root_heap(machine: Machine) -> None:
    used = machine.hv.root_partition.heap.used
    made = []
    for vmid in range(1, 101):
        extent = machine.extent(RAM + vmid * 4 * MIB, 4 * MIB)
        addrspace = machine.space(vmid)
        assert machine.error("addrspace_map", addrspace, extent, V + PAGE, RW) is Error.OK
        made += [extent, addrspace]
    for capid in made:
        assert machine.error("cspace_delete_cap_from", machine.cap("cspace_capid"), capid) is Error.OK
    assert machine.hv.root_partition.heap.used <= used + 64 * 1024, "only the tables of the capability space grew"


def test_parts_of_a_sparse_extent_are_mapped_changed_and_unmapped(machine: Machine) -> None:
    extent, addrspace = machine.extent(0, 1 << 36, 0x1_0007), machine.space()
    partition = machine.cap("partition_capid")
    assert machine.error("memextent_donate", 0, partition, extent, RAM, 2 * MIB) is Error.OK
    part = (1, RAM + PAGE, PAGE)
    assert machine.error("addrspace_map", addrspace, extent, V, RW, *part) is Error.OK
    assert machine.error("addrspace_update_access", addrspace, extent, V, 0x44, *part) is Error.OK
    assert machine.call("addrspace_lookup", addrspace, extent, V, MIB) == [OK, RAM + PAGE, PAGE, 0xF_0044, 0]
    assert machine.error("addrspace_unmap", addrspace, extent, V, *part) is Error.OK
    assert machine.error("addrspace_unmap", addrspace, extent, V, *part) is Error.ADDR_INVALID


def test_a_thread_gets_an_address_space_before_it_is_activated(machine: Machine) -> None:
    addrspace, thread = machine.space(), machine.create("thread")
    attach = "addrspace_attach_thread"
    assert machine.error(attach, addrspace, machine.cap("vcpu_capid")) is Error.OBJECT_STATE
    assert machine.error(attach, machine.create("addrspace"), thread) is Error.OBJECT_STATE
    assert machine.error(attach, thread, thread) is Error.CSPACE_WRONG_OBJECT_TYPE
    assert machine.error(attach, addrspace, thread) is Error.OK
    for _ in range(7):
        assert machine.error(attach, addrspace, machine.create("thread")) is Error.OK
    assert machine.error(attach, addrspace, machine.create("thread")) is Error.NOMEM
    assert machine.error("cspace_delete_cap_from", machine.cap("cspace_capid"), thread) is Error.OK
    assert machine.error(attach, addrspace, machine.create("thread")) is Error.OK
