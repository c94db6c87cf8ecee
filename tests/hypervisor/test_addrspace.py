"""Address spaces: VMIDs, threads, windows and devices at IPAs, and the hypervisor's own view of VM memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gunyah.abi.errors import Error
from gunyah.abi.memory import MappingAttributes
from gunyah.abi.objects import ObjectState
from gunyah.hypervisor.addrspace import MAX_THREADS, Addrspace
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.memextent_donate import donate_child
from gunyah.hypervisor.memextent_mapping import map_extent, map_partial, unmap
from gunyah.hypervisor.partition import Partition
from gunyah.hypervisor.stage2 import Stage2Fault

from .extents import DEVICE_RW, MIB, PAGE, RAM, RO, RW, RWX, V, basic, derive, make_root, refused, space, sparse, word

READ, WRITE, EXECUTE = 4, 2, 1


class Thread:
    """What an address space knows of a vCPU."""

    addrspace: Addrspace | None = None
    vic: object = None


def a_vcpu() -> Any:
    return Thread()


class Page:
    """A device that remembers nothing."""

    def read(self, vcpu: object, offset: int, size: int) -> int:
        return offset

    def write(self, vcpu: object, offset: int, size: int, value: int) -> None:
        pass


# -- VMIDs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vmid", [0, 256, 65535])
def test_vmids_are_1_to_255(root: Partition, vmid: int) -> None:
    addrspace = Addrspace(root)
    with refused(Error.ARGUMENT_INVALID):
        addrspace.configure(vmid)
    with refused(Error.BUSY):
        addrspace.activate()
    assert addrspace.state == ObjectState.FAILED
    addrspace.put()
    assert root.heap.used == 0


def test_a_vmid_belongs_to_one_active_address_space(root: Partition) -> None:
    first = space(root, 255)
    second = Addrspace(root)
    second.configure(255)
    with refused(Error.BUSY):
        second.activate()
    first.put()
    third = Addrspace(root)
    third.configure(1)
    third.configure(255)
    third.activate()
    assert third.vttbr >> 48 == 255
    assert third.vtcr & 0x3F == 28


def test_an_address_space_that_is_not_active_has_no_tables(root: Partition) -> None:
    addrspace = Addrspace(root)
    with refused(Error.OBJECT_STATE):
        addrspace.vttbr  # noqa: B018
    with pytest.raises(Stage2Fault):
        addrspace.read(0, 1)


def test_no_page_for_the_tables_fails_activation_and_frees_the_vmid(root: Partition) -> None:
    addrspace, other = Addrspace(root), Addrspace(root)
    addrspace.configure(9)
    other.configure(9)
    taken = root.heap.available
    root.heap.book(taken)
    with refused(Error.NOMEM):
        addrspace.activate()
    root.heap.unbook(taken)
    other.activate()


# -- threads -----------------------------------------------------------------------------------------------------------


def test_eight_vcpus_share_an_address_space_and_keep_it_alive(root: Partition) -> None:
    addrspace, other = space(root, 7), space(root, 8)
    vcpus = [a_vcpu() for _ in range(MAX_THREADS)]
    for vcpu in vcpus:
        addrspace.attach_thread(vcpu)
    late = a_vcpu()
    with refused(Error.NOMEM):
        addrspace.attach_thread(late)
    with refused(Error.NOMEM):
        addrspace.attach_thread(vcpus[0])
    other.attach_thread(vcpus[0])
    assert vcpus[0].addrspace is other
    addrspace.attach_thread(late)
    addrspace.put()
    assert addrspace.state == ObjectState.ACTIVE
    for vcpu in (*vcpus[1:], late):
        addrspace.detach_thread(vcpu)
    assert addrspace.state == ObjectState.DESTROYING
    assert late.addrspace is None


def test_attaching_again_changes_nothing(root: Partition) -> None:
    addrspace, vcpu = space(root), a_vcpu()
    addrspace.attach_thread(vcpu)
    addrspace.attach_thread(vcpu)
    assert addrspace.references == 2
    addrspace.detach_thread(vcpu)
    addrspace.detach_thread(vcpu)
    assert addrspace.references == 1


# -- information page --------------------------------------------------------------------------------------------------


def test_the_information_page_is_zeroed_and_kept_whole(root: Partition) -> None:
    extent = basic(root, size=PAGE, access=6)
    root.system.ram.write(RAM, b"\xff" * PAGE)
    addrspace = Addrspace(root)
    addrspace.configure(7)
    addrspace.configure_info_area(extent, V)
    addrspace.configure_info_area(extent, V + PAGE)
    addrspace.activate()
    assert root.system.ram.read(RAM, PAGE) == bytes(PAGE)
    assert extent.attached
    child = MemExtent(root)
    child.configure_derive(extent, 0, PAGE, word(6))
    with refused(Error.BUSY):
        child.activate()
    child.put()
    extent.put()
    assert extent.state == ObjectState.ACTIVE
    addrspace.put()
    assert extent.state == ObjectState.DESTROYING
    assert next(root.free_ranges())[0] == RAM


def test_a_bad_information_page_is_refused(root: Partition) -> None:
    addrspace = Addrspace(root)
    good = basic(root, RAM, PAGE)
    large = basic(root, RAM + MIB, 2 * PAGE)
    readable = basic(root, RAM + 2 * MIB, PAGE, access=5)
    holes = sparse(root, RAM + 3 * MIB, PAGE)
    device = MemExtent.device(root, 0, PAGE, word(6, 1))
    for extent, ipa, error in (
        (large, V, Error.ARGUMENT_INVALID),
        (large, 1, Error.ARGUMENT_INVALID),
        (good, V + 0x800, Error.ADDR_INVALID),
        (good, 1 << 36, Error.ADDR_INVALID),
        (good, 0xFFFF_FFFF_FFFF_F000, Error.ADDR_INVALID),
        (readable, V, Error.ARGUMENT_INVALID),
        (holes, V, Error.ARGUMENT_INVALID),
        (device, V, Error.ARGUMENT_INVALID),
    ):
        with refused(error):
            addrspace.configure_info_area(extent, ipa)
    assert addrspace.info_extent is None


def test_an_information_page_with_children_fails_activation(root: Partition) -> None:
    extent = basic(root, size=PAGE)
    child = derive(extent, 0, PAGE)
    addrspace = Addrspace(root)
    addrspace.configure(7)
    addrspace.configure_info_area(extent, (1 << 36) - PAGE)
    used = root.heap.used
    with refused(Error.BUSY):
        addrspace.activate()
    assert root.heap.used == used
    assert 7 not in root.system.vmids
    for obj in (addrspace, extent, child):
        obj.put()
    assert root.objects == ()


# -- look-up -----------------------------------------------------------------------------------------------------------


def test_look_up_reports_the_longest_uniform_start(root: Partition) -> None:
    one, two, addrspace = basic(root, RAM, 4 * MIB), basic(root, RAM + 4 * MIB, MIB), space(root)
    map_extent(one, addrspace, V + PAGE, RW)
    map_extent(two, addrspace, V + PAGE + 4 * MIB, RW)
    assert addrspace.lookup(V + PAGE, 1 << 30) == (RAM, 5 * MIB, RW)
    assert addrspace.lookup(V + 3 * PAGE, PAGE) == (RAM + 2 * PAGE, PAGE, RW)
    unmap(two, addrspace, V + PAGE + 4 * MIB)
    map_extent(two, addrspace, V + PAGE + 4 * MIB, RO)
    assert addrspace.lookup(V + PAGE, 0xFFFF_FFFF_0000_0000) == (RAM, 4 * MIB, RW)


@pytest.mark.parametrize(
    ("ipa", "size", "error"),
    [
        (V, 0, Error.ARGUMENT_SIZE),
        (V + 1, 0, Error.ARGUMENT_SIZE),
        (0xFFFF_FFFF_FFFF_F001, 0x1000, Error.ADDR_OVERFLOW),
        (V + 0x800, PAGE, Error.ARGUMENT_ALIGNMENT),
        (V, 0x800, Error.ARGUMENT_ALIGNMENT),
        (V, PAGE, Error.ADDR_INVALID),
        (1 << 36, PAGE, Error.ADDR_INVALID),
        (0xFFFF_FFFF_FFFF_F000, PAGE, Error.ADDR_INVALID),
    ],
)
def test_a_bad_look_up_is_refused(root: Partition, ipa: int, size: int, error: Error) -> None:
    with refused(error):
        space(root).lookup(ipa, size)


# -- memory ------------------------------------------------------------------------------------------------------------


def fault(call: object, *arguments: object) -> Stage2Fault:
    with pytest.raises(Stage2Fault) as raised:
        call(*arguments)  # type: ignore[operator]
    assert str(raised.value)
    return raised.value


def test_access_follows_the_kernels_rights_at_once(root: Partition) -> None:
    extent, addrspace = basic(root), space(root)
    map_extent(extent, addrspace, V, RW)
    addrspace.write(V + 10, b"hello")
    assert addrspace.read(V + 10, 5) == b"hello"
    assert addrspace.translate(V + 10, READ) == RAM + 10
    assert fault(addrspace.translate, V, EXECUTE).kind == "permission"
    unmap(extent, addrspace, V)
    assert fault(addrspace.read, V + 10, 1).kind == "translation"
    map_extent(extent, addrspace, V, RO)
    assert addrspace.read(V + 10, 5) == b"hello"
    denied = fault(addrspace.write, V + 10, b"x")
    assert (denied.kind, denied.ipa, denied.level, denied.access) == ("permission", V + 10, 2, WRITE)
    unmap(extent, addrspace, V)
    map_extent(extent, addrspace, V, MappingAttributes(2, 2, 0xF))
    addrspace.write(V + 10, b"x")
    assert fault(addrspace.read, V + 10, 1).kind == "permission"


def test_a_write_across_pages_is_whole_or_not_at_all(root: Partition) -> None:
    extent, addrspace = sparse(root), space(root)
    donate_child(extent, 0, MIB, reverse=False)
    map_partial(extent, addrspace, V, 0, PAGE, RW)
    map_partial(extent, addrspace, V + PAGE, 4 * PAGE, PAGE, RW)
    addrspace.write(V + PAGE - 3, b"abcdef")
    assert root.system.ram.read(RAM + PAGE - 3, 3) == b"abc"
    assert root.system.ram.read(RAM + 4 * PAGE, 3) == b"def"
    assert addrspace.read(V + PAGE - 3, 6) == b"abcdef"
    missing = fault(addrspace.write, V + 2 * PAGE - 3, b"uvwxyz")
    assert (missing.kind, missing.ipa) == ("translation", V + 2 * PAGE)
    assert addrspace.read(V + 2 * PAGE - 3, 3) == bytes(3)
    assert fault(addrspace.read, V + 2 * PAGE - 3, 6).ipa == V + 2 * PAGE
    assert addrspace.read(V, 0) == b""


def test_a_device_is_not_memory(root: Partition) -> None:
    device, addrspace = MemExtent.device(root, 0x900_0000, PAGE, word(6, 1)), space(root)
    map_extent(device, addrspace, 0x900_0000, DEVICE_RW)
    assert addrspace.translate(0x900_0018, READ) == 0x900_0018
    for found in (fault(addrspace.read, 0x900_0018, 4), addrspace.fault_at(0x900_0018, WRITE)):
        assert found is not None
        assert (found.kind, found.pa, found.ipa) == ("device", 0x900_0018, 0x900_0018)
    assert fault(addrspace.translate, 0x900_0018, EXECUTE).kind == "permission"


def test_addresses_from_nowhere_fault(root: Partition) -> None:
    addrspace = space(root)
    for ipa in (0, (1 << 36) - 1, 1 << 36, 1 << 63, (1 << 64) - 1):
        assert fault(addrspace.read, ipa, 1).kind == "translation"
        assert fault(addrspace.read, ipa, 1 << 62).kind == "translation"
        assert fault(addrspace.write, ipa, b"12").kind == "translation"
    extent = basic(root)
    map_extent(extent, addrspace, (1 << 36) - 2 * MIB, RW)
    assert addrspace.read((1 << 36) - 2, 2) == bytes(2)
    assert fault(addrspace.read, (1 << 36) - 2, 3).ipa == 1 << 36
    assert addrspace.fault_at((1 << 36) - 2, READ) is None


def test_listeners_hear_of_every_change(root: Partition) -> None:
    extent, addrspace = basic(root), space(root)
    heard: list[tuple[int, int]] = []
    addrspace.change_listeners.append(lambda ipa, size: heard.append((ipa, size)))
    map_extent(extent, addrspace, V, RWX)
    assert heard == [(V, 2 * MIB)]
    heard.clear()
    map_extent(extent, addrspace, V, RWX)
    assert heard == []
    derive(extent, 0, 2 * PAGE, 4)
    assert any(ipa <= V < ipa + size for ipa, size in heard)
    heard.clear()
    unmap(extent, addrspace, V)
    assert {ipa + offset for ipa, size in heard for offset in range(0, size, PAGE)} >= set(
        range(V + 2 * PAGE, V + 2 * MIB, PAGE)
    )
    heard.clear()
    addrspace.put()
    assert heard


# -- VMMIO -------------------------------------------------------------------------------------------------------------


def test_vmmio_ranges_do_not_overlap_and_stay(root: Partition) -> None:
    addrspace = Addrspace(root)
    addrspace.add_vmmio_range(0x1000, 0x1000)
    addrspace.add_vmmio_range(0x3000, 0x800)
    addrspace.add_vmmio_range(0x2000, 0x1000)
    for base, size, error in (
        (0x1000, 0, Error.ARGUMENT_SIZE),
        (0xFFFF_FFFF_FFFF_F000, 0x1000, Error.ADDR_OVERFLOW),
        (0xFFFF_FFFF_FFFF_F000, 0x2000, Error.ADDR_OVERFLOW),
        (1 << 52, 1, Error.ARGUMENT_SIZE),
        ((1 << 52) - 1, 2, Error.ARGUMENT_SIZE),
        (0x37FF, 1, Error.BUSY),
        (0xFFF, 2, Error.BUSY),
        (0, 0x1_0000, Error.BUSY),
    ):
        with refused(error):
            addrspace.add_vmmio_range(base, size)
    for base, size, error in (
        (0x1000, 0x1000, Error.BUSY),
        (0x9000, 0x1000, Error.BUSY),
        (0x1000, 0, Error.ARGUMENT_SIZE),
        (1 << 52, 1, Error.ARGUMENT_SIZE),
        (0xFFFF_FFFF_FFFF_F000, 0x2000, Error.ADDR_OVERFLOW),
    ):
        with refused(error):
            addrspace.remove_vmmio_range(base, size)
    assert addrspace.vmmio_ranges == ((0x1000, 0x1000), (0x2000, 0x1000), (0x3000, 0x800))
    assert addrspace.vmmio_range_at(0x1FFC, 4)
    assert not addrspace.vmmio_range_at(0x1FFE, 4)
    assert not addrspace.vmmio_range_at(0xFFF, 1)
    assert not addrspace.vmmio_range_at(0x3800, 1)
    assert addrspace.vmmio_range_at(0x37F8, 8)


def test_there_are_128_vmmio_ranges(root: Partition) -> None:
    addrspace = Addrspace(root)
    for i in range(128):
        addrspace.add_vmmio_range(i * 0x1_0000, 0x1000)
    with refused(Error.NORESOURCES):
        addrspace.add_vmmio_range(128 * 0x1_0000, 0x1000)
    with refused(Error.NORESOURCES):
        addrspace.add_vmmio_range(0, 0x1000)


@given(
    st.lists(st.tuples(st.integers(0, 63), st.integers(1, 12)), max_size=20),
    st.integers(0, 80),
    st.sampled_from([1, 2, 4, 8]),
)
@settings(max_examples=60, deadline=None)
def test_vmmio_ranges_answer_as_a_list_of_intervals_would(wanted: list[tuple[int, int]], ipa: int, access: int) -> None:
    addrspace = Addrspace(make_root())
    model: list[tuple[int, int]] = []
    for base, size in wanted:
        if any(b < base + size and base < b + s for b, s in model):
            with refused(Error.BUSY):
                addrspace.add_vmmio_range(base, size)
        else:
            addrspace.add_vmmio_range(base, size)
            model.append((base, size))
    assert addrspace.vmmio_ranges == tuple(sorted(model))
    assert addrspace.vmmio_range_at(ipa, access) == any(b <= ipa and ipa + access <= b + s for b, s in model)


# -- devices -----------------------------------------------------------------------------------------------------------


def test_frames_are_found_do_not_overlap_and_hold_the_address_space(root: Partition) -> None:
    addrspace, vcpu, one, two = space(root), a_vcpu(), Page(), Page()
    frame = addrspace.attach_vdevice(one, 0x800_0000, 0x1_0000)
    for base, size, error in (
        (0x800_0000, 0, Error.ARGUMENT_INVALID),
        (0xFFFF_FFFF_FFFF_F000, 0x2000, Error.ARGUMENT_INVALID),
        (1 << 44, PAGE, Error.ARGUMENT_SIZE),
        (0x800_FFFF, 1, Error.BUSY),
        (0x7FF_F000, 0x2000, Error.BUSY),
    ):
        with refused(error):
            addrspace.attach_vdevice(two, base, size)
    addrspace.attach_vdevice(two, 0x801_0000, 1)
    assert addrspace.device_at(0x800_0004, vcpu) == (one, 4)
    assert addrspace.device_at(0x801_0000, vcpu) == (two, 0)
    assert addrspace.device_at(0x801_0001, vcpu) is None
    assert addrspace.device_at(0x7FF_FFFF, vcpu) is None
    addrspace.detach_vdevice(frame)
    addrspace.detach_vdevice(frame)
    assert addrspace.device_at(0x800_0004, vcpu) is None
    assert [found.device for found in addrspace.devices] == [two]
    addrspace.put()
    assert addrspace.state == ObjectState.ACTIVE
    addrspace.detach_vdevice(addrspace.devices[0])
    assert addrspace.state == ObjectState.DESTROYING


def test_attached_frames_come_before_the_default_window_and_the_clock(root: Partition) -> None:
    addrspace, attached, window, clock = space(root), Page(), Page(), Page()
    vic = SimpleNamespace(default_device_at=lambda ipa: (window, ipa) if ipa < 0x2000 else None)
    vcpu = SimpleNamespace(vic=vic)
    addrspace.vrtc = (0x1000, clock)
    assert addrspace.device_at(0x1004, vcpu) == (window, 0x1004)
    assert addrspace.device_at(0x1004, a_vcpu()) == (clock, 4)
    assert addrspace.device_at(0x2000, vcpu) is None
    addrspace.attach_vdevice(attached, 0x1000, PAGE)
    assert addrspace.device_at(0x1004, vcpu) == (attached, 4)


def test_a_mapped_page_answers_only_as_its_extents_device(root: Partition) -> None:
    extent, plain, addrspace, device = basic(root, RAM, PAGE), basic(root, RAM + MIB, PAGE), space(root), Page()
    extent.vdevice = device
    map_extent(extent, addrspace, V, RO)
    map_extent(plain, addrspace, V + PAGE, RO)
    addrspace.attach_vdevice(Page(), V, 2 * PAGE)
    assert addrspace.device_at(V + 0x50, a_vcpu()) == (device, 0x50)
    assert addrspace.device_at(V + PAGE, a_vcpu()) is None


def test_an_address_space_returns_everything(root: Partition) -> None:
    extent = basic(root)
    used = root.heap.used
    for vmid in range(1, 256):
        addrspace = space(root, vmid)
        map_extent(extent, addrspace, V + vmid * PAGE, RWX)
        addrspace.put()
    assert root.heap.used == used
    assert root.system.vmids == {}


def test_the_page_cache_is_bounded(root: Partition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gunyah.hypervisor.addrspace.CACHE_LIMIT", 4)
    extent, addrspace = basic(root), space(root)
    map_extent(extent, addrspace, V, RW)
    for page in range(64):
        assert addrspace.translate(V + page * PAGE + 1, READ) == RAM + page * PAGE + 1
        assert len(addrspace._cache) <= 4
