"""Address spaces at their edges: the page cache, the last byte of a range, what a fault tells, who hears of what."""

from __future__ import annotations

from typing import Any

import pytest

from gunyah.abi.errors import Error
from gunyah.abi.memory import MappingAttributes
from gunyah.abi.objects import ObjectState
from gunyah.abi.types import U64
from gunyah.hypervisor.addrspace import Addrspace, atomically
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.memextent_donate import donate_child
from gunyah.hypervisor.memextent_mapping import map_extent, map_partial, unmap
from gunyah.hypervisor.partition import Partition
from gunyah.hypervisor.stage2 import Stage2Fault

from .extents import DEVICE_RW, MIB, PAGE, RAM, RO, RW, RWX, V, basic, pages, refused, space, sparse, word

READ, WRITE, EXECUTE = 4, 2, 1


def fault(call: Any, *arguments: object) -> tuple[object, ...]:
    with pytest.raises(Stage2Fault) as raised:
        call(*arguments)
    return raised.value.kind, raised.value.ipa, raised.value.level, raised.value.access


class Thread:
    """What an address space knows of a vCPU."""

    addrspace: Addrspace | None = None
    vic: object = None


def nobody() -> Any:
    return Thread()


# -- the page cache ----------------------------------------------------------------------------------------------------


def test_the_second_access_to_a_page_does_not_walk_the_tables(root: Partition, monkeypatch: pytest.MonkeyPatch) -> None:
    extent, addrspace = basic(root), space(root)
    map_extent(extent, addrspace, V, RW)
    assert addrspace.translate(V, READ) == RAM

    def walk(ipa: int) -> None:
        raise LookupError(ipa)

    monkeypatch.setattr(addrspace.tables, "lookup", walk)
    for access in (READ, WRITE, READ | WRITE):
        assert addrspace.translate(V + 0xFFF, access) == RAM + 0xFFF
    assert addrspace.read(V + 8, 8) == bytes(8)
    for ipa in (V - 1, V + PAGE):
        with pytest.raises(LookupError):
            addrspace.translate(ipa, READ)
        with pytest.raises(LookupError):
            addrspace.read(ipa, 1)


def test_pages_at_low_addresses_are_not_mixed_up(root: Partition) -> None:
    extent, addrspace = basic(root), space(root)
    map_extent(extent, addrspace, 0, RW)
    for read in (lambda ipa: addrspace.translate(ipa, READ), lambda ipa: addrspace._ram_page(ipa, READ)):
        for page in range(16):
            assert read(page * PAGE + 5) == RAM + page * PAGE + 5


@pytest.mark.parametrize("first", [READ, WRITE, READ | WRITE])
@pytest.mark.parametrize("kernel", [4, 2, 6, 5, 7])
def test_what_was_reached_once_is_not_reached_with_more_rights_than_it_has(
    root: Partition, kernel: int, first: int
) -> None:
    extent, addrspace = basic(root), space(root)
    map_extent(extent, addrspace, V, MappingAttributes(kernel, kernel, 0xF))
    for access in (first, READ, WRITE, EXECUTE, READ | WRITE, READ | WRITE | EXECUTE):
        if kernel & access == access:
            assert addrspace.translate(V, access) == RAM
            assert addrspace.fault_at(V, access) is None
        else:
            expected = ("permission", V, 2, access)
            assert fault(addrspace.translate, V, access) == expected
            assert fault(addrspace._ram_page, V, access) == expected


def test_a_page_of_a_block_is_found_at_its_own_place(root: Partition) -> None:
    extent, addrspace = basic(root, RAM + 2 * MIB, 4 * MIB), space(root)
    map_extent(extent, addrspace, V, RWX)
    for offset in (0, 0x1234, 2 * MIB - 1, 2 * MIB, 3 * MIB + 0x888, 4 * MIB - 1):
        assert addrspace.translate(V + offset, EXECUTE) == RAM + 2 * MIB + offset


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_translation_fault_tells_how_far_the_walk_came(root: Partition) -> None:
    extent, addrspace = basic(root, size=PAGE), space(root)
    assert fault(addrspace.translate, V, READ) == ("translation", V, 1, READ)
    map_extent(extent, addrspace, V, RW)
    assert fault(addrspace.translate, V + PAGE, WRITE) == ("translation", V + PAGE, 3, WRITE)
    assert fault(addrspace.translate, V + 2 * MIB, READ) == ("translation", V + 2 * MIB, 2, READ)
    found = addrspace.fault_at(V + PAGE, EXECUTE)
    assert found is not None
    assert (found.kind, found.ipa, found.level, found.access) == ("translation", V + PAGE, 3, EXECUTE)


