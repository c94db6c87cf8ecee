"""Virtio-MMIO words of the hypercall interface and the register page (errors-and-types.md 10, hypercalls.md 3.15)."""

from __future__ import annotations

from enum import IntEnum, IntFlag

__all__ = [
    "DEVICE_FEATURE_ACCESS_PLATFORM",
    "DEVICE_FEATURE_NOTIFICATION_DATA",
    "DEVICE_FEATURE_VERSION_1",
    "INPUT_ABSAXES_MAX",
    "INPUT_EVTYPES_MAX",
    "OPTION_DEVICE_TYPE_VALID",
    "QUEUES_MAX",
    "REGISTER_PAGE_SIZE",
    "STATUS_DEVICE_NEEDS_RESET",
    "STATUS_DRIVER_OK",
    "STATUS_FAILED",
    "VirtioDeviceType",
    "VirtioInputSelect",
    "VirtioNotifyReason",
]

OPTION_DEVICE_TYPE_VALID = 1 << 6
"""``virtio_mmio_configure`` flags: the device type argument counts."""

QUEUES_MAX = 16
REGISTER_PAGE_SIZE = 4096
"""Bytes; the extent must have exactly this size."""


class VirtioDeviceType(IntEnum):
    """``virtio_device_type_t``."""

    INVALID = 0
    INPUT = 18


class VirtioNotifyReason(IntFlag):
    """Why the frontend notified, from ``virtio_mmio_backend_get_notification``."""

    NEW_BUFFER = 1 << 0
    RESET_RQST = 1 << 1
    DRIVER_OK = 1 << 3
    FAILED = 1 << 4


STATUS_DRIVER_OK = 1 << 2
STATUS_DEVICE_NEEDS_RESET = 1 << 6
STATUS_FAILED = 1 << 7

DEVICE_FEATURE_VERSION_1 = 1 << 32
"""Must be offered, like the next; all three are bits of the 64-bit feature word."""
DEVICE_FEATURE_ACCESS_PLATFORM = 1 << 33
DEVICE_FEATURE_NOTIFICATION_DATA = 1 << 38
"""Must not be offered."""


class VirtioInputSelect(IntEnum):
    """Selector of ``virtio_input_set_data`` (hypercalls.md 3.16)."""

    ID_NAME = 0x01
    ID_SERIAL = 0x02
    ID_DEVIDS = 0x03
    PROP_BITS = 0x10
    EV_BITS = 0x11
    ABS_INFO = 0x12


INPUT_EVTYPES_MAX = 32
INPUT_ABSAXES_MAX = 64
