"""Memparcel rules in the order in which RM applies them, from both sides (rm-rpc.md 8, rm-behaviour.md 9)."""

from __future__ import annotations

import struct

from tests.rm.rig import Client, Rig
from tests.rm.trees import vm_tree
from tests.rm.workers import Worker, with_workers

from gunyah.abi.errors import RmError
from gunyah.abi.rm import (
    AclEntry,
    AttributeEntry,
    HandleReply,
    MemAccept,
    MemAcceptFlag,
    MemAcceptReply,
    MemAppend,
    MemCreate,
    MemLookupSgl,
    MemNotifyRequest,
    MemRelease,
    MemShared,
    MemTrans,
    MessageId,
    NotificationId,
    NotifyVmids,
    SglEntry,
    VmConfigImage,
)

M = MessageId
E = RmError
PAGE = 0x1000
POOL = 0x6000_0000
WHOLE = AclEntry(0x80, 7)
OWNER = AclEntry(3, 7)
DONE = int(MemAcceptFlag.DONE)
Acl = tuple[AclEntry, ...]


def create(
    acl: Acl = (WHOLE,),
    sgl: tuple[tuple[int, int], ...] = ((POOL, PAGE),),
    attributes: tuple[AttributeEntry, ...] = (),
    *,
    mem_type: int = 0,
    flags: int = 0,
) -> bytes:
    return MemCreate(mem_type, flags, 1, acl, tuple(SglEntry(*entry) for entry in sgl), attributes).pack()


def handle_of(client: Client, message: MessageId, payload: bytes) -> int:
    return HandleReply.unpack(client.call(message, payload)).handle


def test_access_lists_name_the_primary_vm_rm_secondary_ids_and_allocated_dynamic_ones() -> None:
    """rm-rpc.md 8.2; the secondary ids of rm-behaviour.md 1.1 need not be allocated."""

    def scenario(client: Client) -> None:
        for vmid in (0, 1, 2, 32, 45, 63, 0x7F, 0x80, 0xBE, 0xBF, 0xFE, 0xFFFE, 0xFFFF):
            assert client.refused(M.MEM_LEND, create((AclEntry(vmid, 7),))) == E.ARGUMENT_INVALID, vmid
        assert client.allocate() == 0x80
        for vmid in (4, 31, 0x80, 0xFF):
            client.reclaim(handle_of(client, M.MEM_LEND, create((AclEntry(vmid, 7),))))
        client.word(M.VM_DEALLOCATE, 0x80)
        assert client.refused(M.MEM_LEND, create()) == E.ARGUMENT_INVALID

    Rig().run(scenario)


def test_lists_are_read_before_anything_is_checked() -> None:
    head = struct.pack("<BBBBI", 0, 0, 0, 0, 1)
    too_many = struct.pack("<HH", 513, 0)
    good = create()

    def scenario(client: Client) -> None:
        client.allocate()
        assert client.refused(M.MEM_LEND, head + too_many + bytes(8)) == E.NORESOURCE
        assert client.refused(M.MEM_LEND, head + bytes(4) + too_many + bytes(4)) == E.NORESOURCE
        assert client.refused(M.MEM_LEND, head + bytes(4) + bytes(4) + too_many) == E.NORESOURCE
        assert client.refused(M.MEM_LEND, good + b"\0") == E.MSG_INVALID
        assert client.refused(M.MEM_LEND, good + bytes(4)) == E.MSG_INVALID
        assert client.refused(M.MEM_LEND, good[:-2]) == E.MSG_INVALID
        # The last list may be missing altogether (8.1).
        client.reclaim(handle_of(client, M.MEM_LEND, good[:-4]))

    Rig().run(scenario)


