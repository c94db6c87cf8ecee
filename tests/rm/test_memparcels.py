"""Memparcels on the running system: who can touch which page is decided by the MMU, and every rule has its error."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.rm.rig import Client, Refused, Rig
from tests.rm.workers import DONE, PAGE, POOL, Worker, touch, with_workers

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
    MemNotify,
    MemNotifyRequest,
    MemOwner,
    MemRelease,
    MemShared,
    MemTrans,
    MessageId,
    NotificationId,
    NotifyVmids,
    SglEntry,
)

CONTIGUOUS = int(MemAcceptFlag.MAP_CONTIGUOUS)
LEND, SHARE, DONATE = MessageId.MEM_LEND, MessageId.MEM_SHARE, MessageId.MEM_DONATE
TRANS = {LEND: MemTrans.LEND, SHARE: MemTrans.SHARE, DONATE: MemTrans.DONATE}


# -- single rules ------------------------------------------------------------------------------------------------------


def test_a_share_gives_each_vm_its_rights_and_no_more() -> None:
    def scenario(client: Client, workers: list[Worker]) -> None:
        (worker,) = workers
        client.cpu.write(POOL, b"shared!!")
        handle = client.lend(worker.vmid, [(POOL, PAGE)], rights=4, message=SHARE, own=4, label=1)
        assert touch(client.cpu, POOL) == (True, False)
        (where,) = worker.accept(client, handle, MemTrans.SHARE)
        assert worker.does(client, lambda guest: guest.cpu.read(where.address, 8)) == b"shared!!"
        assert worker.can(client, where.address) == (True, False)
        assert client.refused(MessageId.MEM_RECLAIM, MemRelease(handle).pack()) == RmError.MEM_INUSE
        worker.release(client, handle)
        assert worker.can(client, where.address) == (False, False)
        client.reclaim(handle)
        assert touch(client.cpu, POOL) == (True, True)

    with_workers(1, scenario)


def test_donated_memory_is_the_acceptors_own_and_comes_back_zeroed_when_it_is_gone() -> None:
    def scenario(client: Client, workers: list[Worker]) -> None:
        worker, other = workers
        client.cpu.write(POOL, b"secret")
        handle = client.lend(worker.vmid, [(POOL, PAGE)], message=DONATE, label=1)
        (where,) = worker.accept(client, handle, MemTrans.DONATE)
        assert client.refused(MessageId.MEM_RECLAIM, MemRelease(handle).pack()) == RmError.HANDLE_INVALID
        assert touch(client.cpu, POOL) == (False, False)
        # Its new owner may lend it on.
        create = MemCreate(0, 0, 2, (AclEntry(other.vmid, 6),), (SglEntry(where.address, PAGE),)).pack()
        lent = HandleReply.unpack(worker.does(client, lambda guest: guest.call(LEND, create))).handle
        assert worker.can(client, where.address) == (False, False)
        (there,) = other.accept(client, lent, MemTrans.LEND)
        assert other.does(client, lambda guest: guest.cpu.read(there.address, 6)) == b"secret"
        client.stop(worker.vmid)
        client.destroy(worker.vmid, worker.handle)
        assert other.can(client, there.address) == (False, False)
        assert client.cpu.read(POOL, 6) == bytes(6)
        assert touch(client.cpu, POOL) == (True, True)

    with_workers(2, scenario)


def test_sanitizing_zeroes_when_asked_at_each_of_the_three_times() -> None:
    def scenario(client: Client, workers: list[Worker]) -> None:
        (worker,) = workers

        def give(flags: int = 0) -> int:
            client.cpu.write(POOL, b"data")
            return client.lend(worker.vmid, [(POOL, PAGE)], label=1, flags=flags)

        handle = give(flags=1)
        (where,) = worker.accept(client, handle, MemTrans.LEND, DONE | MemAcceptFlag.VALIDATE_SANITIZED)
        assert worker.does(client, lambda guest: guest.cpu.read(where.address, 4)) == bytes(4)
        worker.release(client, handle)
        client.reclaim(handle)
        handle = give()
        worker.accept(client, handle, MemTrans.LEND)
        worker.release(client, handle, 1)
        client.reclaim(handle)
        assert client.cpu.read(POOL, 4) == bytes(4)
        handle = give()
        client.reclaim(handle, 1)
        assert client.cpu.read(POOL, 4) == bytes(4)
        handle = give()
        client.reclaim(handle)
        assert client.cpu.read(POOL, 4) == b"data"

    with_workers(1, scenario)


def test_pages_around_one_that_is_shared_already_can_be_given_away() -> None:
    """What stands between them looks the same to a look-up, but is another memparcel's."""

    def scenario(client: Client, workers: list[Worker]) -> None:
        (worker,) = workers
        between = client.lend(worker.vmid, [(POOL + 2 * PAGE, PAGE)], message=SHARE, own=7, label=1)
        pages = [(POOL + index * PAGE, PAGE) for index in (0, 1, 3, 7)]
        around = client.lend(worker.vmid, pages, message=SHARE, own=7, label=2)
        where = worker.accept(client, around, MemTrans.SHARE)
        for index, (address, _) in enumerate(pages):
            client.cpu.write(address, bytes([65 + index]) * 4)
        seen = worker.does(client, lambda guest: [guest.cpu.read(entry.address, 4) for entry in where])
        assert seen == [b"AAAA", b"BBBB", b"CCCC", b"DDDD"]
        create = MemCreate(0, 0, 3, (AclEntry(worker.vmid, 4),), (SglEntry(POOL + PAGE, 4 * PAGE),)).pack()
        assert client.refused(LEND, create) == RmError.MEM_INVALID
        worker.release(client, around)
        client.reclaim(around)
        client.reclaim(between)
        assert all(touch(client.cpu, POOL + index * PAGE) == (True, True) for index in range(8))

    with_workers(1, scenario)


