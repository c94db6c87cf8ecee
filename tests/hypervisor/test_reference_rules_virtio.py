"""Virtio devices: the rules that the fact sheets leave between the lines (objects.md 15 and 16, hypercalls.md 3.15 and
3.16)."""

from __future__ import annotations

import pytest
from tests.hypervisor.root_rig import SCRATCH
from tests.hypervisor.test_virtio import NEW_BUFFER, PAGE_PA, Device
from tests.hypervisor.yard import Yard

from gunyah.abi.errors import Error
from gunyah.abi.types import U64

IDS = 0x0004_0003_0002_0001


def input_device() -> Device:
    """A device of type 18, its storage not yet allocated."""
    return Device(flags=64, kind=18)


def store(made: Device, select: int, subselect: int, data: bytes) -> int:
    """virtio_input_set_data by the backend; its error."""
    made.yard.root.addrspace.write(SCRATCH, data or b"x")
    return made.yard.call("virtio_input_set_data", made.capid, select, subselect, len(data), SCRATCH).error


def selected(made: Device, select: int, subselect: int = 0) -> bytes:
    """What the frontend finds."""
    assert made.write(0x100, select, 1)
    assert made.write(0x101, subselect, 1)
    size = made.read(0x102, 1)
    return bytes(made.read(0x108 + at, 1) for at in range(size))


class TestRegisters:
    """Writes of the frontend."""

    def test_a_feature_word_that_is_not_there_aborts_and_selects_nothing(self) -> None:
        made = Device()
        assert made.write(0x24, 1)
        assert not made.write(0x24, 2)
        assert made.write(0x20, 9)
        assert made.back("get_drv_features", 1) == (9,)

    @pytest.mark.parametrize(("queue", "bit"), [(4, 4), (63, 63), (64, 0), (0xFFFF_FFFF, 63)])
    def test_the_low_bits_of_a_notification_choose_its_queue(self, queue: int, bit: int) -> None:
        made = Device(queues=2)
        assert made.write(0x50, queue)
        assert made.back("get_notification") == (1 << bit, NEW_BUFFER)

    def test_selecting_twice_keeps_what_was_set_up(self) -> None:
        made = Device(queues=2)
        assert made.write(0x30, 1)
        assert not made.write(0x30, 2)
        assert made.write(0x38, 8)
        assert made.back("get_queue_info", 1)[0] == 8


class TestConfigure:
    """Order of the checks and what an inactive device answers."""

    def test_the_page_is_looked_at_before_the_device(self) -> None:
        yard = Yard()
        device, page = yard.create("virtio_mmio"), yard.create("memextent")
        assert yard.call("virtio_mmio_configure", 0, page, 1, 0, 0).error == Error.OBJECT_STATE
        assert yard.call("virtio_mmio_configure", device, yard.partition, 1, 0, 0).error == (
            Error.CSPACE_WRONG_OBJECT_TYPE
        )
        page = yard.active("memextent", PAGE_PA, 0x1000, 6)
        assert yard.call("virtio_mmio_configure", yard.partition, page, 17, 0, 0).error == (
            Error.CSPACE_WRONG_OBJECT_TYPE
        )
        yard.ok("virtio_mmio_configure", device, page, 16, 0xFFFF_FFFF_FFFF_FFBF, 99)
        yard.ok("object_activate", device)
        assert yard.call("virtio_mmio_configure", device, page, 17, 0, 0).error == Error.OBJECT_STATE

    @pytest.mark.parametrize(
        ("name", "inputs"),
        [("backend_bind_virq", (0, 40)), ("backend_unbind_virq", ()), ("frontend_bind_virq", (0, 40))]
        + [("frontend_unbind_virq", ()), ("backend_assert_virq", (1,)), ("backend_set_dev_features", (9, 0))]
        + [
            ("backend_set_queue_num_max", (99, 0)),
            ("backend_get_drv_features", (9,)),
            ("backend_get_queue_info", (99,)),
        ]
        + [("backend_get_notification", ()), ("backend_acknowledge_reset", ()), ("backend_update_status", (1,))],
    )
    def test_a_device_in_init_is_asked_nothing(self, name: str, inputs: tuple[int, ...]) -> None:
        yard = Yard()
        device = yard.create("virtio_mmio")
        answer = yard.call(f"virtio_mmio_{name}", device, *inputs)
        assert answer.error == Error.OBJECT_STATE
        assert not any(answer.results)

    def test_read_only_pages_fail_at_activation(self) -> None:
        yard = Yard()
        page = yard.active("memextent", PAGE_PA, 0x1000, 4)
        device = yard.create("virtio_mmio")
        yard.ok("virtio_mmio_configure", device, page, 1, 0, 0)
        assert yard.call("object_activate", device).error == Error.DENIED


