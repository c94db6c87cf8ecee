"""Virtio devices that a VM manager offers its VMs: a disk, a console, random numbers (Virtio 1.2, 5.2 to 5.4).

A device knows queues and requests, and nothing of how they reach it: `gunyah.vmm.virtio` is the transport.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from gunyah.vmm.virtqueue import Chain, VirtioError, Virtqueue

__all__ = [
    "SECTOR",
    "BlockDevice",
    "ConsoleDevice",
    "EntropyDevice",
    "MemoryStorage",
    "Storage",
    "VirtioDevice",
]

SECTOR: Final = 512
"""Bytes."""


class VirtioDevice(Protocol):
    """``id`` is the device type, ``features`` its own feature bits, ``config`` the configuration area's start."""

    id: int
    queues: int
    features: int

    @property
    def config(self) -> bytes:
        """The configuration area."""

    def start(self, queues: list[Virtqueue | None], kick: Callable[[], None], /) -> None:
        """The driver is ready; ``kick`` asks for a round of `serve` from anywhere inside the VM."""

    def serve(self) -> bool:
        """Do what can be done; True if a request was finished whose driver wants an interrupt."""

    def stop(self) -> None:
        """The driver is gone, its queues too."""


class _Device:
    """What all of them do."""

    id = 0
    queues = 1
    features = 0

    def __init__(self) -> None:
        self._queues: list[Virtqueue | None] = []
        self._kick: Callable[[], None] = lambda: None

    @property
    def config(self) -> bytes:
        return b""

    def start(self, queues: list[Virtqueue | None], kick: Callable[[], None], /) -> None:
        self._queues, self._kick = queues, kick

    def stop(self) -> None:
        self._queues = []
        self._kick = lambda: None

    def _queue(self, index: int) -> Virtqueue | None:
        return self._queues[index] if index < len(self._queues) else None

    def _serve_all(self, index: int, answer: Callable[[Virtqueue, Chain], bytes]) -> bool:
        """Answer every request that waits in a queue; True if there was one and the driver wants an interrupt."""
        queue = self._queue(index)
        if queue is None:
            return False
        done = False
        for chain in queue.requests():
            queue.finish(chain, answer(queue, chain))
            done = True
        return done and queue.wants_interrupt


class Storage(Protocol):
    """What is behind a disk: ``size`` bytes; reads and writes stay inside."""

    size: int
    read_only: bool

    def read(self, offset: int, size: int, /) -> bytes:
        """Bytes."""

    def write(self, offset: int, data: bytes, /) -> None:
        """Change bytes."""

    def flush(self) -> None:
        """Everything written so far is to last."""


