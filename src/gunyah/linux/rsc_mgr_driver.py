"""drivers/virt/gunyah/rsc_mgr.c, the platform driver: from the device-tree node to a working connection
(linux-drivers.md 11.1, 13).

``reg`` holds the TX and RX capability as two 64-bit values, ``interrupts`` the TX and RX interrupt; nothing else of
the binding is needed. At the end it creates the auxiliary device "console".
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from gunyah.guest.fdt import Node
from gunyah.linux.auxiliary import AuxiliaryDevice
from gunyah.linux.device import Device
from gunyah.linux.errno import error
from gunyah.linux.gunyah_msgq import GunyahMsgq, GunyahResource, ResourceKind
from gunyah.linux.platform import PlatformDevice, PlatformDriver
from gunyah.linux.rsc_mgr import RscMgr

if TYPE_CHECKING:
    from gunyah.linux.kernel import Kernel

__all__ = ["GunyahHypervisorDriver", "RscMgrDriver"]

_SIZE_PROPERTIES = ("qcom,tx-message-size", "qcom,rx-message-size")
_SMALLEST_MESSAGE = 32


class RscMgrDriver(PlatformDriver):
    """gh_rsc_mgr. ``drvdata`` of a bound device is its RscMgr; every instance stands for itself."""

    name = "gh_rsc_mgr"
    of_match_table = ("gunyah-resource-manager",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def probe(self, dev: Device) -> None:
        """Raises OSError for a missing interrupt or reg entry, FdtError for a malformed one."""
        assert isinstance(dev, PlatformDevice)
        kernel = self._kernel
        tx = GunyahResource(ResourceKind.MSGQ_TX, dev.reg_u64(0), dev.irq(0))
        rx = GunyahResource(ResourceKind.MSGQ_RX, dev.reg_u64(1), dev.irq(1))
        size = self._message_size(dev.node())
        rm = RscMgr(kernel.services, dev)
        dev.on_release(rm.stop)
        msgq = GunyahMsgq(kernel.services, kernel.mailbox, kernel.hypercalls, dev, size)
        msgq.init(rm.client, tx, rx)
        rm.start(msgq)
        dev.drvdata = rm
        kernel.resource_managers.append(rm)
        dev.on_release(lambda: kernel.resource_managers.remove(rm))
        console = AuxiliaryDevice("gunyah_rsc_mgr", "console", kernel.resource_managers.index(rm), dev)
        dev.on_release(lambda: kernel.auxiliary.remove_device(console))
        kernel.auxiliary.add_device(console)

    def _message_size(self, node: Node) -> int:
        """Most bytes of one message: what the profile's drivers were built for, less where the node announces smaller
        queues.
        """
        profile = self._kernel.profile
        size = min(profile.packet_max, profile.message_size)
        for name in _SIZE_PROPERTIES:
            announced = node.u32(name, size)
            if announced < _SMALLEST_MESSAGE:
                raise error(errno.EINVAL, f"{node.path}: {name} is {announced}, at least {_SMALLEST_MESSAGE} is needed")
            size = min(size, announced)
        return size


class GunyahHypervisorDriver(PlatformDriver):
    """The later platform driver for /hypervisor: makes the devices below it where it is no simple bus (linux-
    drivers.md 17).
    """

    name = "gunyah"
    of_match_table = ("gunyah-hypervisor",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def probe(self, dev: Device) -> None:
        """Raises OSError ENODEV when no Gunyah of API version 1 answered."""
        assert isinstance(dev, PlatformDevice)
        if self._kernel.gunyah.identity is None:
            raise error(errno.ENODEV, f"{dev.name}: there is no Gunyah hypervisor of API version 1")
        if "simple-bus" not in dev.node().compatible:
            self._kernel.platform.populate(dev.node(), dev)

    def remove(self, dev: Device) -> None:
        """Take the child devices away, if it was this driver that made them."""
        assert isinstance(dev, PlatformDevice)
        if "simple-bus" not in dev.node().compatible:
            self._kernel.platform.depopulate(dev)
