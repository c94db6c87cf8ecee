"""What a core asks its hypervisor: one callable per kind of exit to EL2."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple


class Stop(enum.Enum):
    """Why `Core.run` came back."""

    HANDLER = "a handler asked for it"
    DEADLINE = "the deadline has passed"
    KICK = "somebody called kick()"
    SPIN = "the guest waits with WFE or YIELD for what only another vCPU can do"
    WFI = "the guest waits for an interrupt and nobody handles WFI"


class UnhandledExit(RuntimeError):
    """The guest did something for which the exit handler has no callable; the sentence says what."""


class Page(NamedTuple):
    """The one device that answers in a whole page of IPA space (`Core.pages`); the page is at `base` of it.

    Where a function raises `gunyah.machine.bus.Refused`, `data_abort` is asked.
    """

    read: Callable[[Any, int, int], int]
    """`read(owner, offset, size)` gives the value."""
    write: Callable[[Any, int, int, int], None]
    """`write(owner, offset, size, value)`"""
    owner: Any
    base: int


class ExitHandler:
    """The callables of a hypervisor, all optional, replaceable at any time.

    Those that return `bool` say whether the guest goes on (True) or `run` comes back (False). They are called on the
    thread of `run`, deep inside the engine's C code: they must not switch greenlets nor call `run`; what needs that
    returns False and is done after `run` came back. An exception leaves `run` unchanged. `core.registers` is the vCPU,
    up to date.

    * `hvc(imm)`, `smc(imm)`: PC is already behind the instruction.
    * `wfi()`: PC is already behind it; a pending virtual interrupt means no exit.
    * `mmio_read(ipa, size) -> int | None`, `mmio_write(ipa, size, value) -> bool`: a stage-2 translation fault of a
      single-register access (valid syndrome); size is 1, 2, 4 or 8 bytes. A value or True completes the instruction
      (sign extension, register width, write-back, PC); None or False means it is no device, and `data_abort` is asked.
      Pages of which one device has the whole can be given to the core (`Core.pages`), so that nobody has to be asked.
    * `data_abort(esr, far, ipa)`: any other data abort for EL2; PC at the instruction. See `decode`, `Core.emulate`,
      `Core.inject_data_abort`.
    * `instruction_abort(esr, far, ipa)`: fetch that stage 2 refuses; PC at the address.
    * `sysreg(iss)`: trapped MRS, MSR or system instruction, PC at it; see `decode.SysregAccess`.
    * `debug(esr)`: BRK, software steps and breakpoints, if MDCR_EL2.TDE is set; PC at the instruction. Watchpoint
      registers are the guest's own (`guest_debug`); a hypervisor's are in `debug`.
    * `other(esr)`: any other exception for EL2.
    * `timer(which)`: the guest wrote registers of its virtual (0) or physical (1) timer; they are in `registers`.
      Called in the middle of a block of code: registers are current, PC is not.
    """

    __slots__ = ("hvc", "smc", "wfi", "mmio_read", "mmio_write", "data_abort", "instruction_abort", "sysreg", "debug",
                 "other", "timer")  # fmt: skip

    hvc: Callable[[int], bool]
    smc: Callable[[int], bool]
    wfi: Callable[[], bool] | None
    mmio_read: Callable[[int, int], int | None]
    mmio_write: Callable[[int, int, int], bool]
    data_abort: Callable[[int, int, int], bool]
    instruction_abort: Callable[[int, int, int], bool]
    sysreg: Callable[[int], bool]
    debug: Callable[[int], bool]
    other: Callable[[int], bool]
    timer: Callable[[int], None]

    def __init__(self) -> None:
        self.hvc = _unhandled_call("HVC")
        self.smc = _unhandled_call("SMC")
        self.wfi = None
        self.mmio_read = _no_device_read
        self.mmio_write = _no_device_write
        self.data_abort = _unhandled_abort("data")
        self.instruction_abort = _unhandled_abort("instruction")
        self.sysreg = _unhandled_syndrome("trapped system register access, ISS")
        self.debug = _unhandled_syndrome("debug exception, ESR")
        self.other = _unhandled_syndrome("exception for EL2, ESR")
        self.timer = _ignore_timer


def _unhandled_call(name: str) -> Callable[[int], bool]:
    def unhandled(immediate: int) -> bool:
        raise UnhandledExit(f"the guest called {name} #{immediate:#x} and nobody handles it")

    return unhandled


def _unhandled_abort(kind: str) -> Callable[[int, int, int], bool]:
    def unhandled(esr: int, far: int, ipa: int) -> bool:
        raise UnhandledExit(f"{kind} abort at VA {far:#x}, IPA {ipa:#x}, ESR {esr:#x}, and nobody handles it")

    return unhandled


def _unhandled_syndrome(what: str) -> Callable[[int], bool]:
    def unhandled(syndrome: int) -> bool:
        raise UnhandledExit(f"{what} {syndrome:#x}, and nobody handles it")

    return unhandled


def _no_device_read(ipa: int, size: int) -> int | None:
    return None


def _no_device_write(ipa: int, size: int, value: int) -> bool:
    return False


def _ignore_timer(which: int) -> None:
    pass
