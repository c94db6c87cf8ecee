"""Virtio-MMIO devices: the hypervisor keeps the register front-end, the device lives in a backend VM (objects.md 15).

The registers are a page of a basic extent. The backend maps it writable and fills in the constant ones; the frontend
maps it read-only, so its reads are plain memory and each of its writes comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.memory import MemextentType
from gunyah.abi.objects import ObjectType
from gunyah.abi.virtio import (
    OPTION_DEVICE_TYPE_VALID,
    QUEUES_MAX,
    REGISTER_PAGE_SIZE,
    STATUS_DEVICE_NEEDS_RESET,
    STATUS_DRIVER_OK,
    STATUS_FAILED,
    VirtioDeviceType,
    VirtioNotifyReason,
)
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.objects import KernelObject
from gunyah.hypervisor.vdevice import DeviceAbort
from gunyah.hypervisor.virq import VirqSource
from gunyah.hypervisor.virtio_input import CONFIG, VirtioInput

if TYPE_CHECKING:
    from gunyah.hypervisor.memextent import MemExtent
    from gunyah.hypervisor.partition import Partition
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["VirtioMmio", "VirtioQueue"]

# Offsets of the register page (virtio-mmio version 2).
DEVICE_FEATURES, DEVICE_FEATURES_SEL = 0x010, 0x014
DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x020, 0x024
QUEUE_SEL, QUEUE_NUM_MAX, QUEUE_NUM, QUEUE_READY, QUEUE_NOTIFY = 0x030, 0x034, 0x038, 0x044, 0x050
INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x060, 0x064, 0x070
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x080, 0x090, 0x0A0

U32 = 0xFFFF_FFFF
_BITMAP_BITS = 64
_NEW_BUFFER = int(VirtioNotifyReason.NEW_BUFFER)
_RESET = int(VirtioNotifyReason.RESET_RQST)


class VirtioQueue:
    """What the frontend set up: sizes in descriptors, addresses are the frontend VM's IPAs."""

    __slots__ = ("desc", "device", "driver", "num", "num_max", "ready")

    def __init__(self) -> None:
        self.num_max = 0
        self.num = 0
        self.ready = 0
        self.desc = 0
        self.driver = 0
        self.device = 0


