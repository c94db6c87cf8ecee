"""The checker: every hypercall of a run is held against the specification, and the first divergence stops the machine.

An instrument like any other, so that it can be switched on in any run; it reads the whole state before and after each
call, which makes a run some hundred times slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import Hypercall
from gunyah.hypervisor.instruments import Instrument, NamedCall, NamedVcpu
from gunyah.hypervisor.specification.calls import Forbidden, Step, after, demanded
from gunyah.hypervisor.specification.observe import Observer
from gunyah.hypervisor.specification.state import World, thing_lines
from gunyah.hypervisor.vcpu import Vcpu

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor

__all__ = ["Checker", "Divergence", "differences"]

_LATER = frozenset({"vcpu_run", "vcpu_poweroff", "scheduler_yield"})
"""Calls that others run between entry and answer."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """A call after which the hypervisor is not in the state that the specification demands."""

    call: str
    """The call with its arguments, results and caller."""
    different: tuple[str, ...]
    """What is different, a sentence each."""
    expected: World
    found: World

    @property
    def headline(self) -> str:
        """All of it in one sentence."""
        return f"{self.call} diverges from the specification: {self.different[0]}"

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.call} diverges from the specification",
                *self.different,
                "-- the state that the specification allows:",
                *_state(self.expected),
                "-- the state that was found:",
                *_state(self.found),
            ]
        )


def differences(expected: World, found: World) -> Iterator[str]:
    """In what two states differ, a line each."""
    for serial in sorted({*expected.things, *found.things}):
        wanted, there = expected.things.get(serial), found.things.get(serial)
        if wanted is there or wanted == there:
            continue
        if wanted is None or there is None:
            yield f"object #{serial}: expected {wanted or 'to be gone'}, found {there or 'nothing'}"
            continue
        for name in ("kind", "state", "holds", "pins", "vmid", "index", "extent"):
            if getattr(wanted, name) != getattr(there, name):
                yield f"object #{serial} {name}: expected {getattr(wanted, name)}, found {getattr(there, name)}"
        if wanted.space is not None and there.space is not None:
            yield from _slots(f"space #{serial}", wanted.space.slots, there.space.slots)
            if wanted.space.limit != there.space.limit:
                yield f"space #{serial} limit: expected {wanted.space.limit}, found {there.space.limit}"
    if expected.owners == found.owners:
        return
    for piece in sorted({*expected.owners} ^ {*found.owners}, key=str):
        side = "expected" if piece in expected.owners else "found"
        yield f"memory {piece[0]:#x}..{piece[1]:#x}: {side} the owner {piece[2]}"


def _slots(where: str, expected: Mapping[int, object], found: Mapping[int, object]) -> Iterator[str]:
    for capid in sorted({*expected, *found}):
        wanted, there = expected.get(capid), found.get(capid)
        if wanted != there:
            yield f"{where} slot {capid:#x}: expected {wanted or 'empty'}, found {there or 'empty'}"


class Checker(Instrument):
    """Compares hypervisor and specification; ``divergence`` is None, or what was different first."""

    def __init__(self, hv: Hypervisor) -> None:
        self._hv = hv
        self._observer = Observer(hv)
        self._entered: tuple[NamedVcpu, NamedCall] | None = None
        self._before = World()
        self._native = True
        self.checked = 0
        self.divergence: Divergence | None = None

    def hypercall_enter(self, vcpu: NamedVcpu, call: NamedCall, args: Sequence[int], ticks: int) -> None:
        """Read the state before the call."""
        if self.divergence is not None or call.name in _LATER:
            self._entered = None
            return
        self._entered = vcpu, call
        self._before = self._observer.observe()
        if isinstance(vcpu, Vcpu):
            self._native = tuple(vcpu.x[: len(args)]) == tuple(args)

    def hypercall_exit(
        self, vcpu: NamedVcpu, call: NamedCall, args: Sequence[int], results: Sequence[int], ticks: int
    ) -> None:
        """Work out the state after it, and compare."""
        if self._entered != (vcpu, call):
            return
        self._entered = None
        self.checked += 1
        found = self._observer.observe()
        try:
            expected = self._expected(vcpu, call, args, results, found)
            different = list(differences(expected, found))
        except (Forbidden, AssertionError) as wrong:
            expected, different = self._before, [str(wrong)]
        if different:
            self._diverge(vcpu, call, args, results, expected, found, different)

    def _expected(
        self, vcpu: NamedVcpu, call: NamedCall, args: Sequence[int], results: Sequence[int], found: World
    ) -> World:
        before = self._before
        if not (isinstance(call, Hypercall) and isinstance(vcpu, Vcpu)) or not call.has_error or not call.dispatched:
            return before
        assert vcpu.cspace is not None
        error = results[0] & 0xFFFF_FFFF
        error -= (error & 0x8000_0000) << 1
        given = zip(call.arguments, args, call.masks, strict=True)
        arguments = {argument.name: value & mask for argument, value, mask in given}
        refusal = self._refusal(call, args, arguments)
        space = vcpu.cspace.serial
        objects: dict[str, int] = {}
        if refusal is Error.OK:
            refusal, objects = demanded(before, space, call, arguments)
        if refusal is not Error.OK:
            if error != refusal and call.status.name == "PROVIDED":
                raise Forbidden(f"{call.name} answers {error}: {refusal.name} was expected")
            return before
        born = tuple(sorted(found.things.keys() - before.things.keys()))
        return after(Step(before, space, call, arguments, objects, error, tuple(results[1:]), born))

    def _refusal(self, call: Hypercall, args: Sequence[int], arguments: Mapping[str, int]) -> Error:
        """What is refused before any capability is looked at (hypercalls.md 1.1)."""
        if self._native and any(args[position] != demand for position, demand in call.reserved):
            return Error.ARGUMENT_INVALID
        for bits in call.reserved_bits:
            if bits.early and arguments[bits.argument] & bits.mask:
                return bits.error
        return Error.OK

    def _diverge(
        self,
        vcpu: NamedVcpu,
        call: NamedCall,
        args: Sequence[int],
        results: Sequence[int],
        expected: World,
        found: World,
        different: Sequence[str],
    ) -> None:
        shown = f"{call.name}({', '.join(f'{value:#x}' for value in args)}) = {', '.join(map(hex, results))} by {vcpu}"
        self.divergence = Divergence(shown, tuple(different), expected, found)
        self._hv.stop("divergence", self.divergence.headline)


def _state(world: World) -> Iterator[str]:
    for serial, thing in sorted(world.things.items()):
        for line in thing_lines(serial, thing):
            yield f"  {line}"
    for start, end, owner in world.owners:
        yield f"  {start:#x}..{end:#x} {owner}"
