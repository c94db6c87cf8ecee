"""The device-tree binding of the hypervisor node, as package data for ``dtschema`` (linux-drivers.md 2 and 17, rm-
behaviour.md 7.6).
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

__all__ = ["GUNYAH_HYPERVISOR", "schema_path"]

GUNYAH_HYPERVISOR = "gunyah-hypervisor.yaml"


def schema_path(name: str = GUNYAH_HYPERVISOR) -> Path:
    """Where a schema of this package lies on disk. Raises FileNotFoundError."""
    path = Path(str(resources.files(__package__))) / name
    if not path.is_file():
        raise FileNotFoundError(f"there is no binding schema {name} in {path.parent}")
    return path