class MemoryStorage:
    """A disk in memory; its content outlives the VM."""

    def __init__(self, content: bytes | bytearray, *, read_only: bool = False) -> None:
        self.content = bytearray(content)
        self.content.extend(bytes(-len(content) % SECTOR))
        self.size = len(self.content)
        self.read_only = read_only
        self.flushes = 0

    def read(self, offset: int, size: int, /) -> bytes:
        """Bytes."""
        return bytes(self.content[offset : offset + size])

    def write(self, offset: int, data: bytes, /) -> None:
        """Change bytes."""
        self.content[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Nothing to wait for."""
        self.flushes += 1


_IN, _OUT, _FLUSH, _GET_ID = 0, 1, 4, 8
_OK, _IO_ERROR, _UNSUPPORTED = 0, 1, 2
_HEADER: Final = struct.Struct("<IIQ")
_ID_SIZE: Final = 20
_FEATURE_SEGMENTS, _FEATURE_READ_ONLY, _FEATURE_FLUSH = 1 << 2, 1 << 5, 1 << 9
_SEGMENTS_MAX: Final = 126
"""Pieces of one request; without a word about it a driver makes one request for each page."""


class BlockDevice(_Device):
    """A disk (device type 2). ``serial`` is what the guest reads as its id, at most 20 bytes."""

    id = 2

    def __init__(self, storage: Storage, serial: str = "") -> None:
        super().__init__()
        self.storage = storage
        self.serial = serial
        self.failure = ""
        """What the storage said, the last time that it refused."""
        self.features = _FEATURE_SEGMENTS | _FEATURE_FLUSH | (_FEATURE_READ_ONLY if storage.read_only else 0)

    @property
    def config(self) -> bytes:
        """Capacity in sectors, no limit to a segment's size, segments of a request."""
        return struct.pack("<QII", self.storage.size // SECTOR, 0, _SEGMENTS_MAX)

    def serve(self) -> bool:
        """Every request that waits."""
        return self._serve_all(0, self._answer)

    def _answer(self, queue: Virtqueue, chain: Chain) -> bytes:
        request = queue.read(chain)
        if len(request) < _HEADER.size or not chain.room:
            raise VirtioError(f"a disk request of {len(request)} bytes with room for {chain.room}")
        kind, _, sector = _HEADER.unpack_from(request)
        data, room = request[_HEADER.size :], chain.room - 1
        try:
            status, answer = self._do(kind, sector * SECTOR, data, room)
        except OSError as error:
            # A full or broken disk of the host is an I/O error of the guest's.
            self.failure = str(error)
            status, answer = _IO_ERROR, b""
        # The status is the last byte that the driver made room for, whatever comes before it.
        return answer.ljust(room, b"\0") + bytes([status])

    def _do(self, kind: int, offset: int, data: bytes, room: int) -> tuple[int, bytes]:
        """Status and answer of one request."""
        storage = self.storage
        size = room if kind == _IN else len(data)
        if kind in (_IN, _OUT) and (offset + size > storage.size or size % SECTOR):
            return _IO_ERROR, b""
        if kind == _IN:
            return _OK, storage.read(offset, size)
        if kind == _OUT and storage.read_only:
            return _IO_ERROR, b""
        if kind == _OUT:
            storage.write(offset, data)
        elif kind == _FLUSH:
            storage.flush()
        elif kind == _GET_ID:
            return _OK, self.serial.encode()[:_ID_SIZE].ljust(_ID_SIZE, b"\0")[:room]
        else:
            return _UNSUPPORTED, b""
        return _OK, b""


class ConsoleDevice(_Device):
    """A console (device type 3): ``sink`` gets what the guest writes, ``feed`` is the other direction."""

    id = 3
    queues = 2
    _INPUT_MAX: Final = 1 << 16

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        super().__init__()
        self._sink = sink
        self._input: deque[int] = deque()

    def feed(self, data: bytes) -> int:
        """Type; bytes taken. What does not fit into the guest's buffers waits here, bounded."""
        taken = data[: self._INPUT_MAX - len(self._input)]
        self._input.extend(taken)
        self._kick()
        return len(taken)

    def serve(self) -> bool:
        """Output that has come, input that there is room for."""
        wanted = self._serve_all(1, self._put)
        receive = self._queue(0)
        if receive is not None:
            done = False
            while self._input and (room := receive.take()) is not None:
                count = min(len(self._input), room.room)
                receive.finish(room, bytes(self._input.popleft() for _ in range(count)))
                done = True
            wanted = wanted or (done and receive.wants_interrupt)
        return wanted

    def _put(self, queue: Virtqueue, chain: Chain) -> bytes:
        self._sink(queue.read(chain))
        return b""


class EntropyDevice(_Device):
    """Random numbers (device type 4): ``source(size)`` gives that many bytes."""

    id = 4
    _MOST: Final = 4096

    def __init__(self, source: Callable[[int], bytes]) -> None:
        super().__init__()
        self._source = source

    def serve(self) -> bool:
        """Fill every buffer that waits."""
        return self._serve_all(0, lambda _, chain: self._source(min(chain.room, self._MOST)))
