"""What the tests of memory extents share: a small machine, extents, address spaces, and what stage 2 shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gunyah.abi.errors import Error
from gunyah.abi.memory import MappingAttributes, MemextentAttributes, MemextentType
from gunyah.hypervisor.addrspace import Addrspace
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.partition import Partition, create_partitions
from gunyah.machine.memory import PhysicalMemory

PAGE = 4096
MIB = 1 << 20
RAM = 0x4000_0000
V = 0x8000_0000
RWX = MappingAttributes(7, 7, 0xF)
RW = MappingAttributes(6, 6, 0xF)
RO = MappingAttributes(4, 4, 0xF)
DEVICE_RW = MappingAttributes(6, 6, 1)


def make_root() -> Partition:
    """Root partition of a machine with 64 MiB and a heap of 4 MiB."""
    return create_partitions(PhysicalMemory([(RAM, 64 * MIB)]), root_size=4 * MIB)[1]


def word(access: int = 7, memtype: int = 0, kind: int = MemextentType.BASIC) -> int:
    return MemextentAttributes(access, memtype, kind).pack()


def basic(root: Partition, base: int = RAM, size: int = 2 * MIB, access: int = 7) -> MemExtent:
    extent = MemExtent(root)
    extent.configure(base, size, word(access))
    extent.activate()
    return extent


def sparse(root: Partition, base: int = RAM, size: int = 2 * MIB, access: int = 7) -> MemExtent:
    extent = MemExtent(root)
    extent.configure(base, size, word(access, kind=MemextentType.SPARSE))
    extent.activate()
    return extent


def derive(
    parent: MemExtent, offset: int, size: int, access: int = 7, kind: int = MemextentType.BASIC, memtype: int = 0
) -> MemExtent:
    assert isinstance(parent.partition, Partition)
    extent = MemExtent(parent.partition)
    extent.configure_derive(parent, offset, size, word(access, memtype, kind))
    extent.activate()
    return extent


def space(root: Partition, vmid: int = 7) -> Addrspace:
    addrspace = Addrspace(root)
    addrspace.configure(vmid)
    addrspace.activate()
    return addrspace


def pages(addrspace: Addrspace) -> dict[int, tuple[int, MappingAttributes]]:
    """IPA of each mapped page -> PA and attributes."""
    return {
        leaf.ipa + offset: (leaf.pa + offset, leaf.attributes)
        for leaf in addrspace.tables.leaves()
        for offset in range(0, leaf.size, PAGE)
    }


def expect(base: int, pa: int, size: int, attributes: MappingAttributes) -> dict[int, tuple[int, MappingAttributes]]:
    return {base + offset: (pa + offset, attributes) for offset in range(0, size, PAGE)}


@contextmanager
def refused(error: Error) -> Iterator[None]:
    """The code inside must be refused with this error."""
    with pytest.raises(HypervisorError) as failure:
        yield
    assert failure.value.code is error, f"expected {error.name}, got {failure.value.code.name}: {failure.value}"