def test_a_request_refused_for_its_lists_takes_a_handle_with_it_and_an_earlier_refusal_does_not() -> None:
    """Handles count up from 0, and refused requests consume numbers (reference.md 4.2)."""
    free: tuple[tuple[MessageId, bytes, RmError], ...] = (
        (M.MEM_LEND, create(()), E.ARGUMENT_INVALID),
        (M.MEM_LEND, create(sgl=()), E.ARGUMENT_INVALID),
        (M.MEM_DONATE, create((WHOLE, OWNER)), E.ARGUMENT_INVALID),
        (M.MEM_LEND, create((AclEntry(0x80, 6),), mem_type=1, flags=1), E.ARGUMENT_INVALID),
    )
    costly: tuple[tuple[MessageId, bytes, RmError], ...] = (
        (M.MEM_LEND, create((WHOLE, WHOLE)), E.ARGUMENT_INVALID),
        (M.MEM_LEND, create((AclEntry(0x80, 3),)), E.ARGUMENT_INVALID),
        (M.MEM_LEND, create((WHOLE, OWNER)), E.ARGUMENT_INVALID),
        (M.MEM_SHARE, create(), E.ARGUMENT_INVALID),
        (M.MEM_DONATE, create((AclEntry(0x80, 6),)), E.DENIED),
        (M.MEM_LEND, create(mem_type=1), E.ARGUMENT_INVALID),
        (M.MEM_LEND, create(attributes=(AttributeEntry(0, 0x81),)), E.VMID_INVALID),
        (M.MEM_LEND, create(attributes=(AttributeEntry(4, 0x80),)), E.ARGUMENT_INVALID),
        (M.MEM_LEND, create(sgl=((POOL, 0),)), E.MEM_INVALID),
        (M.MEM_LEND, create(sgl=((POOL, PAGE), (POOL + 1, PAGE))), E.ARGUMENT_INVALID),
        (M.MEM_LEND, create(sgl=((0x8000_0000, PAGE), (POOL + 1, PAGE))), E.MEM_INVALID),
        (M.MEM_SHARE, create((WHOLE, OWNER), sgl=((POOL, PAGE), (POOL, PAGE))), E.MEM_INVALID),
    )

    def scenario(client: Client) -> None:
        client.allocate()
        expected = 0
        for cost, cases in ((0, free), (1, costly)):
            for message, payload, error in cases:
                assert client.refused(message, payload) == error, (message.name, payload.hex())
                expected += cost
                handle = handle_of(client, M.MEM_LEND, create())
                assert handle == expected, (message.name, payload.hex())
                client.reclaim(handle)
                expected += 1

    Rig().run(scenario)


def test_a_memory_type_without_a_meaning_is_normal_memory_that_must_be_called_by_its_number() -> None:
    """rm-rpc.md 8.2 has no error for it, 8.4: the type must match."""

    def scenario(client: Client, workers: list[Worker]) -> None:
        (worker,) = workers
        handle = handle_of(client, M.MEM_LEND, create(mem_type=2))
        lookup = (1, (WHOLE,), (SglEntry(POOL, PAGE),))
        assert client.refused(M.MEM_QCOM_LOOKUP_SGL, MemLookupSgl(0, *lookup).pack()) == E.LOOKUP_FAILED
        assert HandleReply.unpack(client.call(M.MEM_QCOM_LOOKUP_SGL, MemLookupSgl(2, *lookup).pack())).handle == handle

        def accept(mem_type: int, flags: int) -> tuple[RmError, bytes]:
            request = MemAccept(handle, mem_type, MemTrans.LEND, flags).pack()
            result: tuple[RmError, bytes] = worker.does(client, lambda guest: guest.raw(M.MEM_ACCEPT, request))
            return result

        assert accept(0, DONE)[0] == E.ARGUMENT_INVALID
        assert accept(2, DONE | MemAcceptFlag.MAP_CONTIGUOUS)[0] == E.ARGUMENT_INVALID
        error, data = accept(2, DONE)
        assert error == E.OK
        assert [entry.size for entry in MemAcceptReply.unpack(data).sgl] == [PAGE]

    with_workers(1, scenario)


