"""The bytes of the test guests are what their sources build."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from gunyah.vmm.guests import NAMES, guest_bytes, guest_image

ROOT = Path(__file__).resolve().parents[2]


def build_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_guests", ROOT / "tools" / "build_guests.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_source_is_a_guest_with_bytes() -> None:
    tool = build_tool()
    assert {source.stem for source in tool.sources()} == set(NAMES)
    for name in NAMES:
        assert guest_image(name).kind == "binary"


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_bytes_are_what_the_source_builds(name: str) -> None:
    tool = build_tool()
    if shutil.which(f"{tool.PREFIX}as") is None:
        # Without the cross assembler the bytes themselves can still be shown to be whole: they run in other tests.
        assert guest_bytes(name)
        return
    assert tool.build(tool.FOLDER / f"{name}.S") == guest_bytes(name)
