"""The monitor as native AArch64 code: the same recordings, made by real instructions on the CPU engine.

The guest waits (WFI) for an order in its own memory, loads x0 to x17 from it, executes one instruction, stores the
registers, and waits again; its vector table notes syndrome and address of an exception and steps over the instruction.
The kit writes orders into the machine's memory from outside, as a debugger's link would, and lets the vCPU go on: a WFI
may always end early.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, MutableSequence

from gunyah.guest.cpu import GuestAbort, GuestUndefined
from gunyah.host.conformance import assembler as a
from gunyah.host.conformance.stage import Stage
from gunyah.hypervisor.addrspace import Addrspace
from gunyah.hypervisor.vcpu import Block, Vcpu
from gunyah.machine.engine import SYSTEM_REGISTERS

__all__ = ["IMAGE", "NativeMonitorCpu", "StageEnded"]

AREA = 0x400
"""Offset of the order in the image: flag, boot x0, ESR, FAR, then x0..x17."""
FLAG, BOOT_X0, SYNDROME, ADDRESS, REGISTERS = 0x0, 0x8, 0x10, 0x18, 0x20
VECTORS = 0x800
SYNC_SAME_LEVEL = 0x200
COUNT = 18
_AREA = struct.Struct("<4Q18Q")

EC_UNKNOWN = 0x0
EC_DATA_ABORT = 0x25

MORE_REGISTERS: Mapping[str, a.Encoding] = {
    "CurrentEL": (3, 0, 4, 2, 2),
    "PMCR_EL0": (3, 3, 9, 12, 0),
    "PMCEID0_EL0": (3, 3, 9, 12, 6),
    "PMCEID1_EL0": (3, 3, 9, 12, 7),
    "PMSIDR_EL1": (3, 0, 9, 9, 7),
    "ERRIDR_EL1": (3, 0, 5, 3, 0),
    "ZCR_EL1": (3, 0, 1, 2, 0),
    "RGSR_EL1": (3, 0, 1, 0, 5),
    "APIAKeyLo_EL1": (3, 0, 2, 1, 0),
    "TRCIDR0_EL1": (2, 1, 0, 8, 7),
    "DBGAUTHSTATUS_EL1": (2, 0, 7, 14, 6),
    "ICH_VTR_EL2": (3, 4, 12, 11, 1),
    "CNTVOFF_EL2": (3, 4, 14, 0, 3),
    "RNDR": (3, 3, 2, 4, 0),
    "RNDRRS": (3, 3, 2, 4, 1),
    "LORID_EL1": (3, 0, 10, 4, 7),
    "AMCR_EL0": (3, 3, 13, 2, 0),
    "SCXTNUM_EL1": (3, 0, 13, 0, 7),
    "AIDR_EL1": (3, 1, 0, 0, 7),
}
"""Registers that recordings read and the engine's own table does not need (Arm ARM D23)."""


class StageEnded(Exception):
    """The machine will not answer any more; ``str()`` says why."""


def _image() -> tuple[bytes, int]:
    """The code, and the offset of the instruction that orders replace."""
    code: list[int] = []

    def here() -> int:
        return 4 * len(code)

    code.append(a.adr(28, AREA - here()))
    code.append(a.store(0, 28, BOOT_X0))
    code.append(a.adr(0, VECTORS - here()))
    code.append(a.msr(SYSTEM_REGISTERS["VBAR_EL1"], 0))
    code.append(a.store(31, 28, FLAG, 4))
    loop = here()
    code.append(a.wfi())
    code.append(a.load(27, 28, FLAG, 4))
    code.append(a.cbz(27, loop - here()))
    code += [a.load_pair(n, n + 1, 28, REGISTERS + 8 * n) for n in range(0, COUNT, 2)]
    slot = here()
    code.append(a.exception_call("hvc", 0))
    code += [a.store_pair(n, n + 1, 28, REGISTERS + 8 * n) for n in range(0, COUNT, 2)]
    code.append(a.store(31, 28, FLAG, 4))
    code.append(a.branch(loop - here()))
    vector = [
        a.mrs(26, SYSTEM_REGISTERS["ESR_EL1"]),
        a.store(26, 28, SYNDROME),
        a.mrs(26, SYSTEM_REGISTERS["FAR_EL1"]),
        a.store(26, 28, ADDRESS),
        a.mrs(26, SYSTEM_REGISTERS["ELR_EL1"]),
        a.add(26, 26, 4),
        a.msr(SYSTEM_REGISTERS["ELR_EL1"], 26),
        a.eret(),
    ]
    image = bytearray(0x1000)
    struct.pack_into(f"<{len(code)}I", image, 0, *code)
    struct.pack_into("<Q", image, AREA + FLAG, 1)
    struct.pack_into(f"<{len(vector)}I", image, VECTORS + SYNC_SAME_LEVEL, *vector)
    return bytes(image), slot


