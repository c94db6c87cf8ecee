"""Registers that the engine's core has otherwise or not at all read as they do on the reference's CPU."""

from __future__ import annotations

import struct

from gunyah.host.conformance import assembler as a
from gunyah.machine.engine import SYSTEM_REGISTERS
from gunyah.native import NativePrimary
from gunyah.system import System
from gunyah.vmm.images import parse_image

RESULTS, VECTORS = 0x400, 0x800
SYNC_SAME_LEVEL = 0x200
OFF = (0xD2B0_8000, 0xF280_0100, 0xD400_0002)  # mov x0, #0x84000008 (SYSTEM_OFF); hvc #0
NZCV = (3, 3, 4, 2, 0)


def results_of(code: list[int], count: int) -> tuple[int, ...]:
    """Run ``code`` with X28 at the results; an exception stores ESR_EL1 as the last result and ends."""
    words = [a.adr(28, RESULTS), a.adr(1, VECTORS - 4), a.msr(SYSTEM_REGISTERS["VBAR_EL1"], 1), *code, *OFF]
    handler = [a.mrs(0, SYSTEM_REGISTERS["ESR_EL1"]), a.store(0, 28, 8 * (count - 1)), *OFF]
    image = struct.pack(f"<{len(words)}I", *words).ljust(VECTORS + SYNC_SAME_LEVEL, b"\0")
    image += struct.pack(f"<{len(handler)}I", *handler)
    primary = NativePrimary(kernel=parse_image(image.ljust(0x1000, b"\0"), "registers"))
    with System(primary, clock="virtual", seed=1) as system:
        assert system.run(until=lambda: system.stopped is not None, timeout=5), system.last_words()
        assert primary.placement is not None
        return struct.unpack(f"<{count}Q", system.memory.read(primary.placement.entry + RESULTS, 8 * count))


def test_pmcr_and_clidr_read_as_recorded() -> None:
    names = ("PMCR_EL0", "CLIDR_EL1")
    code = [word for n, name in enumerate(names) for word in (a.mrs(0, SYSTEM_REGISTERS[name]), a.store(0, 28, 8 * n))]
    assert results_of(code, 2) == (0x4101_3000, 0x200_0023)


def test_random_numbers_differ_and_clear_the_flags() -> None:
    code: list[int] = []
    for n, name in enumerate(("RNDR", "RNDR", "RNDRRS")):
        code += [0xD2BE_0002, a.msr(NZCV, 2), a.mrs(0, SYSTEM_REGISTERS[name]), a.store(0, 28, 16 * n)]
        code += [a.mrs(1, NZCV), a.store(1, 28, 16 * n + 8)]
    values = results_of(code, 6)
    assert len(set(values[::2])) == 3
    assert values[1::2] == (0, 0, 0)


def test_an_sve_register_is_a_trapped_sve_access() -> None:
    (esr,) = results_of([a.mrs(0, SYSTEM_REGISTERS["ZCR_EL1"])], 1)
    assert esr == 0x6600_0000
