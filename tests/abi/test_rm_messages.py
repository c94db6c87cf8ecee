"""The message catalogue is complete and agrees with itself (rm-rpc.md 5)."""

from __future__ import annotations

from gunyah.abi import rm
from gunyah.abi.errors import RmError

REQUESTS = """
51000010 51000011 51000012 51000013 51000014 51000015 51000017 51000018 5100001a 51000020 51000021
56000001 56000002 56000004 56000005 56000006 56000007 56000008 56000009 5600000a 5600000b
56000010 56000011 56000012 56000013 56000015 56000017 56000019
56000020 56000021 56000022 56000024 56000025 56000030 56000031 56000032 56000033 56000034
56000050 56000051 56000052 56000053 56000054 56000055
56000080 56000081 56000082 56000083 56000084 56000085 56000086 560000a0 560000b0 560000b1
"""
NOTIFICATIONS = """
51100011 51100012 51100013 51100014 56100001 56100002 56100008 56100011 56100012 56100013 56100080
"""
WITHOUT_HANDLER = {
    "VM_SUSPEND",
    "VM_RESUME",
    "VM_GET_HYP_CAPIDS",
    "VM_GET_HYP_IRQS",
    "VM_SET_CONTEXT",
    "VM_SET_DEMAND_PAGING",
    "VM_SET_ADDRESS_LAYOUT",
    "VM_IRQ_UNMAP",
    "IPA_UNRESERVE",
}


def test_every_request_and_notification_id_has_a_row() -> None:
    assert set(rm.MESSAGES) == {int(number, 16) for number in REQUESTS.split()}
    assert set(rm.MESSAGES) == {int(entry) for entry in rm.MessageId}
    assert set(rm.NOTIFICATIONS) == {int(number, 16) for number in NOTIFICATIONS.split()}
    assert set(rm.NOTIFICATIONS) == {int(entry) for entry in rm.NotificationId}


def test_messages_without_a_handler_answer_unimplemented_to_everybody() -> None:
    assert {message.name for message in rm.MESSAGES.values() if not message.handled} == WITHOUT_HANDLER
    for message in rm.MESSAGES.values():
        assert (message.caller is rm.Caller.NOBODY) is not message.handled
        assert (RmError.UNIMPLEMENTED in message.errors) or message.handled


def test_every_handled_message_can_be_refused_for_its_length() -> None:
    for message in rm.MESSAGES.values():
        if message.handled:
            assert RmError.MSG_INVALID in message.errors, message.name
        assert message.section.startswith("rm-rpc.md "), message.name


def test_names_are_told_for_known_ids() -> None:
    assert rm.message_name(0x5600_0083) == "VM_CONSOLE_WRITE"
    assert rm.message_name(0x5610_0080) == "VM_CONSOLE_CHARS"
    assert rm.message_name(0x1234_5678) == "0x12345678"


def test_every_vm_state_can_be_entered_and_left() -> None:
    targets = set(rm.VM_TRANSITIONS)
    sources = {source for allowed in rm.VM_TRANSITIONS.values() for source in allowed}
    assert targets == sources == set(rm.VmStatus)
    assert rm.VmStatus.RUNNING not in rm.VM_TRANSITIONS[rm.VmStatus.RESETTING]
