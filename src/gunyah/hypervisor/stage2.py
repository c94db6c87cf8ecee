"""Stage-2 translation tables: VMSAv8-64 tables in the machine's own memory, which the CPU engine walks by itself.

4 KiB granule; pages at level 3, blocks of 2 MiB and 1 GiB where IPA, PA and size allow; the start level has up to 16
concatenated tables so that the walk is as short as the architecture permits (objects.md 4, errors-and-types.md 6). A
valid descriptor is never changed into another valid one: it is broken, the TLBs are told, then the new one is made.

What is mapped but is not RAM stands in the tables with the valid bit clear, which makes the CPU ignore the rest of the
descriptor: the access traps, and the hypervisor, whose walk does see the mapping, lets the emulated board answer it.

Changes happen in transactions that end whole or not at all, whatever runs out in the middle.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from functools import lru_cache
from sys import byteorder
from typing import NamedTuple

from gunyah.abi.errors import Error
from gunyah.abi.memory import IPA_BITS, Access, MappingAttributes
from gunyah.abi.types import PAGE_SIZE
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.heap import Heap

__all__ = ["Leaf", "Stage2", "Stage2Fault", "TlbListener", "decode_attributes", "encode_attributes"]

TlbListener = Callable[[int, int], None]
"""Called with IPA and size in bytes: cached translations of that range must go (TLBI IPAS2E1 and what follows it)."""

PAGE_SHIFT = 12
STRIDE = 9
LAST_LEVEL = 3
ENTRIES = 1 << STRIDE
MAX_CONCATENATED = 16
MAX_IPA_BITS = 48

VALID = 1
TABLE = 3
BLOCK = 1
PAGE = 3
_TYPE = 3
_ADDRESS = 0x0000_FFFF_FFFF_F000
_ATTRIBUTES = ~(_ADDRESS | _TYPE) & 0xFFFF_FFFF_FFFF_FFFF

_MEMATTR_SHIFT = 2
_S2AP_READ = 1 << 6
_S2AP_WRITE = 1 << 7
_INNER_SHAREABLE = 3 << 8
_ACCESS_FLAG = 1 << 10
# XN[1:0] is 0b00 both, 0b01 EL0 only, 0b10 none, 0b11 EL1 only. With equal user and kernel rights bit 53 is 0, so the
# descriptor means the same on a CPU without FEAT_XNX, where only bit 54 exists.
_XN0 = 1 << 53
_XN1 = 1 << 54

# In a bit that the architecture leaves to software, so that no present descriptor is 0.
_DEVICE = 1 << 55
_BLOCK = PAGE_SIZE << STRIDE
"""Bytes that a last-level table translates."""

_VTCR_RES1 = 1 << 31
_VTCR_INNER_WRITE_BACK = 1 << 8
_VTCR_OUTER_WRITE_BACK = 1 << 10
_VTCR_INNER_SHAREABLE = 3 << 12
_PHYSICAL_SIZES = {32: 0, 36: 1, 40: 2, 42: 3, 44: 4, 48: 5}
_VMID_SHIFT = 48

_RW = int(Access.RW)
_R, _W, _X = int(Access.R), int(Access.W), int(Access.X)


@lru_cache(maxsize=256)
def encode_attributes(attributes: MappingAttributes) -> int:
    """Attribute bits of a stage-2 block or page descriptor; read and write follow the kernel access."""
    user, kernel, memtype = attributes
    bits = memtype << _MEMATTR_SHIFT | _INNER_SHAREABLE | _ACCESS_FLAG
    if kernel & _R:
        bits |= _S2AP_READ
    if kernel & _W:
        bits |= _S2AP_WRITE
    if not user & _X:
        bits |= _XN1
    if (user ^ kernel) & _X:
        bits |= _XN0 | _XN1 if kernel & _X else _XN0
    return bits


def decode_attributes(descriptor: int) -> MappingAttributes:
    """Access and memory type of a stage-2 block or page descriptor."""
    access = (_R if descriptor & _S2AP_READ else 0) | (_W if descriptor & _S2AP_WRITE else 0)
    same = not descriptor & _XN0
    none = bool(descriptor & _XN1)
    user = access | (_X if not none else 0)
    kernel = access | (_X if none != same else 0)
    return MappingAttributes(user, kernel, descriptor >> _MEMATTR_SHIFT & 0xF)


class Leaf(NamedTuple):
    """A block or page: IPA and PA of its start, bytes, what it permits, and the level it stands at."""

    ipa: int
    pa: int
    size: int
    attributes: MappingAttributes
    level: int


class Stage2Fault(Exception):
    """An access that stage 2 does not let through to RAM.

    ``kind`` is "translation" (nothing mapped), "permission", or "device" (mapped, but ``pa`` is not RAM); ``ipa`` is
    the address that faulted, ``level`` where the walk ended, ``access`` what was wanted.
    """

    def __init__(self, kind: str, ipa: int, level: int, access: int, pa: int = 0) -> None:
        super().__init__(kind, ipa, level, access, pa)
        self.kind = kind
        self.ipa = ipa
        self.level = level
        self.access = access
        self.pa = pa

    def __str__(self) -> str:
        wanted = "".join(letter for letter, bit in (("r", _R), ("w", _W), ("x", _X)) if self.access & bit)
        where = f"{wanted} access to IPA {self.ipa:#x}"
        if self.kind == "device":
            return f"{where}: PA {self.pa:#x} is a device, not RAM"
        return f"{where}: stage-2 {self.kind} fault at level {self.level}"


def _start(ipa_bits: int) -> tuple[int, int]:
    """Start level and number of its entries: the fewest levels with at most 16 concatenated tables."""
    for level in (2, 1, 0):
        bits = ipa_bits - _shift(level)
        if 1 <= bits <= STRIDE + MAX_CONCATENATED.bit_length() - 1 and ipa_bits <= MAX_IPA_BITS:
            return level, 1 << bits
    raise ValueError(f"stage 2 cannot translate {ipa_bits}-bit addresses with a 4 KiB granule")


def _kind(level: int, device: int) -> int:
    """Type bits of a leaf at ``level``: page or block, without the valid bit for a device."""
    kind = PAGE if level == LAST_LEVEL else BLOCK
    return kind & ~VALID if device else kind


def _shift(level: int) -> int:
    return PAGE_SHIFT + STRIDE * (LAST_LEVEL - level)


class Stage2:
    """The tables of one address space. IPA and PA in bytes; ranges are page aligned, which is the caller's to check."""

    def __init__(self, heap: Heap, vmid: int, ipa_bits: int = IPA_BITS) -> None:
        """Allocate the start-level tables; raises NOMEM."""
        self.heap = heap
        self.vmid = vmid
        self.ipa_bits = ipa_bits
        self.start_level, self._root_entries = _start(ipa_bits)
        self._root_pages = max(1, self._root_entries * 8 // PAGE_SIZE)
        self.listeners: list[TlbListener] = []
        """Told before a broken descriptor is replaced: TLBs may hold the old translation."""
        self.made_listeners: list[TlbListener] = []
        """Told when a change is complete that put translations where there were none: no TLB holds anything."""
        self._views: dict[int, memoryview[int]] = {}
        self._valid: dict[int, int] = {}
        self._marks: list[tuple[int, int, int]] = []
        self._undo: list[tuple[int, int, bytes, int]] = []
        self._made: list[int] = []
        self._dropped: list[int] = []
        # IPA range of what has been made where nothing was, in the open transaction.
        self._fresh = (1 << ipa_bits, 0)
        self._decoded: dict[int, MappingAttributes] = {}
        # What a last-level table translates (IPA over its span) -> the table, for those that were used lately.
        self._pages: dict[int, int] = {}
        self.root = heap.allocate(self._root_pages)
        self._open(self.root, self._root_pages)

    # -- registers -----------------------------------------------------------------------------------------------------

    @property
    def vttbr(self) -> int:
        """VTTBR_EL2: root table and VMID."""
        return self.vmid << _VMID_SHIFT | self.root

    @property
    def vtcr(self) -> int:
        """VTCR_EL2: 4 KiB granule, write-back inner-shareable walks, 8-bit VMIDs, output size at least 36 bits."""
        output = next(code for bits, code in _PHYSICAL_SIZES.items() if bits >= self.ipa_bits)
        start = (2 - self.start_level) << 6
        walks = _VTCR_INNER_WRITE_BACK | _VTCR_OUTER_WRITE_BACK | _VTCR_INNER_SHAREABLE
        return _VTCR_RES1 | output << 16 | walks | start | 64 - self.ipa_bits

    @property
    def table_pages(self) -> int:
        """Pages of memory that the tables take."""
        return len(self._views) - 1 + self._root_pages

    # -- transactions --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open a transaction, or one inside the one that is open."""
        self._marks.append((len(self._undo), len(self._made), len(self._dropped)))

    def commit(self) -> None:
        """Keep the changes since the last `begin`; at the outermost one, tables no longer used return to the heap."""
        self._marks.pop()
        if not self._marks:
            self._undo.clear()
            self._made.clear()
            for table in self._dropped:
                self._close(table)
            self._dropped.clear()
            start, end = self._fresh
            if start < end:
                self._fresh = (1 << self.ipa_bits, 0)
                for listener in self.made_listeners:
                    listener(start, end - start)

    def abort(self) -> None:
        """Put the tables back as they were at the last `begin`."""
        undo, made, dropped = self._marks.pop()
        if len(self._undo) == undo and len(self._made) == made:
            return
        while len(self._undo) > undo:
            table, index, old, valid = self._undo.pop()
            content = array("Q", old)
            self._views[table][index : index + len(content)] = memoryview(content)
            self._valid[table] = valid
        del self._dropped[dropped:]
        while len(self._made) > made:
            self._close(self._made.pop())
        if not self._marks:
            self._fresh = (1 << self.ipa_bits, 0)
        self._invalidate(0, 1 << self.ipa_bits)

    def _invalidate(self, ipa: int, size: int) -> None:
        for listener in self.listeners:
            listener(ipa, size)

    # -- tables --------------------------------------------------------------------------------------------------------

    def _open(self, table: int, pages: int = 1) -> None:
        self._views[table] = self.heap.ram.view(table, pages * PAGE_SIZE).cast("Q")
        self._valid[table] = 0

    def _close(self, table: int) -> None:
        self._pages.clear()
        del self._views[table]
        del self._valid[table]
        self.heap.free(table, self._root_pages if table == self.root else 1)

    def _make_table(self, reserve: bool) -> int:
        table = self.heap.allocate(reserve=reserve)
        self._open(table)
        self._made.append(table)
        return table

    def _drop_tree(self, descriptor: int, level: int) -> None:
        """Give up the table that a descriptor of ``level`` points to, and all below it."""
        self._pages.clear()
        table = descriptor & _ADDRESS
        if level + 1 < LAST_LEVEL and self._valid[table]:
            for entry in self._views[table]:
                if entry & _TYPE == TABLE:
                    self._drop_tree(entry, level + 1)
        self._dropped.append(table)

    def _write(self, table: int, level: int, index: int, new: array[int], ipa: int) -> None:
        """Put descriptors into a table, breaking what is valid first; ``ipa`` is what entry ``index`` translates."""
        view = self._views[table]
        count = len(new)
        old = view[index : index + count].tobytes()
        if old == new.tobytes():
            return
        before = array("Q", old)
        broken = count - before.count(0)
        self._undo.append((table, index, old, self._valid[table]))
        if broken:
            view[index : index + count] = memoryview(array("Q", bytes(8 * count)))
            self._invalidate(ipa, count << _shift(level))
            if level < LAST_LEVEL:
                for entry in before:
                    if entry & _TYPE == TABLE:
                        self._drop_tree(entry, level)
        elif level == LAST_LEVEL or new[0] & _TYPE != TABLE:
            start, end = self._fresh
            self._fresh = min(start, ipa), max(end, ipa + (count << _shift(level)))
        view[index : index + count] = memoryview(new)
        self._valid[table] += count - new.count(0) - broken

    def _write_one(self, table: int, level: int, index: int, descriptor: int, ipa: int) -> None:
        self._write(table, level, index, array("Q", (descriptor,)), ipa)

    def _write_page(self, table: int, index: int, descriptor: int, ipa: int) -> None:
        """`_write` for one entry of a last-level table."""
        view = self._views[table]
        old = view[index]
        if old == descriptor:
            return
        valid = self._valid[table]
        self._undo.append((table, index, old.to_bytes(8, byteorder), valid))
        if old:
            view[index] = 0
            self._invalidate(ipa, PAGE_SIZE)
            valid -= 1
        else:
            start, end = self._fresh
            self._fresh = min(start, ipa), max(end, ipa + PAGE_SIZE)
        if descriptor:
            view[index] = descriptor
            valid += 1
        self._valid[table] = valid

    def _page_table(self, ipa: int) -> int:
        """The last-level table that holds the entry of a page, or 0 if there is none."""
        table = self._pages.get(ipa >> PAGE_SHIFT + STRIDE)
        if table is None:
            table, level = self.root, self.start_level
            while level < LAST_LEVEL:
                mask = (self._root_entries if table == self.root else ENTRIES) - 1
                descriptor = self._views[table][ipa >> _shift(level) & mask]
                if descriptor & _TYPE != TABLE:
                    return 0
                table, level = descriptor & _ADDRESS, level + 1
            self._pages[ipa >> PAGE_SHIFT + STRIDE] = table
        return table

    def _table_below(self, table: int, level: int, index: int, ipa: int, reserve: bool) -> int:
        """The next-level table of an entry: the one that is there, an empty one, or a block's equivalent in small."""
        descriptor = self._views[table][index]
        if descriptor & _TYPE == TABLE:
            return descriptor & _ADDRESS
        below = self._make_table(reserve)
        if descriptor:
            step = 1 << _shift(level + 1)
            kind = _kind(level + 1, descriptor & _DEVICE)
            first = descriptor & (_ADDRESS | _ATTRIBUTES) | kind
            self._views[below][:] = memoryview(array("Q", range(first, first + ENTRIES * step, step)))
            self._valid[below] = ENTRIES
        self._write_one(table, level, index, below | TABLE, ipa >> _shift(level) << _shift(level))
        return below

    # -- map -----------------------------------------------------------------------------------------------------------

    def check_range(self, ipa: int, size: int) -> None:
        """Raise ADDR_INVALID if ``ipa`` is beyond the IPA space, ADDR_OVERFLOW if only the end is."""
        if ipa >> self.ipa_bits:
            raise HypervisorError(Error.ADDR_INVALID, f"IPA {ipa:#x} is beyond the {self.ipa_bits}-bit address space")
        if (ipa + size - 1) >> self.ipa_bits:
            raise HypervisorError(
                Error.ADDR_OVERFLOW, f"IPA range {ipa:#x}..{ipa + size:#x} leaves the {self.ipa_bits}-bit address space"
            )

    def map(self, ipa: int, size: int, pa: int, attributes: MappingAttributes, *, reserve: bool = False) -> None:
        """Translate [ipa, ipa + size) to [pa, ...), whatever stood there before.

        ADDR_INVALID, ADDR_OVERFLOW: the range is not in the IPA space. NOMEM: no page for a table; nothing has changed.
        ``reserve``: use the heap's reserve, for restoring what stood there before.
        """
        self.check_range(ipa, size)
        bits = encode_attributes(attributes)
        if size < _BLOCK and self._marks and not (ipa ^ ipa + size - 1) & -_BLOCK:
            table = self._page_table(ipa)
            if table and self.heap.ram.contains(pa, size):
                # Cannot fail, so the transaction around it is enough.
                first, index = pa | bits | PAGE, ipa >> PAGE_SHIFT & ENTRIES - 1
                if size == PAGE_SIZE:
                    self._write_page(table, index, first, ipa)
                else:
                    self._write(table, LAST_LEVEL, index, array("Q", range(first, first + size, PAGE_SIZE)), ipa)
                return
        self.begin()
        try:
            for base, count, device in self._by_kind(pa, size):
                start = ipa + base - pa
                self._map(self.root, self.start_level, start, start + count, base | bits | device, reserve)
        except BaseException:
            self.abort()
            raise
        self.commit()

    def _by_kind(self, pa: int, size: int) -> Iterator[tuple[int, int, int]]:
        """(PA, bytes, _DEVICE or 0) of the parts of a physical range, told apart by whether they are RAM."""
        end = pa + size
        for base, count in self.heap.ram.regions:
            if pa < min(base, end):
                yield pa, min(base, end) - pa, _DEVICE
                pa = min(base, end)
            if pa < min(base + count, end):
                yield pa, min(base + count, end) - pa, 0
                pa = min(base + count, end)
        if pa < end:
            yield pa, end - pa, _DEVICE

    def _map(self, table: int, level: int, ipa: int, end: int, output: int, reserve: bool) -> None:
        shift = _shift(level)
        mask = (self._root_entries if table == self.root else ENTRIES) - 1
        span = 1 << shift
        if level == LAST_LEVEL:
            first = output | _kind(level, output & _DEVICE)
            entries = array("Q", range(first, first + end - ipa, PAGE_SIZE))
            self._write(table, level, ipa >> shift & mask, entries, ipa)
            return
        while ipa < end:
            index = ipa >> shift & mask
            stop = min(end, (ipa >> shift) + 1 << shift)
            whole = stop - ipa == span and not (output & _ADDRESS) & (span - 1)
            if whole and level > 0:
                run = 1
                while ipa + (run + 1) * span <= end and index + run <= mask:
                    run += 1
                first = output | _kind(level, output & _DEVICE)
                self._write(table, level, index, array("Q", range(first, first + run * span, span)), ipa)
                stop = ipa + run * span
            else:
                below = self._table_below(table, level, index, ipa, reserve)
                self._map(below, level + 1, ipa, stop, output, reserve)
            output += stop - ipa
            ipa = stop

    # -- unmap ---------------------------------------------------------------------------------------------------------

    def unmap(self, ipa: int, size: int, pa: int | None = None, *, reserve: bool = False) -> None:
        """Remove translations of [ipa, ipa + size); with ``pa``, only entries whose output is ``pa`` onwards.

        The part of the range that lies beyond the IPA space has no entries. A block may have to be split: NOMEM, and
        nothing has changed. With ``reserve`` it cannot fail: a block that even the heap's reserve cannot split goes
        whole.
        """
        end = min(ipa + size, 1 << self.ipa_bits)
        if ipa >= end:
            return
        if size == PAGE_SIZE and self._marks:
            table = self._page_table(ipa)
            # The last entry of a table takes the table with it: that is for the way through all levels.
            if table and self._valid[table] > 1:
                index = ipa >> PAGE_SHIFT & ENTRIES - 1
                if pa is None or self._views[table][index] & _ADDRESS == pa:
                    self._write_page(table, index, 0, ipa)
                return
        self.begin()
        try:
            self._unmap(self.root, self.start_level, ipa, end, None if pa is None else pa - ipa, reserve)
        except BaseException:
            self.abort()
            raise
        self.commit()

    def _unmap(self, table: int, level: int, ipa: int, end: int, delta: int | None, reserve: bool) -> None:
        if level == LAST_LEVEL:
            self._unmap_pages(table, ipa, end, delta)
            return
        shift = _shift(level)
        mask = (self._root_entries if table == self.root else ENTRIES) - 1
        span = 1 << shift
        view = self._views[table]
        while ipa < end:
            index = ipa >> shift & mask
            start = ipa >> shift << shift
            stop = min(end, start + span)
            descriptor = view[index]
            if descriptor:
                whole = stop - ipa == span
                if descriptor & _TYPE == TABLE:
                    below = descriptor & _ADDRESS
                elif delta is not None and descriptor & _ADDRESS != start + delta:
                    ipa = stop
                    continue
                else:
                    below = 0 if whole else self._split(table, level, index, ipa, reserve)
                if not below or (whole and delta is None):
                    self._write_one(table, level, index, 0, start)
                else:
                    self._unmap(below, level + 1, ipa, stop, delta, reserve)
                    if not self._valid[below]:
                        self._write_one(table, level, index, 0, start)
            ipa = stop

    def _split(self, table: int, level: int, index: int, ipa: int, reserve: bool) -> int:
        """The table that a block becomes, or 0 if there is no page for it and the block has to go whole."""
        try:
            return self._table_below(table, level, index, ipa, reserve)
        except HypervisorError:
            if not reserve:
                raise
            return 0

    def _unmap_pages(self, table: int, ipa: int, end: int, delta: int | None) -> None:
        index = ipa >> PAGE_SHIFT & ENTRIES - 1
        count = end - ipa >> PAGE_SHIFT
        if delta is None:
            left = array("Q", bytes(8 * count))
        else:
            old = self._views[table][index : index + count].tolist()
            expected = range(ipa + delta, end + delta, PAGE_SIZE)
            left = array("Q", (0 if e & _ADDRESS == pa else e for e, pa in zip(old, expected, strict=True)))
        self._write(table, LAST_LEVEL, index, left, ipa)

    def destroy(self) -> None:
        """Take everything away and return the tables to the heap."""
        self.unmap(0, 1 << self.ipa_bits, reserve=True)
        self._close(self.root)

    # -- walk ----------------------------------------------------------------------------------------------------------

    def walk(self, ipa: int) -> tuple[int, int]:
        """(descriptor, level) of the translation of ``ipa``; the descriptor is 0 where the walk ends without one."""
        level = self.start_level
        if ipa >> self.ipa_bits:
            return 0, level
        descriptor = self._views[self.root][ipa >> _shift(level)]
        while descriptor & _TYPE == TABLE and level < LAST_LEVEL:
            level += 1
            descriptor = self._views[descriptor & _ADDRESS][ipa >> _shift(level) & ENTRIES - 1]
        return descriptor, level

    def lookup(self, ipa: int) -> Leaf | None:
        """The block or page that translates ``ipa``, or None."""
        descriptor, level = self.walk(ipa)
        return self._leaf(descriptor, level, ipa) if descriptor else None

    def end_of_run(self, leaf: Leaf) -> int:
        """IPA behind the last page of the leaf's table up to which pages go on as the leaf begins: contiguous, the same
        attributes, and RAM or no RAM as the leaf.
        """
        end = leaf.ipa + leaf.size
        if leaf.level != LAST_LEVEL:
            return end
        index = leaf.ipa >> PAGE_SHIFT & ENTRIES - 1
        found = self._views[self._page_table(leaf.ipa)][index:].tolist()
        expected = range(found[0], found[0] + PAGE_SIZE * len(found), PAGE_SIZE)
        if found == list(expected):
            return leaf.ipa + PAGE_SIZE * len(found)
        same = next(i for i, (have, want) in enumerate(zip(found, expected, strict=True)) if have != want)
        return leaf.ipa + PAGE_SIZE * same

    def _leaf(self, descriptor: int, level: int, ipa: int) -> Leaf:
        size = 1 << _shift(level)
        bits = descriptor & _ATTRIBUTES
        attributes = self._decoded.get(bits)
        if attributes is None:
            attributes = self._decoded[bits] = decode_attributes(bits)
        return Leaf(ipa & -size, descriptor & _ADDRESS, size, attributes, level)

    def leaves(self) -> Iterator[Leaf]:
        """Every block and page, ascending."""
        return self._leaves(self.root, self.start_level, 0)

    def _leaves(self, table: int, level: int, base: int) -> Iterator[Leaf]:
        for index, descriptor in enumerate(self._views[table]):
            ipa = base + (index << _shift(level))
            if descriptor & _TYPE == TABLE and level < LAST_LEVEL:
                yield from self._leaves(descriptor & _ADDRESS, level + 1, ipa)
            elif descriptor:
                yield self._leaf(descriptor, level, ipa)
