"""A split virtqueue from the device's side, over memory that another VM controls (Virtio 1.2, 2.7).

The driver of the other VM may write anything at any time, so each descriptor is read once, every address is looked up
in the windows that the backend has on purpose, and a chain has an end. What breaks a rule raises `VirtioError`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from gunyah.guest.cpu import Cpu

__all__ = ["QUEUE_SIZE_MAX", "Chain", "VirtioError", "Virtqueue", "Window", "Windows"]

QUEUE_SIZE_MAX: Final = 256
"""Descriptors of a queue that a backend of ours offers."""
CHAIN_BYTES_MAX: Final = 32 << 20
"""Bytes of one request: more than any driver of ours makes, and a bound on what a hostile one costs."""
_DESC_SIZE: Final = 16
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT: Final = 1


class VirtioError(Exception):
    """The driver broke a rule; one sentence."""


class Window(NamedTuple):
    """``size`` bytes that the driver knows at ``base`` and the backend at ``own``."""

    base: int
    size: int
    own: int


class Windows:
    """Everything of the other VM's memory that the backend may touch."""

    def __init__(self, cpu: Cpu, windows: list[Window]) -> None:
        self._cpu = cpu
        self._windows = windows

    def own(self, address: int, size: int) -> int:
        """The backend's address of [address, address + size); raises VirtioError outside every window."""
        for base, length, own in self._windows:
            if base <= address and address + size <= base + length:
                return own + address - base
        raise VirtioError(f"{size:#x} bytes at {address:#x} are not in memory that the driver shares")

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the driver's memory."""
        return self._cpu.read(self.own(address, size), size) if size else b""

    def write(self, address: int, data: bytes) -> None:
        """Change the driver's memory."""
        if data:
            self._cpu.write(self.own(address, len(data)), data)


@dataclass(slots=True)
class Chain:
    """One request: what the driver wrote, and where it wants the answer. Ranges are (driver's address, bytes)."""

    head: int
    readable: list[tuple[int, int]]
    writable: list[tuple[int, int]]

    @property
    def room(self) -> int:
        """Bytes of the writable part."""
        return sum(size for _, size in self.writable)


class Virtqueue:
    """One queue as the driver set it up; see the module. ``size`` in descriptors, addresses are the driver's."""

    def __init__(self, windows: Windows, size: int, descriptors: int, driver: int, device: int) -> None:
        if not 0 < size <= QUEUE_SIZE_MAX or size & size - 1:
            raise VirtioError(f"a queue of {size} descriptors")
        self.windows = windows
        self.size = size
        self._descriptors = descriptors
        self._driver = driver
        self._device = device
        self._seen = 0
        self._used = 0
        # All of it must be there now: a request is not the time to find out.
        for address, length in ((descriptors, _DESC_SIZE * size), (driver, 6 + 2 * size), (device, 6 + 8 * size)):
            windows.own(address, length)

    def _u16(self, address: int) -> int:
        return int.from_bytes(self.windows.read(address, 2), "little")

    @property
    def wants_interrupt(self) -> bool:
        """The driver has not said that it looks by itself."""
        return not self._u16(self._driver) & _NO_INTERRUPT

    @property
    def waiting(self) -> int:
        """Requests that were made and not taken yet."""
        count = self._u16(self._driver + 2) - self._seen & 0xFFFF
        if count > self.size:
            raise VirtioError(f"the driver says that {count} requests wait in a queue of {self.size}")
        return count

    def take(self) -> Chain | None:
        """The oldest request not taken yet."""
        if not self.waiting:
            return None
        head = self._u16(self._driver + 4 + 2 * (self._seen % self.size))
        chain = self._chain(head)
        self._seen = self._seen + 1 & 0xFFFF
        return chain

    def requests(self) -> Iterator[Chain]:
        """Take requests until there is none."""
        while (chain := self.take()) is not None:
            yield chain

    def _chain(self, head: int) -> Chain:
        chain = Chain(head, [], [])
        index, total = head, 0
        for _ in range(self.size):
            if index >= self.size:
                raise VirtioError(f"descriptor {index} of {self.size}")
            raw = self.windows.read(self._descriptors + _DESC_SIZE * index, _DESC_SIZE)
            address, size, flags, following = struct.unpack("<QIHH", raw)
            if flags & _INDIRECT:
                raise VirtioError("an indirect descriptor, which was not offered")
            total += size
            if total > CHAIN_BYTES_MAX:
                raise VirtioError(f"a request of more than {CHAIN_BYTES_MAX >> 20} MiB")
            if size:
                self.windows.own(address, size)
                if flags & _WRITE:
                    chain.writable.append((address, size))
                elif chain.writable:
                    raise VirtioError("a readable descriptor behind a writable one")
                else:
                    chain.readable.append((address, size))
            if not flags & _NEXT:
                return chain
            index = following
        raise VirtioError(f"a chain of more than {self.size} descriptors")

    def read(self, chain: Chain) -> bytes:
        """Everything the driver wrote into a request."""
        return b"".join(self.windows.read(address, size) for address, size in chain.readable)

    def finish(self, chain: Chain, answer: bytes = b"") -> None:
        """Put an answer of at most ``chain.room`` bytes into a request and give it back."""
        at = 0
        for address, size in chain.writable:
            if at >= len(answer):
                break
            self.windows.write(address, answer[at : at + size])
            at += size
        slot = self._device + 4 + 8 * (self._used % self.size)
        self.windows.write(slot, struct.pack("<II", chain.head, min(len(answer), chain.room)))
        self._used = self._used + 1 & 0xFFFF
        self.windows.write(self._device + 2, self._used.to_bytes(2, "little"))