def test_without_tables_every_access_faults_at_level_0(root: Partition) -> None:
    addrspace = Addrspace(root)
    assert fault(addrspace.translate, V, WRITE) == ("translation", V, 0, WRITE)
    assert fault(addrspace.write, V, b"x") == ("translation", V, 0, WRITE)
    assert fault(addrspace.read, V, 1) == ("translation", V, 0, READ)


def test_a_device_faults_with_its_level_and_its_address(root: Partition) -> None:
    device, addrspace = MemExtent.device(root, 0x900_0000, PAGE, word(6, 1)), space(root)
    map_extent(device, addrspace, V, DEVICE_RW)
    for _ in range(2):
        found = addrspace.fault_at(V + 0x18, WRITE)
        assert found is not None
        assert (found.kind, found.ipa, found.level, found.access, found.pa) == (
            "device",
            V + 0x18,
            3,
            WRITE,
            0x900_0018,
        )


# -- reading and writing -----------------------------------------------------------------------------------------------


def scattered(root: Partition) -> Addrspace:
    """Four pages at V that lie in the opposite order in memory."""
    extent, addrspace = sparse(root), space(root)
    donate_child(extent, 0, MIB, reverse=False)
    for page in range(4):
        map_partial(extent, addrspace, V + page * PAGE, (3 - page) * PAGE, PAGE, RW)
    return addrspace


@pytest.mark.parametrize("offset", [0, 1, PAGE - 1, PAGE, 2 * PAGE - 3])
@pytest.mark.parametrize("size", [0, 1, 2, 3, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE])
def test_bytes_come_back_wherever_pages_end(root: Partition, offset: int, size: int) -> None:
    addrspace = scattered(root)
    data = bytes(1 + i % 251 for i in range(size))
    addrspace.write(V + offset, data)
    assert addrspace.read(V + offset, size) == data
    flat = b"".join(root.system.ram.read(RAM + (3 - page) * PAGE, PAGE) for page in range(4))
    assert flat == bytes(offset) + data + bytes(4 * PAGE - offset - size)


# -- configuration and life --------------------------------------------------------------------------------------------


def test_another_information_page_lets_go_of_the_first(root: Partition) -> None:
    one, two = basic(root, RAM, PAGE), basic(root, RAM + MIB, PAGE)
    addrspace = Addrspace(root)
    addrspace.configure(7)
    addrspace.configure_info_area(one, V)
    addrspace.configure_info_area(two, V + PAGE)
    assert (one.references, two.references, addrspace.info_extent, addrspace.info_ipa) == (1, 2, two, V + PAGE)
    addrspace.activate()
    assert (one.attached, two.attached) == (False, True)
    addrspace.put()
    assert (two.attached, two.references, addrspace.info_extent) == (False, 1, None)


@pytest.mark.parametrize(("ipa", "fits"), [((1 << 36) - PAGE, True), ((1 << 36) - PAGE + 1, False), (1 << 36, False)])
def test_the_information_page_ends_with_the_ipa_space(root: Partition, ipa: int, fits: bool) -> None:
    addrspace, extent = Addrspace(root), basic(root, size=PAGE)
    if fits:
        addrspace.configure_info_area(extent, ipa)
        assert addrspace.info_ipa == ipa
    else:
        with refused(Error.ADDR_INVALID):
            addrspace.configure_info_area(extent, ipa)


def test_only_the_information_page_is_zeroed(root: Partition) -> None:
    extent = basic(root, RAM + PAGE, PAGE)
    root.system.ram.write(RAM, b"\xff" * 3 * PAGE)
    addrspace = Addrspace(root)
    addrspace.configure(7)
    addrspace.configure_info_area(extent, V)
    addrspace.activate()
    assert root.system.ram.read(RAM, 3 * PAGE) == b"\xff" * PAGE + bytes(PAGE) + b"\xff" * PAGE


