"""Address spaces: a VM's stage-2 tables, and everything else that stands at an IPA (objects.md 4, hypercalls.md 3.5).

The hypervisor reaches VM memory only through `translate`, `read` and `write`, which see exactly what the VM's own
stage 2 permits to its kernel.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, cast

from gunyah.abi.errors import Error
from gunyah.abi.memory import ADDRSPACE_VMMIO_RANGES_MAX, IPA_BITS, Access, MappingAttributes, MemextentType
from gunyah.abi.objects import ObjectType
from gunyah.abi.types import PAGE_SIZE, U64
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.memdb import OwnerKind
from gunyah.hypervisor.objects import KernelObject
from gunyah.hypervisor.stage2 import Leaf, Stage2, Stage2Fault, TlbListener
from gunyah.machine import board

if TYPE_CHECKING:
    from gunyah.hypervisor.memextent import MemExtent
    from gunyah.hypervisor.memextent_map import Slot
    from gunyah.hypervisor.partition import Partition
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.hypervisor.vdevice import VirtualDevice

__all__ = ["MAX_VMID", "Addrspace", "AttachedDevice", "atomically"]

MAX_VMID = 255
MAX_THREADS = board.MAX_CORES
INFO_AREA_MAX = PAGE_SIZE
# The reference keeps these ranges in tables that take 52 and 44 address bits.
VMMIO_BITS = 52
VDEVICE_BITS = 44
CACHE_LIMIT = 1 << 13

_PAGE_MASK = PAGE_SIZE - 1
_R, _W = int(Access.R), int(Access.W)


class AttachedDevice(NamedTuple):
    """A virtual device's register frame at an IPA (bytes)."""

    base: int
    size: int
    device: VirtualDevice


