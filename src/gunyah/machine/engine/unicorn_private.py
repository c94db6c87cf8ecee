"""All that the engine takes from inside libunicorn 2.1.4: private structures, private functions, and the check of both.

Unicorn's public interface cannot run an operating system below a hypervisor (engine.md 1), so the engine reaches into
the library: `CPUState` and `CPUARMState` fields, the register descriptions, some exported internal functions. Nothing
here is assumed. Each offset is read from the library's own machine code, then a throw-away engine runs real exceptions
and the values have to appear where they were expected. Anything else than a match is `EngineUnavailable`, in one
sentence; Python VMs need none of this. Verified for the manylinux x86-64 wheel only (engine.md 4.1).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import re
import struct
import sys
from dataclasses import dataclass, field
from typing import Any, Final

from .registers import SYSTEM_REGISTERS, Encoding

VERSION: Final = "2.1.4"

PAGE_SIZE: Final = 4096
"""The engine's unit of translation, and the smallest one of AArch64."""

UC_HOOK_INTR: Final = 1
UC_HOOK_BLOCK: Final = 8
UC_ERR_OK: Final = 0
UC_ERR_READ_UNMAPPED: Final = 6
UC_ERR_WRITE_UNMAPPED: Final = 7
UC_ERR_FETCH_UNMAPPED: Final = 8

EXCP_UDEF: Final = 1
EXCP_SWI: Final = 2
EXCP_PREFETCH_ABORT: Final = 3
EXCP_DATA_ABORT: Final = 4

CPU_INTERRUPT_FIQ: Final = 0x10
CPU_INTERRUPT_VIRQ: Final = 0x40
CPU_INTERRUPT_VFIQ: Final = 0x200

# ARMCPRegInfo: 0x88 bytes (engine.md 1.4)
_REGINFO_SIZE: Final = 0x88
REGINFO_TYPE: Final = 0x14
REGINFO_RESETVALUE: Final = 0x28
REGINFO_FIELDOFFSET: Final = 0x30
REGINFO_ACCESSFN: Final = 0x48
REGINFO_READFN: Final = 0x50
REGINFO_WRITEFN: Final = 0x58
_STATE_AA64: Final = 1
_TYPE_SPECIAL: Final = 0x1
_TYPE_CONST: Final = 0x2
_TYPE_SUPPRESS_TB_END: Final = 0x8
_TYPE_OVERRIDE: Final = 0x10
_TYPE_NO_RAW: Final = 0x80

TYPE_QUIET: Final = _TYPE_NO_RAW | _TYPE_SUPPRESS_TB_END
"""A register whose write function changes nothing that translated code depends on."""
TYPE_LAST: Final = _TYPE_NO_RAW
"""A register whose write ends the block of code, so that what it asks for is done before the next instruction."""

ACCESS_EL1_READ: Final = 0xA8
ACCESS_EL1_WRITE: Final = 0x54
ACCESS_EL0_READ: Final = 0x02
ACCESS_EL1: Final = ACCESS_EL1_READ | ACCESS_EL1_WRITE
ACCESS_ALL: Final = 0xFF


class EngineUnavailable(RuntimeError):
    """Native VMs cannot run on this host; the sentence says why."""


@dataclass(frozen=True)
class Offsets:
    """Where private fields are, in bytes from the structure that the prefix names."""

    uc_cpu: int
    uc_stop_request: int
    uc_no_exit_request: int
    cpu_env: int
    cpu_halted: int
    cpu_exception_index: int
    cpu_exit_request: int
    cpu_icount_decr: int
    cpu_interrupt_request: int
    cpu_cp_regs: int
    env_xregs: int
    env_pc: int
    env_pstate: int
    env_aarch64: int
    env_daif: int
    env_flags: tuple[int, int, int, int]
    """C, V, N, Z as the translator keeps them: C is 0 or 1, V and N are bit 31, Z is set if the word is 0."""
    env_sp_el0: int
    env_syndrome: int
    env_vaddress: int
    env_target_el: int
    env_exclusive_addr: int
    env_irq_line_state: int
    env_vregs: int
    env_vreg_stride: int
    env_size: int
    """Bytes from the start of CPUARMState that are a vCPU's own state; what follows belongs to the engine."""
    fields: dict[Encoding, int] = field(default_factory=dict)
    """CPUARMState offset of each system register that is a plain field."""


