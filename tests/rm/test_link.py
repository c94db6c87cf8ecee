"""RM's end of a client's queues, at the moments when a native client, preempting RM anywhere, can send."""

from __future__ import annotations

import struct

import pytest
from tests.rm.rig import Client, Rig

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectType
from gunyah.guest.hypercall import Hypercalls
from gunyah.hypervisor.msgqueue import MsgQueue
from gunyah.rm.link import Link


@pytest.mark.parametrize("burst", [1, 3])
def test_a_request_that_comes_just_after_the_queue_was_found_empty_is_served(
    burst: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()
    late = [struct.pack("<BBHI", 0x21, 1, 0x7000 + index, 0x5600_0024) for index in range(burst)]
    receive = Hypercalls.try_msgqueue_receive

    def scenario(client: Client) -> None:
        link: Link = rig.rm.links[3]
        root = next(vcpu for vcpu in rig.hypervisor.vcpus.values() if vcpu.vmid == 255)
        assert root.cspace is not None
        queue = root.cspace.lookup(link.receive_queue, ObjectType.MSGQUEUE, 0)
        assert isinstance(queue, MsgQueue)

        def then_another(hyp: Hypercalls, capability: int, buffer: int, size: int) -> tuple[int, int, bool]:
            result = receive(hyp, capability, buffer, size)
            empty = result[0] == Error.MSGQUEUE_EMPTY or not result[2]
            if capability == link.receive_queue and empty and late:
                while late:
                    queue.push(late.pop(), True)
                # The interrupt is taken here, before RM has looked at what the call said.
                link._cpu.irq_masked = False
            return result

        monkeypatch.setattr(Hypercalls, "try_msgqueue_receive", then_another)
        client.call(0x5600_0024)
        for index in range(burst):
            assert client.receive(0x7000 + index, turns=2000) == struct.pack("<II", 0, 3)

    rig.run(scenario)
