"""The monitor: the guest that replays a recording, in place of RM as the root VM or as the primary VM under the real
RM.

It knows its VM only as any guest does: registers, hypercalls, loads and stores (guest.cpu). What it was given comes
from the boot environment (boot.md 5) or the device tree (reference.md 2). Interrupts stay masked; it polls its CPU
interface and acknowledges there, so that it sees each interrupt exactly once, as the recorder did.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gunyah.abi import cbor
from gunyah.abi.types import U64
from gunyah.guest.cpu import Cpu, GuestAbort, GuestUndefined
from gunyah.host.conformance.vectors import Instruction

__all__ = ["Monitor", "PrimaryEnvironment", "RootEnvironment"]

GICD = 0x0800_0000
GICR = 0x080A_0000
GICR_STRIDE = 0x2_0000
GICR_SGI_FRAME = 0x1_0000
GICD_CTLR, GICD_IGROUPR, GICD_ISENABLER, GICD_ISPENDR, GICD_IPRIORITYR, GICD_ICFGR = (
    0x0,
    0x80,
    0x100,
    0x200,
    0x400,
    0xC00,
)
GICD_CTLR_ARE_GROUP1 = 0x12
SPURIOUS = range(1020, 1024)
FIRST_SPI = 32
VIRTUAL_TIMER_PPI = 27

RUNTIME_SIGNATURE = 0x454D_5652
MANAGER_SIGNATURE = 0x524D_4544
_RUNTIME_TAIL = struct.Struct("<72xQQ")
_MANAGER_HEAD = struct.Struct("<IHxxII")


@dataclass(frozen=True)
class RootEnvironment:
    """What the hypervisor gives the root VM: the CBOR map of the environment data, and a buffer of its own memory."""

    values: Mapping[str, Any]
    heap: int

    def capabilities(self) -> dict[str, int]:
        """Names under which recordings know the root VM's capabilities (vectors' format)."""
        plain = {
            "$partition": "partition_capid",
            "$cspace": "cspace_capid",
            "$vcpu": "vcpu_capid",
            "$addrspace": "addrspace_capid",
            "$vic": "vic",
            "$me": "me_capid",
            "$device_me": "device_me_capid",
            "$uart_me": "uart_me_capid",
        }
        found = {name: int(self.values[key]) for name, key in plain.items() if key in self.values}
        for number, capability in enumerate(self.values.get("vic_hwirq", ())):
            if capability != U64:
                found[f"$hwirq{number}"] = int(capability)
        return found | {"$scratch": self.heap}

    def hardware_interrupts(self) -> list[int]:
        """Numbers of the hardware interrupts that the root VM holds a capability for."""
        return [number for number, capability in enumerate(self.values.get("vic_hwirq", ())) if capability != U64]


@dataclass(frozen=True)
class PrimaryEnvironment:
    """What RM gives the primary VM: the two message queues of the device tree's RM node, with their interrupts."""

    tree: Any
    tx: int
    rx: int
    scratch: int

    def capabilities(self) -> dict[str, int]:
        return {"$rm_tx": self.tx, "$rm_rx": self.rx, "$scratch": self.scratch}