class ExecutableMemory:
    """Host memory for the few hand-made instructions between the engine and Python; it lives as long as its owner."""

    SIZE: Final = 16384

    def __init__(self) -> None:
        self._maps: list[tuple[mmap.mmap, Any]] = []
        self._used = self.SIZE

    def place(self, code: bytes) -> int:
        """Copy machine code in and give its address; raises `EngineUnavailable` where the host forbids that."""
        if self._used + len(code) > self.SIZE:
            protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
            try:
                area = mmap.mmap(-1, self.SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=protection)
            except OSError as error:
                raise EngineUnavailable(
                    f"native VMs need executable memory for translated code, which this host refuses: {error}"
                ) from error
            self._maps.append((area, ctypes.c_char.from_buffer(area)))
            self._used = 0
        area, anchor = self._maps[-1]
        start = self._used
        area[start : start + len(code)] = code
        self._used = start + (len(code) + 15) // 16 * 16
        return ctypes.addressof(anchor) + start


class Library:
    """libunicorn with its private parts: typed functions and verified offsets. Use `library()`."""

    def __init__(self) -> None:
        if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64") or sys.byteorder != "little":
            raise EngineUnavailable(
                f"native VMs need Linux on x86-64, this is {platform.system()} on {platform.machine()}; "
                "Python VMs work here"
            )
        try:
            import unicorn
            import unicorn.unicorn_py3.unicorn as binding
        except Exception as error:
            raise EngineUnavailable(f"native VMs need unicorn 2.1.4, which cannot be loaded: {error}") from error
        self.unicorn: Any = unicorn
        found = str(self.unicorn.__version__)
        if found != VERSION:
            raise EngineUnavailable(f"native VMs need unicorn {VERSION}, this is {found}")
        # PyDLL keeps the interpreter lock: a callback then costs no lock hand-over, which is most of an exit's price.
        self.dll: Any = ctypes.PyDLL(binding.uclib._name)
        self._declare()
        self.offsets = _probe(self, _decode(self))

    def _declare(self) -> None:
        pointer, u64, u32 = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32

        def function(name: str, result: Any, *arguments: Any) -> Any:
            try:
                entry = getattr(self.dll, name)
            except AttributeError as error:
                raise EngineUnavailable(f"this build of unicorn 2.1.4 does not export {name}") from error
            entry.restype = result
            entry.argtypes = arguments
            return entry

        self.emu_start = function("uc_emu_start", ctypes.c_int, pointer, u64, u64, u64, ctypes.c_size_t)
        self.hook_add = self.dll["uc_hook_add"]
        self.hook_add.restype = ctypes.c_int
        self.hook_add.argtypes = (pointer, pointer, ctypes.c_int, pointer, pointer, u64, u64)
        self.mem_map_ptr = function("uc_mem_map_ptr", ctypes.c_int, pointer, u64, u64, u32, pointer)
        self.strerror = function("uc_strerror", ctypes.c_char_p, ctypes.c_int)
        self.do_interrupt = function("arm_cpu_do_interrupt_aarch64", None, pointer)
        self.rebuild_hflags = function("arm_rebuild_hflags_aarch64", None, pointer)
        self.tlb_flush = function("tlb_flush_aarch64", None, pointer)
        self.tb_flush = function("tb_flush_aarch64", None, pointer)
        self.tb_invalidate = function("tb_invalidate_phys_range_aarch64", None, pointer, u64, u64)
        self.ram_address = function("qemu_ram_addr_from_host_aarch64", u64, pointer, pointer)
        self.reginfo = function("get_arm_cp_reginfo_aarch64", pointer, pointer, u32)
        self.define_register = function("define_one_arm_cp_reg_with_opaque_aarch64", None, pointer, pointer, pointer)
        self.get_phys_addr = function(
            "get_phys_addr_aarch64", ctypes.c_bool, pointer, u64, ctypes.c_int, ctypes.c_int, pointer, pointer, pointer,
            pointer, pointer, pointer,
        )  # fmt: skip
        self.mmu_index = function("arm_mmu_idx_el_aarch64", ctypes.c_int, pointer, ctypes.c_int)
        self.raise_exception = function("raise_exception_aarch64", None, pointer, u32, u32, u32)
        self.update_breakpoint = function("hw_breakpoint_update_aarch64", None, pointer, ctypes.c_int)
        self.set_fpscr = function("vfp_set_fpscr_aarch64", None, pointer, u32)
        self.get_fpscr = function("vfp_get_fpscr_aarch64", u32, pointer)
        self.sync_32_to_64 = function("aarch64_sync_32_to_64_aarch64", None, pointer)
        self.vaddr_to_paddr = function("tlb_vaddr_to_paddr_aarch64", ctypes.c_bool, pointer, u64, u32, u32, pointer)
        self.current_mmu_index = function("arm_mmu_idx_aarch64", ctypes.c_int, pointer)
        self.reset_dirty = function("tlb_reset_dirty_by_vaddr_aarch64", None, pointer, u64, u64)
        self.sync_64_to_32 = function("aarch64_sync_64_to_32_aarch64", None, pointer)

    def text(self, symbol: str, size: int) -> bytes:
        """Give the first `size` bytes of an exported function."""
        try:
            address = ctypes.cast(getattr(self.dll, symbol), ctypes.c_void_p).value
        except AttributeError as error:
            raise EngineUnavailable(f"this build of unicorn 2.1.4 does not export {symbol}") from error
        assert address is not None
        return ctypes.string_at(address, size)

    def open(self, *, buffer_size: int | None = None) -> Any:
        """Create an engine (a `unicorn.Uc`) that models a Cortex-A72 and never takes an address as a stop mark."""
        unicorn = self.unicorn
        uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        uc.ctl_set_cpu_model(unicorn.arm64_const.UC_CPU_ARM64_A72)
        # The default of 1 KiB, for tiny pages that no AArch64 CPU has, cuts TLB entries and blocks of code in four.
        uc.ctl_set_page_size(PAGE_SIZE)
        if buffer_size is not None:
            uc.ctl_set_tcg_buffer_size(buffer_size)
        uc.ctl_exits_enabled(True)
        # The library builds the engine at the first register access; no private field exists before that.
        uc.reg_read(unicorn.arm64_const.UC_ARM64_REG_PC)
        return uc


