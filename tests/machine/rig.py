"""A core with memory, a stage 2 and a vCPU: what the engine's tests run their programs on."""

from __future__ import annotations

import struct
import time

from gunyah.machine.clock import Clock
from gunyah.machine.engine import HCR, Context, Core, ExitHandler, Stop
from gunyah.machine.memory import PhysicalMemory

RAM = 0x4000_0000
RAM_SIZE = 0x0400_0000
CODE = RAM
TABLES = RAM + 0x0200_0000
DATA = RAM + 0x0100_0000
DEVICE = 0x0900_0000
FINISHED = 0xFF
"""HVC immediate with which programs end."""

# Stage 2 of 36 bits: 4 KiB granule, starting at level 1, inner shareable write-back, 8-bit VMID.
VTCR = 1 << 31 | 1 << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 1 << 6 | 64 - 36
READ_WRITE = 1 << 10 | 3 << 8 | 3 << 6 | 0xF << 2
READ_ONLY = READ_WRITE & ~(1 << 7)
NO_EXECUTE = 2 << 53


class Rig:
    """One core, one vCPU at EL1 with RAM mapped IPA = PA, nothing else mapped."""

    def __init__(self, clock: Clock | None = None, *, native_entry: bool = True) -> None:
        self.memory = PhysicalMemory([(RAM, RAM_SIZE)])
        self.exits = ExitHandler()
        self.exits.hvc = self._hvc
        self.calls: list[tuple[int, int]] = []
        self.core = Core(self.memory, 0, self.exits, clock=clock, native_entry=native_entry, buffer_size=16 << 20)
        self.tables = TABLES
        self.stage2 = self.new_stage2()
        for offset in range(0, RAM_SIZE, 1 << 21):
            self.map(self.stage2, RAM + offset, RAM + offset, 1 << 21)
        self.vcpu = self.new_vcpu(self.stage2, vmid=1)
        self.core.load(self.vcpu)
        self.x = self.core.x
        self.registers = self.core.registers

    def _hvc(self, immediate: int) -> bool:
        self.calls.append((immediate, self.x[0]))
        return immediate != FINISHED

    def page(self) -> int:
        """One zeroed page for a table."""
        self.tables += 0x1000
        return self.tables - 0x1000

    def new_stage2(self) -> int:
        """An empty level 1 table."""
        return self.page()

    def map(self, table: int, ipa: int, pa: int, size: int, attributes: int = READ_WRITE) -> None:
        """Map a 4 KiB page or a 2 MiB block."""
        for level in (1, 2, 3):
            shift = 39 - 9 * level
            slot = table + (ipa >> shift & 511) * 8
            if size == 1 << shift:
                self.memory.write_u64(slot, pa | attributes | (3 if level == 3 else 1))
                return
            if not self.memory.read_u64(slot):
                self.memory.write_u64(slot, self.page() | 3)
            table = self.memory.read_u64(slot) & 0xF_FFFF_F000

    def new_vcpu(self, table: int, vmid: int, hcr: int = HCR.GUEST) -> Context:
        """A vCPU below the given stage 2."""
        vcpu = Context(f"vm{vmid}")
        vcpu.registers.write("VTTBR_EL2", table | vmid << 48)
        vcpu.registers.write("VTCR_EL2", VTCR)
        vcpu.registers.write("HCR_EL2", hcr)
        vcpu.registers.write("VMPIDR_EL2", 1 << 31)
        vcpu.registers.write("VPIDR_EL2", 0xF0480)
        return vcpu

    def place(self, words: tuple[int, ...], at: int = CODE) -> None:
        """Put a program into RAM."""
        self.memory.write(at, struct.pack(f"<{len(words)}I", *words))

    def start(self, words: tuple[int, ...], *arguments: int, vcpu: Context | None = None, at: int = CODE) -> None:
        """Place a program and reset the vCPU to it, X0 and up taking the arguments."""
        self.place(words, at)
        vcpu = vcpu or self.vcpu
        vcpu.reset(at, 0)
        for n, value in enumerate(arguments):
            vcpu.registers.x[n] = value

    def run(self, words: tuple[int, ...], *arguments: int, seconds: float = 60.0) -> Stop:
        """Run a program from reset until it says HVC #0xff, or something else stops it."""
        self.start(words, *arguments)
        return self.core.run(time.monotonic_ns() + int(seconds * 1e9))

    def go_on(self, seconds: float = 60.0) -> Stop:
        """Run on from where the vCPU is."""
        return self.core.run(time.monotonic_ns() + int(seconds * 1e9))
