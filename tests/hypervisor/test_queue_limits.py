"""Message queues and groups at their limits: sizes, thresholds, and vCPUs that leave."""

from __future__ import annotations

import pytest
from tests.hypervisor.root_rig import RootRig
from tests.hypervisor.yard import Yard, sleep_for_ever

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectState
from gunyah.hypervisor.msgqueue import MAX_DEPTH, MAX_SIZE, UNCHANGED, MsgQueue
from gunyah.hypervisor.virq import VirqSource

from .extents import refused

MAXIMUM = 0xFFFF_FFFE


def queue(depth: int = 4, size: int = 16) -> MsgQueue:
    made = MsgQueue(None)
    made.configure(size << 16 | depth)
    made.activate()
    return made


class Source(VirqSource):
    """An interrupt that remembers how many messages there were when it was raised."""

    def __init__(self, made: MsgQueue) -> None:
        super().__init__(made, "a test", lambda: False)
        self.made = made
        self.told: list[int] = []

    def assert_(self, *, edge_only: bool = False) -> None:
        self.told.append(len(self.made.messages))


class TestConfiguration:
    """hypercalls.md 3.8: depth 1..255, size 1..1023."""

    @pytest.mark.parametrize(
        ("depth", "size"), [(0, 16), (MAX_DEPTH + 1, 16), (4, 0), (4, MAX_SIZE + 1), (0xFFFF, 0xFFFF)]
    )
    def test_what_is_outside_is_refused_and_changes_nothing(self, depth: int, size: int) -> None:
        made = MsgQueue(None)
        made.configure(16 << 16 | 4)
        with refused(Error.ARGUMENT_INVALID):
            made.configure(size << 16 | depth)
        assert (made.depth, made.max_size) == (4, 16)

    @pytest.mark.parametrize(("depth", "size"), [(1, 1), (MAX_DEPTH, MAX_SIZE)])
    def test_the_limits_themselves_are_taken(self, depth: int, size: int) -> None:
        made = queue(depth, size)
        assert (made.depth, made.max_size, made.not_full_threshold, made.not_empty_threshold) == (
            depth,
            size,
            depth - 1,
            1,
        )

    def test_an_active_queue_is_charged_for_its_messages(self) -> None:
        rig = RootRig()
        used = rig.hv.root_partition.heap.used
        capid = rig.active("msgqueue", 100 << 16 | 10)
        assert rig.hv.root_partition.heap.used == used + MsgQueue.heap_size + 1000
        assert rig.call("cspace_delete_cap_from", rig.cspace, capid).ok
        assert rig.hv.root_partition.heap.used == used
        rig.hv.root_partition.heap.book(rig.hv.root_partition.heap.available - MsgQueue.heap_size - 999)
        capid = rig.create("msgqueue")
        assert rig.call("msgqueue_configure", capid, 100 << 16 | 10).ok
        assert rig.call("object_activate", capid).error == Error.NOMEM
        assert rig.root.cspace.capability(capid).object.state == ObjectState.FAILED


class TestThresholds:
    """When the interrupts of both ends are raised."""

    def test_minus_one_keeps_a_threshold(self) -> None:
        made = queue()
        made.configure_send(2)
        made.configure_receive(3)
        made.configure_send(UNCHANGED)
        made.configure_receive(UNCHANGED)
        assert (made.not_full_threshold, made.not_empty_threshold) == (2, 3)

    def test_minus_two_means_all_of_the_depth_for_the_receiver(self) -> None:
        made = queue()
        made.configure_receive(MAXIMUM)
        assert made.not_empty_threshold == 4
        with refused(Error.ARGUMENT_INVALID):
            made.configure_send(MAXIMUM)

    @pytest.mark.parametrize("threshold", [4, 5, 0x7FFF_FFFF])
    def test_the_senders_threshold_is_below_the_depth(self, threshold: int) -> None:
        made = queue()
        with refused(Error.ARGUMENT_INVALID):
            made.configure_send(threshold)
        assert made.not_full_threshold == 3
        made.configure_send(0)
        assert made.not_full_threshold == 0

    @pytest.mark.parametrize("threshold", [0, 5, 0x7FFF_FFFF])
    def test_the_receivers_threshold_is_1_to_the_depth(self, threshold: int) -> None:
        made = queue()
        with refused(Error.ARGUMENT_INVALID):
            made.configure_receive(threshold)
        assert made.not_empty_threshold == 1
        made.configure_receive(4)
        assert made.not_empty_threshold == 4

    def test_the_sender_is_told_once_when_the_queue_has_drained_to_its_threshold(self) -> None:
        made = queue()
        made.configure_send(1)
        for text in (b"a", b"b", b"c"):
            made.push(text, now=False)
        made.send_source = source = Source(made)
        assert [made.taken() for _ in range(3)] == [True, True, False]
        assert source.told == [1]

    def test_the_receiver_is_told_at_its_threshold_or_when_the_sender_pushes(self) -> None:
        made = queue()
        made.configure_receive(3)
        made.receive_source = source = Source(made)
        assert [made.push(b"x", now=now) for now in (False, True, False, False)] == [True, True, True, False]
        assert source.told == [2, 3]


class TestLeaving:
    """A vCPU that ends leaves its group and its VIC, whatever state it was in."""

    def test_a_thread_that_was_never_active_leaves_nothing_behind(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever)
        used = yard.hv.root_partition.heap.used
        thread = yard.create("thread")
        yard.ok("vpm_group_attach_vcpu", vm.group, thread, 1)
        yard.ok("vic_attach_vcpu", vm.vic, thread, 0)
        yard.ok("cspace_delete_cap_from", yard.cspace, thread)
        assert yard.hv.root_partition.heap.used == used
        assert yard.ok("vpm_group_get_state", vm.group)

    def test_a_vcpu_without_a_group_is_switched_off_and_ends(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, group=False)
        vcpu = vm.vcpus[0]
        yard.settle()
        vcpu.power_off()
        assert vcpu.powered_off
        yard.ok("vcpu_kill", vm.threads[0])
        yard.settle()
        yard.call("vcpu_kill", vm.threads[0])
        vcpu.exit()
        yard.ok("cspace_delete_cap_from", yard.cspace, vm.threads[0])
        assert vcpu.state == ObjectState.DESTROYING

    def test_a_vcpu_that_is_killed_before_it_ever_ran_ends(self) -> None:
        yard = Yard()
        vm = yard.vm(sleep_for_ever, on=False)
        yard.ok("vcpu_kill", vm.threads[0])
        yard.settle()
        yard.ok("cspace_delete_cap_from", yard.cspace, vm.threads[0])
        assert vm.vcpus[0].state == ObjectState.DESTROYING