class TestInput:
    """virtio_input_configure and virtio_input_set_data."""

    def test_small_items_are_there_before_anything_is_configured(self) -> None:
        made = input_device()
        assert selected(made, 3) == bytes(8)
        assert selected(made, 0x10) == bytes(4)
        assert selected(made, 1) == b""

    def test_storage_is_asked_for_in_any_number_of_calls_and_granted_once_a_kind(self) -> None:
        made = input_device()
        configure = ("virtio_input_configure", made.capid, IDS, 7)
        for events, axes, error in ((0, 0, 0), (0, 0, 0), (2, 0, 0), (0, 0, 0), (0, 3, 0), (1, 0, 31), (0, 1, 31)):
            assert made.yard.call(*configure, events, axes).error == error
        assert made.yard.call(*configure, 33, 0).error == Error.ARGUMENT_INVALID
        assert selected(made, 3) == IDS.to_bytes(8, "little")

    def test_without_storage_there_is_nothing_to_set(self) -> None:
        made = input_device()
        for select in (0x11, 0x12):
            for subselect, size in ((0, 1), (0, 0), (99, 999)):
                assert store(made, select, subselect, bytes(size)) == Error.ARGUMENT_INVALID

    def test_a_free_entry_is_looked_for_before_the_size_is_judged(self) -> None:
        made = input_device()
        made.yard.ok("virtio_input_configure", made.capid, 0, 0, 1, 0)
        assert store(made, 0x11, 0, bytes(129)) == Error.ARGUMENT_SIZE
        assert store(made, 0x11, 0, b"") == Error.ARGUMENT_SIZE
        assert store(made, 0x11, 0, b"a") == 0
        assert store(made, 0x11, 1, bytes(129)) == Error.NORESOURCES
        assert store(made, 0x11, 32, b"a") == Error.ARGUMENT_INVALID

    def test_the_first_of_two_equal_entries_counts(self) -> None:
        made = input_device()
        made.yard.ok("virtio_input_configure", made.capid, 0, 0, 0, 2)
        assert store(made, 0x12, 5, b"first") == 0
        assert store(made, 0x12, 5, b"second") == 0
        assert selected(made, 0x12, 5) == b"first".ljust(20, b"\0")

    def test_fewer_bytes_of_a_number_replace_its_low_ones(self) -> None:
        made = input_device()
        made.yard.ok("virtio_input_configure", made.capid, IDS, 0x1234_5678, 0, 0)
        assert store(made, 3, 0, b"\xaa\xbb") == 0
        assert store(made, 0x10, 0, b"\xcc") == 0
        assert selected(made, 3) == (IDS & ~0xFFFF | 0xBBAA).to_bytes(8, "little")
        assert selected(made, 0x10) == 0x1234_56CC.to_bytes(4, "little")

    def test_a_word_written_to_select_sets_both_bytes_and_aborts(self) -> None:
        made = input_device()
        assert store(made, 1, 0, b"name") == 0
        assert not made.write(0x100, 0x01, 4)
        assert (made.read(0x100, 1), made.read(0x101, 1), made.read(0x102, 1)) == (1, 0, 4)

    def test_a_buffer_that_wraps(self) -> None:
        made = input_device()
        assert made.yard.call("virtio_input_set_data", made.capid, 1, 0, 4, U64 - 2).error == Error.ADDR_OVERFLOW
