"""drivers/base/platform.c and drivers/of/platform.c: devices made from the device tree.

Children of the root with a ``compatible`` become platform devices; the walk goes down into buses ("simple-bus" and the
like). So the RM node is found only if /hypervisor is a known bus, or a driver for /hypervisor populates it
(linux-drivers.md 2).
"""

from __future__ import annotations

import errno

from gunyah.guest.fdt import FdtError, Node
from gunyah.linux.device import Bus, Device, Driver, DriverCore
from gunyah.linux.errno import error

__all__ = ["PlatformBus", "PlatformDevice", "PlatformDriver"]

_BUSES = frozenset({"simple-bus", "simple-mfd", "isa", "arm,amba-bus"})
_MAX_TRANSLATIONS = 32


class PlatformDevice(Device):
    """struct platform_device made from a node."""

    def __init__(self, name: str, node: Node, parent: Device | None, bus: PlatformBus) -> None:
        super().__init__(name, parent, node)
        self._platform = bus
        self.populated = False

    def node(self) -> Node:
        """The device-tree node."""
        assert self.of_node is not None
        return self.of_node

    def irq(self, index: int) -> int:
        """platform_get_irq: the Linux number of the ``index``-th interrupt. Raises OSError ENXIO, FdtError."""
        node = self.node()
        if "interrupts" not in node:
            raise error(errno.ENXIO, f"{node.path}: there is no interrupts property")
        count = self._platform.interrupt_cells(node)
        cells = node.cells("interrupts")
        if len(cells) % count:
            raise FdtError(f"{node.path}: interrupts has {len(cells)} cells, the controller takes {count} each")
        if (index + 1) * count > len(cells):
            raise error(errno.ENXIO, f"{node.path}: interrupts has {len(cells) // count} entries, {index} is missing")
        return self._platform.core.services.interrupts.map(cells[index * count : (index + 1) * count])

    def reg_u64(self, index: int) -> int:
        """of_property_read_u64_index(node, "reg", index). Raises OSError EINVAL, EOVERFLOW."""
        node = self.node()
        if "reg" not in node:
            raise error(errno.EINVAL, f"{node.path}: there is no reg property")
        values = node.u64s("reg")
        if index >= len(values):
            raise error(errno.EOVERFLOW, f"{node.path}: reg has {len(values)} 64-bit entries, {index} is missing")
        return values[index]


class PlatformDriver(Driver):
    """struct platform_driver: ``of_match_table`` holds the compatible strings it takes."""

    of_match_table: tuple[str, ...] = ()


class PlatformBus(Bus):
    """platform_bus_type."""

    def __init__(self, core: DriverCore) -> None:
        super().__init__("platform", core)

    def match(self, dev: Device, driver: Driver) -> bool:
        """By the node's compatible strings."""
        if not isinstance(driver, PlatformDriver) or dev.of_node is None:
            return False
        return any(name in driver.of_match_table for name in dev.of_node.compatible)

    def populate(self, node: Node, parent: PlatformDevice | None = None) -> None:
        """of_platform_populate: a device for each enabled child with a compatible, and below buses."""
        if parent is not None:
            if parent.populated:
                return
            parent.populated = True
        for child in node.children:
            try:
                compatible = child.compatible
                if not compatible or not child.enabled:
                    continue
                dev = PlatformDevice(self._device_name(child), child, parent, self)
                self.add_device(dev)
                if _BUSES.intersection(compatible):
                    self.populate(child, dev)
            except (FdtError, OSError) as failure:
                self.core.services.log.err(f"OF: {failure}")

    def depopulate(self, parent: PlatformDevice) -> None:
        """of_platform_depopulate: remove the devices below ``parent``."""
        for dev in [dev for dev in self.devices if dev.parent is parent]:
            if isinstance(dev, PlatformDevice):
                self.depopulate(dev)
            self.remove_device(dev)
        parent.populated = False

    # -- the device tree -----------------------------------------------------------------------------------------------

    def interrupt_cells(self, node: Node) -> int:
        """#interrupt-cells of the node's interrupt parent. Raises FdtError."""
        tree = self.core.services.device_tree
        place: Node | None = node
        for _ in range(_MAX_TRANSLATIONS):
            if place is None:
                break
            if place is not node and "#interrupt-cells" in place and "interrupt-controller" in place:
                return self._cells_of(place)
            if "interrupt-parent" in place:
                parent = tree.by_phandle(place.u32("interrupt-parent"))
                if parent is None:
                    raise FdtError(f"{place.path}: interrupt-parent refers to a node that does not exist")
                return self._cells_of(parent)
            place = place.parent
        controllers = [found for found in tree.root.walk() if "interrupt-controller" in found]
        if len(controllers) == 1:
            return self._cells_of(controllers[0])
        raise FdtError(f"{node.path}: no interrupt parent ({len(controllers)} interrupt controllers in the tree)")

    @staticmethod
    def _cells_of(controller: Node) -> int:
        cells = controller.u32("#interrupt-cells")
        if not 1 <= cells <= 16:
            raise FdtError(f"{controller.path}: #interrupt-cells is {cells}")
        return cells

    def _device_name(self, node: Node) -> str:
        """of_device_make_bus_id: address and name where the address translates, else the names up to the root."""
        parts: list[str] = []
        place = node
        while place.parent is not None:
            address = self._translate(place)
            if address is not None:
                parts.append(f"{address:x}.{place.name.partition('@')[0]}")
                break
            parts.append(place.name)
            place = place.parent
        return ":".join(reversed(parts))

    @staticmethod
    def _translate(node: Node) -> int | None:
        """The CPU address of ``reg`` when every bus above maps one to one (empty ranges), else None."""
        try:
            if "reg" not in node or node.parent is None or not node.parent.size_cells:
                return None
            bus: Node | None = node.parent
            while bus is not None and bus.parent is not None:
                if bus.properties.get("ranges") != b"":
                    return None
                bus = bus.parent
            entries = node.reg()
        except FdtError:
            return None
        return entries[0][0] if entries else None
