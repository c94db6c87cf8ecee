"""A Resource Manager that misbehaves towards the driver stack: it forgets, refuses, answers twice, or not at all."""

import errno

import pytest
from tests.linux.test_end_to_end import SECOND, Linux

from gunyah.abi.errors import RmError
from gunyah.abi.rm import MessageId
from gunyah.linux.rsc_mgr_rpc import RscMgrRpc


@pytest.fixture
def linux():
    with Linux("2023") as linux:
        yield linux


def calls(linux):
    """The RPC layer of the kernel's one connection."""
    kernel = linux.kernel
    return RscMgrRpc(kernel.services, kernel.resource_managers[0], kernel.profile)


def test_an_rm_that_restarts_in_the_middle_of_a_message_costs_that_call_only(linux):
    rm = linux.kernel.resource_managers[0]
    link = linux.system.rm.links[3]
    seen = []

    def forget_once(packet):
        seen.append(packet)
        if len(seen) == 2:
            # Two of the request's packets have come when RM loses all it knew.
            link.forget()
        return original(packet)

    original = link.assembler.feed
    link.assembler.feed = forget_once
    request = bytes(2000)
    with pytest.raises(OSError) as failure:
        linux.do(lambda: rm.call(MessageId.VM_LOOKUP_NAME, request, timeout_ns=2 * SECOND))
    assert failure.value.errno == errno.ETIMEDOUT
    assert len(seen) == 9
    assert link.assembler.partial_bytes == 0
    assert linux.do(calls(linux).get_vmid) == 3


def test_a_busy_rm_is_an_errno_and_the_next_call_works(linux):
    with linux.system.rm.faults.deny("VM_GET_VMID", code=RmError.BUSY, times=1), pytest.raises(OSError) as failure:
        linux.do(calls(linux).get_vmid)
    assert failure.value.errno == errno.EBUSY
    assert linux.do(calls(linux).get_vmid) == 3


def test_a_reply_that_comes_twice_is_dropped_the_second_time(linux):
    rm = linux.kernel.resource_managers[0]
    before = rm.dropped
    with linux.system.rm.faults.duplicate("VM_GET_VMID", times=1):
        assert linux.do(calls(linux).get_vmid) == 3
        assert linux.do(calls(linux).get_vmid) == 3
    assert rm.dropped == before + 1


def test_a_reply_that_never_comes_is_a_time_out_and_not_a_hang(linux):
    with linux.system.rm.faults.drop("VM_GET_VMID", times=1), pytest.raises(OSError) as failure:
        linux.do(calls(linux).get_vmid)
    assert failure.value.errno == errno.ETIMEDOUT
    assert linux.do(calls(linux).get_vmid) == 3