IMAGE, SLOT = _image()
"""One page of position-independent code; its entry point is its first instruction."""


class NativeMonitorCpu:
    """Implements ``guest.cpu.Cpu`` by giving orders to the native monitor at IPA ``base``."""

    def __init__(self, stage: Stage, vcpu: Callable[[], Vcpu | None], base: int) -> None:
        self._stage = stage
        self._find = vcpu
        self._vcpu: Vcpu | None = None
        self._base = base
        self.x: MutableSequence[int] = [0] * 31
        self.irq_masked = True

    # -- orders --------------------------------------------------------------------------------------------------------

    @property
    def _memory(self) -> Addrspace:
        vcpu = self._vcpu
        if vcpu is None or vcpu.addrspace is None:
            raise StageEnded("the monitor's VM is gone")
        return vcpu.addrspace

    def _done(self) -> bool:
        """It has done what it was told; woken when the order came between its look at the flag and its WFI."""
        vcpu = self._vcpu = self._vcpu or self._find()
        if vcpu is None or vcpu.powered_off:
            return False
        if self._memory.read(self._base + AREA, 4) == bytes(4):
            return True
        if vcpu.blocks & Block.WFI:
            vcpu.unblock(Block.WFI)
        return False

    def boot(self) -> int:
        """Run until the monitor waits for its first order; returns the x0 it was started with."""
        if not self._stage.run(self._done):
            raise StageEnded(self._stage.why_it_ended())
        return int.from_bytes(self._memory.read(self._base + AREA + BOOT_X0, 8), "little")

    def _order(self, word: int) -> tuple[int, int]:
        """Execute one instruction with ``x`` as x0..x17; returns ESR (0: no exception) and FAR."""
        memory = self._memory
        memory.write(self._base + SLOT, word.to_bytes(4, "little"))
        memory.write(self._base + AREA, _AREA.pack(1, self._boot_x0(), 0, 0, *self.x[:COUNT]))
        if not self._stage.run(self._done):
            raise StageEnded(self._stage.why_it_ended())
        _, _, syndrome, address, *registers = _AREA.unpack(memory.read(self._base + AREA, _AREA.size))
        self.x[:COUNT] = registers
        return syndrome, address

    def _boot_x0(self) -> int:
        return int.from_bytes(self._memory.read(self._base + AREA + BOOT_X0, 8), "little")

    def _checked(self, word: int) -> None:
        syndrome, address = self._order(word)
        if syndrome >> 26 == EC_DATA_ABORT:
            raise GuestAbort(syndrome, address, f"data abort at {address:#x}, ESR {syndrome:#x}")
        if syndrome:
            raise GuestUndefined(f"instruction {word:#010x}: exception with ESR {syndrome:#x}", syndrome)

    # -- Cpu -----------------------------------------------------------------------------------------------------------

    def hvc(self, imm: int = 0, /) -> None:
        self._checked(a.exception_call("hvc", imm))

    def smc(self, imm: int = 0, /) -> None:
        self._checked(a.exception_call("smc", imm))

    def read(self, address: int, size: int, /) -> bytes:
        """Normal memory, as the link sees it through the VM's stage 2."""
        return self._memory.read(address, size)

    def write(self, address: int, data: bytes | bytearray | memoryview, /) -> None:
        self._memory.write(address, data)

    def load(self, address: int, width: int, /) -> int:
        self.x[1] = address
        self._checked(a.load(0, 1, 0, width))
        return self.x[0]

    def store(self, address: int, value: int, width: int, /) -> None:
        self.x[0], self.x[1] = value, address
        self._checked(a.store(0, 1, 0, width))

    def _encoding(self, register: str) -> a.Encoding:
        encoding = SYSTEM_REGISTERS.get(register) or MORE_REGISTERS.get(register)
        if encoding is None:
            raise ValueError(f"the native monitor does not know the system register {register}")
        return encoding

    def mrs(self, register: str, /) -> int:
        self._checked(a.mrs(0, self._encoding(register)))
        return self.x[0]

    def msr(self, register: str, value: int, /) -> None:
        self.x[0] = value
        self._checked(a.msr(self._encoding(register), 0))

    def wfi(self) -> None:
        """The monitor waits whenever it has no order."""

    def nudge(self) -> None:
        """Nobody waits for it."""

    def set_vector(self, handler: Callable[[], None], /) -> None:
        """Its vectors are its own; interrupts stay masked."""

    def ticks(self) -> int:
        return self.mrs("CNTVCT_EL0")
