"""Buffers of a native guest's calls: the hypervisor sees its memory as the guest does, all of a buffer or nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from gunyah.host.conformance import assembler as a
from gunyah.hypervisor.stage2 import Stage2Fault
from gunyah.hypervisor.vcpu import Vcpu
from gunyah.machine.engine import SYSTEM_REGISTERS
from gunyah.native import NativePrimary
from gunyah.system import System
from gunyah.vmm.images import parse_image

PAGE, GIB, MIB = 0x1000, 1 << 30, 1 << 20
SIZE = 64 * MIB
WFI, BACK, ISB = 0xD503_207F, 0x17FF_FFFF, 0xD503_3FDF
TABLE, ALIAS = 0x1000, 3 * GIB
"""Where the guest's stage-1 table is in its image, and where its RAM stands a second time."""
# MMU on; 32-bit addresses from level 1 with 4 KiB granule; attribute 0 is normal memory.
SETUP = {"MAIR_EL1": 0xFF, "TCR_EL1": 1 << 23 | 32, "TTBR0_EL1": None, "SCTLR_EL1": 0x30D0_0801}
VALID, READ_ONLY, ACCESSED = 1, 1 << 7, 1 << 10


def constant(register: int, value: int) -> list[int]:
    """mov and movk."""
    words = [0xD280_0000 | (value & 0xFFFF) << 5 | register]
    return words + [0xF280_0000 | n << 21 | (value >> 16 * n & 0xFFFF) << 5 | register for n in (1, 2, 3)]


def image(mmu: bool) -> bytes:
    """A guest that sets itself up and then waits for ever."""
    words = [a.adr(5, TABLE)] if mmu else []
    for name, value in SETUP.items() if mmu else ():
        if value is not None:
            words += constant(0, value)
        words += [a.msr(SYSTEM_REGISTERS[name], 5 if value is None else 0)]
    words += [ISB, WFI, BACK]
    ram = [base | ACCESSED | VALID for base in (GIB, 2 * GIB)]
    entries = [READ_ONLY | ACCESSED | VALID, *ram, GIB | ACCESSED | VALID]
    return struct.pack(f"<{len(words)}I", *words).ljust(TABLE, b"\0") + struct.pack("<4Q", *entries).ljust(PAGE, b"\0")


def waiting(mmu: bool) -> Iterator[tuple[System, Vcpu, int]]:
    primary = NativePrimary(kernel=parse_image(image(mmu), "buffers"))
    with System(primary, clock="virtual", seed=1, memory=SIZE) as system:
        system.run(timeout=1)
        (vcpu,) = (each for each in system.hypervisor.vcpus.values() if each.vmid == 3 and each.executor is not None)
        assert primary.placement is not None
        yield system, vcpu, primary.placement.entry


@pytest.fixture
def plain() -> Iterator[tuple[System, Vcpu, int]]:
    yield from waiting(False)


@pytest.fixture
def mapped() -> Iterator[tuple[System, Vcpu, int]]:
    yield from waiting(True)


def fault(call: object, *arguments: object) -> Stage2Fault:
    with pytest.raises(Stage2Fault) as raised:
        call(*arguments)  # type: ignore[operator]
    return raised.value


@pytest.mark.parametrize(("offset", "size"), [(0x2000, 16), (0x3FF8, 16), (0x2FFF, 2 * PAGE + 2), (0x2000, 0)])
def test_a_buffer_may_cross_pages(plain: tuple[System, Vcpu, int], offset: int, size: int) -> None:
    system, vcpu, entry = plain
    data = bytes(1 + n % 251 for n in range(size))
    vcpu.copy_out(entry + offset, data)
    assert system.memory.read(entry + offset, size) == data
    assert vcpu.copy_in(entry + offset, size) == data


def test_a_buffer_that_begins_or_ends_elsewhere_is_refused_and_nothing_is_written(
    plain: tuple[System, Vcpu, int],
) -> None:
    system, vcpu, entry = plain
    end = (entry & ~(MIB - 1)) + 1
    while vcpu.addrspace is not None and vcpu.addrspace.fault_at(end & ~(PAGE - 1), 4) is None:
        end += MIB
    end &= ~(PAGE - 1)
    before = system.memory.read(end - 8, 8)
    for address in (end, end - 8):
        for found in (fault(vcpu.copy_in, address, 16), fault(vcpu.copy_out, address, b"x" * 16)):
            assert (found.kind, found.ipa) == ("translation", end)
    assert system.memory.read(end - 8, 8) == before


def test_a_buffer_beyond_all_addresses_is_refused(plain: tuple[System, Vcpu, int]) -> None:
    _, vcpu, _ = plain
    for address, size in (((1 << 64) - 8, 16), ((1 << 64) - PAGE, PAGE + 1)):
        assert fault(vcpu.copy_in, address, size).kind == "address size"
        assert fault(vcpu.copy_out, address, bytes(size)).kind == "address size"


def test_with_its_mmu_on_a_guest_names_virtual_addresses(mapped: tuple[System, Vcpu, int]) -> None:
    system, vcpu, entry = mapped
    virtual = entry - GIB + ALIAS
    for offset, size in ((0x2000, 16), (0x2FF8, 16)):
        vcpu.copy_out(virtual + offset, b"y" * size)
        assert system.memory.read(entry + offset, size) == b"y" * size
        assert vcpu.copy_in(virtual + offset, size) == vcpu.copy_in(entry + offset, size) == b"y" * size


def test_what_stage_1_refuses_is_told_with_the_virtual_address(mapped: tuple[System, Vcpu, int]) -> None:
    _, vcpu, _ = mapped
    for size in (8, 2 * PAGE):
        written = fault(vcpu.copy_out, 0x900_0000, bytes(size))
        assert (written.kind, written.ipa, written.access) == ("stage-1 permission", 0x900_0000, 2)
        absent = fault(vcpu.copy_in, 4 * GIB, size)
        assert (absent.kind, absent.ipa, absent.access) == ("stage-1 translation", 4 * GIB, 4)


def test_what_stage_1_lets_through_and_stage_2_does_not_is_told_with_the_ipa(
    mapped: tuple[System, Vcpu, int],
) -> None:
    _, vcpu, _ = mapped
    beyond = fault(vcpu.copy_in, ALIAS + GIB - PAGE, 8)
    assert (beyond.kind, beyond.ipa) == ("translation", 2 * GIB - PAGE)
    device = fault(vcpu.copy_in, 0x900_0000, 8)
    assert (device.kind, device.ipa) == ("device", 0x900_0000)
