"""Noticing that a vCPU spins: it waits with WFE or YIELD for another one, which cannot go on meanwhile.

All vCPUs share one host thread, so a spinning one keeps the very lock holder from running that it waits for. The engine
takes WFE and YIELD as hints that end a block and nothing else (engine.md 1.1): it enters its execution loop anew. A few
machine instructions count these entries and stop the engine when there were more than the run's patience.
"""

from __future__ import annotations

import ctypes
import re
from typing import TYPE_CHECKING, Final

from . import unicorn_private as private

if TYPE_CHECKING:
    from .core import Core

PATIENCE: Final = 40
"""Hints that a run lets pass; one takes about a third of a microsecond."""

# mov rax, block; ... called as cpu_exec_enter(cpu) before the engine looks at its stop flags
_CODE: Final = (
    bytes.fromhex("48b8"),
    bytes.fromhex(
        "48ff08"  # dec qword [rax]
        "7917"  # jns on
        "488b4808"  # mov rcx, [rax + 8]
        "c60101"  # mov byte [rcx], 1
        "488b4810"  # mov rcx, [rax + 16]
        "c60101"  # mov byte [rcx], 1
        "488b4818"  # mov rcx, [rax + 24]
        "66c701ffff"  # mov word [rcx], -1
        "ff6020"  # on: jmp [rax + 32]
    ),
)

_CLASS = re.compile(rb"\x48\x8b\xbe(....)", re.DOTALL)
_ENTER = re.compile(rb"\xff\x90(....)", re.DOTALL)


def cpu_class(core: Core) -> int:
    """Address of the functions that the library calls for this engine's CPU (CPUClass); 0 if it is not to be found."""
    found = _CLASS.search(core.library.text("cpu_exec_aarch64", 80))
    if found is None:
        return 0
    address: int = private.u64_at(core.cpu_state + int.from_bytes(found.group(1), "little")).value
    return address


class SpinWatch:
    """Count of one core. Without the expected instructions in the library it never fires, and vCPUs spin in peace."""

    def __init__(self, core: Core, stop_flags: tuple[int, int, int]) -> None:
        self._block = (ctypes.c_int64 * 5)(0, *stop_flags, 0)
        self._view = memoryview(self._block).cast("B").cast("q")
        enter = _ENTER.search(core.library.text("cpu_exec_aarch64", 80))
        functions = cpu_class(core)
        if not functions or enter is None:
            return
        slot = private.u64_at(functions + int.from_bytes(enter.group(1), "little"))
        self._block[4] = slot.value
        slot.value = core.code.place(_CODE[0] + ctypes.addressof(self._block).to_bytes(8, "little") + _CODE[1])

    def begin(self) -> None:
        """The engine is about to be entered."""
        # Entering it counts too.
        self._view[0] = PATIENCE + 1

    @property
    def spun(self) -> bool:
        """The engine came back because patience was over."""
        return self._view[0] < 0
