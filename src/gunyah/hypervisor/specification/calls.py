"""What each hypercall does to capabilities, references and memory: the answer and the new state that are allowed.

A rule gets a ``Step``: the state before, the call with its arguments, what its capabilities were found to name, and
the answer that was given. It returns the state after, or raises ``Forbidden`` when that answer cannot be. A call
without a rule here leaves this state alone, whatever it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import CREATED_TYPES, HYPERCALLS, Hypercall, Status
from gunyah.abi.memory import DonateOptions, DonateType, MemextentAttributes, MemextentType
from gunyah.abi.objects import ObjectState, ObjectType
from gunyah.hypervisor.specification.capabilities import (
    collect,
    copied,
    deleted,
    look_up,
    mastered,
    new_thing,
    revoked,
    room,
)
from gunyah.hypervisor.specification.ownership import FREE, donated, may_derive, taken
from gunyah.hypervisor.specification.state import Extent, Owner, World

__all__ = ["Forbidden", "Step", "after", "demanded"]

OK = Error.OK


class Forbidden(Exception):
    """The answer of a call is one that the rules do not allow."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call: state before, caller's capability space, arguments by name, objects found, and the answer.

    ``born`` are the serials of objects that the call made.
    """

    world: World
    space: int
    call: Hypercall
    arguments: Mapping[str, int]
    found: Mapping[str, int]
    error: int
    results: tuple[int, ...]
    born: tuple[int, ...]

    def demand(self, allowed: bool, sentence: str) -> None:
        """Raise Forbidden unless ``allowed``."""
        if not allowed:
            raise Forbidden(f"{self.call.name} answers {self.error}: {sentence}")

    def answers(self, *errors: Error) -> None:
        """Raise Forbidden unless the answer is one of these."""
        names = " or ".join(error.name for error in errors)
        self.demand(self.error in errors, f"{names} was expected")


Rule = Callable[[Step], World]


def demanded(world: World, space: int, call: Hypercall, arguments: Mapping[str, int]) -> tuple[Error, dict[str, int]]:
    """The first failing capability check of a call, and the objects its arguments name (hypercalls.md 2)."""
    found: dict[str, int] = {}
    homes = {argument.name: argument.cspace for argument in call.arguments}
    for capability in call.capabilities:
        if capability.when:
            continue
        home = found[homes[capability.argument]] if homes[capability.argument] else space
        error, serial = look_up(world, home, arguments[capability.argument], capability)
        if error is not OK:
            return error, found
        found[capability.argument] = serial
    for bits in call.reserved_bits:
        if not bits.early and arguments[bits.argument] & bits.mask:
            return bits.error, found
    for capability in call.capabilities:
        if capability.configure and world.things[found[capability.argument]].state is not ObjectState.INIT:
            return Error.OBJECT_STATE, found
    return OK, found


def after(step: Step) -> World:
    """The state after a call whose capability checks have succeeded."""
    rule = RULES.get(step.call.name)
    if rule is None or step.call.status is not Status.PROVIDED:
        return step.world
    return rule(step)


# -- creation and activation -------------------------------------------------------------------------------------------


def _create(step: Step) -> World:
    world, space = step.world, step.found["cspace"]
    if step.error != OK:
        step.answers(Error.NOMEM, Error.CSPACE_FULL)
        step.demand(not step.born, "and yet something was made")
        step.demand(step.error != Error.CSPACE_FULL or not room(world.space(space)), "there is room")
        return world
    step.demand(room(world.space(space)), "the space is full")
    step.demand(len(step.born) == 1, f"{len(step.born)} objects were made")
    serial = step.born[0]
    return mastered(world.put(serial, new_thing(_kind(step))), space, step.results[0], serial)


def _kind(step: Step) -> ObjectType:
    return CREATED_TYPES[step.call.number]


def _activate(step: Step) -> World:
    world, serial = step.world, step.found["cap"]
    thing = world.things[serial]
    if thing.state is not ObjectState.INIT:
        step.answers(Error.OBJECT_STATE)
        return world
    activated = world
    if thing.kind is ObjectType.MEMEXTENT:
        allowed, activated = taken(world, serial)
        step.answers(*allowed)
    elif thing.kind is ObjectType.CSPACE:
        step.answers(OK if world.space(serial).limit else Error.OBJECT_CONFIG)
    elif thing.kind is ObjectType.ADDRSPACE:
        busy = thing.vmid == 0 or any(
            other.vmid == thing.vmid and other.state is ObjectState.ACTIVE for other in world.things.values()
        )
        step.demand(not (busy and step.error == OK), f"VMID {thing.vmid} is taken")
    if step.error != OK:
        return world.change(serial, state=ObjectState.FAILED)
    if thing.kind is ObjectType.THREAD:
        held = {world.things[each].kind for each in thing.holds}
        needed = {ObjectType.CSPACE, ObjectType.ADDRSPACE, ObjectType.VIC}
        step.demand(needed <= held, "a vCPU needs a capability space, an address space and a VIC")
        # An active thread holds itself until it exits.
        return activated.change(serial, state=ObjectState.ACTIVE, pins=thing.pins + 1)
    activated = activated.change(serial, state=ObjectState.ACTIVE)
    if thing.kind in (ObjectType.VIRTIO_MMIO, ObjectType.ADDRSPACE):
        # The hypervisor maps the register page, or the information page, for itself.
        for held_extent in thing.holds:
            activated = activated.change(held_extent, extent=replace(activated.extent(held_extent), attached=True))
    return activated


# -- capability spaces -------------------------------------------------------------------------------------------------


def _configure_space(step: Step) -> World:
    if step.error != OK:
        step.answers(Error.ARGUMENT_INVALID)
        return step.world
    return step.world.with_space(step.found["cspace"], limit=step.arguments["max_caps"])


def _copy(step: Step) -> World:
    arguments = step.arguments
    error, world = copied(
        step.world,
        step.found["src_cspace"],
        arguments["src_cap"],
        step.found["dest_cspace"],
        arguments["rights_mask"],
        step.results[0],
    )
    step.answers(error)
    return world


def _delete(step: Step) -> World:
    error, world = deleted(step.world, step.found["cspace"], step.arguments["cap"])
    step.answers(error)
    return world


def _revoke(step: Step) -> World:
    error, world = revoked(step.world, step.found["src_cspace"], step.arguments["master_cap"])
    step.answers(error)
    return world


# -- references --------------------------------------------------------------------------------------------------------


def _held(world: World, holder: int, held: int, instead_of: ObjectType | None = None) -> World:
    """``holder`` takes a reference, and gives up the one it had to something of the same kind."""
    holds = list(world.things[holder].holds)
    if instead_of is not None:
        old = next((each for each in holds if world.things[each].kind is instead_of), None)
        if old is not None:
            holds.remove(old)
    return collect(world.change(holder, holds=tuple(sorted([*holds, held]))))


def _attach(holder: str, held: str, step: Step) -> World:
    """A thread takes its place with something, in place of an earlier choice."""
    if step.error != OK:
        return step.world
    thing = step.found[held]
    return _held(step.world, step.found[holder], thing, step.world.things[thing].kind)


def _attach_to_vic(step: Step) -> World:
    if step.error != OK:
        return step.world
    world = step.world.change(step.found["vcpu"], index=step.arguments["index"])
    return _held(world, step.found["vcpu"], step.found["vic"], ObjectType.VIC)


def _attach_frame(step: Step) -> World:
    """The distributor's frame is there as long as the VIC, a redistributor's as long as its vCPU."""
    if step.error != OK:
        return step.world
    world, index = step.world, step.arguments["index"]
    vic = world.space(step.space).slots[step.arguments["vdevice"]].thing
    if index == 0:
        return _held(world, vic, step.found["addrspace"])
    owners = [
        serial
        for serial, thing in world.things.items()
        if thing.kind is ObjectType.THREAD and vic in thing.holds and thing.index == index - 1
        if thing.state is ObjectState.ACTIVE
    ]
    step.demand(len(owners) == 1, f"{len(owners)} active vCPUs have index {index - 1}")
    return _held(world, owners[0], step.found["addrspace"])


def _bind_hwirq(step: Step) -> World:
    hwirq, vic = step.found["hwirq"], step.found["vic"]
    virq = step.arguments["virq"]
    # A forwarded PPI holds the VIC; a shared interrupt is a plain binding, which the VIC undoes at its end.
    if step.error != OK or virq >= 32:
        return step.world
    return _held(step.world, hwirq, vic)


def _unbind_hwirq(step: Step) -> World:
    if step.error != OK:
        return step.world
    return collect(step.world.change(step.found["hwirq"], holds=()))


# -- memory ------------------------------------------------------------------------------------------------------------


def _configure_addrspace(step: Step) -> World:
    vmid = step.arguments["vmid"]
    step.answers(OK if 1 <= vmid <= 255 else Error.ARGUMENT_INVALID)
    return step.world if step.error != OK else step.world.change(step.found["addrspace"], vmid=vmid)


def _configured(step: Step, parent: int | None, base: int) -> World:
    serial = step.found["memextent"]
    attributes = MemextentAttributes.unpack(step.arguments["attributes"])
    extent = Extent(
        base,
        step.arguments["size"],
        attributes.access,
        attributes.memtype,
        attributes.type == MemextentType.SPARSE,
        parent,
    )
    step.demand(extent.size > 0 and (extent.base | extent.size) % 4096 == 0, "an extent is of whole pages")
    if parent is not None:
        step.demand(may_derive(step.world.extent(parent), extent), "a derived extent is a part of its parent")
    holds = (parent,) if parent is not None else ()
    return collect(step.world.change(serial, extent=extent, holds=holds))


def _configure_extent(step: Step) -> World:
    return step.world if step.error != OK else _configured(step, None, step.arguments["phys_base"])


def _derive(step: Step) -> World:
    if step.error != OK:
        return step.world
    parent = step.found["parent_memextent"]
    return _configured(step, parent, step.world.extent(parent).base + step.arguments["offset"])


def _donate(step: Step) -> World:
    def named(argument: str) -> Owner | None:
        slot = step.world.space(step.space).slots.get(step.arguments[argument])
        if slot is None or not slot.valid:
            return None
        kind = step.world.things[slot.thing].kind
        return FREE if kind is ObjectType.PARTITION else slot.thing if kind is ObjectType.MEMEXTENT else None

    if step.error != OK:
        return step.world
    giver, receiver = named("from"), named("to")
    kind = DonateOptions.unpack(step.arguments["options"]).type
    step.demand(giver is not None and receiver is not None, "only extents and the partition give memory")
    assert giver is not None and receiver is not None
    step.demand(kind in set(DonateType), "there is no such direction")
    allowed, world = donated(step.world, kind, giver, receiver, step.arguments["offset"], step.arguments["size"])
    step.demand(allowed, f"{giver} cannot give that to {receiver}")
    return world


RULES: Mapping[str, Rule] = {
    **{HYPERCALLS[number].name: _create for number in CREATED_TYPES},
    "object_activate": _activate,
    "object_activate_from": _activate,
    "cspace_configure": _configure_space,
    "cspace_copy_cap_from": _copy,
    "cspace_delete_cap_from": _delete,
    "cspace_revoke_caps_from": _revoke,
    "cspace_attach_thread": partial(_attach, "thread", "cspace"),
    "addrspace_attach_thread": partial(_attach, "thread", "addrspace"),
    "vic_attach_vcpu": _attach_to_vic,
    "vpm_group_attach_vcpu": partial(_attach, "vcpu", "vpm_group"),
    "virtio_mmio_configure": partial(_attach, "virtio_mmio", "memextent"),
    "addrspace_configure_info_area": partial(_attach, "addrspace", "info_area_me"),
    "addrspace_attach_vdevice": _attach_frame,
    "addrspace_configure": _configure_addrspace,
    "hwirq_bind_virq": _bind_hwirq,
    "hwirq_unbind_virq": _unbind_hwirq,
    "memextent_configure": _configure_extent,
    "memextent_configure_derive": _derive,
    "memextent_donate": _donate,
}
