"""Where exits to EL2 arrive: the functions that the exit hook calls, and the machine code in front of them.

This is the hottest Python of the machine, so each kind of exit is one closure over plain memory views: a device access
costs one function of the device and about a dozen loads and stores besides. A hypervisor may put functions of its own
in their place (`Core.route`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ..bus import Refused
from . import unicorn_private as private
from .decode import Access, decode_instruction, has_writeback
from .exits import ExitHandler
from .registers import EC

if TYPE_CHECKING:
    from .core import Core

_ExitCallback = ctypes.CFUNCTYPE(None, ctypes.c_uint32)
_PlainExitCallback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)

# The exit hook, called as hook(uc, number, block): exceptions for EL1 go on to the library's exception entry, those for
# EL2 with their syndrome to the function of their class.
_EXIT_CODE: Final = bytes.fromhex(
    "488b02"  # mov rax, [rdx]            address of target_el
    "833801"  # cmp dword [rax], 1
    "750b"  # jne exit
    "48ff4220"  # inc qword [rdx + 32]    native entries
    "488b7a08"  # mov rdi, [rdx + 8]      CPUState
    "ff6210"  # jmp [rdx + 16]            arm_cpu_do_interrupt
    "488b4218"  # exit: mov rax, [rdx + 24]   address of the syndrome
    "8b38"  # mov edi, [rax]
    "89f8"  # mov eax, edi
    "c1e81a"  # shr eax, 26
    "ff64c228"  # jmp [rdx + 8 * rax + 40]
)
_NATIVE_ENTRIES: Final = 4
_FUNCTIONS: Final = 5
"""Words of the hook's block: the counter, and the first of a function for each exception class."""
_CLASSES: Final = 64

# void corrupt(u32 syndrome): before the function for HVC, where the immediate is one of `first`...`last`
_CORRUPT_CODE: Final = (
    "0fb7c7"  # movzx eax, di
    "2d{first}"  # sub eax, first
    "3d{span}"  # cmp eax, last - first
    "7731"  # ja python
    "48b9{env}"  # mov rcx, env
    "488b81{pc}"  # mov rax, [rcx + pc]
    "488981{x9}"  # mov [rcx + X9], rax
    "4881c1{x10}"  # add rcx, X10
    "0f57c0"  # xorps xmm0, xmm0
    "0f1101"  # movups [rcx], xmm0
    "0f114110"  # movups [rcx + 16], xmm0
    "0f114120"  # movups [rcx + 32], xmm0
    "0f114130"  # movups [rcx + 48], xmm0
    "48b8{python}"  # python: mov rax, python
    "ffe0"  # jmp rax
)

# int exchange(struct { u64 *env, *from, *to, words; } *block): copy CPUARMState to `from`, `to` to CPUARMState
_EXCHANGE_CODE: Final = (
    "48ba{block}"  # mov rdx, block
    "488b32"  # mov rsi, [rdx]
    "488b7a08"  # mov rdi, [rdx + 8]
    "488b4a18"  # mov rcx, [rdx + 24]
    "f348a5"  # rep movsq
    "488b7210"  # mov rsi, [rdx + 16]
    "488b3a"  # mov rdi, [rdx]
    "488b4a18"  # mov rcx, [rdx + 24]
    "f348a5"  # rep movsq
    "31c0"  # xor eax, eax
    "c3"  # ret
)

# int enter(void): uc_emu_start(engine, PC, 0, 0, 0); handing five arguments over takes Python longer than a short run
_ENTER_CODE: Final = (
    "48bf{engine}"  # mov rdi, engine
    "48be{pc}"  # mov rsi, &PC
    "488b36"  # mov rsi, [rsi]
    "31d2"  # xor edx, edx
    "31c9"  # xor ecx, ecx
    "4531c0"  # xor r8d, r8d
    "48b8{start}"  # mov rax, uc_emu_start
    "ffe0"  # jmp rax
)

EXECUTE: Final = 2
"""Kind of access for `Core.physical`."""

