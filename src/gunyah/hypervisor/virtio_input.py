"""The configuration area of virtio input devices, answered by the hypervisor (objects.md 16, hypercalls.md 3.16).

The frontend writes select and subsel; size and payload of what the backend has stored under them appear in the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.virtio import INPUT_ABSAXES_MAX, INPUT_EVTYPES_MAX, VirtioInputSelect
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.vdevice import DeviceAbort

if TYPE_CHECKING:
    from gunyah.hypervisor.virtio_mmio import VirtioMmio

__all__ = ["CONFIG", "VirtioInput"]

CONFIG = 0x100
SELECT, SUBSELECT, SIZE, PAYLOAD = 0x100, 0x101, 0x102, 0x108

# Per selector: how many sub-selectors there are, and how many bytes an item has at most.
ITEMS = {
    int(VirtioInputSelect.ID_NAME): (1, 128),
    int(VirtioInputSelect.ID_SERIAL): (1, 128),
    int(VirtioInputSelect.ID_DEVIDS): (1, 8),
    int(VirtioInputSelect.PROP_BITS): (1, 4),
    int(VirtioInputSelect.EV_BITS): (INPUT_EVTYPES_MAX, 128),
    int(VirtioInputSelect.ABS_INFO): (INPUT_ABSAXES_MAX, 20),
}
_EVENTS, _AXES = int(VirtioInputSelect.EV_BITS), int(VirtioInputSelect.ABS_INFO)
_STRINGS = (int(VirtioInputSelect.ID_NAME), int(VirtioInputSelect.ID_SERIAL))


class VirtioInput:
    """What the backend stored, by (select, subsel), and what is selected now."""

    def __init__(self, device: VirtioMmio) -> None:
        self._device = device
        self._items: dict[tuple[int, int], bytes] = {
            (int(VirtioInputSelect.ID_DEVIDS), 0): bytes(8),
            (int(VirtioInputSelect.PROP_BITS), 0): bytes(4),
        }
        # Entries left for event types and axes, from when there is storage for them.
        self._left: dict[int, int] = {}
        self._select = 0
        self._subselect = 0

    def configure(self, devids: int, properties: int, event_types: int, axes: int) -> None:
        """Keep the small items and allocate storage, once for each kind. ARGUMENT_INVALID above 32 / 64, BUSY for
        storage that is there, NOMEM.
        """
        device = self._device
        if event_types > INPUT_EVTYPES_MAX or axes > INPUT_ABSAXES_MAX:
            raise HypervisorError(
                Error.ARGUMENT_INVALID,
                f"{device}: {event_types} event types, {axes} axes: at most {INPUT_EVTYPES_MAX}, {INPUT_ABSAXES_MAX}",
            )
        wanted = {select: count for select, count in ((_EVENTS, event_types), (_AXES, axes)) if count}
        if self._left.keys() & wanted.keys():
            raise HypervisorError(Error.BUSY, f"{device} has its input storage already")
        assert device.partition is not None
        device.partition.charge(device, sum(count * ITEMS[select][1] for select, count in wanted.items()))
        self._left |= wanted
        self._items[VirtioInputSelect.ID_DEVIDS, 0] = devids.to_bytes(8, "little")
        self._items[VirtioInputSelect.PROP_BITS, 0] = properties.to_bytes(4, "little")

    def check(self, select: int, subselect: int, size: int) -> None:
        """Judge a ``set_data`` call before its buffer is looked at. ARGUMENT_INVALID, NORESOURCES, ARGUMENT_SIZE."""
        device = self._device
        count, limit = ITEMS.get(select, (0, 0))
        storage = self._left.get(select) if select in (_EVENTS, _AXES) else limit
        if storage is None:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{device}: no storage for select {select:#x}")
        if subselect >= count:
            raise HypervisorError(
                Error.ARGUMENT_INVALID, f"{device}: select {select:#x} subsel {subselect} names no item"
            )
        if storage == 0:
            raise HypervisorError(Error.NORESOURCES, f"{device}: no entry left for select {select:#x}")
        if not 0 < size <= limit:
            raise HypervisorError(Error.ARGUMENT_SIZE, f"{device}: {size} bytes for an item of 1..{limit}")

    def store(self, select: int, subselect: int, data: bytes) -> None:
        """Keep an item. Storing one of several again takes another entry, and the first one still counts (objects.md
        16).
        """
        if select in (_EVENTS, _AXES):
            self._left[select] -= 1
            self._items.setdefault((select, subselect), data.ljust(ITEMS[_AXES][1], b"\0") if select == _AXES else data)
        elif select in _STRINGS:
            self._items[select, subselect] = data
        else:
            # A number: fewer bytes replace its low ones.
            self._items[select, subselect] = data + self._items[select, subselect][len(data) :]

    def write_config(self, offset: int, size: int, value: int) -> None:
        """A frontend's write to select or subsel, byte by byte; where another byte follows, the access aborts there."""
        for at in range(offset, offset + size):
            if at not in (SELECT, SUBSELECT):
                raise DeviceAbort(f"{self._device}: write of {size} bytes to input configuration offset {offset:#x}")
            byte = value >> 8 * (at - offset) & 0xFF
            if at == SELECT:
                self._select = byte
            else:
                self._subselect = byte
            item = self._items.get((self._select, self._subselect), b"")
            self._device.publish_bytes(at, bytes([byte]))
            self._device.publish_bytes(PAYLOAD, item)
            self._device.publish_bytes(SIZE, bytes([len(item)]))