def test_a_failed_activation_leaves_nothing_and_its_vmid_free(root: Partition) -> None:
    extent = basic(root, size=PAGE)
    extent.attach(root, PAGE)
    addrspace = Addrspace(root)
    addrspace.configure(7)
    addrspace.configure_info_area(extent, V)
    before = root.heap.used
    with refused(Error.BUSY):
        addrspace.activate()
    assert (root.heap.used, root.system.vmids) == (before, {})
    with refused(Error.OBJECT_STATE):
        addrspace.tables.leaves()
    addrspace.put()
    assert extent.references == 1
    space(root, 7)


def test_a_vmid_that_is_taken_is_refused_with_the_name_of_its_holder(root: Partition) -> None:
    holder = space(root, 7)
    assert root.system.vmids == {7: holder}
    for vmid, name in ((7, str(holder)), (0, "the hypervisor")):
        late = Addrspace(root)
        late.vmid = vmid
        with pytest.raises(HypervisorError, match=f"VMID {vmid} belongs to {name}$") as failure:
            late.activate()
        assert failure.value.code is Error.BUSY


def test_the_end_of_an_address_space_is_told_as_a_change_of_all_of_it(root: Partition) -> None:
    extent, addrspace = basic(root), space(root)
    map_extent(extent, addrspace, V, RW)
    addrspace.translate(V, READ)
    heard: list[tuple[int, int]] = []
    addrspace.change_listeners.append(lambda ipa, size: heard.append((ipa, size)))
    addrspace.put()
    assert heard[-1] == (0, 1 << 36)
    assert fault(addrspace.translate, V, READ) == ("translation", V, 0, READ)
    assert root.system.vmids == {}
    with refused(Error.OBJECT_STATE):
        addrspace.tables.leaves()


def test_a_smaller_ipa_space_ends_where_it_says(root: Partition) -> None:
    addrspace = Addrspace(root, 32)
    addrspace.configure(7)
    addrspace.activate()
    assert addrspace.vtcr & 0x3F == 32
    map_extent(basic(root, size=PAGE), addrspace, (1 << 32) - PAGE, RW)
    with refused(Error.ADDR_INVALID):
        map_extent(basic(root, RAM + MIB, PAGE), addrspace, 1 << 32, RW)
    assert list(pages(addrspace)) == [(1 << 32) - PAGE]


def test_a_read_only_address_space_refuses_its_own_calls_too(root: Partition) -> None:
    addrspace = space(root)
    addrspace.map(V, PAGE, RAM, RO)
    addrspace.read_only = True
    with refused(Error.DENIED):
        addrspace.map(V + PAGE, PAGE, RAM, RO)
    with refused(Error.DENIED):
        addrspace.unmap(V, PAGE, RAM)
    assert list(pages(addrspace)) == [V]
    addrspace.read_only = False
    addrspace.unmap(V, PAGE, RAM + PAGE)
    assert list(pages(addrspace)) == [V], "what leads elsewhere is left alone"
    addrspace.unmap(V, PAGE, RAM)
    assert pages(addrspace) == {}


def test_a_thread_that_moves_on_is_known_to_its_new_address_space_alone(root: Partition) -> None:
    one, two, thread = space(root, 7), space(root, 8), nobody()
    one.attach_thread(thread)
    two.attach_thread(thread)
    assert (one.references, two.references, one.threads, two.threads) == (1, 2, set(), {thread})
    one.detach_thread(thread)
    assert thread.addrspace is two
    two.detach_thread(thread)
    assert (two.references, two.threads, thread.addrspace) == (1, set(), None)


# -- look-up -----------------------------------------------------------------------------------------------------------


