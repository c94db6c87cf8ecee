"""System registers that Python implements: new ones, the timers' and the instruction cache's.

The engine's own timers ignore what the guest writes (engine.md 1.3.2), its instruction cache instructions do nothing
(1.3.3), and it has no interrupt controller. All three are put right by describing registers to the library, or by
changing its descriptions (1.4).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from . import unicorn_private as private
from .registers import SYSTEM_REGISTERS, Encoding

if TYPE_CHECKING:
    from .core import Core

_ReadCallback = ctypes.CFUNCTYPE(ctypes.c_uint64)
_WriteCallback = ctypes.CFUNCTYPE(None, ctypes.c_uint64)

TIMER_ENABLE: Final = 1
TIMER_IMASK: Final = 2
TIMER_ISTATUS: Final = 4

VIRTUAL_TIMER: Final = 0
PHYSICAL_TIMER: Final = 1

IC_IVAU: Final = Encoding(1, 3, 7, 5, 1)
IC_IALLU: Final = Encoding(1, 0, 7, 5, 0)
IC_IALLUIS: Final = Encoding(1, 0, 7, 1, 0)


# void write(env, info, va): find the line's physical address by the TLB, drop what was translated from it
_INVALIDATE_LINE: Final = bytes.fromhex(
    "53"  # push rbx
    "4154"  # push r12
    "4155"  # push r13
    "4883ec10"  # sub rsp, 16
    "48bb0000000000000000"  # mov rbx, counter
    "48ff03"  # inc qword [rbx]
    "48bb0000000000000000"  # mov rbx, block
    "4989fd"  # mov r13, rdi
    "4989d4"  # mov r12, rdx
    "4983e4c0"  # and r12, -64
    "ff5330"  # call [rbx + 48]             arm_mmu_idx(env)
    "83e00f"  # and eax, 15
    "4c89ef"  # mov rdi, r13
    "4c89e6"  # mov rsi, r12
    "31d2"  # xor edx, edx
    "89c1"  # mov ecx, eax
    "4989e0"  # mov r8, rsp
    "ff5320"  # call [rbx + 32]             tlb_vaddr_to_paddr(env, va, read, index, &pa)
    "84c0"  # test al, al
    "7420"  # je done
    "488b3424"  # mov rsi, [rsp]
    "4889f0"  # mov rax, rsi
    "482b4310"  # sub rax, [rbx + 16]
    "483b4318"  # cmp rax, [rbx + 24]
    "730f"  # jae done
    "48037308"  # add rsi, [rbx + 8]
    "488d5640"  # lea rdx, [rsi + 64]
    "488b3b90"  # mov rdi, [rbx]; nop
    "ff5328"  # call [rbx + 40]             tb_invalidate_phys_range(uc, start, end)
    "4883c410"  # done: add rsp, 16
    "415d"  # pop r13
    "415c"  # pop r12
    "5b"  # pop rbx
    "c3"  # ret
)
_COUNTER_AT: Final = 11
_BLOCK_AT: Final = 24


_TRAP_TO_EL2: Final = bytes.fromhex("b803000000c3")
"""mov eax, CP_ACCESS_TRAP_EL2; ret"""


class Intercepts:
    """The system registers of one core that are not the engine's own."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._keep: list[Any] = []

    def _info(self, register: Encoding) -> int:
        info = self._core.description(register)
        if not info:
            raise private.EngineUnavailable(f"this build of unicorn 2.1.4 has no register {register}")
        return info

    def _reader(self, read: Callable[[], int], *, free: bool = False) -> int:
        """Give the address of a C function for `uint64_t read(env, info)` that asks `read`.

        On a virtual clock an access takes the time of an exception unless it is `free`.
        """
        core, charge = self._core, self._core.charge_exception
        if not core.counts:
            free = True

        def guarded() -> int:
            try:
                if not free:
                    charge()
                return read()
            except BaseException as error:
                core.fail(error)
                return 0

        callback = _ReadCallback(guarded)
        self._keep.append(callback)
        return private.address_of(callback)

    def _writer(self, write: Callable[[int], object]) -> int:
        """Give the address of a C function for `void write(env, info, uint64_t)` that tells `write`."""
        core, charge = self._core, self._core.charge_exception
        free = not core.counts

        def guarded(value: int) -> None:
            try:
                if not free:
                    charge()
                write(value)
            except BaseException as error:
                core.fail(error)

        callback = _WriteCallback(guarded)
        self._keep.append(callback)
        target = private.address_of(callback)
        # mov rdi, rdx; mov rax, target; jmp rax: Python then converts one argument instead of three.
        return core.code.place(b"\x48\x89\xd7\x48\xb8" + target.to_bytes(8, "little") + b"\xff\xe0")

    def define(
        self, register: Encoding, read: Callable[[], int] | None, write: Callable[[int], object] | None
    ) -> None:
        """Give EL1 a register that `read` and `write` implement; None makes that direction undefined."""
        access = (private.ACCESS_EL1_READ if read else 0) | (private.ACCESS_EL1_WRITE if write else 0)
        self._keep.append(
            private.new_register(
                self._core.library,
                self._core.cpu_state,
                register,
                self._reader(read or _zero),
                self._writer(write or _nothing),
                access=access,
            )
        )

    def trap(self, register: Encoding, *, user: bool) -> None:
        """Let every access to a register that the engine lacks trap to EL2, those of EL0 too with ``user``."""
        read, write = self._reader(_zero), self._writer(_nothing)
        access = private.ACCESS_EL1 | (private.ACCESS_EL0_READ if user else 0)
        check = self._core.code.place(_TRAP_TO_EL2)
        library, state = self._core.library, self._core.cpu_state
        self._keep.append(private.new_register(library, state, register, read, write, access=access, check=check))

    def constant(self, register: str, value: int) -> None:
        """Change what a register that always reads the same reads."""
        private.u64_at(self._info(SYSTEM_REGISTERS[register]) + private.REGINFO_RESETVALUE).value = value

    def patch(
        self,
        register: str | Encoding,
        read: Callable[[], int] | None = None,
        write: Callable[[int], object] | None = None,
        *,
        free: bool = False,
    ) -> None:
        """Replace what the engine does on reading or writing a register it knows; reading can be `free`."""
        info = self._info(SYSTEM_REGISTERS[register] if isinstance(register, str) else register)
        if read is not None:
            private.u64_at(info + private.REGINFO_READFN).value = self._reader(read, free=free)
        if write is not None:
            private.u64_at(info + private.REGINFO_WRITEFN).value = self._writer(write)

    def emulate(
        self, register: Encoding, read: Callable[[], int] | None, write: Callable[[int], object] | None, like: Encoding
    ) -> None:
        """Let `read` and `write` implement a register; the engine's rules of who may access it, or those for `like`."""
        if self._core.description(register):
            self.patch(register, read, write)
            return
        check = private.u64_at(self._info(like) + private.REGINFO_ACCESSFN).value
        library, state = self._core.library, self._core.cpu_state
        functions = self._reader(read or _zero), self._writer(write or _nothing)
        self._keep.append(
            private.new_register(library, state, register, *functions, access=private.ACCESS_ALL, check=check)
        )

    def timers(self) -> None:
        """Keep what the guest writes to its timers, and tell the hypervisor; a virtual clock is read through Python."""
        core, clock = self._core, self._core.clock
        words = core.registers.words
        offset = core.registers.slot("CNTVOFF_EL2")

        def virtual_ticks() -> int:
            return clock.ticks() - words[offset]

        def virtual_sample() -> int:
            return clock.sample() - words[offset]

        def patch(which: int, prefix: str) -> None:
            ctl, cval = (core.registers.slot(f"{prefix}_{name}_EL0") for name in ("CTL", "CVAL"))
            ticks: Callable[[], int] = virtual_ticks if which == VIRTUAL_TIMER else clock.ticks
            sample: Callable[[], int] = virtual_sample if which == VIRTUAL_TIMER else clock.sample

            def write_ctl(value: int) -> None:
                words[ctl] = value & (TIMER_ENABLE | TIMER_IMASK)
                core.exits.timer(which)

            def write_cval(value: int) -> None:
                words[cval] = value
                core.exits.timer(which)

            def write_tval(value: int) -> None:
                value &= 0xFFFF_FFFF
                words[cval] = ticks() + (value - (1 << 32) if value >> 31 else value)
                core.exits.timer(which)

            def read_ctl() -> int:
                value = words[ctl] & (TIMER_ENABLE | TIMER_IMASK)
                if value & TIMER_ENABLE and ticks() >= words[cval]:
                    value |= TIMER_ISTATUS
                return value

            def read_tval() -> int:
                return words[cval] - sample() & 0xFFFF_FFFF

            self.patch(f"{prefix}_CTL_EL0", read_ctl, write_ctl)
            self.patch(f"{prefix}_CVAL_EL0", None, write_cval)
            self.patch(f"{prefix}_TVAL_EL0", read_tval, write_tval)

        patch(VIRTUAL_TIMER, "CNTV")
        patch(PHYSICAL_TIMER, "CNTP")
        if not clock.real:
            self.patch("CNTVCT_EL0", virtual_sample, free=True)
            self.patch("CNTPCT_EL0", clock.sample, free=True)

    def cache_maintenance(self, counter: ctypes.c_uint64, everything: Callable[[int], object]) -> None:
        """Let IC IVAU drop the translated code of its line, in machine code, and count; all of it goes by
        `everything`.
        """
        core, lib = self._core, self._core.library
        ((base, end, delta),) = core.ram
        functions = (lib.vaddr_to_paddr, lib.tb_invalidate, lib.current_mmu_index)
        block = (ctypes.c_uint64 * 7)(
            core.handle,
            delta & 0xFFFF_FFFF_FFFF_FFFF,
            base,
            end - base,
            *(private.address_of(function) for function in functions),
        )
        self._keep.append(block)
        code = bytearray(_INVALIDATE_LINE)
        code[_COUNTER_AT : _COUNTER_AT + 8] = ctypes.addressof(counter).to_bytes(8, "little")
        code[_BLOCK_AT : _BLOCK_AT + 8] = ctypes.addressof(block).to_bytes(8, "little")
        self._replace_nop(IC_IVAU, core.code.place(bytes(code)), private.TYPE_QUIET)
        self._everything(everything)

    def cache_maintenance_in_python(
        self, line: Callable[[int], object], everything: Callable[[int], object]
    ) -> None:
        """Tell Python of instruction cache maintenance: `line(va)` for one line, `everything(_)` for all."""
        self._replace_nop(IC_IVAU, self._writer(line), private.TYPE_QUIET)
        self._everything(everything)

    def _everything(self, everything: Callable[[int], object]) -> None:
        write = self._writer(everything)
        self._replace_nop(IC_IALLU, write, private.TYPE_LAST)
        self._replace_nop(IC_IALLUIS, write, private.TYPE_LAST)

    def _replace_nop(self, register: Encoding, write: int, kind: int) -> None:
        info = self._info(register)
        private.u32_at(info + private.REGINFO_TYPE).value = kind
        private.u64_at(info + private.REGINFO_WRITEFN).value = write


def _zero() -> int:
    return 0


def _nothing(value: int) -> None:
    pass
