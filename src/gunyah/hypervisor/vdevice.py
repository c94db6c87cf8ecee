"""What an emulated device offers to the hypervisor's abort handling (objects.md 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gunyah.machine.bus import Refused

if TYPE_CHECKING:
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["DeviceAbort", "VirtualDevice"]


class DeviceAbort(Refused):
    """The device refuses the access (size, alignment, register): the guest gets an external abort, ESR 0x96000010."""


class VirtualDevice(Protocol):
    """A register frame in an address space: ``offset`` in bytes from its base, ``size`` 1, 2, 4 or 8 bytes."""

    def read(self, vcpu: Vcpu, offset: int, size: int, /) -> int:
        """Value read, zero-extended; raises DeviceAbort."""

    def write(self, vcpu: Vcpu, offset: int, size: int, value: int, /) -> None:
        """Write ``size`` bytes of ``value``; raises DeviceAbort."""
