"""The CPU engine: AArch64 with a real EL2, on Unicorn 2.1.4 (engine.md).

    memory = PhysicalMemory([(0x4000_0000, 0x1000_0000)])
    exits = ExitHandler()
    core = Core(memory, 0, exits)
    vcpu = Context()
    vcpu.reset(entry, x0)
    core.load(vcpu)
    core.set_stage2(vttbr, vtcr, HCR.GUEST)
    core.run(time.monotonic_ns() + 4_000_000)

Importing this package loads nothing; creating a `Core` or a `Context` loads libunicorn and raises `EngineUnavailable`
where that cannot work.
"""

from __future__ import annotations

from .core import EXECUTE, READ, WRITE, Core, EngineError, Fault
from .exits import ExitHandler, Page, Stop, UnhandledExit
from .intercept import PHYSICAL_TIMER, VIRTUAL_TIMER
from .registers import EC, HCR, MDCR, SYSTEM_REGISTERS, Encoding
from .state import Context, Registers
from .unicorn_private import EngineUnavailable

__all__ = [
    "Context",
    "Core",
    "EC",
    "Encoding",
    "EngineError",
    "EngineUnavailable",
    "EXECUTE",
    "ExitHandler",
    "Fault",
    "HCR",
    "MDCR",
    "PHYSICAL_TIMER",
    "Page",
    "READ",
    "Registers",
    "SYSTEM_REGISTERS",
    "Stop",
    "UnhandledExit",
    "VIRTUAL_TIMER",
    "WRITE",
]
