"""Where a debugger wants VMs to stop: BRK instructions in memory, breakpoint registers, watched memory.

Software breakpoints are BRK instructions written into the VM's memory at the physical address that the virtual one
leads to when the breakpoint is set. What was there is kept, put back when the last VM that has a breakpoint there
gives it up, and shown to whoever reads memory through the debugger. If somebody has written over the BRK meanwhile,
that stays. Breakpoint registers hold virtual addresses, so they work before memory is mapped. Watchpoints are kept
with the physical memory that they had when they were set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gunyah.machine.engine.debug import BREAKPOINTS, Hit, Range

if TYPE_CHECKING:
    from gunyah.machine.memory import PhysicalMemory

__all__ = ["BRK", "Breakpoints", "NoMore", "Watch"]

BRK: Final = (0xD420_0000 | 0x6762 << 5).to_bytes(4, "little")
"""BRK #0x6762: what a software breakpoint looks like to the guest."""
WATCHES: Final = 16
"""Watchpoints of all VMs together; each costs on every access while it is set."""


class NoMore(Exception):
    """There are not as many of these; the sentence says how many there are."""


@dataclass(slots=True)
class _Patch:
    """One BRK in memory: what it replaced, and whose it is, as (VMID, virtual address)."""

    original: bytes
    sites: set[tuple[int, int]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Watch:
    """One watchpoint: virtual address and bytes, what it watches for, and where that is physically."""

    vmid: int
    address: int
    size: int
    read: bool
    write: bool
    pieces: tuple[tuple[int, int], ...]

    @property
    def ranges(self) -> Iterator[Range]:
        """Physical memory."""
        return (Range(pa, count, self.read, self.write) for pa, count in self.pieces)

    def address_of(self, hit: Hit) -> int | None:
        """Virtual address of the first watched byte that an access touches, None if it touches none."""
        if not (self.write if hit.write else self.read):
            return None
        offset = 0
        for pa, count in self.pieces:
            if hit.address < pa + count and hit.address + hit.size > pa:
                return self.address + offset + max(0, hit.address - pa)
            offset += count
        return None


class Breakpoints:
    """All of them, of all VMs."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._patches: dict[int, _Patch] = {}
        self._places: dict[tuple[int, int], int] = {}
        self._hardware: dict[int, list[int]] = {}
        self.watches: list[Watch] = []

    # -- software ------------------------------------------------------------------------------------------------------

    def insert(self, vmid: int, address: int, pa: int) -> None:
        """Put a BRK at ``pa``, which is the VM's virtual ``address``; harmless when it is there."""
        site = vmid, address
        if self._places.get(site, pa) != pa:
            self.remove(vmid, address)
        patch = self._patches.get(pa)
        if patch is None:
            patch = self._patches[pa] = _Patch(self._memory.read(pa, 4))
            self._memory.write(pa, BRK)
        elif self._memory.read(pa, 4) != BRK:
            patch.original = self._memory.read(pa, 4)
            self._memory.write(pa, BRK)
        patch.sites.add(site)
        self._places[site] = pa

    def remove(self, vmid: int, address: int) -> None:
        """Take a BRK away again; harmless when there is none."""
        pa = self._places.pop((vmid, address), None)
        if pa is None:
            return
        patch = self._patches[pa]
        patch.sites.discard((vmid, address))
        if not patch.sites:
            del self._patches[pa]
            if self._memory.read(pa, 4) == BRK:
                self._memory.write(pa, patch.original)

    def patched(self, pa: int) -> bool:
        """Whether a BRK of ours is at ``pa`` still."""
        return pa in self._patches and self._memory.read(pa, 4) == BRK

    def belongs_to(self, pa: int, vmid: int) -> bool:
        """Whether the BRK at ``pa`` is a breakpoint of this VM, and not of one that it shares memory with."""
        return any(owner == vmid for owner, _ in self._patches[pa].sites)

    def lift(self, pa: int) -> None:
        """Let the original instruction stand at ``pa`` for a moment; ``drop`` ends it."""
        self._memory.write(pa, self._patches[pa].original)

    def drop(self, pa: int) -> None:
        """End ``lift``, unless the guest has changed the instruction meanwhile or the breakpoint has gone."""
        patch = self._patches.get(pa)
        if patch is not None and self._memory.read(pa, 4) == patch.original:
            self._memory.write(pa, BRK)

    def _overlaps(self, pa: int, size: int) -> Iterator[tuple[int, _Patch]]:
        if size < 4 * len(self._patches):
            first = pa - pa % 4
            candidates = range(first, pa + size, 4)
            found = ((at, self._patches[at]) for at in candidates if at in self._patches)
        else:
            found = ((at, patch) for at, patch in self._patches.items() if at < pa + size and at + 4 > pa)
        return (each for each in list(found) if self._memory.read(each[0], 4) == BRK)

    def unseen(self, pa: int, data: bytes) -> bytes:
        """What is read at ``pa``, as if no breakpoints were there."""
        shown = bytearray(data)
        for at, patch in self._overlaps(pa, len(data)):
            for n, byte in enumerate(patch.original):
                if 0 <= at + n - pa < len(shown):
                    shown[at + n - pa] = byte
        return bytes(shown)

    def kept(self, pa: int, data: bytes) -> bytes:
        """What to write at ``pa`` so that breakpoints stay; the bytes below them become what they replaced."""
        written = bytearray(data)
        for at, patch in self._overlaps(pa, len(data)):
            original = bytearray(patch.original)
            for n in range(4):
                if 0 <= at + n - pa < len(written):
                    original[n] = written[at + n - pa]
                    written[at + n - pa] = BRK[n]
            patch.original = bytes(original)
        return bytes(written)

    # -- hardware ------------------------------------------------------------------------------------------------------

    def insert_hardware(self, vmid: int, address: int) -> None:
        """Use a breakpoint register of every vCPU of the VM; raises NoMore."""
        addresses = self._hardware.setdefault(vmid, [])
        if address in addresses:
            return
        if len(addresses) >= BREAKPOINTS:
            raise NoMore(f"a vCPU has {BREAKPOINTS} breakpoint registers and all are in use")
        addresses.append(address)

    def remove_hardware(self, vmid: int, address: int) -> None:
        """Give a breakpoint register back; harmless when there is none."""
        addresses = self._hardware.get(vmid, [])
        if address in addresses:
            addresses.remove(address)
            if not addresses:
                del self._hardware[vmid]

    def hardware(self, vmid: int) -> list[int]:
        """Virtual addresses in the VM's breakpoint registers."""
        return self._hardware.get(vmid, [])

    # -- watchpoints ---------------------------------------------------------------------------------------------------

    def insert_watch(self, watch: Watch) -> None:
        """Watch memory; harmless when it is watched already. Raises NoMore."""
        self.remove_watch(watch)
        if len(self.watches) >= WATCHES:
            raise NoMore(f"there are {WATCHES} watchpoints already")
        self.watches.append(watch)

    def remove_watch(self, watch: Watch) -> None:
        """Watch it no longer; harmless when it is not watched."""
        wanted = watch.vmid, watch.address, watch.size, watch.read, watch.write
        self.watches = [w for w in self.watches if (w.vmid, w.address, w.size, w.read, w.write) != wanted]

    # -- all -----------------------------------------------------------------------------------------------------------

    def wanted_by(self, vmid: int) -> bool:
        """Whether a vCPU of this VM can run into any of it (shared memory may hold another VM's BRK)."""
        return bool(self._patches) or vmid in self._hardware or any(watch.vmid == vmid for watch in self.watches)

    def clear(self, vmid: int | None = None) -> None:
        """Remove everything, or everything of one VM."""
        for owner, address in list(self._places):
            if vmid in (None, owner):
                self.remove(owner, address)
        for owner in list(self._hardware):
            if vmid in (None, owner):
                del self._hardware[owner]
        self.watches = [watch for watch in self.watches if vmid not in (None, watch.vmid)]
