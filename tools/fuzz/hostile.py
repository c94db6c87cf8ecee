"""Code of a hostile VM: it does to its vCPU what a record of bytes says.

It knows more than a guest could: which capabilities its space holds and what they name, so that calls get past the
look-up and into the code behind it. What it does with that is what any guest may do: put numbers into registers, make
calls, read and write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gunyah.abi.hypercalls import HVC_BASE, HYPERCALLS, Hypercall
from gunyah.abi.objects import ObjectType
from gunyah.guest.cpu import Cpu, GuestAbort, GuestUndefined
from gunyah.hypervisor.addrspace import Addrspace
from gunyah.hypervisor.cspace import CSpace
from gunyah.hypervisor.doorbell import Doorbell
from gunyah.hypervisor.hwirq import HwIrq
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.msgqueue import MsgQueue
from gunyah.hypervisor.objects import ACTIVE, INIT, KernelObject
from gunyah.hypervisor.partition import Partition
from gunyah.hypervisor.vcpu import Vcpu
from gunyah.hypervisor.vic import Vic
from gunyah.hypervisor.virtio_mmio import VirtioMmio
from gunyah.hypervisor.vpm import VpmGroup
from gunyah.machine import board
from tools.fuzz.choices import Choices
from tools.fuzz.vocabulary import (
    ARGUMENTS,
    DEVICE_ADDRESSES,
    FUNCTIONS,
    MEANINGS,
    READ_REGISTERS,
    WRITE_REGISTERS,
)

__all__ = ["Guard", "Hostile", "Objects"]

U64 = (1 << 64) - 1

Objects = Mapping[str, KernelObject | None]
"""What the arguments of a call name, by argument name."""

Guard = Callable[[Hypercall, Objects, Sequence[int]], bool]
"""False for a call by which a VM would only end itself; registers are those of the native encoding."""

_CALLS = tuple(call for call in HYPERCALLS.values() if call.dispatched)
_NUMBERS = range(0x6A)
_IN_OTHER_SPACE = {"cap": "cspace", "src_cap": "src_cspace", "master_cap": "src_cspace"}
"""Arguments that name a slot of the space that another argument holds."""
_CLASSES: Mapping[ObjectType, type[KernelObject]] = {
    kind.type: kind
    for kind in (Partition, CSpace, Addrspace, MemExtent, Vcpu, Doorbell, MsgQueue, Vic, HwIrq, VpmGroup, VirtioMmio)
}
_KINDS: Mapping[str, tuple[type[KernelObject], ...]] = {
    "from": (MemExtent, MemExtent, Partition),
    "to": (MemExtent, MemExtent, Partition),
    "vdevice": (Vic,),
    "src_cspace": (CSpace,),
}
"""What is wanted where the table leaves it to the call's own code."""
_ON_MAPPINGS = ("addrspace_unmap", "addrspace_update_access", "addrspace_lookup", "addrspace_map")
_WIDTHS = (1, 2, 4, 8)
ANY = -1
_TIMERS = {27: "CNTV_CTL_EL0", 30: "CNTP_CTL_EL0"}
_REFRESH = 16
"""Acts between two looks at the capability space."""


def _kinds(call: Hypercall) -> Mapping[str, tuple[type[KernelObject], ...]]:
    kinds = dict(_KINDS)
    for capability in call.capabilities:
        if capability.type is not None and capability.argument not in kinds:
            kinds[capability.argument] = (_CLASSES[capability.type],)
    return kinds


def _states(call: Hypercall) -> Mapping[str, int]:
    """The state that an argument's object must be in for the call to get anywhere."""
    states = {"cap": INIT}
    for capability in call.capabilities:
        if capability.configure:
            states[capability.argument] = INIT
        elif capability.active:
            states[capability.argument] = ACTIVE
    return states


_WANTED = {call.number: _kinds(call) for call in _CALLS}
_STATE = {call.number: _states(call) for call in _CALLS}


