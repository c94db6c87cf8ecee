"""drivers/base/auxiliary.c: sub-devices of a driver that other drivers take (linux-drivers.md 13)."""

from __future__ import annotations

from gunyah.linux.device import Bus, Device, Driver, DriverCore

__all__ = ["AuxiliaryBus", "AuxiliaryDevice", "AuxiliaryDriver"]


class AuxiliaryDevice(Device):
    """struct auxiliary_device: ``match_name`` is ``<module>.<name>``, the device is called ``<module>.<name>.<id>``."""

    def __init__(self, module: str, name: str, number: int, parent: Device) -> None:
        super().__init__(f"{module}.{name}.{number}", parent)
        self.match_name = f"{module}.{name}"
        self.id = number


class AuxiliaryDriver(Driver):
    """struct auxiliary_driver: ``id_table`` holds the match names it takes."""

    id_table: tuple[str, ...] = ()


class AuxiliaryBus(Bus):
    """auxiliary_bus_type."""

    def __init__(self, core: DriverCore) -> None:
        super().__init__("auxiliary", core)

    def match(self, dev: Device, driver: Driver) -> bool:
        """By the match name."""
        return (
            isinstance(dev, AuxiliaryDevice)
            and isinstance(driver, AuxiliaryDriver)
            and dev.match_name in driver.id_table
        )
