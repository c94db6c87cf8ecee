"""RM on the real hypervisor: what a client of the primary VM sees."""

from __future__ import annotations

import struct

from tests.rm.rig import Client, Rig

from gunyah.abi.errors import RmError
from gunyah.abi.rm import MessageId, NotificationId


def test_the_primary_vm_learns_who_it_is() -> None:
    def scenario(client: Client) -> None:
        assert client.call(MessageId.VM_GET_VMID) == struct.pack("<I", 3)
        assert client.call(MessageId.VM_GET_OWNER) == struct.pack("<I", 255)
        assert client.state(0) == 3

    Rig().run(scenario)


def test_a_v4_guest_gets_its_own_forms() -> None:
    def scenario(client: Client) -> None:
        node = client.tree.node("/hypervisor")
        assert node.compatible == ["gunyah-hypervisor-1.0", "gunyah-hypervisor", "simple-bus"]
        assert client.call(MessageId.VM_GET_VMID, bytes(4)) == struct.pack("<H", 3)

    Rig(profile="v4").run(scenario)


def test_the_node_of_the_2023_profile_is_the_recorded_one() -> None:
    def scenario(client: Client) -> None:
        hypervisor = client.tree.node("/hypervisor")
        assert hypervisor.compatible == ["qcom,gunyah-hypervisor-1.0", "qcom,gunyah-hypervisor", "simple-bus"]
        link = next(client.tree.find_compatible("gunyah-resource-manager"))
        assert link.name == f"qcom,resource-manager-rpc@{client.tx:016x}"
        assert link.cells("interrupts") == [0, 0x3A0, 1, 0, 0x3A1, 1]
        assert link.u32("qcom,free-irq-start") == 960
        assert link.u32("qcom,tx-message-size") == 240
        assert client.tree.node("/hypervisor/qcom,gunyah-vm").u32("qcom,vmid") == 3

    Rig().run(scenario)


def test_what_is_written_at_one_end_of_a_loopback_console_arrives_at_the_other() -> None:
    open_, write, close = MessageId.VM_CONSOLE_OPEN, MessageId.VM_CONSOLE_WRITE, MessageId.VM_CONSOLE_CLOSE

    def scenario(client: Client) -> None:
        assert client.console(write, 0, b"nobody listens") == RmError.OK
        assert client.console(open_, 0) == RmError.OK
        assert client.console(open_, 3) == RmError.OK
        assert client.console(write, 0, b"hello") == RmError.OK
        assert client.await_notification(NotificationId.VM_CONSOLE_CHARS) == struct.pack("<HH", 3, 5) + b"hello"
        assert client.console(write, 3, b"there") == RmError.OK
        assert client.await_notification(NotificationId.VM_CONSOLE_CHARS) == struct.pack("<HH", 0, 5) + b"there"
        assert client.console(close, 3) == RmError.OK
        assert client.console(write, 0, b"dropped") == RmError.OK
        assert client.console(MessageId.VM_CONSOLE_FLUSH, 0) == RmError.OK
        assert not client.notifications

    Rig().run(scenario)


def test_the_largest_console_write_comes_back_whole() -> None:
    data = bytes(range(256)) * 57

    def scenario(client: Client) -> None:
        client.console(MessageId.VM_CONSOLE_OPEN, 0)
        client.console(MessageId.VM_CONSOLE_OPEN, 3)
        assert client.console(MessageId.VM_CONSOLE_WRITE, 0, data) == RmError.OK
        assert client.await_notification(NotificationId.VM_CONSOLE_CHARS)[4:] == data

    Rig().run(scenario)


def test_without_loopback_the_primary_vm_has_no_console() -> None:
    def scenario(client: Client) -> None:
        assert client.console(MessageId.VM_CONSOLE_OPEN, 0) == RmError.ARGUMENT_INVALID
        assert client.console(MessageId.VM_CONSOLE_OPEN, 3) == RmError.ARGUMENT_INVALID

    Rig(console_loopback=False).run(scenario)


def test_requests_that_end_the_reference_are_answered_and_rm_goes_on() -> None:
    crashers = [
        (0x5600_0002, struct.pack("<HH", 45, 0), RmError.VMID_INVALID),
        (0x5600_0083, b"", RmError.MSG_INVALID),
        (0x5600_0050, b"", RmError.MSG_INVALID),
        (0x5600_0051, b"", RmError.MSG_INVALID),
        (0x5600_0052, b"", RmError.MSG_INVALID),
        (0x5600_0053, b"", RmError.MSG_INVALID),
        (0x5600_0054, b"", RmError.MSG_INVALID),
        (0x5600_0085, bytes(4), RmError.DENIED),
        (0x5600_00B0, bytes.fromhex("01000000000000000000000040420f00"), RmError.NORESOURCE),
    ]

    def scenario(client: Client) -> None:
        for message_id, payload, expected in crashers:
            assert client.raw(message_id, payload)[0] == expected, hex(message_id)
            assert client.call(MessageId.VM_GET_VMID) == struct.pack("<I", 3)

    Rig().run(scenario)


def test_hostile_packets_are_dropped_and_the_next_request_is_served() -> None:
    packets = [
        b"",
        b"\x21",
        b"\x21\x01\0\0\0\0\0",
        b"\x20\x01" + bytes(6),
        b"\x21\xfd" + bytes(6),
        b"\x21\x03" + bytes(6),
    ]

    def scenario(client: Client) -> None:
        for packet in packets:
            client.send_packet(packet)
        client.send_packet(struct.pack("<BBHI", 0x21, 1 | 5 << 2, 9, MessageId.VM_GET_VMID) + b"half")
        assert client.call(MessageId.VM_GET_VMID) == struct.pack("<I", 3)

    Rig().run(scenario)


def test_a_client_that_never_reads_blocks_only_itself() -> None:
    def scenario(client: Client) -> None:
        head = struct.pack("<BBHI", 0x21, 1, 0, MessageId.VM_GET_VMID)
        client.cpu.write(client.buffer, head)
        taken = 0
        for _ in range(200):
            error, _ = client.hyp.try_msgqueue_send(client.tx, 8, client.buffer)
            taken += not error
            client.hyp.scheduler_yield()
        assert taken < 30
        client.poll()
        assert client.call(MessageId.VM_GET_VMID) == struct.pack("<I", 3)

    Rig().run(scenario)