def test_hundreds_of_scattered_pages_travel_over_many_fragments_and_appends() -> None:
    pages = [(POOL + 2 * index * PAGE, PAGE) for index in range(600)]

    def scenario(client: Client, workers: list[Worker]) -> None:
        (worker,) = workers
        for index in (0, 353, 599):
            client.cpu.write(pages[index][0], struct.pack("<Q", index))
        handle = client.lend(worker.vmid, pages[:353], label=1, flags=2)
        assert client.refused(MessageId.MEM_APPEND, MemAppend(handle, 0, ()).pack()) == RmError.ARGUMENT_INVALID
        with pytest.raises(Refused, match="DENIED"):
            worker.accept(client, handle, MemTrans.LEND)
        client.call(MessageId.MEM_APPEND, MemAppend(handle, 1, tuple(SglEntry(*page) for page in pages[353:])).pack())
        late = MemAppend(handle, 1, (SglEntry(POOL + PAGE, PAGE),)).pack()
        assert client.refused(MessageId.MEM_APPEND, late) == RmError.DENIED
        first = worker.accept(client, handle, MemTrans.LEND, 0)
        assert len(first) == 512
        rest = worker.accept(client, handle, MemTrans.LEND, DONE)
        assert len(rest) == 88
        where = [entry.address for entry in first + rest]
        for index in (0, 353, 599):
            found = worker.does(client, lambda guest, at=where[index]: guest.cpu.read(at, 8))
            assert found == struct.pack("<Q", index)
        worker.release(client, handle)
        client.reclaim(handle)
        assert client.cpu.read(pages[599][0], 8) == struct.pack("<Q", 599)

    with_workers(1, scenario)


def test_a_contiguous_acceptance_puts_scattered_pages_in_a_row_where_the_acceptor_wants() -> None:
    def scenario(client: Client, workers: list[Worker]) -> None:
        (worker,) = workers
        client.cpu.write(POOL, b"one")
        client.cpu.write(POOL + 4 * PAGE, b"two")
        handle = client.lend(worker.vmid, [(POOL, PAGE), (POOL + 4 * PAGE, PAGE)], label=1)
        wanted = (SglEntry(0x9000_0000, 2 * PAGE),)
        worker.accept(client, handle, MemTrans.LEND, DONE | CONTIGUOUS, wanted)
        assert worker.does(client, lambda guest: guest.cpu.read(0x9000_0000, 3)) == b"one"
        assert worker.does(client, lambda guest: guest.cpu.read(0x9000_1000, 3)) == b"two"
        with pytest.raises(Refused, match="DENIED"):
            worker.accept(client, handle, MemTrans.LEND, DONE)

    with_workers(1, scenario)


