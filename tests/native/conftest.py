"""Where tests get a Linux from: GUNYAH_LINUX_IMAGE and GUNYAH_LINUX_INITRD, else what tools/fetch_linux.py fetches.

Tests with the marker ``linux`` need one. Where there is neither a file nor apt, they are left out, and the report's
head says so.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "fetch_linux.py"


def fetch_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch_linux", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _named() -> tuple[Path, Path] | None:
    image, initrd = os.environ.get("GUNYAH_LINUX_IMAGE"), os.environ.get("GUNYAH_LINUX_INITRD")
    return (Path(image), Path(initrd)) if image and initrd else None


def _reachable() -> bool:
    cache: Path = fetch_tool().cache_directory()
    fetched = (cache / "Image-cloud").exists() and (cache / "initramfs.cpio").exists()
    return _named() is not None or fetched or shutil.which("apt-get") is not None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "linux_modules: needs modules of the kernel, which a named kernel has not")
    config.addinivalue_line("markers", "linux: boots a Linux kernel (GUNYAH_LINUX_IMAGE, GUNYAH_LINUX_INITRD, or apt)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marker = "linux_modules" if _named() is not None else "linux"
    if _reachable() and _named() is None:
        return
    without = [item for item in items if item.get_closest_marker(marker) is not None]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


def pytest_report_header() -> str | None:
    if _reachable():
        return None
    return "no Linux: set GUNYAH_LINUX_IMAGE and GUNYAH_LINUX_INITRD to run the tests marked linux"


@pytest.fixture(scope="session")
def linux() -> tuple[Path, Path]:
    """Kernel and initial RAM disk with a busybox shell on the console."""
    named = _named()
    if named is not None:
        return named
    tool = fetch_tool()
    kernel, initrd = tool.fetch(tool.cache_directory())
    return kernel, initrd


@pytest.fixture(scope="session")
def linux_modules(linux: tuple[Path, Path]) -> list[Path]:
    """The kernel's virtio modules, in an order in which they can be loaded."""
    tool = fetch_tool()
    found: list[Path] = tool.modules(tool.cache_directory())
    return found
