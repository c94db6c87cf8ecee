"""One physical core: an engine that runs a vCPU's AArch64 code at EL1 and EL0 and brings every exit to EL2 to Python.

Exceptions that the guest's own EL1 takes (system calls, its page faults, undefined instructions) never reach Python: a
few machine instructions in the exit hook hand them to the library's exception entry (engine.md 5). Virtual interrupts
are taken by the engine itself. All cores of a process run on one thread, one at a time (engine.md 1.3.4).
"""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

from ..clock import Clock, RealClock
from ..memory import PhysicalMemory
from . import unicorn_private as private
from .decode import ISV, S1PTW, WNR, Access, decode_instruction, extend, has_writeback
from .exits import ExitHandler, Stop
from .kicker import kicker
from .registers import EC, ESR_IL, SYSTEM_REGISTERS, Encoding
from .state import NO_EXCLUSIVE, Context, Registers
from .unicorn_private import library

VIRTUAL_TIMER: Final = 0
PHYSICAL_TIMER: Final = 1

_TICK_NS: Final = 10_000_000
"""How often a run without deadline comes up for signals and kicks."""

_TIMER_ENABLE: Final = 1
_TIMER_ISTATUS: Final = 4

_ExitCallback = ctypes.CFUNCTYPE(None, ctypes.c_uint32)
_PlainExitCallback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
_ReadCallback = ctypes.CFUNCTYPE(ctypes.c_uint64)
_WriteCallback = ctypes.CFUNCTYPE(None, ctypes.c_uint64)

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


class EngineError(RuntimeError):
    """The engine stopped for a reason that is not the guest's; the sentence says which."""


_siblings: weakref.WeakKeyDictionary[PhysicalMemory, weakref.WeakSet[Core]] = weakref.WeakKeyDictionary()


