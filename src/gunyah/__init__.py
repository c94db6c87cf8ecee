"""gunyah: the Gunyah hypervisor system as a Python package.

``gunyah.System`` is the whole machine in a ``with`` block; everything else is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gunyah._version import __version__

if TYPE_CHECKING:
    from gunyah.primary import LinuxPrimary, PrimaryTty, ProgramPrimary, TtyError
    from gunyah.system import System, SystemFailure

__all__ = [
    "LinuxPrimary",
    "PrimaryTty",
    "ProgramPrimary",
    "System",
    "SystemFailure",
    "TtyError",
    "__version__",
]

_HOMES = {
    "LinuxPrimary": "gunyah.primary",
    "PrimaryTty": "gunyah.primary",
    "ProgramPrimary": "gunyah.primary",
    "System": "gunyah.system",
    "SystemFailure": "gunyah.system",
    "TtyError": "gunyah.primary",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'gunyah' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