def _create(message: MessageId, worker: int, **changes: Any) -> tuple[int, bytes]:
    own = (AclEntry(3, 7),) if message == SHARE else ()
    values: dict[str, Any] = {
        "mem_type": 0,
        "flags": 0,
        "label": 1,
        "acl": (AclEntry(worker, 7), *own),
        "sgl": (SglEntry(POOL, PAGE),),
        "attributes": (),
    }
    return message, MemCreate(**(values | changes)).pack()


def test_every_wrong_creation_gets_its_own_error_and_changes_nothing() -> None:
    wrong: list[tuple[MessageId, dict[str, Any], RmError]] = [
        (LEND, {"acl": ()}, RmError.ARGUMENT_INVALID),
        (LEND, {"sgl": ()}, RmError.ARGUMENT_INVALID),
        (DONATE, {"acl": (AclEntry(0x80, 7), AclEntry(0x81, 7))}, RmError.ARGUMENT_INVALID),
        (DONATE, {"acl": (AclEntry(0x80, 6),)}, RmError.DENIED),
        (DONATE, {"attributes": (AttributeEntry(2, 0x80),)}, RmError.ARGUMENT_INVALID),
        (LEND, {"acl": (AclEntry(0x80, 7), AclEntry(0x80, 4))}, RmError.ARGUMENT_INVALID),
        (LEND, {"acl": (AclEntry(0x80, 7), AclEntry(3, 4))}, RmError.ARGUMENT_INVALID),
        (SHARE, {"acl": (AclEntry(0x80, 7),)}, RmError.ARGUMENT_INVALID),
        (LEND, {"acl": (AclEntry(45, 7),)}, RmError.ARGUMENT_INVALID),
        (LEND, {"acl": (AclEntry(0x80, 3),)}, RmError.ARGUMENT_INVALID),
        (LEND, {"acl": (AclEntry(0x80, 0),)}, RmError.ARGUMENT_INVALID),
        (LEND, {"mem_type": 1}, RmError.ARGUMENT_INVALID),
        (LEND, {"mem_type": 1, "flags": 1, "acl": (AclEntry(0x80, 6),)}, RmError.ARGUMENT_INVALID),
        (LEND, {"attributes": (AttributeEntry(1, 0x80),)}, RmError.ARGUMENT_INVALID),
        (LEND, {"attributes": (AttributeEntry(9, 0x80),)}, RmError.ARGUMENT_INVALID),
        (LEND, {"attributes": (AttributeEntry(2, 0x81),)}, RmError.VMID_INVALID),
        (LEND, {"sgl": (SglEntry(POOL + 1, PAGE),)}, RmError.ARGUMENT_INVALID),
        (LEND, {"sgl": (SglEntry(POOL, 100),)}, RmError.ARGUMENT_INVALID),
        (LEND, {"sgl": (SglEntry(1 << 44, PAGE),)}, RmError.ARGUMENT_INVALID),
        (LEND, {"sgl": (SglEntry(0x8000_0000, PAGE),)}, RmError.MEM_INVALID),
        (LEND, {"sgl": (SglEntry(0x7FFF_F000, 2 * PAGE),)}, RmError.MEM_INVALID),
        (LEND, {"sgl": (SglEntry(POOL, PAGE), SglEntry(POOL, PAGE))}, RmError.MEM_INVALID),
        (LEND, {"sgl": (SglEntry(0x900_0000, PAGE),)}, RmError.MEM_INVALID),
        (LEND, {"sgl": (SglEntry(0x5000_0000, PAGE),)}, RmError.MEM_INVALID),
    ]

    def scenario(client: Client, workers: list[Worker]) -> None:
        for message, changes, expected in wrong:
            assert client.refused(*_create(message, 0x80, **changes)) == expected, (message.name, changes)
            assert touch(client.cpu, POOL) == (True, True)
        handle = client.lend(0x80, [(POOL, PAGE)], label=1)
        client.reclaim(handle)

    with_workers(1, scenario)


