"""The hypercalls on memory extents (hypercalls.md 3.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.memory import DonateOptions, DonateType, MemextentModifyOp, ModifyFlags
from gunyah.abi.objects import MemextentRight, ObjectType, PartitionRight
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.memextent_donate import donate_child, donate_sibling
from gunyah.hypervisor.memextent_mapping import clean_range, unmap_all

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["HANDLERS"]


_DONATE = int(MemextentRight.DONATE)


def memextent_modify(hv: Hypervisor, vcpu: Vcpu, extent: MemExtent, word: int, offset: int, size: int) -> None:
    """Unmap everywhere, zero, clean caches, or wait for the other cores (objects.md 3.4).

    One thread runs all cores, so nothing that an earlier call left behind is ever in flight: synchronising is free.
    """
    operation, no_sync = ModifyFlags.unpack(word)
    if operation == MemextentModifyOp.UNMAP_ALL:
        unmap_all(extent)
    elif operation == MemextentModifyOp.ZERO_RANGE and no_sync:
        clean_range(extent, offset, size, zero=True)
    elif operation in (MemextentModifyOp.CACHE_CLEAN_RANGE, MemextentModifyOp.CACHE_FLUSH_RANGE) and no_sync:
        clean_range(extent, offset, size, zero=False)
    elif operation != MemextentModifyOp.SYNC_ALL or no_sync:
        raise HypervisorError(Error.ARGUMENT_INVALID, f"memextent_modify flags {word:#x}: operation or NoSync is wrong")


def memextent_configure(hv: Hypervisor, vcpu: Vcpu, extent: MemExtent, base: int, size: int, word: int) -> None:
    """Make an extent a range of its partition's memory."""
    extent.configure(base, size, word)


def memextent_configure_derive(
    hv: Hypervisor, vcpu: Vcpu, extent: MemExtent, parent: MemExtent, offset: int, size: int, word: int
) -> None:
    """Make an extent a range of another one."""
    extent.configure_derive(parent, offset, size, word)


def _extent(vcpu: Vcpu, capid: int) -> MemExtent:
    assert vcpu.cspace is not None
    found = vcpu.cspace.lookup(capid, ObjectType.MEMEXTENT, _DONATE)
    assert isinstance(found, MemExtent)
    return found


def memextent_donate(
    hv: Hypervisor, vcpu: Vcpu, word: int, from_capid: int, to_capid: int, offset: int, size: int
) -> None:
    """Hand pages from an extent to its child, its parent or its sibling. The child is looked up first."""
    direction = DonateOptions.unpack(word).type
    if direction == DonateType.TO_SIBLING:
        giver = _extent(vcpu, from_capid)
        donate_sibling(giver, _extent(vcpu, to_capid), offset, size)
        return
    if direction not in (DonateType.TO_CHILD, DonateType.TO_PARENT):
        raise HypervisorError(Error.ARGUMENT_INVALID, f"memextent_donate options {word:#x}: no such direction")
    reverse = direction == DonateType.TO_PARENT
    child = _extent(vcpu, from_capid if reverse else to_capid)
    parent_capid = to_capid if reverse else from_capid
    if child.parent is not None:
        related = _extent(vcpu, parent_capid) is child.parent
    else:
        assert vcpu.cspace is not None
        partition = vcpu.cspace.lookup(parent_capid, ObjectType.PARTITION, int(PartitionRight.DONATE))
        related = partition is child.partition
    if not related:
        raise HypervisorError(Error.ARGUMENT_INVALID, f"memextent_donate: not the parent of {child}")
    donate_child(child, offset, size, reverse=reverse)


HANDLERS: dict[str, Callable[..., tuple[int, ...] | None]] = {
    "memextent_configure": memextent_configure,
    "memextent_configure_derive": memextent_configure_derive,
    "memextent_donate": memextent_donate,
    "memextent_modify": memextent_modify,
}
