"""VMIDs, states, identities and interrupts: which error comes first, and what a reply lists (rm-rpc.md 4 to 9)."""

from __future__ import annotations

import struct

from tests.rm.rig import Client, Rig
from tests.rm.trees import vm_tree

from gunyah.abi.errors import RmError
from gunyah.abi.rm import (
    HandleReply,
    IrqAccept,
    IrqHandle,
    IrqLend,
    IrqNotifyRequest,
    LookupReply,
    LookupText,
    MessageId,
    NotificationId,
    VmConfigImage,
)

M = MessageId
E = RmError


def word(vmid: int, second: int = 0) -> bytes:
    return struct.pack("<HH", vmid, second)


def test_vmids_that_cannot_be_had() -> None:
    """rm-rpc.md 6: 0 picks a dynamic one, others only from the free secondary set; the second half is ignored."""

    def scenario(client: Client) -> None:
        for vmid in (1, 2, 3, 32, 45, 63, 64, 0x80, 0x90, 255, 0xFFFF):
            assert client.refused(M.VM_ALLOCATE, word(vmid)) == E.NORESOURCE, vmid
        assert client.raw(M.VM_ALLOCATE, word(0, 0xFFFF)) == (E.OK, struct.pack("<I", 0x80))
        assert client.raw(M.VM_ALLOCATE, word(20)) == (E.OK, b"")
        assert client.refused(M.VM_ALLOCATE, word(20)) == E.NORESOURCE
        client.word(M.VM_DEALLOCATE, 0x80)
        assert client.allocate() == 0x80

    Rig().run(scenario)


def test_lookups_list_in_the_order_of_vmids_and_peers_in_the_order_they_came() -> None:
    """rm-rpc.md 7; an empty text finds those that have none."""

    def scenario(client: Client) -> None:
        made = [client.allocate(vmid) for vmid in (0, 20, 4)]
        assert made == [0x80, 20, 4]
        unnamed = LookupReply.unpack(client.call(M.VM_LOOKUP_NAME, LookupText(b"").pack())).vmids
        without_uri = LookupReply.unpack(client.call(M.VM_LOOKUP_URI, LookupText(b"").pack())).vmids
        without_guid = LookupReply.unpack(client.call(M.VM_LOOKUP_GUID, bytes(16))).vmids
        assert unnamed == (4, 20, 0x80)
        assert without_uri == without_guid == (3, 4, 20, 0x80)
        assert client.call(M.VM_GET_PEERS) == struct.pack("<4I", 3, *made)
        assert client.refused(M.VM_LOOKUP_NAME, struct.pack("<HH", 80, 0) + bytes(80)) == E.ARGUMENT_INVALID
        assert client.raw(M.VM_LOOKUP_NAME, struct.pack("<HH", 79, 0) + bytes(80)) == (E.OK, bytes(4))
        assert client.refused(M.VM_LOOKUP_NAME, struct.pack("<HH", 3, 0) + b"HLOS") == E.MSG_INVALID

    Rig().run(scenario)


def test_foreign_vms_are_refused_before_their_state_matters_except_for_an_identity() -> None:
    """RM's own record is in LOAD (rm-behaviour.md 2.2), and VM_GET_ID looks at the state first (rm-rpc.md 7)."""
    refusals = (
        (M.VM_GET_ID, word(255), E.VM_STATE),
        (M.VM_GET_ID, word(0x99), E.NORESOURCE),
        (M.VM_GET_STATE, word(255), E.DENIED),
        (M.VM_GET_STATE, word(0x99), E.NORESOURCE),
        (M.VM_DEALLOCATE, word(3), E.DENIED),
        (M.VM_DEALLOCATE, word(255), E.DENIED),
        (M.VM_DEALLOCATE, word(0x99), E.VMID_INVALID),
        (M.VM_START, word(3), E.DENIED),
        (M.VM_START, word(255), E.DENIED),
        (M.VM_STOP, word(3) + bytes(4), E.VMID_INVALID),
        (M.VM_RESET, word(3), E.VMID_INVALID),
        (M.VM_INIT, word(3), E.DENIED),
        (M.VM_AUTH_IMAGE, word(3), E.DENIED),
        (M.VM_CONFIG_IMAGE, VmConfigImage(3, 0, 0, 0, 0, 0, 0).pack(), E.DENIED),
        (M.VM_GET_CRASH_MSG, word(3), E.VMID_INVALID),
    )

    def scenario(client: Client) -> None:
        for message, payload, error in refusals:
            assert client.refused(message, payload) == error, (message.name, payload.hex())
        for message in (M.VM_SET_TIME_BASE, M.VM_SET_FIRMWARE_MEM):
            length = 20 if message is M.VM_SET_TIME_BASE else 24
            assert client.raw(message, word(255).ljust(length, b"\0")) == (E.DENIED, b"\1\0\0\0")
            assert client.raw(message, word(0x99).ljust(length, b"\0")) == (E.NORESOURCE, b"\1\0\0\0")

    Rig().run(scenario)