def test_what_an_acceptor_is_refused_comes_in_the_order_of_the_sheet() -> None:
    """rm-rpc.md 8.4: the type, then what was to be validated, then who maps where, then who accepts."""

    def scenario(client: Client) -> None:
        client.allocate()
        handle = handle_of(client, M.MEM_SHARE, create((WHOLE, AclEntry(3, 4))))

        def refused(flags: int, trans: int = MemTrans.SHARE, map_vmid: int = 0, acl: Acl = ()) -> RmError:
            return client.refused(
                M.MEM_ACCEPT, MemAccept(handle, 0, trans, DONE | flags, 7, acl, map_vmid=map_vmid).pack()
            )

        assert refused(1, MemTrans.LEND) == E.ARGUMENT_INVALID
        for flag in (MemAcceptFlag.VALIDATE_SANITIZED, MemAcceptFlag.VALIDATE_LABEL, MemAcceptFlag.VALIDATE_ACL_ATTR):
            assert refused(flag | MemAcceptFlag.MAP_OTHER) == E.VALIDATE_FAILED
        swapped = (AclEntry(3, 4), WHOLE)
        assert refused(MemAcceptFlag.VALIDATE_ACL_ATTR, acl=swapped) == E.VALIDATE_FAILED
        assert refused(MemAcceptFlag.MAP_OTHER, map_vmid=0x80) == E.DENIED
        assert refused(0, map_vmid=0x80) == E.ARGUMENT_INVALID
        assert refused(0) == E.DENIED
        assert client.refused(M.MEM_RELEASE, MemRelease(handle).pack()) == E.DENIED

    Rig().run(scenario)


def test_appending_is_for_the_owner_of_an_unfinished_memparcel() -> None:
    def append(handle: int, address: int, flags: int = 0) -> bytes:
        return MemAppend(handle, flags, (SglEntry(address, PAGE),)).pack()

    def scenario(client: Client) -> None:
        client.allocate()
        handle = handle_of(client, M.MEM_LEND, create(flags=2))
        assert client.refused(M.MEM_APPEND, MemAppend(99, 0, ()).pack()) == E.ARGUMENT_INVALID
        assert client.refused(M.MEM_APPEND, append(99, POOL)) == E.HANDLE_INVALID
        assert client.refused(M.MEM_APPEND, append(handle, POOL)) == E.MEM_INVALID
        assert client.refused(M.MEM_APPEND, append(handle, POOL + PAGE) + bytes(4)) == E.MSG_INVALID
        lookup = MemLookupSgl(0, 1, (WHOLE,), (SglEntry(POOL, PAGE),)).pack()
        assert client.refused(M.MEM_QCOM_LOOKUP_SGL, lookup) == E.LOOKUP_FAILED
        client.call(M.MEM_APPEND, append(handle, POOL + PAGE))
        client.call(M.MEM_APPEND, append(handle, POOL + 2 * PAGE, flags=1))
        assert client.refused(M.MEM_APPEND, append(handle, POOL + 3 * PAGE, flags=1)) == E.DENIED
        client.reclaim(handle)
        unfinished = handle_of(client, M.MEM_LEND, create(flags=2))
        client.reclaim(unfinished, flags=1)
        assert client.refused(M.MEM_RECLAIM, MemRelease(unfinished).pack()) == E.HANDLE_INVALID

    Rig().run(scenario)


