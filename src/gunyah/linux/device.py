"""drivers/base: buses, devices and drivers; probing, deferral, removal, bind and unbind through sysfs.

A bus pairs its devices with its drivers by ``match``. A probe that raises ProbeDefer is tried again after the next
successful probe of any device. Resources that a probe acquires are released in reverse order when it fails or the
driver leaves (devres).
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gunyah.guest.fdt import FdtError, Node
from gunyah.linux.errno import ProbeDefer, error, name_of
from gunyah.linux.kobject import Attribute, KObject

if TYPE_CHECKING:
    from gunyah.linux.services import Services
    from gunyah.linux.workqueue import Work

__all__ = ["Bus", "Device", "DriverCore", "Driver"]


class Device:
    """struct device. ``drvdata`` belongs to the bound driver; ``of_node`` is its device-tree node, if any."""

    def __init__(self, name: str, parent: Device | None = None, of_node: Node | None = None) -> None:
        self.name = name
        self.parent = parent
        self.of_node = of_node
        self.driver: Driver | None = None
        self.bus: Bus | None = None
        self.drvdata: Any = None
        self.kobject: KObject | None = None
        self._devres: list[Callable[[], object]] = []

    def on_release(self, action: Callable[[], object]) -> None:
        """devm_add_action: run when the driver leaves this device, or its probe fails; last added first."""
        self._devres.append(action)

    def release_resources(self, core: DriverCore) -> None:
        """Run the devres actions; one that fails is logged and the others still run."""
        while self._devres:
            action = self._devres.pop()
            try:
                action()
            except Exception as failure:
                core.services.log.err(f"{self.name}: release failed: {name_of(failure)}")

    def __repr__(self) -> str:
        return f"<device {self.name}>"


class Driver(ABC):
    """struct device_driver: subclasses set ``name`` and override probe and remove."""

    name = ""

    @abstractmethod
    def probe(self, dev: Device) -> None:
        """Take the device; raises OSError, FdtError or ProbeDefer to leave it."""

    def remove(self, dev: Device) -> None:
        """Leave the device: called before its devres actions run."""


class Bus(ABC):
    """struct bus_type."""

    def __init__(self, name: str, core: DriverCore) -> None:
        self.name = name
        self.core = core
        self.devices: list[Device] = []
        self.drivers: list[Driver] = []
        directory = core.services.sysfs.root.ensure(f"bus/{name}")
        self._devices_dir = directory.ensure("devices")
        self._drivers_dir = directory.ensure("drivers")

    @abstractmethod
    def match(self, dev: Device, driver: Driver) -> bool:
        """Whether the driver is for this device."""

    # -- devices -------------------------------------------------------------------------------------------------------

    def add_device(self, dev: Device) -> None:
        """device_add: publish the device and look for its driver."""
        if any(other.name == dev.name for other in self.devices):
            raise error(errno.EEXIST, f"bus {self.name} has a device {dev.name} already")
        dev.bus = self
        parent = dev.parent.kobject if dev.parent is not None else None
        if parent is None:
            parent = self.core.services.sysfs.root.ensure(f"devices/{self.name}")
        dev.kobject = KObject(dev.name, parent)
        dev.kobject.add_file(Attribute("uevent", lambda: f"DRIVER={dev.driver.name}\n" if dev.driver else ""))
        dev.kobject.add_link("subsystem", self._devices_dir.parent or self._devices_dir)
        self._devices_dir.add_link(dev.name, dev.kobject)
        self.devices.append(dev)
        for driver in self.drivers:
            if self.match(dev, driver) and self._attach(dev, driver):
                break

    def remove_device(self, dev: Device) -> None:
        """device_del: unbind and unpublish; nothing if it is not on this bus."""
        if dev not in self.devices:
            return
        self.unbind(dev)
        self.devices.remove(dev)
        self.core.forget(dev)
        self._devices_dir.remove_entry(dev.name)
        if dev.kobject is not None:
            dev.kobject.delete()
            dev.kobject = None
        dev.bus = None

    # -- drivers -------------------------------------------------------------------------------------------------------

    def register_driver(self, driver: Driver) -> None:
        """driver_register: publish the driver and offer it every unbound device."""
        if any(other.name == driver.name for other in self.drivers):
            raise error(errno.EBUSY, f"driver {driver.name} is registered already on bus {self.name}")
        directory = KObject(driver.name, self._drivers_dir)
        directory.add_file(Attribute("bind", store=lambda data: self._store(driver, data, bind=True)))
        directory.add_file(Attribute("unbind", store=lambda data: self._store(driver, data, bind=False)))
        self.drivers.append(driver)
        for dev in list(self.devices):
            if dev.driver is None and self.match(dev, driver):
                self._attach(dev, driver)

    def unregister_driver(self, driver: Driver) -> None:
        """driver_unregister: leave all its devices."""
        if driver in self.drivers:
            for dev in [dev for dev in self.devices if dev.driver is driver]:
                self.unbind(dev)
            self.drivers.remove(driver)
            self._drivers_dir.remove_entry(driver.name)

    def _store(self, driver: Driver, data: bytes, *, bind: bool) -> None:
        """The bind and unbind files: a device name, as a user writes it."""
        name = data.decode("utf-8", "replace").strip()
        dev = next((dev for dev in self.devices if dev.name == name), None)
        if dev is None or (dev.driver is not driver if not bind else dev.driver is not None):
            raise error(errno.ENODEV, f"{name!r} is no device that {driver.name} could {'bind' if bind else 'unbind'}")
        if not bind:
            self.unbind(dev)
        elif not self.match(dev, driver):
            raise error(errno.ENODEV, f"driver {driver.name} does not match {name}")
        else:
            self._probe(dev, driver)

    # -- binding -------------------------------------------------------------------------------------------------------

    def _attach(self, dev: Device, driver: Driver) -> bool:
        """Probe; a failure is logged, a deferral noted. True if the driver has taken the device."""
        try:
            self._probe(dev, driver)
        except ProbeDefer as reason:
            self.core.services.log.debug(f"{dev.name}: probe of {driver.name} deferred: {reason}")
            self.core.defer(dev)
            return False
        except (OSError, FdtError) as failure:
            if isinstance(failure, OSError) and failure.errno == errno.ENODEV:
                self.core.services.log.debug(f"{driver.name}: probe of {dev.name} rejects match: {failure.strerror}")
                return False
            self.core.services.log.err(f"{driver.name}: probe of {dev.name} failed with {name_of(failure)}")
            return False
        return True

    def _probe(self, dev: Device, driver: Driver) -> None:
        dev.driver = driver
        try:
            driver.probe(dev)
        except BaseException:
            dev.release_resources(self.core)
            dev.driver = None
            dev.drvdata = None
            raise
        self.core.forget(dev)
        directory = self._drivers_dir.entries.get(driver.name)
        if dev.kobject is not None and isinstance(directory, KObject):
            dev.kobject.add_link("driver", directory)
            directory.add_link(dev.name, dev.kobject)
        self.core.bound()

    def unbind(self, dev: Device) -> None:
        """device_release_driver: remove, then devres; nothing without a driver."""
        driver = dev.driver
        if driver is None:
            return
        directory = self._drivers_dir.entries.get(driver.name)
        if isinstance(directory, KObject):
            directory.remove_entry(dev.name)
        if dev.kobject is not None:
            dev.kobject.remove_entry("driver")
        try:
            driver.remove(dev)
        finally:
            dev.release_resources(self.core)
            dev.driver = None
            dev.drvdata = None

    def reprobe(self, dev: Device) -> None:
        """Offer a device without a driver to the bus's drivers again."""
        for driver in self.drivers:
            if dev.driver is None and self.match(dev, driver) and self._attach(dev, driver):
                return


class DriverCore:
    """Buses and deferred devices of one kernel."""

    def __init__(self, services: Services, retry: Callable[[Callable[[], None]], Work]) -> None:
        self.services = services
        self.deferred: list[Device] = []
        self._retry = retry(self._probe_deferred)

    def defer(self, dev: Device) -> None:
        """Note a device whose probe asked to be tried again."""
        if dev not in self.deferred:
            self.deferred.append(dev)

    def forget(self, dev: Device) -> None:
        """The device is bound or gone: no more retries."""
        if dev in self.deferred:
            self.deferred.remove(dev)

    def bound(self) -> None:
        """A device was bound: what others wait for may be there now."""
        if self.deferred:
            self.services.workqueues.system.schedule(self._retry)

    def _probe_deferred(self) -> None:
        for dev in list(self.deferred):
            if dev.bus is not None and dev.driver is None:
                dev.bus.reprobe(dev)