class Monitor:
    """One vCPU of the VM under test, seen from its own code."""

    def __init__(self, cpu: Cpu) -> None:
        self.cpu = cpu
        cpu.irq_masked = True

    # -- calls ---------------------------------------------------------------------------------------------------------

    def execute(self, insn: Instruction, inputs: Sequence[int]) -> list[int]:
        """Execute ``insn`` with ``inputs`` in x0.., every other register 0; returns x0..x7 afterwards."""
        x = self.cpu.x
        for number in range(len(x)):
            x[number] = inputs[number] if number < len(inputs) else 0
        (self.cpu.hvc if insn.name == "hvc" else self.cpu.smc)(insn.immediate)
        return [int(x[number]) & U64 for number in range(8)]

    def hypercall(self, number: int, *inputs: int) -> list[int]:
        """HVC #(0x6000 + number)."""
        return self.execute(Instruction("hvc", 0x6000 + number), inputs)

    # -- memory and registers ------------------------------------------------------------------------------------------

    def load(self, address: int, width: int) -> int | GuestAbort:
        """One load of ``width`` bytes at IPA ``address``, or the abort it took."""
        try:
            return self.cpu.load(address, width)
        except GuestAbort as abort:
            return abort

    def store(self, address: int, value: int, width: int = 4) -> None:
        self.cpu.store(address, value, width)

    def system_register(self, name: str) -> int | GuestUndefined:
        """MRS of ``name``, or the exception it took."""
        try:
            return self.cpu.mrs(name)
        except GuestUndefined as undefined:
            return undefined

    # -- interrupts ----------------------------------------------------------------------------------------------------

    def enable_interrupts(self, spis: range, *, edge: bool | None) -> None:
        """Group 1, priority 0, enabled and routed here: SPIs ``spis``; ``edge`` None leaves the trigger as it is."""
        self.store(GICD + GICD_CTLR, GICD_CTLR_ARE_GROUP1)
        self.store(GICR + GICR_SGI_FRAME + GICD_IGROUPR, 0xFFFF_FFFF)
        for word in range(spis.start // 32, (spis.stop + 31) // 32):
            self.store(GICD + GICD_IGROUPR + 4 * word, 0xFFFF_FFFF)
            mask = sum(1 << spi % 32 for spi in spis if spi // 32 == word)
            self.store(GICD + GICD_ISENABLER + 4 * word, mask)
        if edge is not None:
            for spi in spis:
                self.set_trigger(spi, edge)
        self.cpu.msr("ICC_PMR_EL1", 0xFF)
        self.cpu.msr("ICC_IGRPEN1_EL1", 1)

    def set_alarm(self, on: bool) -> None:
        """An interrupt that is pending, of the virtual timer, or none: whoever suspends himself is awake at once."""
        if on:
            self.store(GICD + GICD_CTLR, GICD_CTLR_ARE_GROUP1)
            self.store(GICR + GICR_SGI_FRAME + GICD_IGROUPR, 0xFFFF_FFFF)
            self.store(GICR + GICR_SGI_FRAME + GICD_ISENABLER, 1 << VIRTUAL_TIMER_PPI)
            self.cpu.msr("ICC_PMR_EL1", 0xFF)
            self.cpu.msr("ICC_IGRPEN1_EL1", 1)
            self.cpu.msr("CNTV_CVAL_EL0", 0)
        self.cpu.msr("CNTV_CTL_EL0", int(on))

    def set_trigger(self, spi: int, edge: bool) -> None:
        address = GICD + GICD_ICFGR + 4 * (spi // 16)
        shift = spi % 16 * 2
        word = self.cpu.load(address, 4) & ~(3 << shift)
        self.store(address, word | (2 if edge else 0) << shift)

    def trigger_field(self, spi: int) -> int:
        """The two GICD_ICFGR bits of ``spi``: 0 level, 2 edge."""
        return self.cpu.load(GICD + GICD_ICFGR + 4 * (spi // 16), 4) >> (spi % 16 * 2) & 3

    def is_pending(self, spi: int) -> int:
        return self.cpu.load(GICD + GICD_ISPENDR + 4 * (spi // 32), 4) >> (spi % 32) & 1

    def set_pending(self, spi: int) -> None:
        self.store(GICD + GICD_ISPENDR + 4 * (spi // 32), 1 << spi % 32)

    def acknowledge(self, limit: int, *, once: bool = False) -> list[int]:
        """Acknowledge and end what the CPU interface signals, at most ``limit`` times; the INTIDs in order. With
        ``once`` the first that comes again is the end.
        """
        taken: list[int] = []
        while len(taken) < limit:
            intid = self.cpu.mrs("ICC_IAR1_EL1") & 0xFF_FFFF
            if intid in SPURIOUS:
                break
            self.cpu.msr("ICC_EOIR1_EL1", intid)
            if once and intid in taken:
                break
            taken.append(intid)
        return taken

    # -- what the VM was given -----------------------------------------------------------------------------------------

    def root_environment(self, x0: int) -> RootEnvironment:
        """Parse the environment data at IPA ``x0`` (boot.md 5); raises ValueError when it is not there."""
        (signature,) = struct.unpack("<I", self.cpu.read(x0, 4))
        if signature != RUNTIME_SIGNATURE:
            raise ValueError(
                f"no environment data at {x0:#x}: signature {signature:#x} instead of {RUNTIME_SIGNATURE:#x}"
            )
        heap, _ = struct.unpack("<24xQQ", self.cpu.read(x0, 40))
        offset, _ = _RUNTIME_TAIL.unpack(self.cpu.read(x0, _RUNTIME_TAIL.size))
        block = x0 + offset
        signature, _, payload, size = _MANAGER_HEAD.unpack(self.cpu.read(block, _MANAGER_HEAD.size))
        if signature != MANAGER_SIGNATURE:
            raise ValueError(f"no resource-manager block at {block:#x}: signature {signature:#x}")
        values = cbor.decode(self.cpu.read(block + payload, size))
        if not isinstance(values, dict):
            raise ValueError(f"the environment data at {block + payload:#x} is not a map")
        return RootEnvironment(values, heap)