_SINGLE_ACCESS: Final = 0x0100_00BC
"""ISV, S1PTW and the kind of fault in a data abort's ISS..."""
_SINGLE_ACCESS_TRANSLATION: Final = 0x0100_0004
"""...as a device access has them: valid syndrome, not a table walk, translation fault."""

KNOWN_MAX: Final = 1 << 14
"""Places in code that are remembered (`Plain`): a guest that makes ever more of them fills no memory."""

U64: Final = 0xFFFF_FFFF_FFFF_FFFF

_Plan = tuple[int, int, bool, int, int, int, int, int]
"""What a device access's syndrome asks for, and where: syndrome, next PC, write, bytes, the register's word (-1: zero
register), mask of the value, its sign bit if that is extended (else 0), and what the extension sets."""


def _plan(esr: int, pc: int, first_register: int) -> _Plan | None:
    """Read a data abort's syndrome once for all its occurrences at `pc`; None if it is no device access."""
    if esr & _SINGLE_ACCESS != _SINGLE_ACCESS_TRANSLATION:
        return None
    size = 1 << (esr >> 22 & 3)
    mask = (1 << 8 * size) - 1
    register = esr >> 16 & 31
    fill = (U64 if esr & 1 << 15 else 0xFFFF_FFFF) & ~mask
    sign = mask + 1 >> 1 if esr & 1 << 21 else 0
    word = first_register + register if register != 31 else -1
    return esr, pc + 4 & U64, bool(esr & 0x40), size, word, mask, sign, fill


class Plain:
    """Places in EL1's code whose device access is known to have no write-back, which the syndrome would hide.

    The engine claims a valid syndrome for write-back forms too (engine.md 1.3.6), so each place is looked at once. The
    knowledge ends with instruction cache maintenance and with the context; code of EL0 is exchanged under its address
    without either, so it is looked at every time.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.known: dict[int, _Plan] = {}
        """By PC."""
        self._pages: set[int] = set()
        self.maintenance = ctypes.c_uint64()
        """Count of the guest's instruction cache maintenance, kept by machine code (see `intercept`)."""

    def look(self, pc: int, plan: _Plan | None) -> Access | None:
        """Give the instruction at `pc` if it changes its base register; else remember `plan` for it."""
        pa = self._core.physical(pc, EXECUTE)
        memory = self._core.memory
        word = memory.read_u32(pa) if pa is not None and memory.contains(pa, 4) else None
        if word is not None and has_writeback(word):
            return decode_instruction(word)
        if plan is not None and pa is not None and self._core.registers.current_el:
            if len(self.known) >= KNOWN_MAX:
                self.forget()
            self.known[pc] = plan
            self._pages.add(pa >> 12)
        return None

    def forget(self) -> None:
        """Other code may be at all places now."""
        self.known.clear()
        self._pages.clear()

    def written(self, pa: int, size: int) -> None:
        """The host has written there: other code may be in these pages."""
        pages = self._pages
        if pages and (size > 1 << 12 or pa >> 12 in pages or pa + size - 1 >> 12 in pages):
            self.forget()


def enter_function(core: Core) -> Callable[[], int]:
    """Make the function that runs guest code at the vCPU's PC until something stops it; gives the engine's error."""
    places = {
        "engine": core.handle,
        "pc": core.registers.address + core.library.offsets.env_pc,
        "start": private.address_of(core.library.emu_start),
    }
    code = _ENTER_CODE.format(**{name: value.to_bytes(8, "little").hex() for name, value in places.items()})
    # The interpreter lock is kept: a callback then costs no lock hand-over, which is most of an exit's price.
    return ctypes.PYFUNCTYPE(ctypes.c_int)(core.code.place(bytes.fromhex(code)))