class Addrspace(KernelObject):
    """addrspace_t. ``vmid`` is 0 until configured; the tables exist while the object is ACTIVE."""

    type = ObjectType.ADDRSPACE
    heap_size = 1024

    def __init__(self, partition: Partition, ipa_bits: int = IPA_BITS) -> None:
        super().__init__(partition)
        self._partition = partition
        self._ram = partition.system.ram
        self.ipa_bits = ipa_bits
        self.vmid = 0
        self.read_only = False
        self.threads: set[Vcpu] = set()
        self.change_listeners: list[TlbListener] = []
        """Told of every IPA range (bytes) where something else stands now: translations, devices. Cores drop what they
        have cached."""
        self.slots: set[Slot] = set()
        """Mapping slots of extents that map into this address space."""
        self.info_extent: MemExtent | None = None
        self.info_ipa = 0
        self.vrtc: tuple[int, VirtualDevice] | None = None
        """IPA and device of the virtual RTC page."""
        self._tables: Stage2 | None = None
        # IPA page number -> (PA of the page, kernel access); RAM only.
        self._cache: dict[int, tuple[int, int]] = {}
        self._vmmio: list[tuple[int, int]] = []
        self._devices: list[AttachedDevice] = []

    # -- configuration -------------------------------------------------------------------------------------------------

    def configure(self, vmid: int) -> None:
        """Set the VMID (16 bits): ARGUMENT_INVALID unless 1..255. Whether it is free shows at activation."""
        if not 1 <= vmid <= MAX_VMID:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"VMID {vmid}: must be 1..{MAX_VMID}")
        self.vmid = vmid

    def configure_info_area(self, extent: MemExtent, ipa: int) -> None:
        """Choose the extent of the VM's information page and its IPA.

        ARGUMENT_INVALID: not a basic, writable extent of any memory type and at most 4 KiB. ADDR_INVALID: bad IPA.
        """
        if extent.size > INFO_AREA_MAX:
            raise HypervisorError(
                Error.ARGUMENT_INVALID, f"{extent}: {extent.size} bytes are too many for an information page"
            )
        if ipa & _PAGE_MASK or ipa + extent.size > 1 << self.ipa_bits:
            raise HypervisorError(Error.ADDR_INVALID, f"{self}: information page at IPA {ipa:#x}")
        if extent.kind != MemextentType.BASIC or extent.access & Access.RW != Access.RW or extent.memtype != 0:
            raise HypervisorError(
                Error.ARGUMENT_INVALID, f"{extent}: an information page must be basic, readable, writable, of any type"
            )
        extent.get()
        if self.info_extent is not None:
            self.info_extent.put()
        self.info_extent = extent
        self.info_ipa = ipa

    def _activate(self) -> None:
        users = self._partition.system.vmids
        if self.vmid == 0 or self.vmid in users:
            holder = users.get(self.vmid, "the hypervisor")
            raise HypervisorError(Error.BUSY, f"{self}: VMID {self.vmid} belongs to {holder}")
        tables = Stage2(self._partition.heap, self.vmid, self.ipa_bits)
        extent = self.info_extent
        if extent is not None:
            try:
                tables.check_range(self.info_ipa, extent.size)
                extent.attach(self._partition, extent.size)
            except HypervisorError:
                tables.destroy()
                raise
            self._ram.fill(extent.base, extent.size)
        tables.listeners.append(self._changed)
        tables.made_listeners.append(self._changed)
        self._tables = tables
        users[self.vmid] = self

    def _deactivate(self) -> None:
        if self.info_extent is not None:
            self.info_extent.detach()
        for slot in list(self.slots):
            slot.clear()
        self._cache.clear()
        assert self._tables is not None
        self._tables.destroy()
        self._tables = None
        self._changed(0, 1 << self.ipa_bits)
        del self._partition.system.vmids[self.vmid]

    def _cleanup(self) -> None:
        if self.info_extent is not None:
            self.info_extent.put()
            self.info_extent = None

    # -- threads -------------------------------------------------------------------------------------------------------

    def attach_thread(self, vcpu: Vcpu) -> None:
        """Give ``vcpu`` this address space for its life, replacing an earlier one; NOMEM when 8 have it already."""
        if len(self.threads) >= MAX_THREADS:
            raise HypervisorError(Error.NOMEM, f"{self}: {MAX_THREADS} vCPUs are attached already")
        self.get()
        if vcpu.addrspace is not None:
            vcpu.addrspace.detach_thread(vcpu)
        self.threads.add(vcpu)
        vcpu.addrspace = self

    def detach_thread(self, vcpu: Vcpu) -> None:
        """Undo ``attach_thread``: the vCPU has no address space then, and its reference is gone."""
        if vcpu in self.threads:
            self.threads.discard(vcpu)
            vcpu.addrspace = None
            self.put()

    # -- tables --------------------------------------------------------------------------------------------------------

    @property
    def tables(self) -> Stage2:
        """The stage-2 tables; OBJECT_STATE unless the address space is ACTIVE."""
        if self._tables is None:
            raise HypervisorError(Error.OBJECT_STATE, f"{self} has no stage-2 tables: it is not active")
        return self._tables

    @property
    def vttbr(self) -> int:
        """VTTBR_EL2 for a CPU that runs this VM."""
        return self.tables.vttbr

    @property
    def vtcr(self) -> int:
        """VTCR_EL2 for a CPU that runs this VM."""
        return self.tables.vtcr

    def _changed(self, ipa: int, size: int) -> None:
        self._cache.clear()
        for listener in self.change_listeners:
            listener(ipa, size)

    def require_writable(self) -> None:
        """Raise DENIED for a read-only address space."""
        if self.read_only:
            raise HypervisorError(Error.DENIED, f"{self} is read-only")

    def map(self, ipa: int, size: int, pa: int, attributes: MappingAttributes) -> None:
        """Translate [ipa, ipa + size) to [pa, ...). DENIED, ADDR_INVALID, ADDR_OVERFLOW, NOMEM: nothing changed."""
        self.require_writable()
        self.tables.map(ipa, size, pa, attributes)

    def unmap(self, ipa: int, size: int, pa: int) -> None:
        """Remove those translations of [ipa, ipa + size) that lead to [pa, ...). DENIED."""
        self.require_writable()
        self.tables.unmap(ipa, size, pa)

    def lookup(self, ipa: int, size: int) -> tuple[int, int, MappingAttributes]:
        """PA, bytes and attributes of the longest start of [ipa, ipa + size) that is contiguous and uniform.

        ARGUMENT_SIZE: size 0. ADDR_OVERFLOW: wraps. ARGUMENT_ALIGNMENT: not pages. ADDR_INVALID: nothing at ``ipa``.
        """
        if size == 0:
            raise HypervisorError(Error.ARGUMENT_SIZE, f"{self}: look-up of 0 bytes at IPA {ipa:#x}")
        if ipa + size - 1 > U64:
            raise HypervisorError(Error.ADDR_OVERFLOW, f"{self}: look-up of {size:#x} bytes at IPA {ipa:#x} wraps")
        if (ipa | size) & _PAGE_MASK:
            raise HypervisorError(
                Error.ARGUMENT_ALIGNMENT, f"{self}: look-up of {size:#x} bytes at IPA {ipa:#x} is not of whole pages"
            )
        tables = self.tables
        first: Leaf | None = None
        at, end, pa = ipa, ipa + size, 0
        while at < end:
            leaf = tables.lookup(at)
            if leaf is None:
                break
            here = leaf.pa + at - leaf.ipa
            if first is None:
                first, pa = leaf, here
            elif here != pa + at - ipa or leaf.attributes != first.attributes:
                break
            at = min(end, tables.end_of_run(leaf))
        if first is None:
            raise HypervisorError(Error.ADDR_INVALID, f"{self}: nothing is mapped at IPA {ipa:#x}")
        return pa, at - ipa, first.attributes

    # -- access to VM memory -------------------------------------------------------------------------------------------

    def translate(self, ipa: int, access: int) -> int:
        """PA of ``ipa`` for the VM's kernel with ``access`` (Access bits), maybe a device's; raises Stage2Fault."""
        entry = self._cache.get(ipa >> 12)
        if entry is not None and entry[1] & access == access:
            return entry[0] | ipa & _PAGE_MASK
        return self._walk(ipa, access)

    def _walk(self, ipa: int, access: int) -> int:
        if self._tables is None:
            raise Stage2Fault("translation", ipa, 0, access)
        leaf = self._tables.lookup(ipa)
        if leaf is None:
            raise Stage2Fault("translation", ipa, self._tables.walk(ipa)[1], access)
        kernel = leaf.attributes.kernel
        if kernel & access != access:
            raise Stage2Fault("permission", ipa, leaf.level, access)
        page = leaf.pa + (ipa - leaf.ipa & ~_PAGE_MASK)
        if self._ram.contains(page, PAGE_SIZE):
            if len(self._cache) >= CACHE_LIMIT:
                self._cache.clear()
            self._cache[ipa >> 12] = (page, kernel)
        return page | ipa & _PAGE_MASK

    def fault_at(self, ipa: int, access: int) -> Stage2Fault | None:
        """Why an access of the VM's kernel at ``ipa`` does not reach RAM, or None if it does."""
        try:
            self._ram_page(ipa, access)
        except Stage2Fault as fault:
            return fault
        return None

    def _ram_page(self, ipa: int, access: int) -> int:
        """PA of ``ipa`` if it is RAM; raises Stage2Fault, kind "device" for what is mapped but not RAM."""
        entry = self._cache.get(ipa >> 12)
        if entry is not None and entry[1] & access == access:
            return entry[0] | ipa & _PAGE_MASK
        pa = self._walk(ipa, access)
        if ipa >> 12 not in self._cache:
            raise Stage2Fault("device", ipa, self.tables.walk(ipa)[1], access, pa)
        return pa

    def _pieces(self, ipa: int, size: int, access: int) -> list[tuple[int, int]]:
        """(PA, bytes) of each page's part of [ipa, ipa + size); raises Stage2Fault for the first page that faults."""
        pieces = []
        end = ipa + size
        while ipa < end:
            count = min(end - ipa, PAGE_SIZE - (ipa & _PAGE_MASK))
            pieces.append((self._ram_page(ipa, access), count))
            ipa += count
        return pieces

    def read(self, ipa: int, size: int) -> bytes:
        """Copy bytes out of the VM's memory; raises Stage2Fault."""
        if (ipa & _PAGE_MASK) + size <= PAGE_SIZE:
            return self._ram.read(self._ram_page(ipa, _R), size)
        return b"".join(self._ram.read(pa, count) for pa, count in self._pieces(ipa, size, _R))

    def write(self, ipa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes into the VM's memory, all or nothing; raises Stage2Fault."""
        size = len(data)
        if (ipa & _PAGE_MASK) + size <= PAGE_SIZE:
            self._ram.write(self._ram_page(ipa, _W), data)
            return
        offset = 0
        for pa, count in self._pieces(ipa, size, _W):
            self._ram.write(pa, data[offset : offset + count])
            offset += count

    # -- VMMIO ranges --------------------------------------------------------------------------------------------------

    def _check_vmmio(self, base: int, size: int) -> None:
        if size == 0:
            raise HypervisorError(Error.ARGUMENT_SIZE, f"{self}: VMMIO range of 0 bytes at IPA {base:#x}")
        if base + size > U64:
            raise HypervisorError(Error.ADDR_OVERFLOW, f"{self}: VMMIO range {base:#x}+{size:#x} wraps")

    def add_vmmio_range(self, base: int, size: int) -> None:
        """Let faults in [base, base + size) go to the proxy scheduler of the vCPU.

        ARGUMENT_SIZE: 0 bytes or beyond 52 bits. ADDR_OVERFLOW: wraps. NORESOURCES: 128 ranges exist. BUSY: overlaps.
        """
        self._check_vmmio(base, size)
        if len(self._vmmio) >= ADDRSPACE_VMMIO_RANGES_MAX:
            raise HypervisorError(Error.NORESOURCES, f"{self}: {len(self._vmmio)} VMMIO ranges exist already")
        if (base + size - 1) >> VMMIO_BITS:
            raise HypervisorError(Error.ARGUMENT_SIZE, f"{self}: VMMIO range {base:#x}+{size:#x} is beyond 52 bits")
        i = bisect_right(self._vmmio, (base, U64))
        if (i and sum(self._vmmio[i - 1]) > base) or (i < len(self._vmmio) and self._vmmio[i][0] < base + size):
            raise HypervisorError(Error.BUSY, f"{self}: VMMIO range {base:#x}+{size:#x} overlaps another")
        self._vmmio.insert(i, (base, size))

    def remove_vmmio_range(self, base: int, size: int) -> None:
        """Always refuses: ARGUMENT_SIZE, ADDR_OVERFLOW, else BUSY.

        Recorded (root/mem): the reference compares the range it is given with the stored ones and never finds them
        equal, so a declared range stays for the life of the address space.
        """
        self._check_vmmio(base, size)
        if (base + size - 1) >> VMMIO_BITS:
            raise HypervisorError(Error.ARGUMENT_SIZE, f"{self}: VMMIO range {base:#x}+{size:#x} is beyond 52 bits")
        raise HypervisorError(Error.BUSY, f"{self}: VMMIO range {base:#x}+{size:#x} cannot be withdrawn")

    def vmmio_range_at(self, ipa: int, size: int) -> bool:
        """True if the access of ``size`` bytes lies wholly in one declared range."""
        i = bisect_right(self._vmmio, (ipa, U64)) - 1
        return i >= 0 and ipa + size <= sum(self._vmmio[i])

    @property
    def vmmio_ranges(self) -> tuple[tuple[int, int], ...]:
        """Declared (IPA, bytes), ascending."""
        return tuple(self._vmmio)

    # -- virtual devices -----------------------------------------------------------------------------------------------

    def attach_vdevice(self, device: VirtualDevice, base: int, size: int) -> AttachedDevice:
        """Put a device's frame at [base, base + size) and take a reference for it.

        ARGUMENT_INVALID: 0 bytes or wraps. ARGUMENT_SIZE: beyond 44 bits. BUSY: another frame is in the way.
        """
        if size == 0 or base + size - 1 > U64:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: device frame {base:#x}+{size:#x}")
        if (base + size - 1) >> VDEVICE_BITS:
            raise HypervisorError(Error.ARGUMENT_SIZE, f"{self}: device frame {base:#x}+{size:#x} is beyond 44 bits")
        for other in self._devices:
            if other.base < base + size and base < other.base + other.size:
                raise HypervisorError(
                    Error.BUSY, f"{self}: device frame {base:#x}+{size:#x} overlaps {other.base:#x}+{other.size:#x}"
                )
        attached = AttachedDevice(base, size, device)
        insort(self._devices, attached, key=lambda frame: frame.base)
        self.get()
        self._changed(base, size)
        return attached

    def detach_vdevice(self, attached: AttachedDevice) -> None:
        """Take a frame away again, and its reference."""
        if attached in self._devices:
            self._devices.remove(attached)
            self._changed(attached.base, attached.size)
            self.put()

    @property
    def devices(self) -> tuple[AttachedDevice, ...]:
        """Attached frames, ascending."""
        return tuple(self._devices)

    def device_at(self, ipa: int, vcpu: Vcpu) -> tuple[VirtualDevice, int] | None:
        """The virtual device that answers ``vcpu``'s faulting access at ``ipa``, and the offset in its frame.

        A mapped page belongs to the device of its extent; elsewhere the attached frames come first, then the default
        GIC window of the vCPU's VIC, then the vRTC page (objects.md 4.1).
        """
        leaf = self._tables.lookup(ipa) if self._tables is not None else None
        if leaf is not None:
            pa = leaf.pa + ipa - leaf.ipa
            owner = self._partition.system.database.owner_at(pa)
            if owner.kind is OwnerKind.EXTENT:
                extent = cast("MemExtent", owner.holder)
                if extent.vdevice is not None:
                    return extent.vdevice, pa - extent.base
            return None
        for frame in self._devices:
            if frame.base <= ipa < frame.base + frame.size:
                return frame.device, ipa - frame.base
        if vcpu.vic is not None:
            found = vcpu.vic.default_device_at(ipa)
            if found is not None:
                return found
        if self.vrtc is not None and self.vrtc[0] <= ipa < self.vrtc[0] + PAGE_SIZE:
            return self.vrtc[1], ipa - self.vrtc[0]
        return None


class atomically:
    """Change several address spaces' tables whole or not at all: a context manager."""

    __slots__ = ("_tables",)

    def __init__(self, spaces: Iterable[Addrspace]) -> None:
        self._tables = [space.tables for space in spaces]

    def __enter__(self) -> None:
        for each in self._tables:
            each.begin()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for each in self._tables:
            if kind is None:
                each.commit()
            else:
                each.abort()
