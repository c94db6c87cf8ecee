"""A vCPU's registers as gdb numbers them, and the target description that tells gdb so.

The core and floating-point features are gdb's standard ones for AArch64. A third feature holds what EL1 is configured
with: translation tables, vectors, the last exception. All values are those of the vCPU itself, as MRS at EL1 gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gunyah.host.gdb.protocol import Malformed
from gunyah.hypervisor.native_executor import NativeExecutor
from gunyah.hypervisor.vcpu import Vcpu
from gunyah.machine.engine.unicorn_private import library

__all__ = ["GENERAL", "REGISTERS", "RegisterRefused", "read_register", "target_description", "write_register"]

_SYSTEM: Final = (
    "SCTLR_EL1", "CPACR_EL1", "TTBR0_EL1", "TTBR1_EL1", "TCR_EL1", "MAIR_EL1", "AMAIR_EL1", "VBAR_EL1", "ESR_EL1",
    "FAR_EL1", "ELR_EL1", "SPSR_EL1", "PAR_EL1", "CONTEXTIDR_EL1", "SP_EL0", "SP_EL1", "TPIDR_EL0", "TPIDRRO_EL0",
    "TPIDR_EL1", "MPIDR_EL1", "CNTKCTL_EL1", "CNTV_CTL_EL0", "CNTV_CVAL_EL0", "CNTP_CTL_EL0", "CNTP_CVAL_EL0",
)  # fmt: skip
# What EL1 reads under another name.
_KEPT_AS: Final = {"MPIDR_EL1": "VMPIDR_EL2"}
_READ_ONLY: Final = frozenset({"MPIDR_EL1", "CNTV_CTL_EL0", "CNTV_CVAL_EL0", "CNTP_CTL_EL0", "CNTP_CVAL_EL0"})
"""The timers' registers have effects besides their value."""

_FPSR: Final = 0xF800_009F
_FPCR: Final = 0x07F7_9F00
_MODE: Final = 0x1F
_MODES: Final = (0x0, 0x4, 0x5)
"""EL0t, EL1t, EL1h: what a debugger may put into PSTATE, for a guest has no more."""
_PSTATE: Final = 0xF0C0_03C0 | _MODE
"""Bits of PSTATE that a debugger may write: flags, UAO, PAN, DAIF, mode."""


class RegisterRefused(ValueError):
    """A register that cannot be written, or a value that it cannot take."""


@dataclass(frozen=True, slots=True)
class Register:
    """One register of gdb's: its name, its size, and the kind of access that it needs."""

    name: str
    bits: int
    kind: str
    index: int = 0
    type: str = "int"

    @property
    def size(self) -> int:
        """Bytes."""
        return self.bits // 8


def _table() -> Iterator[Register]:
    for n in range(31):
        yield Register(f"x{n}", 64, "x", n)
    yield Register("sp", 64, "sp", type="data_ptr")
    yield Register("pc", 64, "pc", type="code_ptr")
    yield Register("cpsr", 32, "cpsr", type="cpsr_flags")
    for n in range(32):
        yield Register(f"v{n}", 128, "v", n, type="vector")
    yield Register("fpsr", 32, "fpsr")
    yield Register("fpcr", 32, "fpcr")
    for name in _SYSTEM:
        yield Register(name, 64, "system")


REGISTERS: Final = tuple(_table())
"""Position is gdb's register number."""
GENERAL: Final = sum(register.kind != "system" for register in REGISTERS)
"""How many of them a ``g`` packet carries."""


def read_register(vcpu: Vcpu, number: int) -> bytes | None:
    """The register's bytes, little-endian; None if this vCPU has no such register. Raises Malformed."""
    if number >= len(REGISTERS):
        raise Malformed(f"there is no register {number}")
    register = REGISTERS[number]
    executor = vcpu.executor
    value: int | None
    if isinstance(executor, NativeExecutor):
        value = _read_native(executor, register)
    else:
        # A Python VM, or a vCPU that was never powered on.
        value = {"x": lambda: vcpu.x[register.index], "pc": lambda: vcpu.pc}.get(register.kind, lambda: None)()
    return None if value is None else value.to_bytes(register.size, "little")


def _read_native(executor: NativeExecutor, register: Register) -> int | None:
    registers = executor.context.registers
    match register.kind:
        case "x":
            return int(registers.x[register.index])
        case "sp":
            return registers.sp
        case "pc":
            return registers.pc
        case "cpsr":
            return registers.pstate & 0xFFFF_FFFF
        case "v":
            return registers.vector(register.index)
        case "fpsr" | "fpcr":
            mask = _FPSR if register.kind == "fpsr" else _FPCR
            return int(library().get_fpscr(registers.address)) & mask
    if register.name == "SP_EL1":
        return registers.sp_el1
    try:
        return registers.read(_KEPT_AS.get(register.name, register.name))
    except KeyError:
        return None


def write_register(vcpu: Vcpu, number: int, data: bytes) -> None:
    """Write a register of a vCPU that does not run; raises RegisterRefused and Malformed."""
    if number >= len(REGISTERS):
        raise Malformed(f"there is no register {number}")
    register = REGISTERS[number]
    if len(data) != register.size:
        raise Malformed(f"{register.name} has {register.size} bytes, not {len(data)}")
    executor = vcpu.executor
    if not isinstance(executor, NativeExecutor):
        raise RegisterRefused(f"{vcpu} does not run AArch64 code: its registers cannot be written")
    _write_native(executor, register, int.from_bytes(data, "little"))