def test_lists_with_counts_that_lie_are_refused() -> None:
    def scenario(client: Client) -> None:
        head = struct.pack("<BBBBI", 0, 0, 0, 0, 1)
        assert client.refused(LEND, head + struct.pack("<HH", 513, 0) + bytes(12)) == RmError.NORESOURCE
        assert client.refused(LEND, head + struct.pack("<HH", 5, 0) + bytes(12)) == RmError.MSG_INVALID
        assert client.refused(LEND, head + struct.pack("<HHI", 1, 0, 0x70080) + bytes(9)) == RmError.MSG_INVALID
        assert client.refused(LEND, head + bytes(13)) == RmError.MSG_INVALID

    Rig().run(scenario)


def test_only_parties_may_do_what_is_theirs() -> None:
    def scenario(client: Client, workers: list[Worker]) -> None:
        worker, other = workers
        handle = client.lend(worker.vmid, [(POOL, PAGE)], label=1)
        with pytest.raises(Refused, match="VMID_INVALID"):
            other.accept(client, handle, MemTrans.LEND)
        with pytest.raises(Refused, match="HANDLE_INVALID"):
            other.release(client, handle)
        with pytest.raises(Refused, match="MEM_RELEASED"):
            worker.release(client, handle)
        with pytest.raises(Refused, match="DENIED"):
            worker.does(client, lambda guest: guest.call(MessageId.MEM_RECLAIM, MemRelease(handle).pack()))
        with pytest.raises(Refused, match="ARGUMENT_INVALID"):
            worker.accept(client, handle, MemTrans.SHARE)
        assert client.refused(MessageId.MEM_ACCEPT, MemAccept(handle, 0, 1, DONE).pack()) == RmError.VMID_INVALID
        assert client.refused(MessageId.MEM_RELEASE, MemRelease(handle).pack()) == RmError.HANDLE_INVALID
        locked = MemRelease(worker.handle).pack()
        with pytest.raises(Refused, match="DENIED"):
            worker.does(client, lambda guest: guest.call(MessageId.MEM_RELEASE, locked))
        client.reclaim(handle)

    with_workers(2, scenario)


def test_an_owner_may_have_64_memparcels() -> None:
    def scenario(client: Client) -> None:
        vmid = client.allocate()
        handles = [client.lend(vmid, [(POOL + index * PAGE, PAGE)], label=1) for index in range(64)]
        assert client.refused(*_create(LEND, vmid, sgl=(SglEntry(POOL + 99 * PAGE, PAGE),))) == RmError.DENIED
        client.reclaim(handles[5])
        client.lend(vmid, [(POOL + 99 * PAGE, PAGE)], label=1)

    Rig().run(scenario)


def test_notifications_reach_the_other_side_and_must_be_true() -> None:
    def scenario(client: Client, workers: list[Worker]) -> None:
        (worker,) = workers
        handle = client.lend(worker.vmid, [(POOL, PAGE), (POOL + 4 * PAGE, 2 * PAGE)], label=7)

        def notify(flag: int, tag: int = 5, vmids: tuple[int, ...] = ()) -> bytes:
            rest = NotifyVmids(vmids).pack() if vmids else b""
            return MemNotifyRequest(handle, flag, tag, rest).pack()

        client.call(MessageId.MEM_NOTIFY, notify(MemNotify.SHARED, vmids=(worker.vmid,)))
        heard = MemShared.unpack(worker.does(client, lambda guest: guest.await_notification(NotificationId.MEM_SHARED)))
        assert (heard.handle, heard.label, heard.mem_info_tag, heard.owner_vmid) == (handle, 7, 5, 3)
        assert heard.sizes == (PAGE, 2 * PAGE)
        wrong = [
            (notify(MemNotify.SHARED, 6, (worker.vmid,)), RmError.ARGUMENT_INVALID),
            (notify(3), RmError.ARGUMENT_INVALID),
            (notify(MemNotify.SHARED, vmids=(3, worker.vmid)), RmError.ARGUMENT_INVALID),
            (notify(MemNotify.RECALL, vmids=(3,)), RmError.ARGUMENT_INVALID),
            (notify(MemNotify.RECALL, vmids=(0x90,)), RmError.VMID_INVALID),
            (notify(MemNotify.RECALL), RmError.MSG_INVALID),
        ]
        for payload, expected in wrong:
            assert client.refused(MessageId.MEM_NOTIFY, payload) == expected
        accepted = notify(MemNotify.ACCEPTED)
        with pytest.raises(Refused, match="MEM_RELEASED"):
            worker.does(client, lambda guest: guest.call(MessageId.MEM_NOTIFY, accepted))
        worker.accept(client, handle, MemTrans.LEND)
        worker.does(client, lambda guest: guest.call(MessageId.MEM_NOTIFY, accepted))
        told = MemOwner.unpack(client.await_notification(NotificationId.MEM_ACCEPTED))
        assert (told.handle, told.vmid, told.mem_info_tag) == (handle, worker.vmid, 5)
        client.call(MessageId.MEM_NOTIFY, notify(MemNotify.RECALL, vmids=(worker.vmid,)))
        worker.does(client, lambda guest: guest.await_notification(NotificationId.MEM_RECALL))

    with_workers(1, scenario)