_DISP8: Final = rb"(.)"
_DISP32: Final = rb"(....)"


def _decode(library: Library) -> dict[str, int]:
    """Read field offsets from the library's own instructions (engine.md 4.1)."""

    def offset(symbol: str, pattern: bytes, size: int) -> int:
        found = {match.group(1) for match in re.finditer(pattern, library.text(symbol, size), re.DOTALL)}
        if len(found) != 1:
            raise EngineUnavailable(
                f"this build of unicorn 2.1.4 is not the verified one: {symbol} holds {len(found)} of the expected "
                "instruction"
            )
        raw = found.pop()
        return int.from_bytes(raw, "little", signed=True)

    return {
        "uc_cpu": offset("resume_all_vcpus_aarch64", rb"\x4c\x8b\xaf" + _DISP32, 24),
        "uc_stop_request": offset("uc_emu_stop", rb"\xc6\x87" + _DISP32 + rb"\x01", 48),
        "uc_no_exit_request": offset("check_exit_request_aarch64", rb"\x80\xbe" + _DISP32 + rb"\x00\x74", 24),
        "cpu_halted": offset("resume_all_vcpus_aarch64", rb"\x41\xc7\x85" + _DISP32 + rb"\0\0\0\0", 64),
        "cpu_exception_index": offset("resume_all_vcpus_aarch64", rb"\x41\xc7\x85" + _DISP32 + rb"\xff{4}", 64),
        "cpu_env": -offset("raise_exception_aarch64", rb"\x4c\x8d\xb7" + _DISP32, 16),
        "cpu_icount_decr": offset("cpu_exit", rb"^\x48\x8b\x87" + _DISP32, 16),
        "cpu_exit_request": offset("cpu_exit", rb"\xc6\x47" + _DISP8 + rb"\x01", 24),
        "cpu_interrupt_request": offset("arm_cpu_update_virq_aarch64", rb"^\x8b\x47" + _DISP8 + rb"\x83\xe0\x40", 8),
        "cpu_cp_regs": offset("define_one_arm_cp_reg_with_opaque_aarch64", rb"\x49\x8b\xbd" + _DISP32, 0x400),
        "irq_line": offset("arm_cpu_update_virq_aarch64", rb"\xf6\x87" + _DISP32 + rb"\x40\x75", 32),
        "env_syndrome": offset("raise_exception_aarch64", rb"\x44\x89\xa3" + _DISP32, 64),
        "env_target_el": offset("raise_exception_aarch64", rb"\x89\xab" + _DISP32 + rb"\xe8", 64),
        "env_size": offset("arm_rebuild_hflags_aarch64", rb"\x48\x8b\x8f" + _DISP32 + rb"\x48\x89\xfb", 16),
        "env_aarch64": offset("arm_rebuild_hflags_aarch64", rb"\x44\x8b\x87" + _DISP32 + rb"\x45\x85\xc0", 40),
        "env_pstate": offset("helper_exception_return_aarch64", rb"\x41\x8b\x8f" + _DISP32 + rb"\x48\x89\x34\x24", 40),
        "env_exclusive_addr": offset(
            "helper_exception_return_aarch64", rb"\x49\xc7\x87" + _DISP32 + rb"\xff{4}", 0x200
        ),
    }