class VirtioMmio(KernelObject):
    """virtio_mmio_t; a VirtualDevice for the frontend's writes."""

    type = ObjectType.VIRTIO_MMIO
    heap_size = 1024

    def __init__(self, partition: Partition) -> None:
        super().__init__(partition)
        self._partition = partition
        self._ram = partition.system.ram
        self.extent: MemExtent | None = None
        self.queue_count = 0
        self.queues: list[VirtioQueue] = []
        self.input: VirtioInput | None = None
        self.device_features = [0, 0]
        self.driver_features = [0, 0]
        self._driver_select = 0
        self._queue_select = 0
        self.notified_queues = 0
        self.reason = 0
        self.backend_source = VirqSource(self, "virtio backend", lambda: self._page(INTERRUPT_STATUS) != 0)
        self.frontend_source = VirqSource(self, "virtio frontend", lambda: self.reason != 0)

    # -- life ----------------------------------------------------------------------------------------------------------

    def configure(self, extent: MemExtent, queues: int, flags: int, device_type: int) -> None:
        """Choose register page, number of queues and type; ARGUMENT_INVALID for what cannot be."""
        if extent.kind != MemextentType.BASIC or extent.size != REGISTER_PAGE_SIZE:
            raise HypervisorError(
                Error.ARGUMENT_INVALID, f"{self}: {extent} is not a basic extent of {REGISTER_PAGE_SIZE} bytes"
            )
        if queues > QUEUES_MAX:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: {queues} queues are more than {QUEUES_MAX}")
        kind = device_type if flags & OPTION_DEVICE_TYPE_VALID else VirtioDeviceType.INVALID
        if flags & OPTION_DEVICE_TYPE_VALID and kind != VirtioDeviceType.INPUT:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: device type {device_type} is not known")
        extent.get()
        if self.extent is not None:
            self.extent.put()
        self.extent = extent
        self.queue_count = queues
        self.input = VirtioInput(self) if kind == VirtioDeviceType.INPUT else None

    def _activate(self) -> None:
        extent = self.extent
        if extent is None:
            raise HypervisorError(Error.OBJECT_CONFIG, f"{self} has no register page")
        if self.queue_count == 0:
            # The reference stops here for good; a device without queues is of no use to anybody.
            raise HypervisorError(Error.OBJECT_CONFIG, f"{self} has no queues")
        extent.attach(self._partition, REGISTER_PAGE_SIZE)
        extent.vdevice = self
        self.queues = [VirtioQueue() for _ in range(self.queue_count)]

    def _deactivate(self) -> None:
        self.backend_source.unbind()
        self.frontend_source.unbind()
        extent = self.extent
        if extent is not None:
            extent.vdevice = None
            extent.detach()

    def _cleanup(self) -> None:
        if self.extent is not None:
            self.extent.put()
            self.extent = None

    # -- the page ------------------------------------------------------------------------------------------------------

    def _page(self, offset: int) -> int:
        extent = self.extent
        return self._ram.read_u32(extent.base + offset) if extent is not None else 0

    def _publish(self, offset: int, value: int) -> None:
        extent = self.extent
        assert extent is not None
        self._ram.write_u32(extent.base + offset, value & U32)

    def publish_bytes(self, offset: int, data: bytes) -> None:
        """Put bytes into the register page, where the frontend reads them."""
        extent = self.extent
        assert extent is not None
        self._ram.write(extent.base + offset, data)

    # -- the frontend's writes -----------------------------------------------------------------------------------------

    def read(self, vcpu: Vcpu, offset: int, size: int) -> int:
        """Reads reach the page as memory; one that comes here had no right to."""
        raise DeviceAbort(f"{self}: read of {size} bytes at {offset:#x} of a page that is not readable")

    def write(self, vcpu: Vcpu, offset: int, size: int, value: int) -> None:
        """A write of the frontend: aligned 32 bits anywhere, 8 bits in the configuration area."""
        if size == 4 and offset % 4 == 0:
            if offset < CONFIG:
                self._write_register(offset, value & U32)
                return
        elif size != 1 or offset < CONFIG:
            raise DeviceAbort(f"{self}: write of {size} bytes at {offset:#x}")
        if self.input is not None:
            self.input.write_config(offset, size, value)
        else:
            self.publish_bytes(offset, value.to_bytes(size, "little"))

    def _write_register(self, offset: int, value: int) -> None:
        if offset == QUEUE_NOTIFY:
            # The number is not checked against the queues, as in the reference; its low bits choose (objects.md 15).
            self.notified_queues |= 1 << value % _BITMAP_BITS
            self._notify(_NEW_BUFFER)
        elif offset == INTERRUPT_ACK:
            self._publish(INTERRUPT_STATUS, self._page(INTERRUPT_STATUS) & ~value)
        elif offset == STATUS:
            self._write_status(value)
        elif offset == DEVICE_FEATURES_SEL:
            if value > 1:
                raise DeviceAbort(f"{self}: DeviceFeaturesSel {value}")
            self._publish(DEVICE_FEATURES, self.device_features[value])
        elif offset == DRIVER_FEATURES:
            self.driver_features[self._driver_select] = value
        elif offset == DRIVER_FEATURES_SEL:
            if value > 1:
                raise DeviceAbort(f"{self}: DriverFeaturesSel {value}")
            self._driver_select = value
        elif offset == QUEUE_SEL:
            if value >= len(self.queues):
                raise DeviceAbort(f"{self}: QueueSel {value} of {len(self.queues)} queues")
            self._queue_select = value
            self._publish(QUEUE_NUM_MAX, self.queues[value].num_max)
            self._publish(QUEUE_READY, self.queues[value].ready)
        else:
            self._write_queue(offset, value)

    def _write_queue(self, offset: int, value: int) -> None:
        queue = self.queues[self._queue_select]
        if offset == QUEUE_NUM:
            queue.num = value
        elif offset == QUEUE_READY:
            queue.ready = value
            self._publish(QUEUE_READY, value)
        elif offset in (QUEUE_DESC, QUEUE_DESC + 4):
            queue.desc = _half(queue.desc, offset - QUEUE_DESC, value)
        elif offset in (QUEUE_DRIVER, QUEUE_DRIVER + 4):
            queue.driver = _half(queue.driver, offset - QUEUE_DRIVER, value)
        elif offset in (QUEUE_DEVICE, QUEUE_DEVICE + 4):
            queue.device = _half(queue.device, offset - QUEUE_DEVICE, value)
        else:
            raise DeviceAbort(f"{self}: write of {value:#x} to offset {offset:#x}, which is not a writable register")

    def _write_status(self, value: int) -> None:
        old = self._page(STATUS)
        if value:
            self._publish(STATUS, value)
            rising = value & ~old
            if rising & STATUS_DRIVER_OK:
                self._notify(int(VirtioNotifyReason.DRIVER_OK))
            elif rising & STATUS_FAILED:
                self._notify(int(VirtioNotifyReason.FAILED))
        elif old:
            # The frontend sees 0 only when the backend has acknowledged (objects.md 15).
            self._publish(STATUS, old | STATUS_DEVICE_NEEDS_RESET)
            for queue in self.queues:
                queue.ready = 0
            self._publish(QUEUE_READY, 0)
            self._notify(_RESET)

    def _notify(self, reason: int) -> None:
        self.reason |= reason
        self.frontend_source.assert_()

    # -- the backend ---------------------------------------------------------------------------------------------------

    def assert_interrupt(self, bits: int) -> None:
        """Set InterruptStatus bits and interrupt the frontend; DENIED while a reset is outstanding."""
        if self._page(STATUS) & STATUS_DEVICE_NEEDS_RESET:
            raise HypervisorError(Error.DENIED, f"{self} waits for its backend to acknowledge a reset")
        self._publish(INTERRUPT_STATUS, self._page(INTERRUPT_STATUS) | bits)
        self.backend_source.assert_()

    def queue(self, number: int) -> VirtioQueue:
        """Queue ``number``; ARGUMENT_INVALID when there is none."""
        if number >= len(self.queues):
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: queue {number} of {len(self.queues)}")
        return self.queues[number]

    def take_notification(self) -> tuple[int, int]:
        """Queue bitmap and reasons since the last call, both cleared."""
        taken = self.notified_queues, self.reason
        self.notified_queues = self.reason = 0
        return taken

    def acknowledge_reset(self) -> None:
        """Status reads 0 from now on."""
        self._publish(STATUS, 0)

    def update_status(self, bits: int) -> None:
        """OR bits into Status."""
        self._publish(STATUS, self._page(STATUS) | bits)


def _half(old: int, upper: int, value: int) -> int:
    return old & U32 | value << 32 if upper else old & ~U32 | value
