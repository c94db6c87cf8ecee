"""Every request at every length: what RM says to zeros that are too short, exact, or too long (rm-rpc.md 5 to 11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from tests.rm.rig import Client, Rig

from gunyah.abi.errors import RmError
from gunyah.abi.rm import MESSAGES, MessageId

M = MessageId
E = RmError
LENGTHS = (*range(26), 39, 40, 41, 64, 231, 232, 233, 464, 465)

Rule = Callable[[int], RmError]


def exactly(length: int, then: RmError, otherwise: RmError = E.MSG_INVALID) -> Rule:
    return lambda given: then if given == length else otherwise


def from_on(length: int, then: RmError) -> Rule:
    return lambda given: then if given >= length else E.MSG_INVALID


def always(error: RmError) -> Rule:
    return lambda _: error


RULES: Mapping[MessageId, Rule] = {
    # Sections 6 and 7. Zeros name VMID 0: the caller where the message says so, nobody elsewhere.
    M.VM_START: exactly(4, E.VMID_INVALID),
    M.VM_STOP: exactly(8, E.VMID_INVALID),
    M.VM_RESET: exactly(4, E.VMID_INVALID),
    M.VM_DEALLOCATE: exactly(4, E.VMID_INVALID),
    M.VM_CONFIG_IMAGE: exactly(40, E.VMID_INVALID),
    M.VM_AUTH_IMAGE: exactly(4, E.VMID_INVALID),
    M.VM_INIT: exactly(4, E.VMID_INVALID),
    M.VM_GET_STATE: exactly(4, E.OK),
    M.VM_GET_ID: exactly(4, E.OK),
    M.VM_GET_CRASH_MSG: exactly(4, E.VMID_INVALID),
    M.VM_GET_HYP_RESOURCES: exactly(4, E.ARGUMENT_INVALID),
    M.VM_GET_VMID: exactly(0, E.OK),
    M.VM_GET_OWNER: exactly(0, E.OK),
    M.VM_GET_PEERS: exactly(0, E.OK),
    M.VM_HOST_GET_TYPE: exactly(0, E.OK),
    M.VM_SET_STATUS: always(E.DENIED),
    M.VM_SET_CRASH_MSG: exactly(4, E.OK),
    M.VM_EXIT: exactly(4, E.DENIED),
    M.VM_LOOKUP_URI: lambda given: {0: E.ARGUMENT_INVALID, 4: E.OK}.get(given, E.MSG_INVALID),
    M.VM_LOOKUP_NAME: lambda given: {0: E.ARGUMENT_INVALID, 4: E.OK}.get(given, E.MSG_INVALID),
    M.VM_LOOKUP_GUID: lambda given: {0: E.ARGUMENT_INVALID, 16: E.OK}.get(given, E.MSG_INVALID),
    # Section 8: a list may be missing at the end, but not below the least length; nothing may follow the last one.
    M.MEM_DONATE: exactly(20, E.ARGUMENT_INVALID),
    M.MEM_LEND: exactly(20, E.ARGUMENT_INVALID),
    M.MEM_SHARE: exactly(20, E.ARGUMENT_INVALID),
    M.MEM_APPEND: exactly(12, E.ARGUMENT_INVALID),
    M.MEM_ACCEPT: exactly(24, E.HANDLE_INVALID),
    M.MEM_RELEASE: from_on(8, E.HANDLE_INVALID),
    M.MEM_RECLAIM: from_on(8, E.HANDLE_INVALID),
    M.MEM_NOTIFY: from_on(12, E.HANDLE_INVALID),
    M.MEM_QCOM_LOOKUP_SGL: lambda given: E.LOOKUP_FAILED if given in (16, 20) else E.MSG_INVALID,
    # Section 9.
    M.VM_IRQ_ACCEPT: exactly(8, E.HANDLE_INVALID),
    M.VM_IRQ_LEND: exactly(12, E.IRQ_INVALID),
    M.VM_IRQ_RELEASE: exactly(4, E.HANDLE_INVALID),
    M.VM_IRQ_RECLAIM: exactly(4, E.HANDLE_INVALID),
    M.VM_IRQ_NOTIFY: exactly(8, E.HANDLE_INVALID),
    # Section 10; the primary VM of profile 2023 has no console.
    M.VM_CONSOLE_OPEN: exactly(4, E.ARGUMENT_INVALID),
    M.VM_CONSOLE_CLOSE: exactly(4, E.ARGUMENT_INVALID),
    M.VM_CONSOLE_WRITE: exactly(4, E.ARGUMENT_INVALID),
    M.VM_CONSOLE_FLUSH: exactly(4, E.ARGUMENT_INVALID),
    # Section 11.
    M.VM_SET_TIME_BASE: exactly(20, E.VM_STATE),
    M.VM_SET_FIRMWARE_MEM: exactly(24, E.NORESOURCE),
    M.FW_SET_VM_FIRMWARE: lambda given: {0: E.DENIED, 24: E.ARGUMENT_INVALID}.get(given, E.MSG_INVALID),
    M.IPA_RESERVE: exactly(16, E.OK),
    # No handler (section 5).
    M.VM_GET_HYP_CAPIDS: always(E.UNIMPLEMENTED),
    M.VM_GET_HYP_IRQS: always(E.UNIMPLEMENTED),
    M.VM_IRQ_UNMAP: always(E.UNIMPLEMENTED),
    M.IPA_UNRESERVE: always(E.UNIMPLEMENTED),
}
WITH_HYPERVISOR_ERROR = (M.VM_SET_TIME_BASE, M.VM_SET_FIRMWARE_MEM)
OTHERS = {
    M.VM_ALLOCATE,
    M.FW_MILESTONE,
    M.VM_SUSPEND,
    M.VM_RESUME,
    M.VM_SET_CONTEXT,
    M.VM_SET_DEMAND_PAGING,
    M.VM_SET_ADDRESS_LAYOUT,
}
"""Messages that change something when they succeed, and those that the public RM lacks."""


def test_every_message_is_accounted_for() -> None:
    assert {MessageId(number) for number in MESSAGES} == set(RULES) | OTHERS


def test_zeros_of_every_length_get_the_error_of_their_length() -> None:
    def scenario(client: Client) -> None:
        for message, rule in RULES.items():
            for length in LENGTHS:
                error, data = client.raw(message, bytes(length))
                assert error == rule(length), (message.name, length)
                if error != E.OK:
                    assert data == (b"\1\0\0\0" if message in WITH_HYPERVISOR_ERROR else b""), (message.name, length)

    Rig(console_loopback=False).run(scenario)


@pytest.mark.parametrize("message", [M.VM_ALLOCATE, M.FW_MILESTONE])
def test_a_message_that_changes_something_does_so_at_its_length_only(message: MessageId) -> None:
    right = {M.VM_ALLOCATE: 4, M.FW_MILESTONE: 0}[message]

    def scenario(client: Client) -> None:
        for length in LENGTHS:
            if length != right:
                assert client.refused(message, bytes(length)) == E.MSG_INVALID, length
        assert client.raw(message, bytes(right))[0] == E.OK
        if message is M.FW_MILESTONE:
            # Registering firmware is over, whatever the request looks like (rm-rpc.md 11).
            assert {client.refused(message, bytes(length)) for length in LENGTHS} == {E.DENIED}
            assert {client.refused(M.FW_SET_VM_FIRMWARE, bytes(length)) for length in LENGTHS} == {E.DENIED}

    Rig().run(scenario)


def test_an_empty_reservation_of_the_primary_vm_reserves_nothing_and_succeeds() -> None:
    """rm-rpc.md 11: the error belongs to a range that is not free, and there is none."""
    one_range = bytes(12) + b"\1\0\0\0" + (0x3000_0000).to_bytes(8, "little") + (0x1000).to_bytes(8, "little")

    def scenario(client: Client) -> None:
        assert client.raw(M.IPA_RESERVE, bytes(16)) == (E.OK, b"")
        assert client.raw(M.IPA_RESERVE, b"\1" + bytes(15)) == (E.OK, bytes(4))
        assert client.refused(M.IPA_RESERVE, b"\2" + bytes(15)) == E.MSG_INVALID
        assert client.refused(M.IPA_RESERVE, one_range) == E.DENIED
        # It has no base memory to be compatible with.
        assert client.refused(M.IPA_RESERVE, bytes(4) + b"\x40" + bytes(11)) == E.ARGUMENT_INVALID

    Rig().run(scenario)