def register_key(encoding: Encoding) -> int:
    """Key of an AArch64 register in the library's table of register descriptions."""
    op0, op1, crn, crm, op2 = encoding
    return 1 << 28 | 0x13 << 16 | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2


def address_of(function: Any) -> int:
    """Where a function of the library, or a callback, is."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def u64_at(address: int) -> Any:
    """View one 64-bit word of host memory; `.value` reads and writes it."""
    return ctypes.c_uint64.from_address(address)


def u32_at(address: int) -> Any:
    """View one 32-bit word of host memory."""
    return ctypes.c_uint32.from_address(address)


def u8_at(address: int) -> Any:
    """View one byte of host memory."""
    return ctypes.c_uint8.from_address(address)


def u16_at(address: int) -> Any:
    """View one 16-bit word of host memory."""
    return ctypes.c_uint16.from_address(address)


def find_register(library: Library, cs: int, cp_regs: int, encoding: Encoding) -> int:
    """Address of the library's description (ARMCPRegInfo) of a register, 0 if it has none."""
    return library.reginfo(u64_at(cs + cp_regs).value, register_key(encoding)) or 0


def new_register(
    library: Library,
    cs: int,
    encoding: Encoding,
    read: int,
    write: int,
    *,
    access: int,
    check: int = 0,
    suppress_end: bool = False,
) -> Any:
    """Define a register the library does not know, or replace one, before code that uses it is translated.

    `read` is the address of `uint64_t read(env, info)`, `write` of `void write(env, info, uint64_t)`, `check`
    of `int check(env, info, is_read)`, which says whether an access is trapped. The caller keeps the returned buffer,
    which holds the name, alive.
    """
    name = ctypes.create_string_buffer(str(encoding).encode())
    info = ctypes.create_string_buffer(_REGINFO_SIZE)
    kind = _TYPE_NO_RAW | _TYPE_OVERRIDE | (_TYPE_SUPPRESS_TB_END if suppress_end else 0)
    struct.pack_into("<Q6B", info, 0, ctypes.addressof(name), 0x13, encoding.crn, encoding.crm, encoding.op0,
                     encoding.op1, encoding.op2)  # fmt: skip
    struct.pack_into("<IIII", info, 0x10, _STATE_AA64, kind, access, 0)
    struct.pack_into("<QQQ", info, REGINFO_ACCESSFN, check, read, write)
    library.define_register(cs, ctypes.addressof(info), None)
    return name, info


