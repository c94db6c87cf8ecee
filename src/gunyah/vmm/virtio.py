"""The backend of a virtio-MMIO device: registers, notifications and interrupts in the VM that owns the guest
(objects.md 15, hypercalls.md 3.15).

The guest's driver sees the page read-only; what it writes goes through the hypervisor, which keeps queue addresses and
feature words and interrupts us. The constant registers and the configuration area are ours to fill in.
"""

from __future__ import annotations

import struct
from typing import Final

from gunyah.abi.rm import HypResource
from gunyah.abi.virtio import (
    DEVICE_FEATURE_ACCESS_PLATFORM,
    DEVICE_FEATURE_VERSION_1,
    STATUS_DEVICE_NEEDS_RESET,
    VirtioNotifyReason,
)
from gunyah.guest.hypercall import HypercallFailed, Hypercalls
from gunyah.guest.tasks import Task
from gunyah.guest.wait import WaitQueue
from gunyah.linux.printk import WARNING
from gunyah.linux.services import Services
from gunyah.vmm.virtio_devices import VirtioDevice
from gunyah.vmm.virtqueue import QUEUE_SIZE_MAX, VirtioError, Virtqueue, Window, Windows

__all__ = ["VirtioBackend"]

_MAGIC: Final = 0x7472_6976
_VERSION: Final = 2
_VENDOR: Final = 0x554D_4547
_CONFIG: Final = 0x100
_USED_BUFFER, _CONFIG_CHANGE = 1, 2
_U32: Final = 0xFFFF_FFFF


class VirtioBackend:
    """One device of one VM. ``resource`` is the VIRTIO_MMIO entry of VM_GET_HYP_RESOURCES: capability, page, interrupt.

    ``windows`` is what the backend sees of the guest's memory.
    """

    def __init__(
        self,
        services: Services,
        hyp: Hypercalls,
        resource: HypResource,
        device: VirtioDevice,
        windows: list[Window],
        name: str,
    ) -> None:
        self.name = name
        self.device = device
        self.failure = ""
        """What the driver did wrong, the last time."""
        self._services = services
        self._hyp = hyp
        self._capability = resource.cap_id
        self._page = resource.base
        self._windows = Windows(services.cpu, windows)
        self._event = False
        self._ending = False
        self._running = False
        self._wakeup = WaitQueue(services.scheduler)
        self._offer()
        self._irq = services.interrupts.map_intid(resource.virq, edge=False)
        services.interrupts.request_threaded_irq(self._irq, self._notified, name)
        self._task: Task = services.scheduler.spawn(self._run, name=name)

    def _offer(self) -> None:
        """What the driver reads before it has written anything."""
        device, hyp, capability = self.device, self._hyp, self._capability
        write = self._services.cpu.write
        write(self._page, struct.pack("<IIII", _MAGIC, _VERSION, device.id, _VENDOR))
        write(self._page + _CONFIG, device.config)
        features = device.features | DEVICE_FEATURE_VERSION_1 | DEVICE_FEATURE_ACCESS_PLATFORM
        for select in range(2):
            hyp.virtio_mmio_backend_set_dev_features(capability, select, features >> 32 * select & _U32)
        for queue in range(device.queues):
            hyp.virtio_mmio_backend_set_queue_num_max(capability, queue, QUEUE_SIZE_MAX)

    # -- what happens --------------------------------------------------------------------------------------------------

    def _notified(self) -> None:
        """The interrupt: reading the reasons takes it back."""
        try:
            _, reasons = self._hyp.virtio_mmio_backend_get_notification(self._capability)
            if reasons & VirtioNotifyReason.RESET_RQST:
                self._halt()
                self._hyp.virtio_mmio_backend_acknowledge_reset(self._capability)
            if reasons & VirtioNotifyReason.FAILED:
                self._fail("the guest's driver gave up")
            if reasons & VirtioNotifyReason.DRIVER_OK:
                self._begin()
        except HypercallFailed as failure:
            # The VM is being taken down.
            self.failure = failure.sentence
            return
        self.kick()

    def _begin(self) -> None:
        queues: list[Virtqueue | None] = []
        try:
            for number in range(self.device.queues):
                size, ready, *addresses = self._hyp.virtio_mmio_backend_get_queue_info(self._capability, number)
                queues.append(Virtqueue(self._windows, size, *addresses) if ready else None)
        except VirtioError as error:
            self._break(error)
            return
        self._running = True
        self.device.start(queues, self.kick)

    def _halt(self) -> None:
        self._running = False
        self.device.stop()

    def _fail(self, sentence: str) -> None:
        self.failure = sentence
        self._services.log.ratelimited("virtio", WARNING, lambda: f"vmm: {self.name}: {sentence}")

    def _break(self, error: VirtioError) -> None:
        """The driver cannot be served any more: it is told to reset the device."""
        self._fail(str(error))
        self._halt()
        try:
            # In this order: no interrupt can be raised once the device needs a reset.
            self._hyp.virtio_mmio_backend_assert_virq(self._capability, _CONFIG_CHANGE)
            self._hyp.virtio_mmio_backend_update_status(self._capability, STATUS_DEVICE_NEEDS_RESET)
        except HypercallFailed as failure:
            self.failure = f"{self.failure}; {failure.sentence}"

    def kick(self) -> None:
        """Have the device look at its queues soon; allowed in interrupt handlers."""
        self._event = True
        self._wakeup.wake_all()

    def _run(self) -> None:
        while not self._ending:
            if not self._event:
                self._wakeup.wait()
                continue
            self._event = False
            if not self._running:
                continue
            try:
                if self.device.serve():
                    self._hyp.virtio_mmio_backend_assert_virq(self._capability, _USED_BUFFER)
            except VirtioError as error:
                self._break(error)
            except HypercallFailed as failure:
                # A reset is under way, or the VM is.
                self.failure = failure.sentence

    def end(self) -> None:
        """Stop serving and give the interrupt back."""
        self._ending = True
        self._wakeup.wake_all()
        self._task.join()
        self._services.interrupts.free_irq(self._irq)
        self._halt()