def exchange_function(core: Core) -> Callable[[int, int], None]:
    """Make the function that saves the vCPU into one buffer and loads another (host addresses)."""
    size = core.library.offsets.env_size
    block = (ctypes.c_uint64 * 4)(core.registers.address, 0, 0, size // 8)
    view = memoryview(block).cast("B").cast("Q")
    code = _EXCHANGE_CODE.format(block=ctypes.addressof(block).to_bytes(8, "little").hex())
    copy = ctypes.PYFUNCTYPE(ctypes.c_int)(core.code.place(bytes.fromhex(code)))

    def exchange(save: int, load: int) -> None:
        view[1] = save
        view[2] = load
        copy()

    return exchange


def exit_function(core: Core, exits: ExitHandler) -> Callable[[int], None]:
    """Make the function that takes the syndrome (ESR_EL2) of all exits of `core` but data aborts to `exits`."""
    words = core.registers.words
    view = memoryview(words).cast("B").cast("Q")
    pc_at = core.library.offsets.env_pc // 8
    far_at = core.library.offsets.env_vaddress // 8
    hpfar_at = core.registers.slot("HPFAR_EL2")

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
            if kind == EC.HVC64:
                go_on = exits.hvc(syndrome & 0xFFFF)
            elif kind == EC.SYSREG:
                go_on = exits.sysreg(syndrome & 0x1FF_FFFF)
            else:
                go_on = rare(kind, syndrome)
            if not go_on:
                core.leave()
        except BaseException as error:
            core.fail(error)

    return exit_to_el2


def abort_function(core: Core, exits: ExitHandler, plain: Plain) -> Callable[[int], None]:
    """Make the function that takes the syndrome of each data abort of `core` to `core.pages` or `exits`."""
    registers = core.registers
    words = registers.words
    view = memoryview(words).cast("B").cast("Q")
    pc_at = core.library.offsets.env_pc // 8
    far_at = core.library.offsets.env_vaddress // 8
    hpfar_at = registers.slot("HPFAR_EL2")
    first_register = core.library.offsets.env_xregs // 8
    known = plain.known
    maintenance = memoryview(plain.maintenance).cast("B").cast("Q")
    seen = 0

    def refused(syndrome: int) -> None:
        far = view[far_at]
        if not exits.data_abort(syndrome, far, view[hpfar_at] << 8 | far & 0xFFF):
            core.leave()

    def refused_by_device(syndrome: int) -> None:
        try:
            refused(syndrome)
        except BaseException as error:
            core.fail(error)

    def aarch32(syndrome: int) -> None:
        # Registers are kept elsewhere in this state, and instructions are not A64.
        core.library.sync_32_to_64(registers.address)
        go_on = exits.data_abort(syndrome & ~_SINGLE_ACCESS_TRANSLATION, view[far_at], core.faulting_ipa)
        core.library.sync_64_to_32(registers.address)
        if not go_on:
            core.leave()

    def new_place(syndrome: int) -> None:
        nonlocal seen
        if not registers.aarch64:
            aarch32(syndrome)
            return
        if seen != maintenance[0]:
            plain.forget()
            seen = maintenance[0]
        pc = view[pc_at]
        plan = _plan(syndrome, pc, first_register)
        writeback = plain.look(pc, plan)
        if plan is None:
            refused(syndrome)
        elif access(plan) and writeback is not None:
            writeback.write_back(registers)

    def access(plan: _Plan) -> bool:
        """Ask the page's device or `exits`, and complete the instruction if there was a device."""
        syndrome, next_pc, is_write, size, register, mask, sign, fill = plan
        offset = view[far_at] & 0xFFF
        ipa = view[hpfar_at] << 8 | offset
        page = core.pages.get(view[hpfar_at])
        answer: int | None
        if is_write:
            value = view[register] & mask if register >= 0 else 0
            if page is not None:
                page.write(page.owner, page.base + offset, size, value)
            elif not exits.mmio_write(ipa, size, value):
                refused(syndrome)
                return False
        else:
            if page is not None:
                answer = page.read(page.owner, page.base + offset, size)
            else:
                answer = exits.mmio_read(ipa, size)
            if answer is None:
                refused(syndrome)
                return False
            if register >= 0:
                answer &= mask
                view[register] = answer | fill if answer & sign else answer
        view[pc_at] = next_pc
        return True

    def data_abort(syndrome: int) -> None:
        try:
            plan = known.get(view[pc_at])
            if plan is None or plan[0] != syndrome or seen != maintenance[0]:
                new_place(syndrome)
                return
            page = core.pages.get(view[hpfar_at])
            if page is None:
                access(plan)
                return
            _, next_pc, is_write, size, register, mask, sign, fill = plan
            read, write, owner, base = page
            if is_write:
                value = view[register] & mask if register >= 0 else 0
                write(owner, base + (view[far_at] & 0xFFF), size, value)
            else:
                value = read(owner, base + (view[far_at] & 0xFFF), size) & mask
                if register >= 0:
                    view[register] = value | fill if sign and value & sign else value
            view[pc_at] = next_pc
        except Refused:
            refused_by_device(syndrome)
        except BaseException as error:
            core.fail(error)

    return data_abort


class ExitHook:
    """The hook of one engine: a Python function for each exception class that comes to EL2.

    With `native` false the guest's own exceptions go through Python as well, which is slower and only there to be
    measured (engine.md 2.4).
    """

    def __init__(self, core: Core, function: Callable[[int], None], *, native: bool) -> None:
        self._core = core
        self._native = native
        self._keep: list[Any] = []
        self._block = (ctypes.c_uint64 * (_FUNCTIONS + _CLASSES))()
        self._functions = [function] * _CLASSES
        lib, env = core.library, core.registers.address
        handle = ctypes.c_size_t()
        if native:
            self._block[:_FUNCTIONS] = [
                env + lib.offsets.env_target_el,
                core.cpu_state,
                private.address_of(lib.do_interrupt),
                env + lib.offsets.env_syndrome,
                0,
            ]
            self._block[_FUNCTIONS:] = [self._callback(function)] * _CLASSES
            entry, user = core.code.place(_EXIT_CODE), ctypes.addressof(self._block)
        else:

            def exit_or_enter(uc: int, number: int, user: int) -> None:
                if core.target_el == 1:
                    lib.do_interrupt(core.cpu_state)
                else:
                    syndrome = core.syndrome
                    self._functions[syndrome >> 26](syndrome)

            callback = _PlainExitCallback(exit_or_enter)
            self._keep.append(callback)
            entry, user = private.address_of(callback), 0
        core.check(
            lib.hook_add(core.handle, ctypes.addressof(handle), private.UC_HOOK_INTR, entry, user, 1, 0),
            "the exit hook cannot be set",
        )

    def _callback(self, function: Callable[[int], None]) -> int:
        callback = _ExitCallback(function)
        self._keep.append(callback)
        return private.address_of(callback)

    @property
    def native_entries(self) -> int:
        """Exceptions that the guest's own EL1 has taken."""
        return self._block[_NATIVE_ENTRIES]

    def route(self, kind: int, function: Callable[[int], None], corrupting: range = range(0)) -> None:
        """See `Core.route`."""
        if not self._native:
            self._functions[kind] = self._corrupting(function, corrupting) if corrupting else function
            return
        target = self._callback(function)
        if corrupting:
            offsets = self._core.library.offsets
            words = {
                "first": (corrupting.start, 4),
                "span": (len(corrupting) - 1, 4),
                "env": (self._core.registers.address, 8),
                "pc": (offsets.env_pc, 4),
                "x9": (offsets.env_xregs + 9 * 8, 4),
                "x10": (offsets.env_xregs + 10 * 8, 4),
                "python": (target, 8),
            }
            code = _CORRUPT_CODE.format(**{name: n.to_bytes(size, "little").hex() for name, (n, size) in words.items()})
            target = self._core.code.place(bytes.fromhex(code))
        self._block[_FUNCTIONS + kind] = target

    def _corrupting(self, function: Callable[[int], None], immediates: range) -> Callable[[int], None]:
        registers = self._core.registers

        def corrupt(syndrome: int) -> None:
            if syndrome & 0xFFFF in immediates:
                registers.x[9:18] = [registers.pc, 0, 0, 0, 0, 0, 0, 0, 0]
            function(syndrome)

        return corrupt
