"""Test guests: small AArch64 programs, their sources beside the bytes that ``tools/build_guests.py`` makes of them.

Each is a flat binary that runs wherever it is loaded, with the device tree's address in X0. No cross tools are needed
to run them; a test builds the sources again and compares.
"""

from __future__ import annotations

from importlib.resources import files

from gunyah.vmm.images import Image, parse_image

__all__ = ["NAMES", "guest_bytes", "guest_image"]

NAMES = ("bench", "compute", "demo", "fuzz", "talk")
"""Every guest there is."""


def guest_bytes(name: str) -> bytes:
    """The bytes of a guest; raises KeyError for a name that is not in ``NAMES``."""
    if name not in NAMES:
        raise KeyError(f"there is no test guest {name!r}; there are {', '.join(NAMES)}")
    return (files(__package__) / f"{name}.bin").read_bytes()


def guest_image(name: str) -> Image:
    """A guest, ready to be placed; raises KeyError."""
    return parse_image(guest_bytes(name), name)