def test_a_look_up_ends_where_memory_attributes_or_mapping_do(root: Partition) -> None:
    extent, addrspace = sparse(root, RAM, 8 * MIB), space(root)
    donate_child(extent, 0, 8 * MIB, reverse=False)
    map_partial(extent, addrspace, V, 0, 2 * MIB, RW)
    map_partial(extent, addrspace, V + 2 * MIB, 2 * MIB, PAGE, RW)
    map_partial(extent, addrspace, V + 2 * MIB + PAGE, 4 * MIB, PAGE, RW)
    map_partial(extent, addrspace, V + 2 * MIB + 2 * PAGE, 4 * MIB + PAGE, PAGE, RO)
    for ipa, size, pa, length, attributes in (
        (V, U64 + 1 - V - PAGE, RAM, 2 * MIB + PAGE, RW),
        (V, 2 * MIB + PAGE, RAM, 2 * MIB + PAGE, RW),
        (V, 2 * MIB, RAM, 2 * MIB, RW),
        (V + MIB, PAGE, RAM + MIB, PAGE, RW),
        (V + MIB, 4 * MIB, RAM + MIB, MIB + PAGE, RW),
        (V + 2 * MIB + PAGE, MIB, RAM + 4 * MIB, PAGE, RW),
        (V + 2 * MIB + 2 * PAGE, MIB, RAM + 4 * MIB + PAGE, PAGE, RO),
    ):
        assert addrspace.lookup(ipa, size) == (pa, length, attributes)


def test_a_look_up_may_reach_the_last_byte_there_is(root: Partition) -> None:
    extent, addrspace = basic(root, size=PAGE), space(root)
    map_extent(extent, addrspace, V, RW)
    assert addrspace.lookup(V, U64 + 1 - V) == (RAM, PAGE, RW)
    with refused(Error.ADDR_OVERFLOW):
        addrspace.lookup(V, U64 + 1 - V + PAGE)
    with refused(Error.ADDR_OVERFLOW):
        addrspace.lookup(V + 1, U64 + 1 - V)


# -- VMMIO and devices -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "size", "added", "removed"),
    [
        ((1 << 52) - PAGE, PAGE, None, Error.BUSY),
        ((1 << 52) - PAGE, PAGE + 1, Error.ARGUMENT_SIZE, Error.ARGUMENT_SIZE),
        (U64 - PAGE, PAGE, Error.ARGUMENT_SIZE, Error.ARGUMENT_SIZE),
        (U64 - PAGE, PAGE + 1, Error.ADDR_OVERFLOW, Error.ADDR_OVERFLOW),
        (0, 1 << 52, None, Error.BUSY),
        (0, 1, None, Error.BUSY),
    ],
)
def test_a_vmmio_range_ends_with_52_bits(
    root: Partition, base: int, size: int, added: Error | None, removed: Error
) -> None:
    addrspace = Addrspace(root)
    if added is None:
        addrspace.add_vmmio_range(base, size)
        assert addrspace.vmmio_ranges == ((base, size),)
        assert addrspace.vmmio_range_at(base, size)
        assert not addrspace.vmmio_range_at(base, size + 1)
    else:
        with refused(added):
            addrspace.add_vmmio_range(base, size)
    with refused(removed):
        addrspace.remove_vmmio_range(base, size)


def test_128_vmmio_ranges_are_reason_enough_before_the_size_is_looked_at(root: Partition) -> None:
    addrspace = Addrspace(root)
    for i in range(128):
        addrspace.add_vmmio_range(i * PAGE, PAGE)
    assert len(addrspace.vmmio_ranges) == 128
    with refused(Error.NORESOURCES):
        addrspace.add_vmmio_range(1 << 52, 1)
    with refused(Error.ARGUMENT_SIZE):
        addrspace.add_vmmio_range(1 << 52, 0)


@pytest.mark.parametrize(
    ("base", "size", "error"),
    [
        ((1 << 44) - PAGE, PAGE, None),
        ((1 << 44) - PAGE, PAGE + 1, Error.ARGUMENT_SIZE),
        (U64 + 1 - PAGE, PAGE, Error.ARGUMENT_SIZE),
        (U64 + 1 - PAGE, PAGE + 1, Error.ARGUMENT_INVALID),
        (0, 1, None),
    ],
)
def test_a_device_frame_ends_with_44_bits(root: Partition, base: int, size: int, error: Error | None) -> None:
    addrspace, device = space(root), object()
    if error is not None:
        with refused(error):
            addrspace.attach_vdevice(device, base, size)  # type: ignore[arg-type]
        assert (addrspace.references, addrspace.devices) == (1, ())
        return
    addrspace.attach_vdevice(device, base, size)  # type: ignore[arg-type]
    assert addrspace.device_at(base + size - 1, nobody()) == (device, size - 1)
    assert addrspace.device_at(base + size, nobody()) is None