class Hostile:
    """One hostile vCPU's mind. ``space`` is its capability space, ``guard`` keeps it from plain suicide."""

    def __init__(self, space: CSpace, guard: Guard) -> None:
        self.space = space
        self.guard = guard
        self.calls = 0
        """Hypercalls and other SMCCC calls made."""
        self.acts = 0
        self.special: Callable[[Cpu, Choices], None] | None = None
        """One act more, of the kind of VM it is."""
        self._pools: dict[tuple[type[KernelObject], int], list[int]] = {}
        self._all: list[int] = []
        self._age = 0

    # -- what there is to name -----------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._age = _REFRESH
        pools: dict[tuple[type[KernelObject], int], list[int]] = {}
        held = self.space.capabilities_held
        for capability in held:
            obj = capability.object
            pools.setdefault((obj.__class__, obj.state), []).append(capability.id)
            pools.setdefault((obj.__class__, ANY), []).append(capability.id)
        self._pools = pools
        self._all = [capability.id for capability in held]

    def _object(self, space: CSpace, capid: int) -> KernelObject | None:
        capability = space._valid.get(capid)
        return capability.object if capability is not None else None

    def _capability(self, choices: Choices, call: Hypercall, name: str, objects: dict[str, KernelObject | None]) -> int:
        mode = choices.byte()
        home = self.space
        if name in _IN_OTHER_SPACE and _IN_OTHER_SPACE[name] in objects:
            other = objects[_IN_OTHER_SPACE[name]]
            if isinstance(other, CSpace) and other is not home:
                held = other.capabilities_held
                capid = held[choices.half() % len(held)].id if held and mode < 240 else choices.word()
                objects[name] = self._object(other, capid)
                return capid
        pool: Sequence[int] = ()
        if mode < 240:
            wanted = _WANTED[call.number].get(name)
            if wanted is not None:
                kind = wanted[mode % len(wanted)]
                state = _STATE[call.number].get(name, ANY) if mode < 220 else ANY
                pool = self._pools.get((kind, state)) or self._pools.get((kind, ANY)) or ()
            if name == "to" and mode < 160:
                pool = self._relatives(objects.get("from")) or pool
        if not pool and mode < 252:
            pool = self._all
        capid = choices.pick(pool) if pool else choices.word()
        objects[name] = self._object(home, capid)
        return capid

    def _relatives(self, extent: KernelObject | None) -> list[int]:
        """Capabilities to what an extent may give memory to."""
        if not isinstance(extent, MemExtent):
            return []
        family: list[KernelObject] = [*extent.children]
        if extent.parent is not None:
            family += [extent.parent, *extent.parent.children]
        elif extent.partition is not None:
            family.append(extent.partition)
        return [each.id for obj in family for each in obj.capabilities if each.cspace is self.space]

    @staticmethod
    def _number(choices: Choices, call: str, name: str, meaning: str) -> int:
        mode = choices.byte()
        if mode < 200:
            table = ARGUMENTS.get(f"{call}.{name}") or ARGUMENTS.get(name) or MEANINGS.get(meaning) or MEANINGS[""]
            return choices.pick(table)
        if mode < 225:
            return choices.half() % 64
        if mode < 245:
            return choices.pick(MEANINGS.get(meaning) or MEANINGS[""]) + choices.byte() - 128 & U64
        return choices.word()

    def serve(self, cpu: Cpu) -> None:
        """The IRQ vector: acknowledge, make it quiet, end it."""
        for group in ("1", "0"):
            intid = cpu.mrs(f"ICC_IAR{group}_EL1")
            if intid >= 1020:
                continue
            if intid in _TIMERS:
                cpu.msr(_TIMERS[intid], 0)
            try:
                bank = board.GICD.base if intid >= 32 else board.GICR.base + 0x1_0000
                cpu.store(bank + 0x180 + 4 * (intid // 32), 1 << intid % 32, 4)
            except GuestAbort:
                pass
            cpu.msr(f"ICC_EOIR{group}_EL1", intid)
            return
        cpu.msr("ICC_IGRPEN1_EL1", 0)
        cpu.msr("ICC_IGRPEN0_EL1", 0)

    # -- acts ----------------------------------------------------------------------------------------------------------

    def act(self, cpu: Cpu, record: bytes) -> None:
        """Do what one record says; the guest's own exceptions are part of it."""
        self._age -= 1
        if self._age < 0:
            self._look()
        self.acts += 1
        choices = Choices(record)
        kind = choices.byte()
        try:
            if kind < 150:
                self._hypercall(cpu, choices, True)
            elif kind < 180:
                self._hypercall(cpu, choices, False)
            elif kind < 192:
                self._function(cpu, choices)
            elif kind < 200:
                self._garbage(cpu, choices)
            elif kind < 218:
                cpu.load(self._address(choices), choices.pick(_WIDTHS))
            elif kind < 234:
                cpu.store(self._address(choices), choices.word(), choices.pick(_WIDTHS))
            elif kind < 241:
                cpu.mrs(choices.pick(READ_REGISTERS))
            elif kind < 249:
                register = choices.pick(WRITE_REGISTERS)
                cpu.msr(register, choices.half() if choices.byte() & 1 else choices.word())
            elif kind < 250:
                cpu.read(choices.pick(MEANINGS["va"]), choices.half() % 5000)
            elif kind < 251:
                cpu.write(choices.pick(MEANINGS["va"]), bytes(choices.half() % 5000))
            elif kind < 252:
                cpu.irq_masked = bool(choices.byte() & 1)
            elif kind < 253 or self.special is None:
                cpu.wfi()
            else:
                self.special(cpu, choices)
        except (GuestAbort, GuestUndefined):
            pass

    def _arguments(self, choices: Choices, call: Hypercall) -> tuple[list[int], dict[str, KernelObject | None]]:
        objects: dict[str, KernelObject | None] = {}
        values: list[int] = []
        for argument in call.arguments:
            if argument.kind == "capid":
                values.append(self._capability(choices, call, argument.name, objects))
            elif argument.kind == "res0":
                values.append(0 if choices.byte() < 250 else 1)
            elif argument.kind == "res1":
                values.append(U64 if choices.byte() < 250 else 0)
            elif call.name == "scheduler_yield" and argument.name == "arg1":
                values.append(self._capability(choices, call, "arg1", objects))
            else:
                values.append(self._number(choices, call.name, argument.name, argument.meaning))
        if call.name in _ON_MAPPINGS and choices.byte() & 1:
            self._aim(objects, values)
        return values, objects

    @staticmethod
    def _aim(objects: dict[str, KernelObject | None], values: list[int]) -> None:
        """Name a mapping that the chosen extent has, if it has any: address space and IPA."""
        extent = objects.get("memextent")
        if isinstance(extent, MemExtent):
            for slot in extent.slots:
                if slot.addrspace is not None and slot.addrspace.capabilities:
                    objects["addrspace"] = slot.addrspace
                    values[0] = next(iter(slot.addrspace.capabilities)).id
                    values[2] = slot.pieces[0].pa + slot.pieces[0].delta

    def _hypercall(self, cpu: Cpu, choices: Choices, native: bool) -> None:
        call = _CALLS[choices.byte() % len(_CALLS)]
        values, objects = self._arguments(choices, call)
        if not self.guard(call, objects, values):
            return
        self.calls += 1
        x = cpu.x
        if native:
            x[: len(values)] = values
            cpu.hvc(call.hvc)
        else:
            x[: len(values) + 1] = [call.smccc, *values]
            cpu.hvc(0)
        if call.results and call.results[0].kind == "capid":
            self._age = min(self._age, 2)

    def _function(self, cpu: Cpu, choices: Choices) -> None:
        fid = choices.pick(FUNCTIONS)
        values = [choices.pick((0, 1, 2, 7, 32, 96, 192, 193, 0x1_0000, 0x1_0001, 1 << 31, fid)) for _ in range(3)]
        values[1] = choices.pick(MEANINGS["ipa"])
        if not self.guard(_FUNCTION, {}, [fid, *values]):
            return
        self.calls += 1
        cpu.x[0:4] = [fid, *values]
        if choices.byte() & 1:
            cpu.smc(0)
        else:
            cpu.hvc(0)

    def _garbage(self, cpu: Cpu, choices: Choices) -> None:
        """Any number in the immediate or in X0, anything in the other registers."""
        call = choices.pick(_NUMBERS)
        values = [self._number(choices, "", "", "") for _ in range(5)]
        values += [0, 0, 0]
        kind = choices.byte()
        self.calls += 1
        cpu.x[0:8] = values
        if kind < 120:
            cpu.hvc(HVC_BASE + call)
        elif kind < 180:
            cpu.hvc(choices.half())
        elif kind < 220:
            cpu.smc(choices.half())
        else:
            cpu.x[0] = choices.pick((0xC600_0000, 0x8600_0000, 0xC601_8000, 0xC602_8000, 0x4600_8000)) + call
            cpu.hvc(0)

    def _address(self, choices: Choices) -> int:
        mode = choices.byte()
        if mode < 230:
            offset = choices.half()
            return choices.pick(DEVICE_ADDRESSES) + (offset & 0xFFC if mode < 200 else offset) & U64
        return choices.word()


_FUNCTION = Hypercall(-1, "smccc function")
