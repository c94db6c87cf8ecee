"""gunyah: the Gunyah hypervisor system as a Python package."""

from gunyah._version import __version__

__all__ = ["__version__"]