# Instructions of the probe program, and where it runs
_PROBE_BASE: Final = 0x1_0000
_PROBE_CODE: Final = (
    0xC85F7C20,  # ldxr x0, [x1]
    0xD4000002 | 0x1234 << 5,  # hvc #0x1234
    0xF9400042,  # ldr x2, [x2]
    0xD503207F,  # wfi
)


def _probe(library: Library, decoded: dict[str, int]) -> Offsets:
    """Check the decoded offsets on a throw-away engine and find the rest by magic values."""
    uc = library.open(buffer_size=1 << 20)
    handle = uc._uch.value
    cs = u64_at(handle + decoded["uc_cpu"]).value
    env = cs + decoded["cpu_env"]

    def refuse(what: str) -> EngineUnavailable:
        return EngineUnavailable(f"this build of unicorn 2.1.4 is not the verified one: {what}")

    constants = library.unicorn.arm64_const
    # CPUState keeps a pointer to its CPUARMState just before the one to the exit flag.
    if u64_at(cs + decoded["cpu_icount_decr"] - 8).value != env:
        raise refuse("CPUState does not point to its CPUARMState")
    size = decoded["env_size"]
    if not 0x2000 < size < 0x8000:
        raise refuse(f"a CPU context of {size} bytes")

    def snapshot() -> bytes:
        return ctypes.string_at(env, size)

    magic = [0x5A5A_0000_C0DE_0000 + n for n in range(29)]
    for n, value in enumerate(magic):
        uc.reg_write(constants.UC_ARM64_REG_X0 + n, value)
    uc.reg_write(constants.UC_ARM64_REG_X29, 0x5A5A_0000_C0DE_0000 + 29)
    uc.reg_write(constants.UC_ARM64_REG_X30, 0x5A5A_0000_C0DE_0000 + 30)
    uc.reg_write(constants.UC_ARM64_REG_PC, 0x5A5A_0000_C0DE_1000)
    image = struct.pack("<31Q", *(0x5A5A_0000_C0DE_0000 + n for n in range(31)))
    xregs = snapshot().find(image)
    pc = snapshot().find(struct.pack("<Q", 0x5A5A_0000_C0DE_1000))
    if xregs < 0 or pc != xregs + 0x100:
        raise refuse(f"general registers at {xregs:#x} and PC at {pc:#x} of the CPU context")

    flags = [0, 0, 0, 0]
    uc.reg_write(constants.UC_ARM64_REG_NZCV, 0)
    base = snapshot()
    # N first: its word takes the other flags' bits along, which mean nothing there.
    for index, bit, expected in ((2, 31, 1 << 31), (0, 29, 1), (1, 28, 1 << 31), (3, 30, 0)):
        uc.reg_write(constants.UC_ARM64_REG_NZCV, 1 << bit)
        now = snapshot()
        changed = [n for n in range(0, size, 4) if now[n : n + 4] != base[n : n + 4] and n != flags[2]]
        if len(changed) != 1 or u32_at(env + changed[0]).value != expected:
            raise refuse(f"condition flag {bit} shows in {len(changed)} words of the CPU context")
        flags[index] = changed[0]

    for level in (4, 5):
        uc.reg_write(constants.UC_ARM64_REG_PSTATE, 0x3C0 | level)
        if u32_at(env + decoded["env_pstate"]).value & 0xF != level or u32_at(env + decoded["env_aarch64"]).value != 1:
            raise refuse("PSTATE is elsewhere in the CPU context")

    uc.reg_write(constants.UC_ARM64_REG_V0, 0x5A5A_0001_C0DE_0001)
    uc.reg_write(constants.UC_ARM64_REG_V1, 0x5A5A_0001_C0DE_0002)
    vregs = snapshot().find(struct.pack("<Q", 0x5A5A_0001_C0DE_0001))
    stride = snapshot().find(struct.pack("<Q", 0x5A5A_0001_C0DE_0002)) - vregs
    if vregs < 0 or stride <= 0:
        raise refuse("vector registers are not in the CPU context")

    cp_regs = decoded["cpu_cp_regs"]
    fields: dict[Encoding, int] = {}
    for encoding in SYSTEM_REGISTERS.values():
        info = find_register(library, cs, cp_regs, encoding)
        if not info:
            continue
        names = tuple(ctypes.string_at(info + 8, 6))
        if names != (0x13, encoding.crn, encoding.crm, encoding.op0, encoding.op1, encoding.op2):
            raise refuse(f"the description of register {encoding} names {names}")
        place = u64_at(info + REGINFO_FIELDOFFSET).value
        if 0 < place < size and not u32_at(info + REGINFO_TYPE).value & (_TYPE_SPECIAL | _TYPE_CONST):
            fields[encoding] = place
    needed = ("HCR_EL2", "VTTBR_EL2", "VTCR_EL2", "HPFAR_EL2", "VBAR_EL1", "ELR_EL1", "SPSR_EL1", "SP_EL0", "SCR_EL3",
              "VPIDR_EL2", "VMPIDR_EL2", "CNTV_CTL_EL0", "CNTV_CVAL_EL0", "SCTLR_EL1", "TTBR0_EL1", "TTBR1_EL1",
              "TCR_EL1", "DAIF", "ESR_EL1", "FAR_EL1")  # fmt: skip
    missing = [name for name in needed if SYSTEM_REGISTERS[name] not in fields]
    if missing:
        raise refuse(f"no field for {', '.join(missing)}")

    offsets = Offsets(
        uc_cpu=decoded["uc_cpu"],
        uc_stop_request=decoded["uc_stop_request"],
        uc_no_exit_request=decoded["uc_no_exit_request"],
        cpu_env=decoded["cpu_env"],
        cpu_halted=decoded["cpu_halted"],
        cpu_exception_index=decoded["cpu_exception_index"],
        cpu_exit_request=decoded["cpu_exit_request"],
        cpu_icount_decr=decoded["cpu_icount_decr"],
        cpu_interrupt_request=decoded["cpu_interrupt_request"],
        cpu_cp_regs=cp_regs,
        env_xregs=xregs,
        env_pc=pc,
        env_pstate=decoded["env_pstate"],
        env_aarch64=decoded["env_aarch64"],
        env_daif=fields[SYSTEM_REGISTERS["DAIF"]],
        env_flags=(flags[0], flags[1], flags[2], flags[3]),
        env_sp_el0=fields[SYSTEM_REGISTERS["SP_EL0"]],
        env_syndrome=decoded["env_syndrome"],
        env_vaddress=decoded["env_syndrome"] + 8,
        env_target_el=decoded["env_target_el"],
        env_exclusive_addr=decoded["env_exclusive_addr"],
        env_irq_line_state=decoded["irq_line"] - decoded["cpu_env"],
        env_vregs=vregs,
        env_vreg_stride=stride,
        env_size=size,
        fields=fields,
    )
    _probe_exits(library, uc, offsets, refuse)
    return offsets