def test_a_memparcel_is_found_by_what_it_is() -> None:
    def scenario(client: Client) -> None:
        vmid = client.allocate()
        handle = client.lend(vmid, [(POOL, PAGE), (POOL + 8 * PAGE, PAGE)], label=1)
        acl, sgl = (AclEntry(vmid, 7),), (SglEntry(POOL, PAGE), SglEntry(POOL + 8 * PAGE, PAGE))
        found = client.call(MessageId.MEM_QCOM_LOOKUP_SGL, MemLookupSgl(0, 1, acl, sgl).pack())
        assert HandleReply.unpack(found).handle == handle
        other = MemLookupSgl(0, 1, acl, sgl[:1]).pack()
        assert client.refused(MessageId.MEM_QCOM_LOOKUP_SGL, other) == RmError.LOOKUP_FAILED

    Rig().run(scenario)


def test_io_memory_is_mapped_one_to_one_without_execution() -> None:
    def scenario(client: Client, workers: list[Worker]) -> None:
        (worker,) = workers
        handle = client.lend(worker.vmid, [(0x0A00_0000, PAGE)], rights=6, label=1, mem_type=1)
        request = MemAccept(handle, 1, MemTrans.LEND, DONE).pack()
        reply = worker.does(client, lambda guest: guest.call(MessageId.MEM_ACCEPT, request))
        assert MemAcceptReply.unpack(reply).sgl == (SglEntry(0x0A00_0000, PAGE),)
        worker.release(client, handle)
        client.reclaim(handle)

    with_workers(1, scenario)


# -- all rules at once -------------------------------------------------------------------------------------------------


@dataclass
class Parcel:
    """What the model knows of one memparcel."""

    message: MessageId
    pages: list[int]
    rights: dict[int, int]
    where: dict[int, list[int]] = field(default_factory=dict)
    zero: bool = False


