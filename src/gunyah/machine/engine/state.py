"""A vCPU's registers: the same view on a saved context and on the one that the engine is running.

The engine keeps a vCPU in one structure (CPUARMState); its part that belongs to the vCPU is copied out on a world
switch. `Registers` is a view of such bytes, wherever they are: every access is one load or store in host memory, no
call into the library. What the engine derives from registers (translation, exception level) follows when the context
is next loaded, or at once after `Core.resync`.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from .registers import PSTATE_RESET, SCTLR_EL1_RESET, SYSTEM_REGISTERS, Encoding
from .unicorn_private import Offsets, library

if TYPE_CHECKING:
    from .core import Core

U64: Final = 0xFFFF_FFFF_FFFF_FFFF
NO_EXCLUSIVE: Final = U64
"""Address of the exclusive monitor when it is clear."""


class Registers:
    """Registers of one vCPU in host memory at `address`, by architectural name.

    All values are unsigned Python integers; stores take the low bits of what they are given, so -1 is all ones.
    """

    __slots__ = ("x", "address", "_words", "_view", "_halves", "_pc", "_pstate", "_aarch64", "_daif", "_c", "_v", "_n",
    "_z", "_sp",
                 "_sp", "_offsets", "_sp_el0", "_elr", "_spsr", "_exclusive")  # fmt: skip

    x: ctypes.Array[ctypes.c_uint64]
    """X0 to X30; a `ctypes` array of uint64_t."""

    def __init__(self, address: int, offsets: Offsets) -> None:
        fields = offsets.fields
        self.address = address
        self.x = (ctypes.c_uint64 * 31).from_address(address + offsets.env_xregs)
        self._words = (ctypes.c_uint64 * (offsets.env_size // 8)).from_address(address)
        # Reading through a memory view takes half the time; writing through ctypes takes any integer.
        self._view = memoryview(self._words).cast("B").cast("Q")
        self._halves = (ctypes.c_uint32 * (offsets.env_size // 4)).from_address(address)
        self._offsets = offsets
        self._pc = offsets.env_pc // 8
        self._sp = (offsets.env_xregs + 31 * 8) // 8
        self._pstate = offsets.env_pstate // 4
        self._aarch64 = offsets.env_aarch64 // 4
        self._daif = offsets.env_daif // 8
        self._c, self._v, self._n, self._z = (flag // 4 for flag in offsets.env_flags)
        self._sp_el0 = offsets.env_sp_el0 // 8
        self._elr = fields[SYSTEM_REGISTERS["ELR_EL1"]] // 8
        self._spsr = fields[SYSTEM_REGISTERS["SPSR_EL1"]] // 8
        self._exclusive = offsets.env_exclusive_addr // 8

    @property
    def pc(self) -> int:
        """Program counter, a virtual address."""
        return self._view[self._pc]

    @pc.setter
    def pc(self, value: int) -> None:
        self._words[self._pc] = value

    @property
    def current_el(self) -> int:
        """Exception level, 0 or 1."""
        return self._halves[self._pstate] >> 2 & 3

    @property
    def aarch64(self) -> bool:
        """False while the vCPU executes AArch32 code at EL0."""
        return bool(self._halves[self._aarch64])

    def leave_aarch32(self) -> None:
        """Go on in AArch64: R0 to R14 become what the X registers show of them. PSTATE has to be written then."""
        if not self.aarch64:
            library().sync_32_to_64(self.address)
            self._halves[self._aarch64] = 1

    @property
    def pstate(self) -> int:
        """PSTATE as SPSR_EL2 would show it."""
        halves = self._halves
        return (
            (halves[self._n] & 0x8000_0000)
            | (0 if halves[self._z] else 0x4000_0000)
            | halves[self._c] << 29
            | (halves[self._v] & 0x8000_0000) >> 3
            | (halves[self._pstate] & 0x0FFF_FC3F)
            | (self._view[self._daif] & 0x3C0)
        )

    @pstate.setter
    def pstate(self, value: int) -> None:
        halves = self._halves
        sp = self.sp_el0, self.sp_el1
        halves[self._n] = value & 0x8000_0000
        halves[self._z] = 0 if value & 0x4000_0000 else 1
        halves[self._c] = value >> 29 & 1
        halves[self._v] = value << 3 & 0x8000_0000
        halves[self._pstate] = value & 0x0FFF_FC3F
        self._words[self._daif] = value & 0x3C0
        self.sp_el0, self.sp_el1 = sp

    @property
    def irq_masked(self) -> bool:
        """PSTATE.I."""
        return bool(self._view[self._daif] & 0x80)

    # What the engine keeps of the last exception, to whatever level

    def forget_exception(self) -> None:
        """Let `exception_el` and `exception_syndrome` be None until the next exception."""
        self._halves[self._offsets.env_target_el // 4] = 0
        self._halves[self._offsets.env_syndrome // 4] = 0

    @property
    def exception_el(self) -> int | None:
        """Level that took the last exception; None if there was none since `forget_exception`."""
        return self._halves[self._offsets.env_target_el // 4] or None

    @property
    def exception_syndrome(self) -> int | None:
        """ESR of the last exception; None if that was an interrupt, or there was none since `forget_exception`."""
        return self._halves[self._offsets.env_syndrome // 4] or None

    # The stack pointer in use is kept with the general registers, its own slot is stale meanwhile.

    @property
    def sp(self) -> int:
        """The stack pointer that PSTATE selects."""
        return self._view[self._sp]

    @sp.setter
    def sp(self, value: int) -> None:
        self._words[self._sp] = value

    @property
    def sp_el0(self) -> int:
        """SP_EL0."""
        return self._view[self._sp_el0 if self._halves[self._pstate] & 0xD == 5 else self._sp]

    @sp_el0.setter
    def sp_el0(self, value: int) -> None:
        self._words[self._sp_el0 if self._halves[self._pstate] & 0xD == 5 else self._sp] = value

    @property
    def sp_el1(self) -> int:
        """SP_EL1."""
        return self._view[self._sp if self._halves[self._pstate] & 0xD == 5 else self._sp_el0 + 1]

    @sp_el1.setter
    def sp_el1(self, value: int) -> None:
        self._words[self._sp if self._halves[self._pstate] & 0xD == 5 else self._sp_el0 + 1] = value

    @property
    def elr_el1(self) -> int:
        """ELR_EL1."""
        return self._view[self._elr]

    @elr_el1.setter
    def elr_el1(self, value: int) -> None:
        self._words[self._elr] = value

    @property
    def spsr_el1(self) -> int:
        """SPSR_EL1."""
        return self._view[self._spsr]

    @spsr_el1.setter
    def spsr_el1(self, value: int) -> None:
        self._words[self._spsr] = value

    def vector(self, n: int) -> int:
        """V0 to V31 as a 128-bit number."""
        word = (self._offsets.env_vregs + n * self._offsets.env_vreg_stride) // 8
        return self._view[word] | self._view[word + 1] << 64

    def set_vector(self, n: int, value: int) -> None:
        """Store V0 to V31."""
        word = (self._offsets.env_vregs + n * self._offsets.env_vreg_stride) // 8
        self._words[word] = value
        self._words[word + 1] = value >> 64

    def read(self, register: str | Encoding) -> int:
        """Give a system register that is plain state; raises `KeyError` for one that is computed on reading."""
        encoding = SYSTEM_REGISTERS[register] if isinstance(register, str) else register
        if encoding == SYSTEM_REGISTERS["SP_EL0"]:
            return self.sp_el0
        return self._view[self._offsets.fields[encoding] // 8]

    def write(self, register: str | Encoding, value: int) -> None:
        """Store a system register that is plain state, without any side effect; raises `KeyError`."""
        encoding = SYSTEM_REGISTERS[register] if isinstance(register, str) else register
        if encoding == SYSTEM_REGISTERS["SP_EL0"]:
            self.sp_el0 = value
        else:
            self._words[self._offsets.fields[encoding] // 8] = value

    def slot(self, register: str) -> int:
        """Index of a register in `words`, for code that reads it often; raises `KeyError`."""
        return self._offsets.fields[SYSTEM_REGISTERS[register]] // 8

    @property
    def words(self) -> ctypes.Array[ctypes.c_uint64]:
        """The whole context as an array of uint64_t; see `slot`."""
        return self._words

    def clear_exclusive(self) -> None:
        """Clear the exclusive monitor, as an exception return from EL2 does."""
        self._words[self._exclusive] = NO_EXCLUSIVE


class Context:
    """State of one vCPU, on a core or saved: everything from X0 to its stage 2, its traps and its timers.

    `registers` is always the valid view: while the context is loaded, it looks at the core.
    """

    __slots__ = ("address", "buffer", "registers", "_saved", "core", "virq", "vfiq", "stale", "name")

    def __init__(self, name: str = "vcpu") -> None:
        """Start powered off at address 0: EL1h, all interrupts masked, MMU off, no stage 2, nothing trapped."""
        offsets = library().offsets
        image = reset_image()
        self.name = name
        self.buffer = ctypes.create_string_buffer(image, len(image))
        self.address = ctypes.addressof(self.buffer)
        self._saved = Registers(self.address, offsets)
        self.registers = self._saved
        self.core: Core | None = None
        self.virq = False
        self.vfiq = False
        self.stale = True

    def reset(self, entry: int, x0: int) -> None:
        """Power on at `entry` with `x0`: EL1h, D, A, I, F masked, SCTLR_EL1 default; the rest keeps its values
        (objects.md 5.2).
        """
        registers = self.registers
        registers.leave_aarch32()
        registers.pstate = PSTATE_RESET
        registers.pc = entry
        registers.x[0] = x0
        registers.write("SCTLR_EL1", SCTLR_EL1_RESET)
        registers.clear_exclusive()
        self.touch()

    def touch(self) -> None:
        """Tell the engine that registers were written which it derives something from (PSTATE, SCTLR, TTBR, HCR...)."""
        if self.core is not None:
            self.core.resync()
        else:
            self.stale = True

    def set_virq(self, level: bool) -> None:
        """Drive the virtual IRQ line of this vCPU, loaded or not."""
        self.virq = level
        if self.core is not None:
            self.core.set_virq(level)

    def loaded(self, core: Core, registers: Registers) -> None:
        """Note that `core` holds this context now (called by the core)."""
        self.core = core
        self.registers = registers

    def saved(self) -> None:
        """Note that this context is in its own buffer again (called by the core)."""
        self.core = None
        self.registers = self._saved


_reset_image: list[bytes] = []


def reset_image() -> bytes:
    """Bytes of a vCPU after reset, non-secure EL1 below an EL2 that owns HVC and interrupts (engine.md 1.2)."""
    if not _reset_image:
        lib = library()
        uc = lib.open(buffer_size=1 << 20)
        offsets = lib.offsets
        cs = ctypes.c_uint64.from_address(uc._uch.value + offsets.uc_cpu).value
        env = cs + offsets.cpu_env
        registers = Registers(env, offsets)
        registers.write("SCR_EL3", 1 << 0 | 1 << 8 | 1 << 10)
        registers.write("HCR_EL2", 1 << 31)
        registers.write("CNTHCTL_EL2", 3)
        registers.write("SCTLR_EL1", SCTLR_EL1_RESET)
        registers.write("CPACR_EL1", 3 << 20)
        registers.pstate = PSTATE_RESET
        registers.clear_exclusive()
        lib.rebuild_hflags(env)
        _reset_image.append(ctypes.string_at(env, offsets.env_size))
    return _reset_image[0]