def test_every_step_of_a_life_in_the_wrong_state_is_told_so() -> None:
    """rm-rpc.md 4.1 and 6."""

    def refused_in(client: Client, vmid: int, *messages: MessageId) -> None:
        payloads = {M.VM_STOP: word(vmid) + bytes(4), M.VM_CONFIG_IMAGE: word(vmid).ljust(40, b"\0")}
        for message in messages:
            assert client.refused(message, payloads.get(message, word(vmid))) == E.VM_STATE, message.name

    def scenario(client: Client) -> None:
        vmid = client.allocate()
        refused_in(client, vmid, M.VM_INIT, M.VM_AUTH_IMAGE, M.VM_START, M.VM_STOP, M.VM_RESET, M.VM_GET_ID)
        assert client.refused(M.VM_INIT, word(vmid, 1)) == E.MSG_INVALID
        assert client.refused(M.VM_AUTH_IMAGE, word(vmid, 1)) == E.MSG_INVALID
        assert client.refused(M.VM_GET_HYP_RESOURCES, word(vmid)) == E.NORESOURCE
        # A memparcel that is not there: the VM has failed, and only a reset leads out (rm-behaviour.md 5.1).
        assert client.refused(M.VM_CONFIG_IMAGE, word(vmid).ljust(40, b"\0")) == E.MEM_INVALID
        assert client.await_notification(NotificationId.VM_STATUS) == struct.pack("<HHBBH", vmid, 0, 8, 0, 0)
        refused_in(client, vmid, M.VM_CONFIG_IMAGE, M.VM_INIT, M.VM_START, M.VM_DEALLOCATE)
        client.destroy(vmid, None)
        vmid, handle = client.create(b"", vm_tree())
        refused_in(client, vmid, M.VM_CONFIG_IMAGE, M.VM_AUTH_IMAGE, M.VM_INIT, M.VM_STOP, M.VM_DEALLOCATE)
        client.start(vmid)
        refused_in(client, vmid, M.VM_CONFIG_IMAGE, M.VM_INIT, M.VM_START, M.VM_RESET, M.VM_DEALLOCATE)
        client.stop(vmid)
        refused_in(client, vmid, M.VM_START, M.VM_STOP, M.VM_GET_ID, M.VM_DEALLOCATE)
        client.destroy(vmid, handle)

    Rig().run(scenario)


def test_an_interrupt_notification_is_checked_from_the_handle_to_its_list() -> None:
    """rm-rpc.md 9."""

    def scenario(client: Client) -> None:
        vmid = client.allocate()
        handle = HandleReply.unpack(client.call(M.VM_IRQ_LEND, IrqLend(vmid, 40, 7).pack())).handle
        unknown = IrqNotifyRequest(handle + 10, 1).pack()[:8] + struct.pack("<HH", 9, 0)
        good = struct.pack("<II", handle, 1)
        assert client.refused(M.VM_IRQ_NOTIFY, unknown) == E.HANDLE_INVALID
        assert client.refused(M.VM_IRQ_NOTIFY, good + struct.pack("<HH", 9, 0)) == E.MSG_INVALID
        assert client.refused(M.VM_IRQ_NOTIFY, good + b"\1") == E.MSG_INVALID
        assert (
            client.refused(M.VM_IRQ_NOTIFY, good + struct.pack("<HH600I", 600, 0, *[vmid] * 600)) == E.ARGUMENT_INVALID
        )
        assert client.refused(M.VM_IRQ_NOTIFY, IrqNotifyRequest(handle, 1, (0x81,)).pack()) == E.ARGUMENT_INVALID
        assert client.refused(M.VM_IRQ_NOTIFY, struct.pack("<III", handle, 2, 0)) == E.MSG_INVALID
        for flag in (0, 3, 8):
            assert client.refused(M.VM_IRQ_NOTIFY, struct.pack("<II", handle, flag)) == E.ARGUMENT_INVALID
        for flag in (2, 4):
            assert client.refused(M.VM_IRQ_NOTIFY, struct.pack("<II", handle, flag)) == E.HANDLE_INVALID
        client.call(M.VM_IRQ_RECLAIM, IrqHandle(handle).pack())

    Rig().run(scenario)


def test_a_borrower_cannot_bind_what_its_controller_has_not_or_has_already() -> None:
    """rm-rpc.md 9: DENIED for a number in use, ARGUMENT_INVALID for one that cannot be."""

    def scenario(client: Client) -> None:
        handle = HandleReply.unpack(client.call(M.VM_IRQ_LEND, IrqLend(3, 42, 7).pack())).handle
        assert client.refused(M.VM_IRQ_ACCEPT, IrqAccept(handle).pack()) == E.DENIED
        for number in (0, 5, 15, 1020, 0x1_0000):
            assert client.refused(M.VM_IRQ_ACCEPT, IrqAccept(handle, number).pack()) == E.ARGUMENT_INVALID, number
        assert client.refused(M.VM_IRQ_RECLAIM, IrqHandle(handle).pack()) == E.HANDLE_INVALID

    Rig().run(scenario)
