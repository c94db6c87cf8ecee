"""Making a core come back after one instruction, also when EL2 has done that instruction for the guest.

A software step exception comes after an instruction that the engine executes. One that traps is done by its handler
(a call, a device access, a trapped register), and the step exception would come one instruction late; so while a step
is under way every handler that has done something makes the core come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from gunyah.machine.engine import Core

__all__ = ["Stepping", "stepping"]

_EXITS: Final = ("hvc", "smc", "sysreg", "data_abort", "instruction_abort", "other")


class Stepping:
    """One step: ``exited`` when EL2 has done the instruction."""

    __slots__ = ("exited",)

    def __init__(self) -> None:
        self.exited = False


@contextmanager
def stepping(core: Core) -> Iterator[Stepping]:
    """While this lasts, each exit of ``core`` to EL2 ends its run."""
    exits = core.exits
    step = Stepping()
    saved: dict[str, object] = {
        name: getattr(exits, name) for name in (*_EXITS, "wfi", "mmio_read", "mmio_write")
    }

    def ending(handler: Callable[..., bool]) -> Callable[..., bool]:
        def end(*arguments: int) -> bool:
            handler(*arguments)
            step.exited = True
            return False

        return end

    read, write, wfi = exits.mmio_read, exits.mmio_write, exits.wfi

    def mmio_read(ipa: int, size: int) -> int | None:
        value = read(ipa, size)
        if value is not None:
            step.exited = True
            core.leave()
        return value

    def mmio_write(ipa: int, size: int, value: int) -> bool:
        done = write(ipa, size, value)
        if done:
            step.exited = True
            core.leave()
        return done

    for name in _EXITS:
        setattr(exits, name, ending(getattr(exits, name)))
    exits.mmio_read, exits.mmio_write = mmio_read, mmio_write
    if wfi is not None:
        exits.wfi = ending(wfi)
    try:
        yield step
    finally:
        for name, handler in saved.items():
            setattr(exits, name, handler)
