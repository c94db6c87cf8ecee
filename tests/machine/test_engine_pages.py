"""The engine translates addresses and keeps code by pages of 4 KiB."""

from __future__ import annotations

from gunyah.machine.engine.fast_walk import taken

from .rig import CODE, DATA, READ_WRITE, Rig

# Sum `x1` words that are 512 bytes apart, from `x0` on
STRIDES = (
    0xF8440403,  # ldr x3, [x0], #64
    0x9101C000,  # add x0, x0, #112
    0x91054000,  # add x0, x0, #336
    0x8B030042,  # add x2, x2, x3
    0xF1000421,  # subs x1, x1, #1
    0x54FFFF61,  # b.ne .-20
    0xD4001FE2,  # hvc #0xff
)
PAGES = 64


def mapped_in_pages() -> Rig:
    """Stage 2 in pages and stage 1 on, so that every page is a translation of its own."""
    rig = Rig()
    rig.stage2 = rig.new_stage2()
    for offset in range(0, PAGES * 0x1000, 0x1000):
        rig.map(rig.stage2, DATA + offset, DATA + offset, 0x1000)
    rig.map(rig.stage2, CODE, CODE, 1 << 21)
    table = rig.page()
    rig.map(rig.stage2, table & -(1 << 21), table & -(1 << 21), 1 << 21)
    level1 = CODE >> 30
    rig.memory.write_u64(table + 8 * level1, CODE | 0x401 | 3 << 8)
    rig.registers.write("VTTBR_EL2", rig.stage2 | 1 << 48)
    rig.registers.write("TTBR0_EL1", table)
    rig.registers.write("TCR_EL1", 1 << 32 | 1 << 23 | 25)
    rig.registers.write("MAIR_EL1", 0xFF)
    return rig


def test_page_is_translated_once_however_it_is_walked_through() -> None:
    rig = mapped_in_pages()
    rig.start(STRIDES, DATA, PAGES * 8)
    rig.registers.write("SCTLR_EL1", 0x30D0_0801)
    rig.vcpu.touch()
    before = taken(rig.core)
    rig.go_on()
    assert rig.x[0] == DATA + PAGES * 0x1000
    assert PAGES <= taken(rig.core) - before <= PAGES + 4


def test_pages_next_to_each_other_keep_their_own_permissions() -> None:
    rig = mapped_in_pages()
    rig.map(rig.stage2, DATA + 0x1000, DATA + 0x1000, 0x1000, READ_WRITE & ~(1 << 7))
    refused: list[int] = []

    def data_abort(esr: int, far: int, ipa: int) -> bool:
        refused.append(far)
        return False

    rig.exits.data_abort = data_abort
    # str x1, [x0], #8; b .-4
    rig.start((0xF8008401, 0x17FFFFFF), DATA)
    rig.registers.write("SCTLR_EL1", 0x30D0_0801)
    rig.vcpu.touch()
    rig.go_on()
    assert refused == [DATA + 0x1000]
