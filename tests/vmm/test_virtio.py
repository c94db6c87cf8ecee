"""Virtio devices between VMs: the driver in a secondary VM, the device in the primary one, RM and stage 2 between them.

The driver here is a Python guest, which can also do what no kernel would.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

import gunyah
from gunyah.abi import pyimage
from gunyah.abi.rm import ExitType, ResourceType
from gunyah.guest.cpu import Cpu, GuestAbort
from gunyah.guest.hypercall import Hypercalls
from gunyah.linux.setup import read_device_tree
from gunyah.secondary import PrimaryVm
from gunyah.vmm.images import parse_image
from gunyah.vmm.loader import LoadError
from gunyah.vmm.virtio_devices import BlockDevice, ConsoleDevice, MemoryStorage
from gunyah.vmm.vm_config import SharedMemory, Virtio, VmSettings

MIB = 1 << 20
SYSTEM_OFF = 0x8400_0008
RING, AVAIL, USED, HEADER, DATA, STATUS_BYTE = 0, 0x1000, 0x2000, 0x3000, 0x4000, 0x8000
STATUS, NEEDS_RESET, DRIVER_OK = 0x70, 0x40, 4
NEXT, WRITE = 1, 2


class Driver:
    """A virtio driver of the simplest kind: one queue of eight descriptors, everything in the pool."""

    def __init__(self, cpu: Cpu, x0: int) -> None:
        self.cpu = cpu
        tree = self.tree = read_device_tree(cpu, x0)
        node = next(tree.find_compatible("virtio,mmio"))
        self.base = node.reg()[0][0]
        pool = tree.by_phandle(node.u32("memory-region"))
        assert pool is not None
        self.pool, self.pool_size = pool.reg()[0]
        self.made = 0

    def load(self, offset: int) -> int:
        return self.cpu.load(self.base + offset, 4)

    def store(self, offset: int, value: int) -> None:
        self.cpu.store(self.base + offset, value, 4)

    def start(self, *, queues: int = 1, ring: int | None = None) -> list[int]:
        """Everything up to DRIVER_OK; the features that were offered."""
        self.store(STATUS, 1)
        self.store(STATUS, 3)
        offered = []
        for select in (0, 1):
            self.store(0x14, select)
            offered.append(self.load(0x10))
            self.store(0x24, select)
            self.store(0x20, offered[-1])
        self.store(STATUS, 11)
        at = self.pool if ring is None else ring
        for queue in range(queues):
            self.store(0x30, queue)
            self.store(0x38, 8)
            for register, place in ((0x80, RING), (0x90, AVAIL), (0xA0, USED)):
                self.store(register, at + place & 0xFFFF_FFFF)
                self.store(register + 4, at + place >> 32)
            self.store(0x44, 1)
        self.store(STATUS, 15)
        return offered

    def offer(self, *descriptors: tuple[int, int, int]) -> None:
        """Make one chain of (address, bytes, WRITE or 0), and ring."""
        last = len(descriptors) - 1
        for index, (address, size, flags) in enumerate(descriptors):
            more = NEXT if index < last else 0
            self.descriptor(index, address, size, flags | more, index + 1)
        self.publish()

    def descriptor(self, index: int, address: int, size: int, flags: int, following: int) -> None:
        self.cpu.write(self.pool + RING + 16 * index, struct.pack("<QIHH", address, size, flags, following))

    def publish(self) -> None:
        self.cpu.write(self.pool + AVAIL + 4 + 2 * (self.made % 8), bytes(2))
        self.made += 1
        self.cpu.write(self.pool + AVAIL + 2, struct.pack("<H", self.made & 0xFFFF))
        self.store(0x50, 0)

    def wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            Hypercalls(self.cpu).scheduler_yield()

    def request(self, kind: int, sector: int, data: bytes = b"", size: int = 0) -> tuple[int, bytes]:
        """A disk request; its status and what was read."""
        pool, before = self.pool, self.used()
        self.cpu.write(pool + HEADER, struct.pack("<IIQ", kind, 0, sector))
        self.cpu.write(pool + STATUS_BYTE, b"\xff")
        middle = [(pool + DATA, len(data) or size, 0 if data else WRITE)] if data or size else []
        if data:
            self.cpu.write(pool + DATA, data)
        self.offer((pool + HEADER, 16, 0), *middle, (pool + STATUS_BYTE, 1, WRITE))
        self.wait(lambda: self.used() != before)
        return self.cpu.read(pool + STATUS_BYTE, 1)[0], self.cpu.read(pool + DATA, size)

    def used(self) -> int:
        return int.from_bytes(self.cpu.read(self.pool + USED + 2, 2), "little")

    def broken(self) -> bool:
        return bool(self.load(STATUS) & NEEDS_RESET)

    def reset(self) -> None:
        self.store(STATUS, 0)
        self.wait(lambda: self.load(STATUS) == 0)
        for place in (AVAIL, USED):
            self.cpu.write(self.pool + place, bytes(0x20))
        self.made = 0

    def power_off(self) -> None:
        self.cpu.x[0] = SYSTEM_OFF
        self.cpu.hvc(0)


@pytest.fixture
def system() -> Iterator[gunyah.System]:
    with gunyah.System(clock="virtual", seed=1) as system:
        before = system.ledger()
        yield system
        assert not system.ledger().since(before)
        assert not system.primary.kernel.oopses
        assert not system.rm.log.errors()


def run(system: gunyah.System, program: Callable[[Driver], None], device: Any, **changes: Any) -> PrimaryVm:
    """A VM with one device, run to its end; it is taken down by the caller."""

    def guest(cpu: Cpu, x0: int) -> None:
        driver = Driver(cpu, x0)
        program(driver)
        driver.power_off()

    image = parse_image(pyimage.pack(system.load_program("driver", guest)), "driver")
    settings = VmSettings(name="driver", image=image, memory=4 * MIB, console="none", **changes)
    vm = system.primary.vm(replace(settings, virtio=(Virtio(7, device),)))
    vm.start()
    assert vm.wait_exit(10).exit_type == ExitType.PLATFORM_OFF, system.hypervisor.reports
    return vm


@pytest.mark.parametrize("affinity", ["proxy", "static"])
def test_a_disk_is_read_and_written_and_says_what_it_is(system: gunyah.System, affinity: str) -> None:
    disk = MemoryStorage(b"".join(bytes([65 + sector]) * 512 for sector in range(8)))
    seen: dict[str, Any] = {}

    def program(driver: Driver) -> None:
        seen["constants"] = [driver.load(offset) for offset in (0, 4, 8)], driver.load(0x100)
        seen["features"] = driver.start()
        seen["read"] = driver.request(0, 1, size=1024)
        seen["write"] = driver.request(1, 7, data=b"guest" * 102 + b"ab")
        seen["flush"] = driver.request(4, 0)
        seen["id"] = driver.request(8, 0, size=20)
        seen["beyond"] = driver.request(0, 8, size=512)[0]
        seen["odd"] = driver.request(0, 0, size=100)[0]
        seen["unknown"] = driver.request(77, 0)[0]
        seen["status"] = driver.load(0x60)
        driver.store(0x64, 3)
        seen["acknowledged"] = driver.load(0x60)

    vm = run(system, program, BlockDevice(disk, "seven"), affinity=affinity)
    assert seen["constants"] == ([0x7472_6976, 2, 2], 8)
    assert seen["features"] == [1 << 9 | 1 << 2, 3]
    assert seen["read"] == (0, b"B" * 512 + b"C" * 512)
    assert seen["write"][0] == 0 and disk.content[7 * 512 :].startswith(b"guestguest")
    assert seen["flush"][0] == 0 and disk.flushes == 1
    assert seen["id"] == (0, b"seven".ljust(20, b"\0"))
    assert (seen["beyond"], seen["odd"], seen["unknown"]) == (1, 1, 2)
    assert (seen["status"], seen["acknowledged"]) == (1, 0)
    vm.deallocate()


def test_a_read_only_disk_says_so_and_keeps_its_content(system: gunyah.System) -> None:
    disk = MemoryStorage(bytes(1024), read_only=True)
    seen: list[Any] = []

    def program(driver: Driver) -> None:
        seen.append(driver.start()[0])
        seen.append(driver.request(1, 0, data=b"x" * 512)[0])

    run(system, program, BlockDevice(disk)).deallocate()
    assert seen == [1 << 9 | 1 << 5 | 1 << 2, 1] and disk.content == bytes(1024)


def test_a_storage_that_fails_is_an_io_error_of_the_guests(system: gunyah.System) -> None:
    class Broken(MemoryStorage):
        def write(self, offset: int, data: bytes, /) -> None:
            raise OSError(28, "No space left on device")

    seen: list[Any] = []

    def program(driver: Driver) -> None:
        driver.start()
        seen.append(driver.request(1, 0, data=b"x" * 512)[0])
        seen.append(driver.request(0, 0, size=512))

    disk = BlockDevice(Broken(b"kept".ljust(512, b"\0")))
    run(system, program, disk).deallocate()
    assert seen == [1, (0, b"kept".ljust(512, b"\0"))] and "No space left" in disk.failure


def test_what_a_vm_lends_is_out_of_the_devices_reach_and_a_broken_driver_can_begin_again(
    system: gunyah.System,
) -> None:
    disk = MemoryStorage(b"secret".ljust(512, b"\0"))
    broken: list[str] = []

    def attempt(driver: Driver, crime: Callable[[], None]) -> None:
        driver.start()
        crime()
        driver.wait(driver.broken)
        driver.reset()

    def program(driver: Driver) -> None:
        pool, lent = driver.pool, 0x8000_0000

        def loop() -> None:
            driver.descriptor(0, pool, 16, NEXT, 0)
            driver.publish()

        crimes: list[Callable[[], None]] = [
            lambda: driver.offer((lent, 16, 0), (pool + STATUS_BYTE, 1, WRITE)),
            lambda: driver.offer((pool + HEADER, 16, 0), (lent, 512, WRITE)),
            lambda: driver.offer((pool + driver.pool_size - 8, 16, 0), (pool + STATUS_BYTE, 1, WRITE)),
            lambda: driver.offer(((1 << 64) - 8, 16, 0), (pool, 1, WRITE)),
            lambda: driver.offer((pool, 8, 0), (pool + STATUS_BYTE, 1, WRITE)),
            lambda: driver.offer((pool + STATUS_BYTE, 1, WRITE), (pool, 16, 0)),
            lambda: driver.offer((pool, 16, 4)),
            loop,
        ]
        for crime in crimes:
            attempt(driver, crime)
        driver.start(ring=lent)
        driver.wait(driver.broken)
        driver.reset()
        driver.start()
        broken.append(driver.request(0, 0, size=512)[1].rstrip(b"\0").decode())

    vm = run(system, program, BlockDevice(disk))
    assert broken == ["secret"]
    assert "not in memory that the driver shares" in vm.inside.backends[0].failure
    vm.deallocate()


def test_a_driver_cannot_write_its_page_nor_ring_queues_that_are_not_there_into_trouble(system: gunyah.System) -> None:
    seen: list[Any] = []

    def program(driver: Driver) -> None:
        for offset, width in ((0x0, 4), (0x100, 8), (0x10, 2)):
            try:
                driver.cpu.store(driver.base + offset, 0, width)
            except GuestAbort as abort:
                seen.append(abort.esr)
        driver.start()
        for queue in (1, 15, 63, 64, 0xFFFF_FFFF):
            driver.store(0x50, queue)
        seen.append(driver.request(0, 0, size=512)[0])
        seen.append(driver.load(0))

    run(system, program, BlockDevice(MemoryStorage(bytes(512)))).deallocate()
    assert len(seen) == 5 and seen[-2:] == [0, 0x7472_6976]


def test_a_console_carries_bytes_both_ways(system: gunyah.System) -> None:
    heard = bytearray()
    console = ConsoleDevice(heard.extend)
    seen: list[bytes] = []

    def program(driver: Driver) -> None:
        driver.start(queues=1)
        before = driver.used()
        driver.offer((driver.pool + DATA, 16, WRITE))
        driver.wait(lambda: driver.used() != before)
        seen.append(driver.cpu.read(driver.pool + DATA, 16).rstrip(b"\0"))

    console.feed(b"typed early")
    run(system, program, console).deallocate()
    assert seen == [b"typed early"] and not heard


def test_the_same_devices_serve_the_next_life(system: gunyah.System) -> None:
    disk = MemoryStorage(bytes(512))
    lives: list[int] = []

    def program(driver: Driver) -> None:
        driver.start()
        before = driver.request(0, 0, size=512)[1][0]
        driver.request(1, 0, data=bytes([before + 1]) * 512)
        lives.append(before)

    vm = run(system, program, BlockDevice(disk))
    for _ in range(3):
        vm.restart()
        vm.wait_exit(10)
    assert lives == [0, 1, 2, 3]
    vm.deallocate()


def test_a_vm_with_many_devices_gets_a_page_and_an_interrupt_for_each(system: gunyah.System) -> None:
    devices = [BlockDevice(MemoryStorage(bytes(512 * (1 + index)))) for index in range(4)]
    virtio = tuple(Virtio(0x10 + index, device, pool=0x1000) for index, device in enumerate(devices))
    seen: list[tuple[int, int, int]] = []

    def program(cpu: Cpu, x0: int) -> None:
        driver = Driver(cpu, x0)
        for node in driver.tree.find_compatible("virtio,mmio"):
            base = node.reg()[0][0]
            seen.append((base, node.cells("interrupts")[1], cpu.load(base + 0x100, 4)))
        driver.power_off()

    image = parse_image(pyimage.pack(system.load_program("many", program)), "many")
    # The VM's memory is where RM would put the first page if nothing kept it from there.
    settings = VmSettings(name="many", image=image, memory=4 * MIB, base=0x4000_0000, console="none", virtio=virtio)
    vm = system.primary.vm(settings)
    vm.start()
    vm.wait_exit(10)
    assert [capacity for _, _, capacity in seen] == [1, 2, 3, 4]
    assert len({base for base, _, _ in seen}) == len({irq for _, irq, _ in seen}) == 4
    assert not any(0x4000_0000 <= base < 0x4040_0000 for base, _, _ in seen)
    backends = [entry for entry in vm.inside.resources if entry.type == ResourceType.VIRTIO_MMIO]
    assert len({entry.base for entry in backends}) == len({entry.virq for entry in backends}) == 4
    vm.deallocate()


def test_labels_that_stand_for_two_memories_are_refused(system: gunyah.System) -> None:
    device = BlockDevice(MemoryStorage(bytes(512)))
    image = parse_image(b"\x14" * 64, "nothing")
    with pytest.raises(LoadError, match="label 7 stands for two pieces of shared memory"):
        VmSettings(name="twice", image=image, shared=(SharedMemory(7, 0x1000),), virtio=(Virtio(7, device),))