class MemparcelMachine(RuleBasedStateMachine):
    """Two borrowers and an owner with eight pages; after each step every access of everybody is tried."""

    client: Client
    workers: list[Worker]
    pages = range(8)

    def __init__(self) -> None:
        super().__init__()
        self.parcels: dict[int, Parcel] = {}
        self.content = [bytes([index + 1]) * 8 for index in self.pages]
        for index in self.pages:
            self.client.cpu.write(POOL + index * PAGE, self.content[index])

    def free(self) -> list[int]:
        taken = {page for parcel in self.parcels.values() for page in parcel.pages}
        return [page for page in self.pages if page not in taken]

    @rule(data=st.data(), message=st.sampled_from([LEND, SHARE]), sanitize=st.booleans())
    def create(self, data: st.DataObject, message: MessageId, sanitize: bool) -> None:
        wanted = data.draw(st.lists(st.sampled_from(self.pages), min_size=1, max_size=4, unique=True))
        rights = {
            worker.vmid: data.draw(st.sampled_from([4, 6, 7]))
            for worker in data.draw(st.lists(st.sampled_from(self.workers), min_size=1, max_size=2, unique=True))
        }
        if message == SHARE:
            rights[3] = data.draw(st.sampled_from([4, 6, 7]))
        acl = tuple(AclEntry(vmid, value) for vmid, value in rights.items())
        sgl = tuple(SglEntry(POOL + page * PAGE, PAGE) for page in wanted)
        payload = MemCreate(0, int(sanitize), 1, acl, sgl).pack()
        if set(wanted) - set(self.free()):
            assert self.client.refused(message, payload) == RmError.MEM_INVALID
            return
        handle = HandleReply.unpack(self.client.call(message, payload)).handle
        self.parcels[handle] = Parcel(message, wanted, rights)
        if sanitize:
            for page in wanted:
                self.content[page] = bytes(8)

    @precondition(lambda self: self.parcels)
    @rule(data=st.data(), contiguous=st.booleans())
    def accept(self, data: st.DataObject, contiguous: bool) -> None:
        handle = data.draw(st.sampled_from(sorted(self.parcels)))
        worker = data.draw(st.sampled_from(self.workers))
        parcel = self.parcels[handle]
        flags = DONE | (CONTIGUOUS if contiguous else 0)
        if worker.vmid not in parcel.rights or worker.vmid in parcel.where:
            with pytest.raises(Refused):
                worker.accept(self.client, handle, TRANS[parcel.message], flags)
            return
        found = worker.accept(self.client, handle, TRANS[parcel.message], flags)
        if contiguous:
            where = [found[0].address + PAGE * index for index in range(len(parcel.pages))]
        else:
            where = [entry.address for entry in found]
        parcel.where[worker.vmid] = where

    @precondition(lambda self: self.parcels)
    @rule(data=st.data(), sanitize=st.booleans())
    def release(self, data: st.DataObject, sanitize: bool) -> None:
        handle = data.draw(st.sampled_from(sorted(self.parcels)))
        worker = data.draw(st.sampled_from(self.workers))
        parcel = self.parcels[handle]
        rights = parcel.rights.get(worker.vmid, 0)
        if worker.vmid not in parcel.where or (sanitize and not rights & 2):
            with pytest.raises(Refused):
                worker.release(self.client, handle, int(sanitize))
            return
        worker.release(self.client, handle, int(sanitize))
        gone = parcel.where.pop(worker.vmid)
        parcel.zero |= sanitize
        assert worker.can(self.client, gone[0]) == (False, False)

    @precondition(lambda self: self.parcels)
    @rule(data=st.data(), sanitize=st.booleans())
    def reclaim(self, data: st.DataObject, sanitize: bool) -> None:
        handle = data.draw(st.sampled_from(sorted(self.parcels)))
        parcel = self.parcels[handle]
        payload = MemRelease(handle, int(sanitize)).pack()
        if parcel.where:
            assert self.client.refused(MessageId.MEM_RECLAIM, payload) == RmError.MEM_INUSE
            return
        self.client.call(MessageId.MEM_RECLAIM, payload)
        del self.parcels[handle]
        for page in parcel.pages if sanitize or parcel.zero else ():
            self.content[page] = bytes(8)

    @invariant()
    def everybody_reaches_exactly_what_is_theirs(self) -> None:
        own = dict.fromkeys(self.free(), 7)
        for parcel in self.parcels.values():
            own |= dict.fromkeys(parcel.pages, parcel.rights.get(3, 0))
        for page in self.pages:
            readable, writable = bool(own[page] & 4), bool(own[page] & 2)
            assert touch(self.client.cpu, POOL + page * PAGE) == (readable, writable), page
            if readable:
                assert self.client.cpu.read(POOL + page * PAGE, 8) == self.content[page]
        for parcel in self.parcels.values():
            for worker in self.workers:
                for page, address in zip(parcel.pages, parcel.where.get(worker.vmid, []), strict=False):
                    rights = parcel.rights[worker.vmid]
                    assert worker.can(self.client, address) == (True, bool(rights & 2))
                    found = worker.does(self.client, lambda guest, at=address: guest.cpu.read(at, 8))
                    assert found == self.content[page]

    def teardown(self) -> None:
        for handle, parcel in self.parcels.items():
            for worker in self.workers:
                if worker.vmid in parcel.where:
                    worker.release(self.client, handle)
            self.client.reclaim(handle)


def test_no_sequence_of_requests_lets_anybody_reach_what_is_not_theirs() -> None:
    def scenario(client: Client, workers: list[Worker]) -> None:
        machine = type("Machine", (MemparcelMachine,), {"client": client, "workers": workers})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=12,
                stateful_step_count=15,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )

    with_workers(2, scenario)
