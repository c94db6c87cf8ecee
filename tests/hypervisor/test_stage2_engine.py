"""The CPU engine walks the same tables to the same ends as the hypervisor's own walk."""

from __future__ import annotations

import random

import pytest

from gunyah.abi.memory import MappingAttributes
from gunyah.hypervisor.heap import Heap
from gunyah.hypervisor.stage2 import Stage2
from gunyah.machine.engine import EXECUTE, HCR, READ, WRITE, Context, Core, ExitHandler
from gunyah.machine.memory import PhysicalMemory

from .extents import MIB, PAGE, RAM

ACCESSES = ((READ, 4), (WRITE, 2), (EXECUTE, 1))
RIGHTS = ((7, 7), (6, 6), (4, 4), (5, 5), (0, 0), (2, 2))


@pytest.mark.parametrize("bits", [32, 36, 40])
def test_engine_and_hypervisor_see_the_same_translations(bits: int) -> None:
    ram = PhysicalMemory([(RAM, 64 * MIB)])
    core, vcpu = Core(ram, 0, ExitHandler()), Context()
    vcpu.reset(RAM, 0)
    core.load(vcpu)
    tables = Stage2(Heap(ram, RAM + 56 * MIB, 8 * MIB), 7, bits)
    tables.listeners.append(lambda ipa, size: core.flush_tlb())
    core.set_stage2(tables.vttbr, tables.vtcr, HCR.GUEST)
    top = 1 << bits
    chance = random.Random(bits)
    probes: set[int] = set()
    seen = 0
    for _ in range(30):
        size = chance.choice([PAGE, 2 * MIB, 2 * MIB + PAGE, 4 * MIB])
        ipa = chance.choice([0, top // 2, top - 16 * MIB, top - 2 * MIB]) + chance.choice([0, PAGE, 2 * MIB])
        ipa = min(ipa, top - size)
        if chance.random() < 0.3:
            tables.unmap(ipa, size)
        else:
            pa = RAM + chance.choice([0, PAGE, 2 * MIB, -PAGE])
            tables.map(ipa, size, pa, MappingAttributes(*chance.choice(RIGHTS), 0xF))
        probes |= {ipa, ipa + size // 2, ipa + size - 1, (ipa + size) % top, max(ipa - 1, 0)}
        for probe in probes:
            leaf = tables.lookup(probe)
            for access, bit in ACCESSES:
                expected = None
                if leaf is not None and leaf.attributes.kernel & bit and ram.contains(leaf.pa, leaf.size):
                    expected = leaf.pa + probe - leaf.ipa
                    seen += 1
                assert core.physical(probe, access) == expected, f"IPA {probe:#x}, access {access}, {leaf}"
    assert seen > 500
