"""Where the engine cannot work it says so in one sentence, and nothing is loaded that nobody asked for."""

from __future__ import annotations

import ctypes
import mmap
import platform
import subprocess
import sys
from typing import Any

import pytest

from gunyah.machine.engine import EngineUnavailable
from gunyah.machine.engine import unicorn_private as private


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "aarch64"), ("win32", "AMD64")])
def test_other_hosts_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(EngineUnavailable, match=f"native VMs need Linux on x86-64.*{machine}"):
        private.Library()


def test_other_version_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    unicorn = private.library().unicorn
    monkeypatch.setattr(unicorn, "__version__", "2.1.3")
    with pytest.raises(EngineUnavailable, match=r"need unicorn 2\.1\.4, this is 2\.1\.3"):
        private.Library()


@pytest.mark.parametrize(
    "symbol",
    ["cpu_exit", "raise_exception_aarch64", "resume_all_vcpus_aarch64", "uc_emu_stop", "arm_rebuild_hflags_aarch64"],
)
def test_other_code_in_the_library_is_refused(monkeypatch: pytest.MonkeyPatch, symbol: str) -> None:
    original = private.Library.text

    def text(self: private.Library, name: str, size: int) -> bytes:
        return bytes(size) if name == symbol else original(self, name, size)

    monkeypatch.setattr(private.Library, "text", text)
    with pytest.raises(EngineUnavailable, match=f"not the verified one: {symbol}"):
        private.Library()


@pytest.mark.parametrize(
    ("field", "shift"),
    [("env_syndrome", 8), ("env_target_el", 4), ("env_exclusive_addr", 8), ("env_pstate", 4), ("env_aarch64", 4)],
)
def test_field_that_is_elsewhere_is_found_out_by_the_probe(
    monkeypatch: pytest.MonkeyPatch, field: str, shift: int
) -> None:
    original = private._decode

    def decode(library: private.Library) -> dict[str, int]:
        return {name: value + (shift if name == field else 0) for name, value in original(library).items()}

    monkeypatch.setattr(private, "_decode", decode)
    with pytest.raises(EngineUnavailable, match="not the verified one"):
        private.Library()


def test_host_without_executable_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Any = mmap.mmap

    def refuse(*arguments: Any, **options: Any) -> Any:
        if options.get("prot", 0) & mmap.PROT_EXEC:
            raise PermissionError(13, "Permission denied")
        return original(*arguments, **options)

    memory = private.ExecutableMemory()
    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(EngineUnavailable, match="executable memory"):
        memory.place(b"\xc3")


def test_host_code_goes_on_in_new_pages() -> None:
    memory = private.ExecutableMemory()
    code = b"\xb8\x2a\x00\x00\x00\xc3"  # mov eax, 42; ret
    places = [memory.place(code) for _ in range(3000)]
    assert len(set(places)) == 3000
    function = ctypes.CFUNCTYPE(ctypes.c_int)
    assert function(places[0])() == function(places[-1])() == 42


def test_importing_the_engine_loads_no_library() -> None:
    program = "import sys, gunyah.machine.engine; sys.exit('unicorn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
