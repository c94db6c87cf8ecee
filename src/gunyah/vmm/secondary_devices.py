"""Devices that the owner emulates for a VM whose vCPUs it runs: a bus, and a UART with its interrupt.

An access in the window 0..0x3fff_ffff that nothing in the hypervisor serves ends ``vcpu_run`` (vm-loader.md 6.2). Where
no device is, reads give 0 and writes are lost, and the first such access of a page is remembered as a remark.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

__all__ = ["Console", "MmioBus", "MmioDevice", "Uart", "UartFactory"]

HISTORY: Final = 1 << 20
"""Bytes of a console that wait for a reader; the oldest go."""
REMARKS: Final = 64


class MmioDevice(Protocol):
    """Registers at byte offsets."""

    def read(self, offset: int, size: int, /) -> int:
        """Load of ``size`` bytes."""

    def write(self, offset: int, value: int, size: int, /) -> None:
        """Store of ``size`` bytes."""


class Uart(MmioDevice, Protocol):
    """A serial port: what the guest sends goes to a sink, ``feed`` is the other direction."""

    def feed(self, data: bytes, /) -> int:
        """Bytes taken."""


UartFactory = Callable[[Callable[[bytes], object], Callable[[bool], object]], Uart]
"""``factory(sink, interrupt line)``."""


class MmioBus:
    """Devices by address."""

    def __init__(self) -> None:
        self._devices: list[tuple[int, int, MmioDevice]] = []
        self._missed: set[int] = set()
        self.remarks: list[str] = []

    def attach(self, base: int, size: int, device: MmioDevice) -> None:
        """Serve ``size`` bytes from IPA ``base``; raises ValueError when they are taken."""
        for start, length, _ in self._devices:
            if base < start + length and start < base + size:
                raise ValueError(f"{base:#x}+{size:#x} overlaps the device at {start:#x}+{length:#x}")
        self._devices.append((base, size, device))

    def read(self, address: int, size: int) -> int:
        """A load of the guest."""
        for base, length, device in self._devices:
            if base <= address < base + length:
                return device.read(address - base, size) & ((1 << 8 * size) - 1)
        self._miss("load", address, size)
        return 0

    def write(self, address: int, size: int, value: int) -> None:
        """A store of the guest."""
        for base, length, device in self._devices:
            if base <= address < base + length:
                device.write(address - base, value & ((1 << 8 * size) - 1), size)
                return
        self._miss("store", address, size)

    def _miss(self, what: str, address: int, size: int) -> None:
        if address >> 12 not in self._missed and len(self._missed) < REMARKS:
            self._missed.add(address >> 12)
            self.remarks.append(f"{what} of {size} bytes at {address:#x}: there is no device")


class Console:
    """A VM's console at the owner's end: bytes both ways, whatever carries them.

    ``send`` is set by who carries input to the VM. Output goes to ``on_output`` when somebody listens, else it waits,
    bounded, for ``read``.
    """

    def __init__(self) -> None:
        self.send: Callable[[bytes], int] | None = None
        self.on_output: Callable[[bytes], object] | None = None
        self._output: deque[bytes] = deque()
        self._held = 0
        self.lost = 0

    def receive(self, data: bytes) -> None:
        """The VM wrote."""
        if self.on_output is not None:
            self.on_output(data)
            return
        self._output.append(data)
        self._held += len(data)
        while self._held > HISTORY:
            gone = len(self._output.popleft())
            self._held -= gone
            self.lost += gone

    def listen(self, listener: Callable[[bytes], object] | None) -> None:
        """Give output to ``listener`` from now on, what waits first; None: keep it."""
        self.on_output = listener
        if listener is not None and self._held:
            listener(self.read())

    def read(self) -> bytes:
        """Everything that waits."""
        data = b"".join(self._output)
        self._output.clear()
        self._held = 0
        return data

    @property
    def waiting(self) -> int:
        """Bytes that ``read`` would give."""
        return self._held

    def write(self, data: bytes) -> int:
        """Bytes the VM's side takes now; 0 while the VM does not run. For a console over RM this blocks (in a task)."""
        return self.send(data) if self.send is not None and data else 0
