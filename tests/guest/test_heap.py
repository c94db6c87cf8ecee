import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gunyah.guest.heap import Heap, OutOfMemory

from .fake_cpu import RAM_BASE, FakeCpu


def heap(size=0x1000):
    return Heap(FakeCpu(), [(RAM_BASE, size)])


def test_a_buffer_is_guest_memory_with_bounds():
    memory = heap()
    with memory.allocate(100) as buffer:
        buffer.write(b"hello", 3)
        assert buffer.read(5, 3) == b"hello"
        assert memory.cpu.read(buffer.address + 3, 5) == b"hello"
        with pytest.raises(ValueError, match="outside"):
            buffer.write(b"x", 100)
    with pytest.raises(ValueError, match="freed"):
        buffer.read()
    assert memory.free_bytes == memory.total


def test_a_full_heap_says_how_much_is_left():
    memory = heap(0x100)
    memory.allocate(0xC0)
    with pytest.raises(OutOfMemory, match="0x40 of 0x100 are free"):
        memory.allocate(0x80)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300), st.sampled_from([1, 16, 64, 256]), st.booleans()), max_size=40))
def test_live_buffers_never_overlap_and_everything_comes_back(steps):
    memory = heap()
    live = []
    for size, align, drop in steps:
        try:
            buffer = memory.allocate(size, align)
        except OutOfMemory:
            continue
        assert buffer.address % align == 0
        assert all(buffer.address + size <= b.address or b.address + b.size <= buffer.address for b in live)
        live.append(buffer)
        if drop:
            live.pop(0).free()
    for buffer in live:
        buffer.free()
    assert memory._free == [(RAM_BASE, RAM_BASE + 0x1000)]
