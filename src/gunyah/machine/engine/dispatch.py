"""Where exits to EL2 arrive: the function that the exit hook calls, and the machine code in front of it.

This is the hottest Python of the machine, so it is one closure over plain memory views: a device access costs one
`mmio_read` or `mmio_write` and about a dozen loads and stores besides.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from . import unicorn_private as private
from .decode import Access, decode_instruction, has_writeback
from .exits import ExitHandler
from .registers import EC

if TYPE_CHECKING:
    from .core import Core

_ExitCallback = ctypes.CFUNCTYPE(None, ctypes.c_uint32)
_PlainExitCallback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)

# The exit hook, called as hook(uc, number, block): exceptions for EL1 go on to the library's exception entry.
_EXIT_CODE: Final = bytes.fromhex(
    "488b02"  # mov rax, [rdx]            address of target_el
    "833801"  # cmp dword [rax], 1
    "750b"  # jne exit
    "48ff4220"  # inc qword [rdx + 32]    native entries
    "488b7a08"  # mov rdi, [rdx + 8]      CPUState
    "ff6210"  # jmp [rdx + 16]            arm_cpu_do_interrupt
    "488b4228"  # exit: mov rax, [rdx + 40]   address of the syndrome
    "8b38"  # mov edi, [rax]
    "ff6218"  # jmp [rdx + 24]            Python
)

_SINGLE_ACCESS: Final = 0x0100_00BC
"""ISV, S1PTW and the kind of fault in a data abort's ISS..."""
_SINGLE_ACCESS_TRANSLATION: Final = 0x0100_0004
"""...as a device access has them: valid syndrome, not a table walk, translation fault."""

_SIZES: Final = (1, 2, 4, 8)
_MASKS: Final = (0xFF, 0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)
_SIGNS: Final = (1 << 7, 1 << 15, 1 << 31, 1 << 63)


class Plain:
    """Places in EL1's code whose device access is known to have no write-back, which the syndrome would hide.

    The engine claims a valid syndrome for write-back forms too (engine.md 1.3.6), so each place is looked at once. The
    knowledge ends with instruction cache maintenance and with the context; code of EL0 is exchanged under its address
    without either, so it is looked at every time.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.known: set[int] = set()
        self.maintenance = ctypes.c_uint64()
        """Count of the guest's instruction cache maintenance, kept by machine code (see `intercept`)."""
        self._seen = 0

    def look(self, pc: int) -> Access | None:
        """Give the instruction at `pc` if it changes its base register."""
        if self._seen != self.maintenance.value:
            self.known.clear()
            self._seen = self.maintenance.value
        word = self._core.instruction(pc)
        if word is not None and has_writeback(word):
            return decode_instruction(word)
        if self._core.registers.current_el:
            self.known.add(pc)
        return None