class Core:
    """An engine over `memory` that runs one `Context` at a time and reports to `exits`.

    A machine needs one core, whatever the number of processors it models: contexts are cheap, and cores do not share
    translated code. Several cores over one memory are kept coherent (instruction cache maintenance, TLBs).
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        index: int,
        exits: ExitHandler,
        *,
        clock: Clock | None = None,
        buffer_size: int | None = None,
        native_entry: bool = True,
    ) -> None:
        """Create the engine; raises `EngineUnavailable` where the host cannot.

        `buffer_size` bounds translated code, in bytes. `native_entry=False` takes the guest's own exceptions through
        Python, which is slower and only there to be measured.
        """
        self.memory = memory
        self.index = index
        self.exits = exits
        self.clock: Clock = clock if clock is not None else RealClock()
        self._lib = lib = library()
        offsets = lib.offsets
        self._uc: Any = lib.open(buffer_size=buffer_size)
        self._handle: int = self._uc._uch.value
        self._cs: int = private.u64_at(self._handle + offsets.uc_cpu).value
        self._env = self._cs + offsets.cpu_env
        self._stop_request_address = self._handle + offsets.uc_stop_request
        self._exit_request_address = self._cs + offsets.cpu_exit_request
        self._icount_address: int = private.u64_at(self._cs + offsets.cpu_icount_decr).value + 2
        self._stop_request = private.u8_at(self._stop_request_address)
        self._exit_request = private.u8_at(self._exit_request_address)
        self._icount_high = private.u16_at(self._icount_address)
        self._interrupt_request = private.u32_at(self._cs + offsets.cpu_interrupt_request)
        self._halted = private.u32_at(self._cs + offsets.cpu_halted)
        self._exception_index = private.u32_at(self._cs + offsets.cpu_exception_index)
        self._syndrome = private.u32_at(self._env + offsets.env_syndrome)
        self._target_el = private.u32_at(self._env + offsets.env_target_el)
        self._vaddress: Any = private.u64_at(self._env + offsets.env_vaddress)
        self._hpfar: Any = private.u64_at(self._env + offsets.fields[SYSTEM_REGISTERS["HPFAR_EL2"]])
        self._pc = private.u64_at(self._env + offsets.env_pc)
        self._env_size = offsets.env_size
        self._exclusive = private.u64_at(self._env + offsets.env_exclusive_addr)
        # Before anything is translated: stops only between blocks, never in the middle (engine.md 1.3.1).
        private.u8_at(self._handle + offsets.uc_no_exit_request).value = 1

        self.registers = Registers(self._env, offsets)
        self.x = self.registers.x
        self.context: Context | None = None
        self.running = False
        self._leave = False
        self._kicked = False
        self._started = False
        self._error: BaseException | None = None
        self._plain: set[int] = set()
        self._attributes = ctypes.c_uint32()
        self._keep: list[Any] = []
        self._icache_count = ctypes.c_uint64()
        self._icache_seen = 0

        self._ram: list[tuple[int, int, int]] = []
        for base, size in memory.regions:
            host = memory.host_address(base)
            error = lib.mem_map_ptr(self._handle, base, size, 7, host)
            if error:
                raise EngineError(f"RAM {base:#x}+{size:#x} cannot be mapped: {self._reason(error)}")
            self._ram.append((base, base + size, lib.ram_address(self._handle, host) - base))
        self._hook(native_entry)
        self._patch_timers()
        self._patch_instruction_cache()
        memory.listeners.append(_listener(weakref.ref(self)))
        self._shared = _siblings.setdefault(memory, weakref.WeakSet())
        self._shared.add(self)
        if len(self._shared) > 1:
            for core in self._shared:
                core._share_instruction_cache()

    def _reason(self, error: int) -> str:
        text = self._lib.strerror(error)
        return text.decode() if text else f"error {error}"

    # Setting up

    def _hook(self, native_entry: bool) -> None:
        lib = self._lib
        handle = ctypes.c_size_t()
        if native_entry:
            callback = _ExitCallback(self._exit)
            block = (ctypes.c_uint64 * 6)(
                self._env + lib.offsets.env_target_el,
                self._cs,
                ctypes.cast(lib.do_interrupt, ctypes.c_void_p).value or 0,
                ctypes.cast(callback, ctypes.c_void_p).value or 0,
                0,
                self._env + lib.offsets.env_syndrome,
            )
            entry, user = lib.code.place(_EXIT_CODE), ctypes.addressof(block)
            self._entries = block
            self._keep.append(callback)
        else:

            def exit_or_enter(uc: int, number: int, user: int) -> None:
                if self._target_el.value == 1:
                    lib.do_interrupt(self._cs)
                else:
                    self._exit(self._syndrome.value)

            plain = _PlainExitCallback(exit_or_enter)
            entry, user = ctypes.cast(plain, ctypes.c_void_p).value or 0, 0
            self._entries = (ctypes.c_uint64 * 6)()
            self._keep.append(plain)
        error = lib.hook_add(self._handle, ctypes.addressof(handle), private.UC_HOOK_INTR, entry, user, 1, 0)
        if error:
            raise EngineError(f"the exit hook cannot be set: {self._reason(error)}")

    @property
    def native_entries(self) -> int:
        """Exceptions that the guest's own EL1 has taken so far, interrupts not counted."""
        return self._entries[4]

    def _info(self, register: str | Encoding) -> int:
        encoding = SYSTEM_REGISTERS[register] if isinstance(register, str) else register
        return private.find_register(self._lib, self._cs, self._lib.offsets.cpu_cp_regs, encoding)

    def _reader(self, read: Callable[[], int]) -> int:
        """Give the address of a C function for `uint64_t read(env, info)` that asks `read`."""

        def guarded() -> int:
            try:
                return read()
            except BaseException as error:
                self._fail(error)
                return 0

        callback = _ReadCallback(guarded)
        self._keep.append(callback)
        return ctypes.cast(callback, ctypes.c_void_p).value or 0

    def _writer(self, write: Callable[[int], object]) -> int:
        """Give the address of a C function for `void write(env, info, uint64_t)` that tells `write`."""

        def guarded(value: int) -> None:
            try:
                write(value)
            except BaseException as error:
                self._fail(error)

        callback = _WriteCallback(guarded)
        self._keep.append(callback)
        target = ctypes.cast(callback, ctypes.c_void_p).value or 0
        # mov rdi, rdx; mov rax, target; jmp rax: Python then converts one argument instead of three.
        return self._lib.code.place(b"\x48\x89\xd7\x48\xb8" + target.to_bytes(8, "little") + b"\xff\xe0")

    def define_sysreg(
        self,
        register: str | Encoding,
        read: Callable[[], int] | None,
        write: Callable[[int], object] | None,
    ) -> None:
        """Give the guest's EL1 a system register that `read()` and `write(value)` implement; None makes that undefined.

        Has to happen before the guest code that uses it has run. The callables run in the middle of a block of code:
        registers other than PC are current, and `set_virq` and `leave` work, taking effect after an MSR at once.
        """
        encoding = SYSTEM_REGISTERS[register] if isinstance(register, str) else register
        access = (private.ACCESS_EL1_READ if read else 0) | (private.ACCESS_EL1_WRITE if write else 0)
        keep = private.new_register(
            self._lib,
            self._cs,
            encoding,
            self._reader(read) if read else self._reader(lambda: 0),
            self._writer(write) if write else self._writer(lambda value: None),
            access=access,
        )
        self._keep.append(keep)

    def _patch(
        self, register: str, read: Callable[[], int] | None = None, write: Callable[[int], object] | None = None
    ) -> None:
        """Replace what the engine does on reading or writing a register it knows."""
        info = self._info(register)
        if not info:
            raise EngineError(f"the engine has no register {register}")
        if read is not None:
            private.u64_at(info + private.REGINFO_READFN).value = self._reader(read)
        if write is not None:
            private.u64_at(info + private.REGINFO_WRITEFN).value = self._writer(write)

    def _patch_timers(self) -> None:
        """The engine drops guest writes to its timers (engine.md 1.3.2): keep them, and tell the hypervisor."""
        words = self.registers.words

        def patch(which: int, prefix: str) -> None:
            ctl, cval = (self.registers.slot(f"{prefix}_{name}_EL0") for name in ("CTL", "CVAL"))

            def write_ctl(value: int) -> None:
                words[ctl] = value & 3
                self.exits.timer(which)

            def write_cval(value: int) -> None:
                words[cval] = value
                self.exits.timer(which)

            def write_tval(value: int) -> None:
                value &= 0xFFFF_FFFF
                words[cval] = self.clock.ticks() + (value - (1 << 32) if value >> 31 else value)
                self.exits.timer(which)

            def read_ctl() -> int:
                value = words[ctl] & 3
                if value & _TIMER_ENABLE and self.clock.ticks() >= words[cval]:
                    value |= _TIMER_ISTATUS
                return value

            def read_tval() -> int:
                return words[cval] - self.clock.sample() & 0xFFFF_FFFF

            self._patch(f"{prefix}_CTL_EL0", read_ctl, write_ctl)
            self._patch(f"{prefix}_CVAL_EL0", None, write_cval)
            self._patch(f"{prefix}_TVAL_EL0", read_tval, write_tval)

        patch(VIRTUAL_TIMER, "CNTV")
        patch(PHYSICAL_TIMER, "CNTP")
        if not self.clock.real:
            self._patch("CNTVCT_EL0", lambda: self.clock.sample())
            self._patch("CNTPCT_EL0", lambda: self.clock.sample())

    _IC_IVAU: Final = Encoding(1, 3, 7, 5, 1)
    _IC_IALLU: Final = Encoding(1, 0, 7, 5, 0)
    _IC_IALLUIS: Final = Encoding(1, 0, 7, 1, 0)

    def _patch_instruction_cache(self) -> None:
        """Count instruction cache maintenance, without Python: what was known about instructions ends there."""
        counter = ctypes.addressof(self._icache_count).to_bytes(8, "little")
        # mov rax, counter; inc qword [rax]; ret
        thunk = self._lib.code.place(b"\x48\xb8" + counter + b"\x48\xff\x00\xc3")
        for register in (self._IC_IVAU, self._IC_IALLU, self._IC_IALLUIS):
            self._replace_nop(register, thunk)

    def _replace_nop(self, register: Encoding, write: int) -> None:
        info = self._info(register)
        if not info:
            raise EngineError(f"the engine has no instruction {register}")
        private.u32_at(info + private.REGINFO_TYPE).value = private.TYPE_QUIET
        private.u64_at(info + private.REGINFO_WRITEFN).value = write

    def _share_instruction_cache(self) -> None:
        """Other engines hold translations of the same memory: maintenance has to reach them (engine.md 1.3.4)."""

        def invalidate_line(va: int) -> None:
            self._icache_count.value += 1
            pa = self.physical(va)
            if pa is not None:
                for core in self._shared:
                    if core is not self:
                        core.invalidate(pa & ~63, 64)

        def invalidate_all(value: int) -> None:
            self._icache_count.value += 1
            for core in self._shared:
                if core is not self:
                    core._lib.tb_flush(core._cs)

        self._replace_nop(self._IC_IVAU, self._writer(invalidate_line))
        self._replace_nop(self._IC_IALLU, self._writer(invalidate_all))
        self._replace_nop(self._IC_IALLUIS, self._writer(invalidate_all))

    # World switch

    def load(self, context: Context) -> None:
        """Make `context` the one that runs: registers, traps, stage 2, interrupt lines; saves the one before it.

        The exclusive monitor is cleared and all cached translations are dropped.
        """
        previous = self.context
        if previous is context:
            return
        if context.core is not None:
            context.core.save()
        if previous is not None:
            self.save()
        ctypes.memmove(self._env, context.buffer, self._env_size)
        self._exclusive.value = NO_EXCLUSIVE
        if context.stale:
            self._lib.rebuild_hflags(self._env)
            context.stale = False
        self._lib.tlb_flush(self._cs)
        self._interrupt_request.value = (private.CPU_INTERRUPT_VIRQ if context.virq else 0) | (
            private.CPU_INTERRUPT_VFIQ if context.vfiq else 0
        )
        self._plain.clear()
        self.context = context
        context.loaded(self, self.registers)

    def save(self) -> None:
        """Put the loaded context back into its own buffer; the core is empty afterwards."""
        context = self.context
        if context is not None:
            ctypes.memmove(context.buffer, self._env, self._env_size)
            self.context = None
            context.saved()

    def resync(self) -> None:
        """Derive everything from the registers again, after the host has written some: level, regime, TLB."""
        self._lib.rebuild_hflags(self._env)
        self._lib.tlb_flush(self._cs)

    def set_stage2(self, vttbr: int, vtcr: int, hcr: int) -> None:
        """Set VTTBR_EL2, VTCR_EL2 and HCR_EL2 of the loaded context (part of it, as all its EL2 registers are)."""
        registers = self.registers
        registers.write("VTTBR_EL2", vttbr)
        registers.write("VTCR_EL2", vtcr)
        registers.write("HCR_EL2", hcr)
        self.resync()

    def flush_tlb(self) -> None:
        """Drop all cached translations; needed after stage-2 tables changed for a context that is loaded."""
        self._lib.tlb_flush(self._cs)

    # Running

    def run(self, deadline_ns: int | None = None) -> Stop:
        """Run the loaded context until a handler wants to leave, `kick`, or the deadline.

        `deadline_ns` is a moment of `time.monotonic_ns()`. Raises what a handler raised, and `EngineError`.
        """
        if self.context is None:
            raise EngineError(f"core {self.index} has no context to run")
        if self.running:
            raise EngineError(f"core {self.index} is running already; a handler must not call run()")
        timer = kicker(self._lib.code)
        emu_start = self._lib.emu_start
        if len(self._shared) > 1:
            # Another core may have run TLB maintenance for this one meanwhile.
            self._lib.tlb_flush(self._cs)
        self._started = True
        self.running = True
        timer.aim(self._stop_request_address, self._exit_request_address, self._icount_address)
        try:
            while True:
                if self._kicked:
                    self._kicked = False
                    return Stop.KICK
                if deadline_ns is None:
                    timer.arm(time.monotonic_ns() + _TICK_NS)
                else:
                    timer.arm(deadline_ns)
                code = emu_start(self._handle, self._pc.value, 0, 0, 0)
                if self._error is not None:
                    error, self._error = self._error, None
                    self._leave = False
                    raise error
                if self._leave:
                    self._leave = False
                    return Stop.HANDLER
                if code:
                    self._bus_error(code)
                elif self._halted.value:
                    self._halted.value = 0
                    if self.exits.wfi is None:
                        return Stop.WFI
                    if not self.exits.wfi():
                        return Stop.HANDLER
                elif deadline_ns is not None and time.monotonic_ns() >= deadline_ns:
                    return Stop.DEADLINE
        finally:
            timer.disarm()
            timer.forget()
            self.running = False

    def _bus_error(self, code: int) -> None:
        """Stage 2 led to a physical address without memory: the bus answers with an external abort."""
        if code not in (private.UC_ERR_READ_UNMAPPED, private.UC_ERR_WRITE_UNMAPPED, private.UC_ERR_FETCH_UNMAPPED):
            raise EngineError(
                f"the engine stopped at {self._pc.value:#x} for a reason of its own: {self._reason(code)}"
            )
        if code == private.UC_ERR_FETCH_UNMAPPED:
            self.inject_instruction_abort(self._pc.value)
        else:
            self.inject_data_abort(self._vaddress.value)

    def leave(self) -> None:
        """Make `run` come back with `Stop.HANDLER` as soon as the present instruction is done; for use in handlers."""
        self._leave = True
        self._stop_request.value = 1
        self._exit_request.value = 1
        self._icount_high.value = 0xFFFF

    def kick(self) -> None:
        """Make `run` come back with `Stop.KICK`, now or when it is next called; from any thread, or a signal handler.
        """
        self._kicked = True
        self._stop_request.value = 1
        self._exit_request.value = 1
        self._icount_high.value = 0xFFFF

    def _fail(self, error: BaseException) -> None:
        """Keep an exception from a handler until the engine's C code is left."""
        if self._error is None:
            self._error = error
        self.leave()

    def set_virq(self, level: bool) -> None:
        """Drive the loaded context's virtual IRQ line."""
        if level:
            self._interrupt_request.value |= private.CPU_INTERRUPT_VIRQ
        else:
            self._interrupt_request.value &= ~private.CPU_INTERRUPT_VIRQ
        self._icount_high.value = 0xFFFF
        if self.context is not None:
            self.context.virq = level

    def set_vfiq(self, level: bool) -> None:
        """Drive the loaded context's virtual FIQ line."""
        if level:
            self._interrupt_request.value |= private.CPU_INTERRUPT_VFIQ
        else:
            self._interrupt_request.value &= ~private.CPU_INTERRUPT_VFIQ
        self._icount_high.value = 0xFFFF
        if self.context is not None:
            self.context.vfiq = level

    # Exits

    def _exit(self, syndrome: int) -> None:
        try:
            kind = syndrome >> 26
            if kind == 0x16:
                go_on = self.exits.hvc(syndrome & 0xFFFF)
            elif kind == 0x24:
                go_on = self._data_abort(syndrome)
            elif kind == 0x18:
                go_on = self.exits.sysreg(syndrome & 0x1FF_FFFF)
            else:
                go_on = self._rare_exit(kind, syndrome)
            if not go_on:
                self._leave = True
                self._stop_request.value = 1
                self._exit_request.value = 1
                self._icount_high.value = 0xFFFF
        except BaseException as error:
            self._fail(error)

    def _rare_exit(self, kind: int, syndrome: int) -> bool:
        exits = self.exits
        if kind == EC.SMC64:
            if self._target_el.value == 2:
                self._pc.value += 4
            return exits.smc(syndrome & 0xFFFF)
        if kind == EC.WFX:
            self._pc.value += 4
            if syndrome & 1:
                return True
            if exits.wfi is not None:
                return exits.wfi()
            self._halted.value = 1
            self._stop_request.value = 1
            self._exit_request.value = 1
            return True
        if kind == EC.INSTRUCTION_ABORT_LOWER:
            return exits.instruction_abort(syndrome, self._vaddress.value, self._ipa())
        if kind in (EC.BRK64, EC.BREAKPOINT_LOWER, EC.STEP_LOWER, EC.WATCHPOINT_LOWER):
            return exits.debug(syndrome)
        return exits.other(syndrome)

    def _ipa(self) -> int:
        ipa: int = (self._hpfar.value & 0xF_FFFF_FFF0) << 8 | self._vaddress.value & 0xFFF
        return ipa

    def _data_abort(self, esr: int) -> bool:
        far = self._vaddress.value
        ipa = (self._hpfar.value & 0xF_FFFF_FFF0) << 8 | far & 0xFFF
        if esr & 0x3C == 4 and esr & (ISV | S1PTW) == ISV:
            pc = self._pc.value
            if pc not in self._plain or self._icache_seen != self._icache_count.value:
                writeback = self._writeback(pc)
            else:
                writeback = None
            size = 1 << (esr >> 22 & 3)
            rt = esr >> 16 & 31
            if esr & WNR:
                value = self.x[rt] & (1 << 8 * size) - 1 if rt != 31 else 0
                if not self.exits.mmio_write(ipa, size, value):
                    return self.exits.data_abort(esr, far, ipa)
            else:
                answer = self.exits.mmio_read(ipa, size)
                if answer is None:
                    return self.exits.data_abort(esr, far, ipa)
                if rt != 31:
                    self.x[rt] = (
                        extend(answer, size, True, bool(esr & 1 << 15))
                        if esr & 1 << 21
                        else answer & (1 << 8 * size) - 1
                    )
            if writeback is not None:
                writeback.write_back(self.registers)
            self._pc.value = pc + 4
            return True
        return self.exits.data_abort(esr, far, ipa)

    def _writeback(self, pc: int) -> Access | None:
        """Give the instruction at `pc` if it changes its base register, which its syndrome hides (engine.md 1.3.6).

        That it does not is remembered for code of EL1, until the instruction cache is maintained or another context
        comes: code of EL0 is exchanged under its address without either.
        """
        if self._icache_seen != self._icache_count.value:
            self._plain.clear()
            self._icache_seen = self._icache_count.value
        word = self.instruction(pc)
        if word is not None and has_writeback(word):
            return decode_instruction(word)
        if self.registers.current_el:
            self._plain.add(pc)
        return None

    # Memory as the vCPU sees it

    def physical(self, va: int) -> int | None:
        """Translate a virtual address of the loaded context through both stages as it reads now; None if it does not.
        """
        page: int = self._lib.physical_page(self._cs, va & ~0xFFF, self._attributes)
        return None if page == 0xFFFF_FFFF_FFFF_FFFF else page | va & 0xFFF

    def instruction(self, va: int) -> int | None:
        """Give the instruction word at a virtual address of the loaded context; None if it cannot be read."""
        pa = self.physical(va)
        return self.memory.read_u32(pa) if pa is not None and self.memory.contains(pa, 4) else None

    def invalidate(self, pa: int, size: int) -> None:
        """Drop translated code of [pa, pa+size): somebody else than this core has written there.

        Writes through `PhysicalMemory` are announced by it; only writes past it need this call.
        """
        if self._started:
            for base, end, delta in self._ram:
                if base <= pa < end:
                    self._lib.tb_invalidate(self._handle, pa + delta, pa + size + delta)
            self._plain.clear()

    # What EL2 does to the guest

    def _enter(self, number: int, syndrome: int, far: int) -> None:
        self._syndrome.value = syndrome
        self._vaddress.value = far
        self._target_el.value = 1
        self._exception_index.value = number
        self._lib.do_interrupt(self._cs)

    def inject_undefined(self) -> None:
        """Make the loaded vCPU take an undefined instruction exception at its PC.

        HVC and SMC handlers step PC back by 4 first. Not for handlers of `define_sysreg` and `timer`.
        """
        self._enter(private.EXCP_UDEF, EC.UNKNOWN << 26 | ESR_IL, 0)

    def inject_data_abort(self, far: int, iss: int = 0x10) -> None:
        """Make the loaded vCPU take a synchronous external abort on a data access to `far` (a VA)."""
        kind = EC.DATA_ABORT_SAME if self.registers.current_el else EC.DATA_ABORT_LOWER
        self._enter(private.EXCP_DATA_ABORT, kind << 26 | ESR_IL | iss, far)

    def inject_instruction_abort(self, far: int, iss: int = 0x10) -> None:
        """Make the loaded vCPU take a synchronous external abort on a fetch from `far` (a VA)."""
        kind = EC.INSTRUCTION_ABORT_SAME if self.registers.current_el else EC.INSTRUCTION_ABORT_LOWER
        self._enter(private.EXCP_PREFETCH_ABORT, kind << 26 | ESR_IL | iss, far)

    # System registers by name

    def read_sysreg(self, register: str | Encoding) -> int:
        """Read any system register the engine knows, with the side effects of an MRS at the highest level; slow.

        Raises `KeyError` for an unknown name, `EngineError` for a register the engine does not have.
        """
        encoding = SYSTEM_REGISTERS[register] if isinstance(register, str) else register
        if not self._info(encoding):
            raise EngineError(f"the engine has no register {encoding}")
        op0, op1, crn, crm, op2 = encoding
        constants = self._lib.unicorn.arm64_const
        value: int = self._uc.reg_read(constants.UC_ARM64_REG_CP_REG, (crn, crm, op0, op1, op2))
        return value

    def write_sysreg(self, register: str | Encoding, value: int) -> None:
        """Write any system register the engine knows, with its side effects; slow. Raises as `read_sysreg`."""
        encoding = SYSTEM_REGISTERS[register] if isinstance(register, str) else register
        if not self._info(encoding):
            raise EngineError(f"the engine has no register {encoding}")
        op0, op1, crn, crm, op2 = encoding
        constants = self._lib.unicorn.arm64_const
        self._uc.reg_write(constants.UC_ARM64_REG_CP_REG, (crn, crm, op0, op1, op2, value))


def _listener(core: weakref.ref[Core]) -> Callable[[int, int], None]:
    """Announce host writes to a core, as long as there is one."""

    def written(pa: int, size: int) -> None:
        alive = core()
        if alive is not None:
            alive.invalidate(pa, size)

    return written