def _write_native(executor: NativeExecutor, register: Register, value: int) -> None:
    context = executor.context
    registers = context.registers
    match register.kind:
        case "x":
            registers.x[register.index] = value
        case "sp":
            registers.sp = value
        case "pc":
            registers.pc = value
        case "cpsr":
            if value & _MODE not in _MODES or not registers.aarch64:
                raise RegisterRefused(f"PSTATE {value:#x} is no state of a guest: only EL0 and EL1 in AArch64 are")
            registers.pstate = registers.pstate & ~_PSTATE | value & _PSTATE
            context.touch()
        case "v":
            registers.set_vector(register.index, value)
        case "fpsr" | "fpcr":
            _write_float_control(executor, value, _FPSR if register.kind == "fpsr" else _FPCR)
        case _:
            _write_system(executor, register.name, value)


def _write_float_control(executor: NativeExecutor, value: int, mask: int) -> None:
    native = executor.vcpu.hv.native_cpu
    assert native is not None
    if native.current is not executor:
        # The library looks at what the CPU has, so it has to be the engine's own.
        native.switch_to(executor)
        executor.taken_off()
    address = executor.context.registers.address
    engine = library()
    engine.set_fpscr(address, int(engine.get_fpscr(address)) & ~mask | value & mask)


def _write_system(executor: NativeExecutor, name: str, value: int) -> None:
    registers = executor.context.registers
    if name in _READ_ONLY:
        raise RegisterRefused(f"{name} can only be read here")
    if name == "SP_EL1":
        registers.sp_el1 = value
        return
    try:
        registers.write(name, value)
    except KeyError:
        raise RegisterRefused(f"{name} can only be read here") from None
    executor.context.touch()


# -- target description ------------------------------------------------------------------------------------------------

# Views of a vector register: name of the type, element's type, elements; grouped by the width of the elements.
_VIEWS: Final = (
    ("d", "ieee_double", 2), ("u2", "uint64", 2), ("s2", "int64", 2), ("f", "ieee_single", 4), ("u4", "uint32", 4),
    ("s4", "int32", 4), ("u8", "uint16", 8), ("s8", "int16", 8), ("u16", "uint8", 16), ("s16", "int8", 16),
)  # fmt: skip
_GROUPS: Final = (
    ("d", (("f", "d"), ("u", "u2"), ("s", "s2"))),
    ("s", (("f", "f"), ("u", "u4"), ("s", "s4"))),
    ("h", (("u", "u8"), ("s", "s8"))),
    ("b", (("u", "u16"), ("s", "s16"))),
)
_FLAGS: Final = (
    ("SP", 0, 0), ("EL", 2, 3), ("nRW", 4, 4), ("F", 6, 6), ("I", 7, 7), ("A", 8, 8), ("D", 9, 9), ("IL", 20, 20),
    ("SS", 21, 21), ("PAN", 22, 22), ("UAO", 23, 23), ("V", 28, 28), ("C", 29, 29), ("Z", 30, 30), ("N", 31, 31),
)  # fmt: skip


def _features() -> Iterator[str]:
    yield '<feature name="org.gnu.gdb.aarch64.core">'
    yield '<flags id="cpsr_flags" size="4">'
    for name, first, last in _FLAGS:
        yield f'<field name="{name}" start="{first}" end="{last}"/>'
    yield "</flags>"
    yield from _lines("x", "sp", "pc", "cpsr")
    yield "</feature>"
    yield '<feature name="org.gnu.gdb.aarch64.fpu">'
    for name, element, count in _VIEWS:
        yield f'<vector id="view_{name}" type="{element}" count="{count}"/>'
    for group, views in _GROUPS:
        yield f'<union id="views_{group}">'
        yield from (f'<field name="{field}" type="view_{view}"/>' for field, view in views)
        yield "</union>"
    yield '<union id="vector">'
    yield from (f'<field name="{group}" type="views_{group}"/>' for group, _ in _GROUPS)
    yield '<field name="q" type="uint128"/></union>'
    yield from _lines("v", "fpsr", "fpcr")
    yield "</feature>"
    yield '<feature name="org.gunyah.aarch64.el1">'
    yield from _lines("system")
    yield "</feature>"


def _lines(*kinds: str) -> Iterator[str]:
    for number, register in enumerate(REGISTERS):
        if register.kind in kinds:
            # gdb does not put these back after a call of a guest's function from its command line.
            system = 'group="system" save-restore="no"' if register.kind == "system" else ""
            size = f'bitsize="{register.bits}" type="{register.type}"'
            yield f'<reg name="{register.name}" {size} regnum="{number}" {system}/>'


def target_description() -> str:
    """``target.xml``."""
    return "\n".join(
        (
            '<?xml version="1.0"?>',
            '<!DOCTYPE target SYSTEM "gdb-target.dtd">',
            '<target version="1.0">',
            "<architecture>aarch64</architecture>",
            *_features(),
            "</target>",
        )
    )