def exit_function(core: Core, exits: ExitHandler, plain: Plain) -> Callable[[int], None]:
    """Make the function that takes the syndrome (ESR_EL2) of each exit of `core` to `exits`."""
    registers = core.registers
    words = registers.words
    view = memoryview(words).cast("B").cast("Q")
    offsets = core.library.offsets
    pc_at = offsets.env_pc // 8
    far_at = offsets.env_vaddress // 8
    hpfar_at = registers.slot("HPFAR_EL2")
    halves = memoryview(words).cast("B").cast("I")
    aarch64_at = offsets.env_aarch64 // 4
    x_at = offsets.env_xregs // 8
    known = plain.known
    maintenance = memoryview(plain.maintenance).cast("B").cast("Q")
    seen = 0

    def data_abort(esr: int) -> Any:
        nonlocal seen
        far = view[far_at]
        ipa = view[hpfar_at] << 8 | far & 0xFFF
        if esr & _SINGLE_ACCESS != _SINGLE_ACCESS_TRANSLATION:
            return exits.data_abort(esr, far, ipa)
        pc = view[pc_at]
        writeback = None
        if pc not in known or seen != maintenance[0]:
            writeback = plain.look(pc)
            seen = maintenance[0]
        size = esr >> 22 & 3
        rt = esr >> 16 & 31
        if esr & 0x40:
            value = view[x_at + rt] & _MASKS[size] if rt != 31 else 0
            if not exits.mmio_write(ipa, _SIZES[size], value):
                return exits.data_abort(esr, far, ipa)
        else:
            answer = exits.mmio_read(ipa, _SIZES[size])
            if answer is None:
                return exits.data_abort(esr, far, ipa)
            if rt != 31:
                answer &= _MASKS[size]
                if esr & 0x20_0000 and answer & _SIGNS[size]:
                    answer |= ~_MASKS[size] & (0xFFFF_FFFF_FFFF_FFFF if esr & 0x8000 else 0xFFFF_FFFF)
                view[x_at + rt] = answer
        if writeback is not None:
            writeback.write_back(registers)
        words[pc_at] = pc + 4
        return True

    def rare(kind: int, syndrome: int) -> bool:
        if kind == EC.SMC64:
            if core.target_el == 2:
                words[pc_at] += 4
            return exits.smc(syndrome & 0xFFFF)
        if kind == EC.WFX:
            words[pc_at] += 4
            if syndrome & 1:
                return True
            if exits.wfi is not None:
                return exits.wfi()
            core.halt()
            return True
        if kind == EC.INSTRUCTION_ABORT_LOWER:
            far = view[far_at]
            return exits.instruction_abort(syndrome, far, view[hpfar_at] << 8 | far & 0xFFF)
        if kind in (EC.BRK64, EC.BREAKPOINT_LOWER, EC.STEP_LOWER, EC.WATCHPOINT_LOWER):
            return exits.debug(syndrome)
        return exits.other(syndrome)

    def exit_to_el2(syndrome: int) -> None:
        try:
            kind = syndrome >> 26
            if kind == 0x16:
                go_on = exits.hvc(syndrome & 0xFFFF)
            elif kind == 0x24:
                if not halves[aarch64_at]:
                    core.library.sync_32_to_64(registers.address)
                    go_on = exits.data_abort(syndrome & ~0x0100_0000, view[far_at], core.faulting_ipa)
                    core.library.sync_64_to_32(registers.address)
                else:
                    go_on = data_abort(syndrome)
            elif kind == 0x18:
                go_on = exits.sysreg(syndrome & 0x1FF_FFFF)
            else:
                go_on = rare(kind, syndrome)
            if not go_on:
                core.leave()
        except BaseException as error:
            core.fail(error)

    return exit_to_el2


def set_hook(core: Core, exit_to_el2: Callable[[int], None], *, native: bool) -> tuple[Any, Any]:
    """Hook `exit_to_el2` into the engine; gives what has to stay alive, the counter of native entries first.

    With `native` false the guest's own exceptions go through Python as well, which is slower and only there to be
    measured (engine.md 2.4).
    """
    lib = core.library
    handle = ctypes.c_size_t()
    block = (ctypes.c_uint64 * 6)()
    if native:
        callback: Any = _ExitCallback(exit_to_el2)
        env = core.registers.address
        block[:] = [
            env + lib.offsets.env_target_el,
            core.cpu_state,
            ctypes.cast(lib.do_interrupt, ctypes.c_void_p).value or 0,
            ctypes.cast(callback, ctypes.c_void_p).value or 0,
            0,
            env + lib.offsets.env_syndrome,
        ]
        entry, user = lib.code.place(_EXIT_CODE), ctypes.addressof(block)
    else:

        def exit_or_enter(uc: int, number: int, user: int) -> None:
            if core.target_el == 1:
                lib.do_interrupt(core.cpu_state)
            else:
                exit_to_el2(core.syndrome)

        callback = _PlainExitCallback(exit_or_enter)
        entry, user = ctypes.cast(callback, ctypes.c_void_p).value or 0, 0
    core.check(
        lib.hook_add(core.handle, ctypes.addressof(handle), private.UC_HOOK_INTR, entry, user, 1, 0),
        "the exit hook cannot be set",
    )
    return block, callback