def test_a_notification_is_checked_from_the_handle_to_its_list() -> None:
    """rm-rpc.md 8.6; an owner that stands in its own list is a VM like any other."""

    def notify(flags: int, vmids: tuple[int, ...] | None = None, tag: int = 5, handle: int = 0) -> bytes:
        rest = b"" if vmids is None else NotifyVmids(vmids).pack()
        return MemNotifyRequest(handle, flags, tag, rest).pack()

    wrong = (
        (notify(1, (0x80,), handle=9), E.HANDLE_INVALID),
        (notify(0), E.ARGUMENT_INVALID),
        (notify(3, (0x80,)), E.ARGUMENT_INVALID),
        (notify(16), E.ARGUMENT_INVALID),
        (notify(1), E.MSG_INVALID),
        (notify(1, ()), E.ARGUMENT_INVALID),
        (notify(1) + struct.pack("<HH", 1, 0), E.MSG_INVALID),
        (notify(1, (1, 2, 3)), E.ARGUMENT_INVALID),
        (notify(1, (0x99,)), E.VMID_INVALID),
        (notify(8, (0xFF,)), E.ARGUMENT_INVALID),
        (notify(4), E.MEM_RELEASED),
    )

    def scenario(client: Client) -> None:
        client.allocate()
        assert handle_of(client, M.MEM_SHARE, create((WHOLE, OWNER))) == 0
        for payload, error in wrong:
            assert client.refused(M.MEM_NOTIFY, payload) == error, payload.hex()
        client.call(M.MEM_NOTIFY, notify(2))
        assert client.await_notification(NotificationId.MEM_RELEASED) == struct.pack("<IHHI", 0, 3, 0, 0)
        client.call(M.MEM_NOTIFY, notify(1, (3,)))
        shared = MemShared.unpack(client.await_notification(NotificationId.MEM_SHARED))
        assert (shared.handle, shared.mem_info_tag, shared.sizes) == (0, 5, (PAGE,))
        assert client.refused(M.MEM_NOTIFY, notify(2, tag=6)) == E.ARGUMENT_INVALID
        client.call(M.MEM_NOTIFY, notify(8, (3, 3)) + b"more")
        assert [client.await_notification(NotificationId.MEM_RECALL) for _ in range(2)] == [
            struct.pack("<II", 0, 5)
        ] * 2

    Rig().run(scenario)


def test_a_ready_vm_that_has_no_place_for_a_memparcel_leaves_the_owner_with_an_error() -> None:
    """rm-rpc.md 8.6: released and accepted notifications match the real state, here there is neither."""

    def scenario(client: Client) -> None:
        vmid, handle = client.create(b"", vm_tree())
        request = MemNotifyRequest(handle, 1, 5, NotifyVmids((vmid,)).pack())
        client.poll()
        client.notifications.clear()
        assert client.refused(M.MEM_NOTIFY, request.pack()) == E.MEM_RELEASED
        client.poll()
        assert client.notifications == []

    Rig().run(scenario)


def test_an_image_lent_with_memory_attributes_does_not_start() -> None:
    """rm-behaviour.md 5.4: lent, the access list exactly this VM with RWX, and no attribute list (8.4)."""

    def scenario(client: Client) -> None:
        base = 0x5000_0000
        for attributes, error in (((), E.OK), ((AttributeEntry(0, 0x80),), E.NORESOURCE)):
            vmid = client.allocate()
            client.cpu.write(base + 0x1_0000, vm_tree().pack())
            handle = handle_of(
                client, M.MEM_LEND, create((AclEntry(vmid, 7),), ((base, 0x20_0000),), tuple(attributes))
            )
            client.call(M.VM_CONFIG_IMAGE, VmConfigImage(vmid, 0, handle, 0, PAGE, 0x1_0000, 0x1_0000).pack())
            client.word(M.VM_INIT, vmid)
            assert client.raw(M.VM_START, struct.pack("<HH", vmid, 0))[0] == error
            if error == E.OK:
                client.stop(vmid)
            client.destroy(vmid, handle)

    Rig().run(scenario)


def test_addresses_rm_chooses_start_behind_the_information_page() -> None:
    """rm-behaviour.md 5.3: the allocator places the page, and first; rm-rpc.md 8.4: 2 MiB are aligned to 2 MiB."""

    def scenario(client: Client, workers: list[Worker]) -> None:
        (worker,) = workers
        small = client.lend(worker.vmid, [(POOL, 3 * PAGE)], label=1)
        large = client.lend(worker.vmid, [(POOL + 0x20_0000, 0x20_0000)], label=2)
        placed = [worker.accept(client, handle, MemTrans.LEND) for handle in (small, large)]
        assert placed == [[SglEntry(0x4000_1000, 3 * PAGE)], [SglEntry(0x4020_0000, 0x20_0000)]]
        assert worker.can(client, 0x4000_0000) == (True, False)
        assert worker.does(client, lambda guest: guest.cpu.read(0x4000_0000, PAGE)) == bytes(PAGE)

    with_workers(1, scenario)
