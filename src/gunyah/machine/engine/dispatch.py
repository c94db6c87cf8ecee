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

KNOWN_MAX: Final = 1 << 14
"""Places in code that are remembered (`Plain`): a guest that makes ever more of them fills no memory."""

_Plan = tuple[bool, int, int, int, int, int]
"""What a device access's syndrome asks for: write, bytes, the register's word (-1: zero register), mask of the value,
its sign bit if that is extended (else 0), and what the extension sets."""


def _plan(esr: int, first_register: int) -> _Plan | None:
    """Read a data abort's syndrome once for all its occurrences; None if it is no device access."""
    if esr & _SINGLE_ACCESS != _SINGLE_ACCESS_TRANSLATION:
        return None
    size = 1 << (esr >> 22 & 3)
    mask = (1 << 8 * size) - 1
    register = esr >> 16 & 31
    fill = (0xFFFF_FFFF_FFFF_FFFF if esr & 1 << 15 else 0xFFFF_FFFF) & ~mask
    sign = mask + 1 >> 1 if esr & 1 << 21 else 0
    return bool(esr & 0x40), size, first_register + register if register != 31 else -1, mask, sign, fill


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
            if len(self.known) >= KNOWN_MAX:
                self.known.clear()
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
    first_register = offsets.env_xregs // 8
    known = plain.known
    maintenance = memoryview(plain.maintenance).cast("B").cast("Q")
    seen = 0
    plans: dict[int, _Plan | None] = {}

    def aarch32_data_abort(esr: int) -> bool:
        # Registers are kept elsewhere in this state, and instructions are not A64.
        core.library.sync_32_to_64(registers.address)
        go_on = exits.data_abort(esr & ~_SINGLE_ACCESS_TRANSLATION, view[far_at], core.faulting_ipa)
        core.library.sync_64_to_32(registers.address)
        return go_on

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
        nonlocal seen
        try:
            kind = syndrome >> 26
            if kind == 0x16:
                if not exits.hvc(syndrome & 0xFFFF):
                    core.leave()
                return
            if kind != 0x24:
                go_on = exits.sysreg(syndrome & 0x1FF_FFFF) if kind == 0x18 else rare(kind, syndrome)
                if not go_on:
                    core.leave()
                return
            pc = view[pc_at]
            writeback = None
            if pc not in known or seen != maintenance[0]:
                if not registers.aarch64:
                    if not aarch32_data_abort(syndrome):
                        core.leave()
                    return
                writeback = plain.look(pc)
                seen = maintenance[0]
            far = view[far_at]
            ipa = view[hpfar_at] << 8 | far & 0xFFF
            try:
                plan = plans[syndrome]
            except KeyError:
                plan = plans[syndrome] = _plan(syndrome, first_register)
            if plan is None:
                if not exits.data_abort(syndrome, far, ipa):
                    core.leave()
                return
            is_write, size, register, mask, sign, fill = plan
            if is_write:
                if not exits.mmio_write(ipa, size, view[register] & mask if register >= 0 else 0):
                    if not exits.data_abort(syndrome, far, ipa):
                        core.leave()
                    return
            else:
                answer = exits.mmio_read(ipa, size)
                if answer is None:
                    if not exits.data_abort(syndrome, far, ipa):
                        core.leave()
                    return
                if register >= 0:
                    answer &= mask
                    if answer & sign:
                        answer |= fill
                    view[register] = answer
            if writeback is not None:
                writeback.write_back(registers)
            words[pc_at] = pc + 4
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
        entry, user = core.code.place(_EXIT_CODE), ctypes.addressof(block)
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