def test_frames_may_touch_stand_in_order_and_are_told_to_the_cores(root: Partition) -> None:
    addrspace, devices = space(root), [object() for _ in range(3)]
    heard: list[tuple[int, int]] = []
    addrspace.change_listeners.append(lambda ipa, size: heard.append((ipa, size)))
    frames = [
        addrspace.attach_vdevice(device, base, 2 * PAGE)  # type: ignore[arg-type]
        for device, base in zip(devices, (0x3000, 0x1000, 0x5000), strict=True)
    ]
    assert addrspace.devices == (frames[1], frames[0], frames[2])
    assert heard == [(0x3000, 2 * PAGE), (0x1000, 2 * PAGE), (0x5000, 2 * PAGE)]
    assert addrspace.references == 4
    heard.clear()
    addrspace.detach_vdevice(frames[0])
    addrspace.detach_vdevice(frames[0])
    assert heard == [(0x3000, 2 * PAGE)]
    assert (addrspace.references, addrspace.devices) == (3, (frames[1], frames[2]))


def test_a_frame_is_forgotten_by_the_cache_of_pages(root: Partition) -> None:
    extent, addrspace = basic(root), space(root)
    map_extent(extent, addrspace, V, RW)
    addrspace.translate(V, READ)
    addrspace.attach_vdevice(object(), 0x1000, PAGE)  # type: ignore[arg-type]
    assert addrspace._cache == {}


def test_a_device_behind_an_extent_counts_from_the_start_of_the_extent(root: Partition) -> None:
    extent, addrspace = basic(root, RAM + 2 * MIB, 2 * MIB), space(root)
    device: Any = object()
    map_extent(extent, addrspace, V, RO)
    assert addrspace.device_at(V, nobody()) is None
    extent.vdevice = device
    for offset in (0, 4, PAGE, MIB + 0x10, 2 * MIB - 1):
        assert addrspace.device_at(V + offset, nobody()) == (device, offset)
    unmap(extent, addrspace, V)
    assert addrspace.device_at(V, nobody()) is None


def test_the_clock_page_is_one_page(root: Partition) -> None:
    addrspace, clock = Addrspace(root), object()
    addrspace.vrtc = (0x2000, clock)  # type: ignore[assignment]
    assert addrspace.device_at(0x1FFF, nobody()) is None
    assert addrspace.device_at(0x2000, nobody()) == (clock, 0)
    assert addrspace.device_at(0x2FFF, nobody()) == (clock, 0xFFF)
    assert addrspace.device_at(0x3000, nobody()) is None


# -- transactions ------------------------------------------------------------------------------------------------------


def test_several_address_spaces_change_whole_or_not_at_all(root: Partition) -> None:
    one, two = space(root, 7), space(root, 8)
    with pytest.raises(ZeroDivisionError), atomically({one, two}):
        one.map(V, PAGE, RAM, RW)
        two.map(V, PAGE, RAM, RW)
        raise ZeroDivisionError
    assert pages(one) == pages(two) == {}
    with atomically({one, two}):
        one.map(V, PAGE, RAM, RW)
        two.map(V, PAGE, RAM + PAGE, RW)
    assert pages(one) == {V: (RAM, RW)}
    assert pages(two) == {V: (RAM + PAGE, RW)}
    assert one.state == two.state == ObjectState.ACTIVE


def test_a_page_that_no_extent_owns_has_no_device(root: Partition) -> None:
    addrspace = space(root)
    addrspace.map(V, PAGE, RAM, RO)
    addrspace.attach_vdevice(object(), V, PAGE)  # type: ignore[arg-type]
    assert addrspace.device_at(V, nobody()) is None
