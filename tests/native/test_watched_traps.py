"""What an instrument hears of a native guest: waiting, and accesses and jumps to nowhere; nothing else changes."""

from __future__ import annotations

import struct

import pytest

from gunyah.host.conformance import assembler as a
from gunyah.hypervisor.instruments import Instrument
from gunyah.machine.engine import SYSTEM_REGISTERS
from gunyah.native import NativePrimary
from gunyah.system import System
from gunyah.vmm.images import parse_image

VECTORS, SYNC_SAME_LEVEL = 0x800, 0x200
OFF = (0xD2B0_8000, 0xF280_0100, 0xD400_0002)  # mov x0, #0x84000008 (SYSTEM_OFF); hvc #0
WFI, BR_X1, LOAD_X1, STORE_X1 = 0xD503_207F, 0xD61F_0020, 0xF940_0022, 0xF900_0022
NOWHERE = 0xF_0000_0000


class Watch(Instrument):
    def __init__(self) -> None:
        self.traps: list[tuple[str, int]] = []

    def trap(self, vcpu, reason, value, ticks) -> None:  # type: ignore[no-untyped-def]
        if vcpu.vmid == 3:
            self.traps.append((reason, value))


def run(code: list[int], *, watched: bool = True) -> tuple[list[tuple[str, int]], str | None]:
    """Traps of a guest that does ``code`` and switches the machine off, at an exception too."""
    words = [a.adr(1, VECTORS), a.msr(SYSTEM_REGISTERS["VBAR_EL1"], 1), *code, *OFF]
    image = struct.pack(f"<{len(words)}I", *words).ljust(VECTORS + SYNC_SAME_LEVEL, b"\0")
    image += struct.pack(f"<{len(OFF)}I", *OFF)
    watch = Watch()
    with System(
        NativePrimary(kernel=parse_image(image.ljust(0x1000, b"\0"), "traps")), clock="virtual", seed=1
    ) as system:
        if watched:
            system.instruments.append(watch)
        system.run(until=lambda: system.stopped is not None, timeout=2)
        return watch.traps, system.stopped


def far_away(*words: int) -> list[int]:
    return [0xD2C0_01E1, *words]  # mov x1, #0xf_0000_0000


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (far_away(LOAD_X1), "external abort"),
        (far_away(STORE_X1), "external abort"),
        (far_away(BR_X1), "instruction abort"),
    ],
    ids=["load", "store", "jump"],
)
def test_an_access_to_nowhere_is_told_with_its_address(words: list[int], reason: str) -> None:
    traps, stopped = run(words)
    assert (reason, NOWHERE) in traps
    assert stopped == "off"
    assert run(words, watched=False) == ([], "off")


def test_waiting_is_told() -> None:
    traps, stopped = run([WFI])
    assert ("wfi", 0) in traps
    assert stopped is None
    assert run([WFI], watched=False) == ([], None)


def test_a_random_number_that_nobody_wants_is_drawn_and_thrown_away() -> None:
    _, stopped = run([a.mrs(31, SYSTEM_REGISTERS["RNDR"])])
    assert stopped == "off"
