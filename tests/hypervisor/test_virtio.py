"""Virtio-MMIO and virtio-input: a backend VM and a frontend VM around one register page (objects.md 15 and 16)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.hypervisor.root_rig import SCRATCH
from tests.hypervisor.yard import RWX_WB, Yard

from gunyah.abi.errors import Error
from gunyah.guest.cpu import Cpu, GuestAbort

PAGE_PA = 0x7000_0000
PAGE_IPA = 0x5000_0000
RW_WB, RO_WB = 0xF_0066, 0xF_0044
U32 = 0xFFFF_FFFF
FRONT_VIRQ, BACK_VIRQ = 40, 41
DRIVER_OK, NEEDS_RESET, FAILED = 4, 64, 128
NEW_BUFFER, RESET, OK, FAILURE = 1, 2, 8, 16
VERSION_1, ACCESS_PLATFORM, NOTIFICATION_DATA = 1, 2, 64


class Device:
    """The root VM is the backend; the frontend is a VM that does what ``front`` is told."""

    def __init__(self, queues: int = 4, flags: int = 0, kind: int = 0) -> None:
        self.yard = Yard()
        self.extent = self.yard.active("memextent", PAGE_PA, 0x1000, 7)
        self.capid = self.yard.create("virtio_mmio")
        self.yard.ok("virtio_mmio_configure", self.capid, self.extent, queues, flags, kind)
        self.yard.ok("object_activate", self.capid)
        self.yard.ok("addrspace_map", self.yard.addrspace, self.extent, 0x2_0000_0000, RW_WB, 0, 0, 0)
        self._work: list[Callable[[Cpu], object]] = []
        self._results: list[object] = []
        self.vm = self.yard.vm(self._front)
        self.yard.ok("addrspace_map", self.vm.addrspace, self.extent, PAGE_IPA, RO_WB, 0, 0, 0)

    def _front(self, cpu: Cpu, x0: int) -> None:
        while True:
            while self._work:
                try:
                    self._results.append(self._work.pop(0)(cpu))
                except GuestAbort as abort:
                    self._results.append(abort)
            cpu.wfi()

    def front(self, action: Callable[[Cpu], object]) -> object:
        """The frontend does something; its result."""
        self._work.append(action)
        self.vm.vcpus[0].unblock(8)
        self.yard.settle()
        return self._results.pop()

    def write(self, offset: int, value: int, width: int = 4) -> bool:
        """A write of the frontend; False if it aborts."""
        return not isinstance(self.front(lambda cpu: cpu.store(PAGE_IPA + offset, value, width)), GuestAbort)

    def read(self, offset: int, width: int = 4) -> int:
        """A read of the frontend."""
        result = self.front(lambda cpu: cpu.load(PAGE_IPA + offset, width))
        assert isinstance(result, int), result
        return result

    def back(self, name: str, *inputs: int) -> tuple[int, ...]:
        """A call of the backend; its results."""
        return self.yard.ok(f"virtio_mmio_backend_{name}", self.capid, *inputs)

    def refused(self, name: str, *inputs: int) -> int:
        """A call of the backend; its error."""
        return self.yard.call(f"virtio_mmio_backend_{name}", self.capid, *inputs).error


class TestConfigure:
    """What makes a device."""

    @pytest.mark.parametrize(
        ("queues", "flags", "kind", "error"),
        [(16, 0, 0, 0), (17, 0, 0, Error.ARGUMENT_INVALID), (1, 64, 18, 0), (1, 64, 2, Error.ARGUMENT_INVALID)]
        + [(1, 0, 2, 0), (1, 64, 0, Error.ARGUMENT_INVALID)],
    )
    def test_queues_and_type(self, queues: int, flags: int, kind: int, error: int) -> None:
        yard = Yard()
        extent = yard.active("memextent", PAGE_PA, 0x1000, 7)
        answer = yard.call("virtio_mmio_configure", yard.create("virtio_mmio"), extent, queues, flags, kind)
        assert answer.error == error

    @pytest.mark.parametrize(("size", "attributes"), [(0x2000, 7), (0x1000, 0x1_0007)])
    def test_its_page_is_a_basic_extent_of_one_page(self, size: int, attributes: int) -> None:
        yard = Yard()
        extent = yard.active("memextent", PAGE_PA, size, attributes)
        answer = yard.call("virtio_mmio_configure", yard.create("virtio_mmio"), extent, 1, 0, 0)
        assert answer.error == Error.ARGUMENT_INVALID

    def test_no_queues_fails_at_activation(self) -> None:
        yard = Yard()
        extent = yard.active("memextent", PAGE_PA, 0x1000, 7)
        device = yard.create("virtio_mmio")
        yard.ok("virtio_mmio_configure", device, extent, 0, 0, 0)
        assert yard.call("object_activate", device).error == Error.OBJECT_CONFIG

    def test_a_later_page_replaces_an_earlier_one_and_all_comes_back(self) -> None:
        yard = Yard()
        before = yard.hv.root_partition.heap.used
        pages = [yard.active("memextent", PAGE_PA + at, 0x1000, 7) for at in (0, 0x1000)]
        device = yard.create("virtio_mmio")
        for page in pages:
            yard.ok("virtio_mmio_configure", device, page, 2, 0, 0)
        yard.ok("object_activate", device)
        first, second = (yard.root.cspace.capability(page).object for page in pages)
        assert (first.attached, second.attached) == (False, True)  # type: ignore[attr-defined]
        yard.ok("cspace_delete_cap_from", yard.cspace, device)
        assert not second.attached  # type: ignore[attr-defined]
        for page in pages:
            yard.ok("cspace_delete_cap_from", yard.cspace, page)
        assert yard.hv.root_partition.heap.used == before

    def test_one_page_serves_one_device(self) -> None:
        made = Device()
        other = made.yard.create("virtio_mmio")
        made.yard.ok("virtio_mmio_configure", other, made.extent, 1, 0, 0)
        assert made.yard.call("object_activate", other).error == Error.BUSY


class TestRegisters:
    """The frontend reads memory and writes registers."""

    def test_what_the_backend_puts_into_the_page_the_frontend_reads(self) -> None:
        made = Device()
        made.yard.root.addrspace.write(0x2_0000_0000, b"virt\x02\0\0\0")
        assert made.read(0) == 0x7472_6976
        assert made.read(4) == 2

    def test_features_are_published_word_by_word(self) -> None:
        made = Device()
        made.back("set_dev_features", 0, 0x1234)
        made.back("set_dev_features", 1, VERSION_1 | ACCESS_PLATFORM)
        assert made.write(0x14, 1)
        assert made.read(0x10) == VERSION_1 | ACCESS_PLATFORM
        assert made.write(0x14, 0)
        assert made.read(0x10) == 0x1234
        assert not made.write(0x14, 2)

    @pytest.mark.parametrize(
        ("select", "features", "error"),
        [
            (2, 0, Error.ARGUMENT_INVALID),
            (1, VERSION_1, Error.DENIED),
            (1, ACCESS_PLATFORM, Error.DENIED),
            (1, VERSION_1 | ACCESS_PLATFORM | NOTIFICATION_DATA, Error.DENIED),
            (0, U32, 0),
        ],
    )
    def test_features_that_can_be_offered(self, select: int, features: int, error: int) -> None:
        assert Device().refused("set_dev_features", select, features) == error

    def test_driver_features_are_kept_per_word(self) -> None:
        made = Device()
        for select, value in ((0, 7), (1, 9)):
            assert made.write(0x24, select)
            assert made.write(0x20, value)
        assert made.back("get_drv_features", 0) == (7,)
        assert made.back("get_drv_features", 1) == (9,)
        assert made.refused("get_drv_features", 2) == Error.ARGUMENT_INVALID

    def test_queues_are_set_up_one_by_one(self) -> None:
        made = Device(queues=3)
        made.back("set_queue_num_max", 2, 256)
        assert made.refused("set_queue_num_max", 3, 1) == Error.ARGUMENT_INVALID
        assert made.write(0x30, 2)
        assert made.read(0x34) == 256
        for offset, value in ((0x38, 128), (0x80, 0x1111), (0x84, 0x2), (0x90, 0x3333), (0x94, 0x4)):
            assert made.write(offset, value)
        for offset, value in ((0xA0, 0x5555), (0xA4, 0x6), (0x44, 1)):
            assert made.write(offset, value)
        assert made.back("get_queue_info", 2) == (128, 1, 0x2_0000_1111, 0x4_0000_3333, 0x6_0000_5555)
        assert made.read(0x44) == 1
        assert made.write(0x30, 0)
        assert made.read(0x44) == 0
        assert made.back("get_queue_info", 0) == (0, 0, 0, 0, 0)
        assert not made.write(0x30, 3)
        assert made.refused("get_queue_info", 3) == Error.ARGUMENT_INVALID

    @pytest.mark.parametrize(
        ("offset", "width"), [(0x38, 1), (0x38, 2), (0x80, 8), (0x0, 4), (0x10, 4), (0xFC, 4), (0x100, 2), (0x108, 8)]
    )
    def test_what_is_no_register_aborts(self, offset: int, width: int) -> None:
        assert not Device().write(offset, 1, width)

    def test_configuration_bytes_of_a_device_without_type_are_stored(self) -> None:
        made = Device()
        assert made.write(0x100, 0x1_23, 1)
        assert made.write(0x104, 0x5566_7788)
        assert made.write(0xFFC, 1)
        assert made.read(0x100, 8) == 0x5566_7788_0000_0023

    def test_a_page_that_cannot_be_read_aborts_reads(self) -> None:
        made = Device()
        made.yard.ok("addrspace_update_access", made.vm.addrspace, made.extent, PAGE_IPA, 0, 0, 0, 0)
        assert isinstance(made.front(lambda cpu: cpu.load(PAGE_IPA, 4)), GuestAbort)

    def test_a_bulk_write_has_no_syndrome_and_aborts(self) -> None:
        made = Device()
        assert isinstance(made.front(lambda cpu: cpu.write(PAGE_IPA + 0x50, b"1234")), GuestAbort)

    def test_the_backend_writes_memory(self) -> None:
        made = Device()
        made.yard.ok("addrspace_map", made.vm.addrspace, made.extent, PAGE_IPA + 0x1000, RWX_WB, 0, 0, 0)
        assert made.write(0x1000 + 0x50, 3)
        assert made.back("get_notification") == (0, 0)


class TestNotifications:
    """Who interrupts whom, and what is told."""

    def test_queue_notify_sets_the_queue_and_the_reason_and_interrupts_the_backend(self) -> None:
        made = Device()
        made.yard.ok("virtio_mmio_frontend_bind_virq", made.capid, made.yard.vic, BACK_VIRQ)
        for queue in (0, 3, 63, 64, U32):
            assert made.write(0x50, queue)
        irq = made.yard.root.vic.delivery.spi(BACK_VIRQ)
        assert irq.latch
        assert irq.line
        assert made.back("get_notification") == (1 << 63 | 9, NEW_BUFFER)
        assert made.back("get_notification") == (0, 0)
        assert irq.source is not None
        assert not irq.source.still_pending()

    def test_status_bits_that_rise_are_reasons(self) -> None:
        made = Device()
        for status, reason in ((1, 0), (3, 0), (3 | DRIVER_OK, OK), (3 | DRIVER_OK, 0), (DRIVER_OK | FAILED, FAILURE)):
            assert made.write(0x70, status)
            assert made.back("get_notification") == (0, reason)
            assert made.read(0x70) == status

    def test_a_reset_is_a_handshake(self) -> None:
        made = Device()
        assert made.write(0x70, 0)
        assert made.back("get_notification") == (0, 0)
        made.write(0x30, 1)
        made.write(0x44, 1)
        made.write(0x70, 3 | DRIVER_OK)
        made.back("get_notification")
        assert made.write(0x70, 0)
        assert made.read(0x70) == 3 | DRIVER_OK | NEEDS_RESET
        assert made.read(0x44) == 0
        assert made.back("get_queue_info", 1)[1] == 0
        assert made.back("get_notification") == (0, RESET)
        assert made.refused("assert_virq", 1) == Error.DENIED
        made.back("acknowledge_reset")
        assert made.read(0x70) == 0
        assert made.refused("assert_virq", 1) == 0

    def test_the_backend_adds_status_bits(self) -> None:
        made = Device()
        made.write(0x70, 1)
        made.back("update_status", NEEDS_RESET)
        assert made.read(0x70) == 1 | NEEDS_RESET

    def test_an_asserted_interrupt_stands_until_the_frontend_acknowledges_all_of_it(self) -> None:
        made = Device()
        made.yard.ok("virtio_mmio_backend_bind_virq", made.capid, made.vm.vic, FRONT_VIRQ)
        made.back("assert_virq", 1)
        made.back("assert_virq", 2)
        vic = made.vm.vcpus[0].vic
        assert vic is not None
        source = vic.delivery.spi(FRONT_VIRQ).source
        assert source is not None
        assert made.read(0x60) == 3
        assert made.write(0x64, 1)
        assert made.read(0x60) == 2
        assert source.still_pending()
        assert made.write(0x64, 2)
        assert not source.still_pending()

    def test_both_interrupts_are_bound_and_unbound_and_go_with_the_device(self) -> None:
        made = Device()
        yard = made.yard
        for side in ("backend", "frontend"):
            yard.ok(f"virtio_mmio_{side}_unbind_virq", made.capid)
            yard.ok(f"virtio_mmio_{side}_bind_virq", made.capid, yard.vic, FRONT_VIRQ)
            answer = yard.call(f"virtio_mmio_{side}_bind_virq", made.capid, yard.vic, FRONT_VIRQ)
            assert answer.error == Error.VIRQ_BOUND
            yard.ok(f"virtio_mmio_{side}_unbind_virq", made.capid)
        yard.ok("virtio_mmio_backend_bind_virq", made.capid, yard.vic, FRONT_VIRQ)
        yard.ok("cspace_delete_cap_from", yard.cspace, made.capid)
        assert yard.root.vic.delivery.spi(FRONT_VIRQ).source is None

    def test_writes_to_the_page_of_a_device_that_is_gone_abort(self) -> None:
        made = Device()
        made.yard.ok("cspace_delete_cap_from", made.yard.cspace, made.capid)
        assert not made.write(0x50, 0)
        assert made.read(0x50) == 0


class TestInput:
    """Devices of type 18."""

    def _device(self, events: int = 2, axes: int = 1) -> Device:
        made = Device(flags=64, kind=18)
        made.yard.ok("virtio_input_configure", made.capid, 0x0004_0003_0002_0001, 0x21, events, axes)
        return made

    def _store(self, made: Device, select: int, subselect: int, data: bytes) -> int:
        made.yard.root.addrspace.write(SCRATCH, data)
        return made.yard.call("virtio_input_set_data", made.capid, select, subselect, len(data), SCRATCH).error

    def _select(self, made: Device, select: int, subselect: int = 0) -> bytes:
        assert made.write(0x100, select, 1)
        assert made.write(0x101, subselect, 1)
        size = made.read(0x102, 1)
        data = made.front(lambda cpu: cpu.read(PAGE_IPA + 0x108, 128))
        assert isinstance(data, bytes)
        return data[:size]

    def test_what_the_backend_stored_appears_when_it_is_selected(self) -> None:
        made = self._device()
        assert self._store(made, 1, 0, b"keyboard") == 0
        assert self._store(made, 2, 0, b"serial 1") == 0
        assert self._store(made, 0x11, 3, bytes(range(128))) == 0
        assert self._store(made, 0x12, 5, bytes(range(20))) == 0
        assert self._select(made, 1) == b"keyboard"
        assert self._select(made, 2) == b"serial 1"
        assert self._select(made, 3) == bytes([1, 0, 2, 0, 3, 0, 4, 0])
        assert self._select(made, 0x10) == bytes([0x21, 0, 0, 0])
        assert self._select(made, 0x11, 3) == bytes(range(128))
        assert self._select(made, 0x12, 5) == bytes(range(20))
        assert self._select(made, 0x11, 4) == b""
        assert self._select(made, 0x55) == b""

    @pytest.mark.parametrize(
        ("select", "subselect", "size", "error"),
        [
            (0, 0, 4, Error.ARGUMENT_INVALID),
            (1, 1, 4, Error.ARGUMENT_INVALID),
            (1, 0, 0, Error.ARGUMENT_SIZE),
            (1, 0, 129, Error.ARGUMENT_SIZE),
            (3, 0, 9, Error.ARGUMENT_SIZE),
            (0x10, 0, 5, Error.ARGUMENT_SIZE),
            (0x11, 32, 4, Error.ARGUMENT_INVALID),
            (0x12, 63, 20, 0),
            (0x12, 64, 4, Error.ARGUMENT_INVALID),
            (0x12, 0, 21, Error.ARGUMENT_SIZE),
            (3, 0, 8, 0),
        ],
    )
    def test_items_have_places_and_sizes(self, select: int, subselect: int, size: int, error: int) -> None:
        made = self._device()
        answer = made.yard.call("virtio_input_set_data", made.capid, select, subselect, size, SCRATCH)
        assert answer.error == error

    def test_storing_again_takes_another_entry(self) -> None:
        made = self._device(events=2, axes=0)
        assert self._store(made, 0x11, 0, b"a") == 0
        assert self._store(made, 0x11, 0, b"b") == 0
        assert self._store(made, 0x11, 0, b"c") == Error.NORESOURCES
        assert self._store(made, 0x12, 0, b"c") == Error.ARGUMENT_INVALID
        assert self._select(made, 0x11, 0) == b"a"

    def test_storage_is_allocated_once_charged_and_limited(self) -> None:
        made = Device(flags=64, kind=18)
        yard = made.yard
        assert self._store(made, 0x11, 0, b"a") == Error.ARGUMENT_INVALID
        for events, axes in ((33, 0), (0, 65)):
            assert yard.call("virtio_input_configure", made.capid, 0, 0, events, axes).error == Error.ARGUMENT_INVALID
        before = yard.hv.root_partition.heap.used
        yard.ok("virtio_input_configure", made.capid, 0, 0, 32, 64)
        assert yard.hv.root_partition.heap.used == before + 32 * 128 + 64 * 20
        assert yard.call("virtio_input_configure", made.capid, 0, 0, 1, 1).error == Error.BUSY

    def test_other_devices_are_no_input_devices(self) -> None:
        made = Device()
        assert made.yard.call("virtio_input_configure", made.capid, 0, 0, 1, 1).error == Error.OBJECT_CONFIG
        assert self._store(made, 1, 0, b"name") == Error.CSPACE_WRONG_OBJECT_TYPE

    def test_a_buffer_that_cannot_be_read(self) -> None:
        made = self._device()
        yard = made.yard
        assert yard.call("virtio_input_set_data", made.capid, 1, 0, 4, 0x3_0000_0000).error == Error.ADDR_INVALID
        extent = yard.active("memextent", PAGE_PA + 0x1000, 0x1000, 7)
        yard.ok("addrspace_map", yard.addrspace, extent, 0x3_0000_0000, 0xF_0000, 0, 0, 0)
        assert yard.call("virtio_input_set_data", made.capid, 1, 0, 4, 0x3_0000_0000).error == Error.DENIED

    @pytest.mark.parametrize(("offset", "width"), [(0x100, 4), (0x102, 1), (0x108, 1), (0x104, 4)])
    def test_only_select_and_subsel_are_written(self, offset: int, width: int) -> None:
        assert not self._device().write(offset, 1, width)
