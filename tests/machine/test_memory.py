"""Physical memory keeps what is written, refuses what is not RAM, and tells its listeners."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gunyah.machine.memory import BusError, PhysicalMemory

BASE = 0x4000_0000
SIZE = 0x10_0000


@pytest.fixture
def memory() -> PhysicalMemory:
    return PhysicalMemory([(BASE, SIZE), (0x8000_0000, 0x2000)])


def test_every_width_reads_back_little_endian(memory: PhysicalMemory) -> None:
    memory.write_u64(BASE + 8, 0x1122_3344_5566_7788)
    assert memory.read(BASE + 8, 8) == bytes.fromhex("8877665544332211")
    assert memory.read_u32(BASE + 8) == 0x5566_7788
    assert memory.read_u16(BASE + 10) == 0x5566
    assert memory.read_u8(BASE + 15) == 0x11
    memory.write_u32(BASE + 9, 0xAABB_CCDD)
    assert memory.read_u64(BASE + 9) & 0xFFFF_FFFF == 0xAABB_CCDD
    memory.write_u16(0x8000_0000, 0x1_2345)
    memory.write_u8(0x8000_0002, 0x167)
    assert memory.read(0x8000_0000, 3) == b"\x45\x23\x67"


@pytest.mark.parametrize(
    ("pa", "size"), [(BASE - 1, 1), (BASE + SIZE, 1), (BASE + SIZE - 4, 8), (0, 8), (BASE, -1), (1 << 64, 1)]
)
def test_outside_ram_is_a_bus_error_that_says_where(memory: PhysicalMemory, pa: int, size: int) -> None:
    with pytest.raises(BusError, match=f"{pa:#x}"):
        memory.read(pa, size)
    assert not memory.contains(pa, size)


def test_failed_write_changes_nothing_and_tells_nobody(memory: PhysicalMemory) -> None:
    heard: list[tuple[int, int]] = []
    memory.listeners.append(lambda pa, size: heard.append((pa, size)))
    with pytest.raises(BusError):
        memory.write(BASE + SIZE - 2, b"abcd")
    assert memory.read(BASE + SIZE - 2, 2) == b"\0\0"
    assert heard == []


def test_listeners_hear_every_write(memory: PhysicalMemory) -> None:
    heard: list[tuple[int, int]] = []
    memory.listeners.append(lambda pa, size: heard.append((pa, size)))
    memory.write(BASE, b"abc")
    memory.write_u8(BASE, 1)
    memory.write_u16(BASE, 1)
    memory.write_u32(BASE, 1)
    memory.write_u64(BASE, 1)
    memory.fill(BASE + 0x100, 0x20000, 0)
    memory.copy(BASE + 0x1000, BASE, 8)
    memory.view(BASE, 4)[:] = b"wxyz"
    memory.written(BASE, 4)
    sizes = [size for _, size in heard]
    assert sizes == [3, 1, 2, 4, 8, 0x20000, 8, 4]


@given(offset=st.integers(0, 0x3000), size=st.integers(0, 0x30000), value=st.sampled_from([0, 0x5A]))
def test_fill_touches_exactly_its_range(offset: int, size: int, value: int) -> None:
    memory = PhysicalMemory([(BASE, 0x40000)])
    memory.write(BASE, b"\xff" * 0x40000)
    memory.fill(BASE + offset, size, value)
    expected = bytearray(b"\xff" * 0x40000)
    expected[offset : offset + size] = bytes([value]) * size
    assert memory.read(BASE, 0x40000) == bytes(expected)


def test_untouched_memory_costs_nothing(memory: PhysicalMemory) -> None:
    large = PhysicalMemory([(BASE, 0x8000_0000)])
    before = large.resident_bytes()
    large.write(BASE + 0x1234_5000, b"x" * 8192)
    after = large.resident_bytes()
    assert before is not None and after is not None
    assert 8192 <= after - before < 65536


def test_fork_gives_the_child_its_own_copy(memory: PhysicalMemory) -> None:
    memory.write(BASE, b"parent")
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        memory.write(BASE, b"child!")
        os.write(write_end, memory.read(BASE, 6))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read_end, 6) == b"child!"
    assert memory.read(BASE, 6) == b"parent"


def test_bad_regions_are_refused() -> None:
    for regions in ([], [(0, 0)], [(1, 4096)], [(0, 100)], [(0, 8192), (4096, 4096)]):
        with pytest.raises(ValueError):
            PhysicalMemory(regions)
