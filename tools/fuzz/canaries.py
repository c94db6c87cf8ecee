"""Pages of other owners that nobody has a reason to touch, full of one secret word: whoever reads or writes one shows.

They lie in memory that the hypervisor, the partition, the Resource Manager or another VM owns. Every word is the same,
so that a reader cannot miss it, and it is drawn for each machine, so that nobody can have it by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.hypervisor.msgqueue import MsgQueue
from gunyah.hypervisor.native_executor import NativeExecutor
from gunyah.machine import board

__all__ = ["Canaries"]

PAGE = 4096
ROOM = 0x40_0000
"""Bytes of a free range in which canaries are put."""
GUARDED_HYPERVISOR = (board.HYPERVISOR_IMAGE, board.HYPERVISOR_IMAGE + 0x20_0000, board.HYPERVISOR_EXTRA_HEAP.base)
"""Pages of the image, where a Python hypervisor has nothing, and of a heap that nobody uses."""


class Canaries:
    """``pages`` are PAs; ``secret`` is the word."""

    def __init__(self, hv: Hypervisor, pages: Iterable[int], secret: int) -> None:
        self._memory = hv.memory
        self._hv = hv
        self.secret = secret
        self.pages = tuple(pages)
        self._word = secret.to_bytes(8, "little")
        self._page = self._word * (PAGE // 8)
        for pa in self.pages:
            self._memory.write(pa, self._page)

    @staticmethod
    def places(hv: Hypervisor) -> list[int]:
        """Pages of the hypervisor, of free memory, and of the root VM behind what it uses."""
        pages = list(GUARDED_HYPERVISOR)
        for base, size in hv.root_partition.free_ranges():
            # What is taken from a range comes from its start.
            pages += [base + size // 2 & -PAGE, base + size - PAGE] if size >= ROOM else []
        pages.append(board.ROOT_VM.end - PAGE)
        return pages

    def watch(self, executor: NativeExecutor, found: Callable[[str], object]) -> None:
        """Tell of every buffer that the hypervisor reads for a vCPU and that has the secret in it."""
        read = executor.copy_in

        def copy_in(address: int, size: int) -> bytes:
            data = read(address, size)
            if self._word in data:
                found(f"the hypervisor read a page of another owner for a call, at {address:#x}")
            return data

        executor.copy_in = copy_in  # type: ignore[method-assign]

    def check(self, readable: Sequence[tuple[int, int]]) -> list[str]:
        """What was touched, in sentences; the secret must not be in ``readable`` ranges (PA, bytes) either."""
        wrong = [
            f"the page {pa:#x} of another owner was written"
            for pa in self.pages
            if self._memory.read(pa, PAGE) != self._page
        ]
        for base, size in readable:
            at = self._memory.read(base, size).find(self._word)
            if at >= 0:
                wrong.append(f"a page of another owner was read: its word is at {base + at:#x}")
        queues = (obj for obj in self._hv.objects() if isinstance(obj, MsgQueue))
        return wrong + [
            f"a page of another owner was read: its word is in {queue}"
            for queue in queues
            if any(self._word in message for message in queue.messages)
        ]