def _probe_exits(library: Library, uc: Any, offsets: Offsets, refuse: Any) -> None:
    """Run four instructions at EL1 below EL2 and see each exit report itself where it should."""
    handle = uc._uch.value
    cs = u64_at(handle + offsets.uc_cpu).value
    env = cs + offsets.cpu_env

    def sysreg(name: str) -> Any:
        return u64_at(env + offsets.fields[SYSTEM_REGISTERS[name]])

    page = mmap.mmap(-1, 4096)
    for n, word in enumerate(_PROBE_CODE):
        struct.pack_into("<I", page, 4 * n, word)
    anchor = ctypes.c_char.from_buffer(page)
    if library.mem_map_ptr(handle, _PROBE_BASE, 4096, 7, ctypes.addressof(anchor)) != UC_ERR_OK:
        raise refuse("memory cannot be mapped")
    u8_at(handle + offsets.uc_no_exit_request).value = 1
    # The hook leaves at once: uc_emu_stop itself takes (uc, ...) and sets the stop flags.
    stop = ctypes.cast(library.dll.uc_emu_stop, ctypes.c_void_p).value
    hook = ctypes.c_size_t()
    library.hook_add(handle, ctypes.addressof(hook), UC_HOOK_INTR, stop, None, 1, 0)

    sysreg("SCR_EL3").value = 1 << 0 | 1 << 8 | 1 << 10
    sysreg("HCR_EL2").value = 1 << 31 | 1 << 13
    u32_at(env + offsets.env_pstate).value = 5
    library.rebuild_hflags(env)

    def run(n: int) -> tuple[int, int, int]:
        library.emu_start(handle, _PROBE_BASE + 4 * n, 0, 0, 0)
        return (
            u32_at(env + offsets.env_syndrome).value,
            u32_at(env + offsets.env_target_el).value,
            u64_at(env + offsets.env_pc).value - _PROBE_BASE,
        )

    exclusive = u64_at(env + offsets.env_exclusive_addr)
    exclusive.value = 0xFFFF_FFFF_FFFF_FFFF
    u64_at(env + offsets.env_xregs + 8).value = _PROBE_BASE + 0x800
    exit_hvc = run(0)
    if exit_hvc != (0x5A00_1234, 2, 8) or exclusive.value != _PROBE_BASE + 0x800:
        raise refuse(f"HVC #0x1234 reported {exit_hvc[0]:#x} for EL{exit_hvc[1]} at +{exit_hvc[2]:#x}")
    exit_wfi = run(3)
    if exit_wfi[0] >> 26 != 1 or exit_wfi[1:] != (2, 12):
        raise refuse(f"a trapped WFI reported {exit_wfi[0]:#x} for EL{exit_wfi[1]} at +{exit_wfi[2]:#x}")
    # Stage 2 with an empty table in the probe's own page: the fetch itself has to fault, with its IPA in HPFAR_EL2.
    sysreg("VTTBR_EL2").value = _PROBE_BASE
    page[0x0:0x10] = bytes(16)
    sysreg("VTCR_EL2").value = 1 << 31 | 28 | 1 << 6
    sysreg("HCR_EL2").value |= 1
    library.rebuild_hflags(env)
    library.tlb_flush(cs)
    exit_fetch = run(2)
    hpfar = sysreg("HPFAR_EL2").value
    far = u64_at(env + offsets.env_vaddress).value
    if exit_fetch[0] >> 26 != 0x20 or exit_fetch[1] != 2 or (hpfar << 8) != _PROBE_BASE or far != _PROBE_BASE + 8:
        raise refuse(
            f"a stage-2 fault reported {exit_fetch[0]:#x} for EL{exit_fetch[1]}, HPFAR {hpfar:#x}, FAR {far:#x}"
        )


@functools.cache
def library() -> Library:
    """Load and check libunicorn, once per process; raises `EngineUnavailable`."""
    from .linkage import spare_own_engines

    loaded = Library()
    spare_own_engines(loaded)
    return loaded
