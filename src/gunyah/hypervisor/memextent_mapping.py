"""Mapping extents into address spaces, and what else changes the pages behind a mapping (objects.md 3.2 and 3.4).

The checks stand in the order in which the reference makes them: of several wrong things a caller learns the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.memory import SPARSE_IPA_BITS, SPARSE_PA_BITS, Access, MappingAttributes, MemextentMemtype
from gunyah.abi.types import PAGE_MASK, U64
from gunyah.hypervisor.addrspace import atomically
from gunyah.hypervisor.errors import HypervisorError

if TYPE_CHECKING:
    from gunyah.hypervisor.addrspace import Addrspace
    from gunyah.hypervisor.memextent import MemExtent
    from gunyah.hypervisor.memextent_map import Slot

__all__ = [
    "clean_range",
    "map_extent",
    "map_partial",
    "unmap",
    "unmap_all",
    "unmap_partial",
    "update",
    "update_partial",
]


# -- checks ------------------------------------------------------------------------------------------------------------


def _check_base(extent: MemExtent, vbase: int) -> None:
    if vbase & PAGE_MASK:
        raise HypervisorError(Error.ARGUMENT_ALIGNMENT, f"{extent}: IPA {vbase:#x} is not the start of a page")


def _check_part(extent: MemExtent, vbase: int, offset: int, size: int) -> None:
    if (vbase | offset | size) & PAGE_MASK:
        raise HypervisorError(
            Error.ARGUMENT_ALIGNMENT, f"{extent}: part {offset:#x}+{size:#x} at IPA {vbase:#x} is not of whole pages"
        )
    if size == 0 or vbase + size - 1 > U64 or offset + size > extent.size:
        raise HypervisorError(
            Error.ARGUMENT_SIZE, f"{extent} has {extent.size:#x} bytes: part {offset:#x}+{size:#x} at IPA {vbase:#x}"
        )


def _require_sparse(extent: MemExtent) -> None:
    if not extent.sparse:
        raise HypervisorError(Error.MEMEXTENT_TYPE, f"{extent} is basic: it can only be mapped whole")


def _check_sparse(extent: MemExtent, vbase: int, pa: int, size: int) -> None:
    if vbase + size - 1 > U64:
        raise HypervisorError(Error.ADDR_OVERFLOW, f"{extent}: {size:#x} bytes at IPA {vbase:#x} wrap")
    if (vbase + size - 1) >> SPARSE_IPA_BITS:
        raise HypervisorError(
            Error.ADDR_INVALID, f"{extent}: {size:#x} bytes at IPA {vbase:#x} go beyond {SPARSE_IPA_BITS} bits"
        )
    if (pa + size - 1) >> SPARSE_PA_BITS:
        raise HypervisorError(
            Error.ARGUMENT_SIZE, f"{extent}: physical {pa:#x}+{size:#x} goes beyond {SPARSE_PA_BITS} bits"
        )


def _not_mapped(extent: MemExtent, addrspace: Addrspace, vbase: int) -> HypervisorError:
    return HypervisorError(Error.ADDR_INVALID, f"{extent} is not mapped in {addrspace} at IPA {vbase:#x}")


# -- map ---------------------------------------------------------------------------------------------------------------


def map_extent(extent: MemExtent, addrspace: Addrspace, vbase: int, attributes: MappingAttributes) -> None:
    """Map all of an extent with its start at ``vbase``: the pages it owns now, and those it will own.

    ARGUMENT_ALIGNMENT, ARGUMENT_INVALID, DENIED, ADDR_OVERFLOW, ADDR_INVALID, MEMEXTENT_MAPPINGS_FULL, NOMEM.
    """
    _check_base(extent, vbase)
    extent.check_mapping(attributes)
    addrspace.require_writable()
    if extent.sparse:
        _map_sparse(extent, addrspace, vbase, extent.base, extent.size, attributes)
        return
    if vbase + extent.size - 1 > U64:
        raise HypervisorError(Error.ADDR_OVERFLOW, f"{extent}: {extent.size:#x} bytes at IPA {vbase:#x} wrap")
    slot = next((slot for slot in extent.slots if slot.addrspace is None), None)
    if slot is None:
        raise HypervisorError(Error.MEMEXTENT_MAPPINGS_FULL, f"{extent}: all mapping slots are in use")
    addrspace.tables.check_range(vbase, extent.size)
    slot.insert(addrspace, extent.base, extent.size, vbase, attributes)
    try:
        _install(extent, addrspace, vbase, extent.base, extent.size, attributes)
    except HypervisorError:
        slot.clear()
        raise


def map_partial(
    extent: MemExtent, addrspace: Addrspace, vbase: int, offset: int, size: int, attributes: MappingAttributes
) -> None:
    """Map ``size`` bytes at ``offset`` of a sparse extent at ``vbase``.

    ARGUMENT_ALIGNMENT, ARGUMENT_SIZE, ARGUMENT_INVALID, DENIED, MEMEXTENT_TYPE, ADDR_INVALID,
    MEMEXTENT_MAPPINGS_FULL, NOMEM.
    """
    _check_part(extent, vbase, offset, size)
    extent.check_mapping(attributes)
    addrspace.require_writable()
    _require_sparse(extent)
    _map_sparse(extent, addrspace, vbase, extent.base + offset, size, attributes)


def _map_sparse(
    extent: MemExtent, addrspace: Addrspace, vbase: int, pa: int, size: int, attributes: MappingAttributes
) -> None:
    _check_sparse(extent, vbase, pa, size)
    slot = extent.record(addrspace, pa, size, vbase, attributes)
    try:
        _install(extent, addrspace, vbase, pa, size, attributes)
    except HypervisorError:
        # What was inserted as one piece is taken out as one: this cannot need memory.
        slot.remove(pa, size)
        raise


def _install(
    extent: MemExtent, addrspace: Addrspace, vbase: int, pa: int, size: int, attributes: MappingAttributes
) -> None:
    with atomically({addrspace}):
        for at, count in extent.owned(pa, size):
            addrspace.map(vbase + at - pa, count, at, attributes)


# -- unmap -------------------------------------------------------------------------------------------------------------


def _slot_at(extent: MemExtent, addrspace: Addrspace, vbase: int, pa: int, size: int) -> Slot:
    for slot in extent.slots:
        if slot.addrspace is addrspace and slot.matches(pa, size, vbase):
            return slot
    raise _not_mapped(extent, addrspace, vbase)


def unmap(extent: MemExtent, addrspace: Addrspace, vbase: int) -> None:
    """Take back the mapping of the whole extent at ``vbase``.

    ARGUMENT_ALIGNMENT, DENIED, ADDR_INVALID (no such mapping), NOMEM.
    """
    _check_base(extent, vbase)
    addrspace.require_writable()
    if extent.sparse:
        _check_sparse(extent, vbase, extent.base, extent.size)
    _unmap(extent, addrspace, vbase, extent.base, extent.size)


def unmap_partial(extent: MemExtent, addrspace: Addrspace, vbase: int, offset: int, size: int) -> None:
    """Take back the mapping of ``size`` bytes at ``offset`` of a sparse extent, which must all be mapped at ``vbase``.

    ARGUMENT_ALIGNMENT, ARGUMENT_SIZE, DENIED, MEMEXTENT_TYPE, ADDR_INVALID, NOMEM.
    """
    _check_part(extent, vbase, offset, size)
    addrspace.require_writable()
    _require_sparse(extent)
    _check_sparse(extent, vbase, extent.base + offset, size)
    _unmap(extent, addrspace, vbase, extent.base + offset, size)


def _unmap(extent: MemExtent, addrspace: Addrspace, vbase: int, pa: int, size: int) -> None:
    slot = _slot_at(extent, addrspace, vbase, pa, size)
    with atomically({addrspace}):
        for at, count in extent.owned(pa, size):
            addrspace.unmap(vbase + at - pa, count, at)
        slot.remove(pa, size)


def unmap_all(extent: MemExtent) -> None:
    """Take back every mapping of the extent, in all address spaces; NOMEM."""
    extent.move_mappings(extent, None, tuple(extent.owned()))
    for slot in extent.slots:
        slot.clear()


# -- update ------------------------------------------------------------------------------------------------------------


def update(extent: MemExtent, addrspace: Addrspace, vbase: int, user: int, kernel: int) -> None:
    """Change the access of the mapping of the whole extent at ``vbase``, keeping memory types.

    ARGUMENT_INVALID, ARGUMENT_ALIGNMENT, DENIED, ADDR_INVALID (no such mapping), NOMEM.
    """
    extent.check_access(user, kernel)
    _check_base(extent, vbase)
    addrspace.require_writable()
    if extent.sparse:
        _check_sparse(extent, vbase, extent.base, extent.size)
    _update(extent, addrspace, vbase, extent.base, extent.size, user, kernel)


def update_partial(
    extent: MemExtent, addrspace: Addrspace, vbase: int, offset: int, size: int, user: int, kernel: int
) -> None:
    """As `update`, for ``size`` bytes at ``offset`` of a sparse extent.

    ARGUMENT_INVALID, ARGUMENT_ALIGNMENT, ARGUMENT_SIZE, DENIED, MEMEXTENT_TYPE, ADDR_INVALID, NOMEM.
    """
    extent.check_access(user, kernel)
    _check_part(extent, vbase, offset, size)
    addrspace.require_writable()
    _require_sparse(extent)
    _check_sparse(extent, vbase, extent.base + offset, size)
    _update(extent, addrspace, vbase, extent.base + offset, size, user, kernel)


def _update(extent: MemExtent, addrspace: Addrspace, vbase: int, pa: int, size: int, user: int, kernel: int) -> None:
    slot = _slot_at(extent, addrspace, vbase, pa, size)
    with atomically({addrspace}):
        for at, count in extent.owned(pa, size):
            end = at + count
            while at < end:
                piece, length = slot.find(at, end - at)
                assert piece is not None
                attributes = piece.attributes._replace(user=user, kernel=kernel)
                addrspace.map(at + piece.delta, length, at, attributes)
                at += length
        slot.update(pa, size, user, kernel)


# -- contents ----------------------------------------------------------------------------------------------------------


def clean_range(extent: MemExtent, offset: int, size: int, *, zero: bool) -> None:
    """Zero, or only clean the caches of, the pages that the extent owns in ``size`` bytes at ``offset``.

    DENIED: a device, or not writable. ARGUMENT_ALIGNMENT. ARGUMENT_INVALID: outside. ARGUMENT_SIZE: 0 bytes or wraps.
    Caches are not modelled, so cleaning alone changes nothing that a guest could see.
    """
    if extent.memtype == MemextentMemtype.DEVICE or not extent.access & Access.W:
        raise HypervisorError(Error.DENIED, f"{extent} is a device or not writable: its contents are left alone")
    if (offset | size) & PAGE_MASK:
        raise HypervisorError(Error.ARGUMENT_ALIGNMENT, f"{extent}: {offset:#x}+{size:#x} is not whole pages")
    pa = extent.base + offset
    if pa > U64:
        raise HypervisorError(Error.ARGUMENT_INVALID, f"{extent}: offset {offset:#x} wraps")
    if size == 0 or pa + size - 1 > U64:
        raise HypervisorError(Error.ARGUMENT_SIZE, f"{extent}: {size:#x} bytes at offset {offset:#x} are none or wrap")
    if offset + size > extent.size:
        raise HypervisorError(
            Error.ARGUMENT_INVALID, f"{extent} has {extent.size:#x} bytes: {offset:#x}+{size:#x} is not inside"
        )
    if not zero:
        return
    ram = extent.system.ram
    for at, count in extent.owned(pa, size):
        for base, length in ram.regions:
            start, end = max(at, base), min(at + count, base + length)
            if start < end:
                ram.fill(start, end - start)
