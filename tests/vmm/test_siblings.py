"""Two VMs of one owner with queues, doorbells and memory between them, and what happens when one of them goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import gunyah
from gunyah.abi import pyimage
from gunyah.abi.errors import Error
from gunyah.abi.rm import VmStatus
from gunyah.guest.cpu import Cpu
from gunyah.guest.fdt import DeviceTree, Node
from gunyah.guest.hypercall import Hypercalls
from gunyah.linux.rm_client import RmRefused
from gunyah.linux.setup import read_device_tree
from gunyah.secondary import PrimaryVm
from gunyah.vmm.images import parse_image
from gunyah.vmm.manager import VmError
from gunyah.vmm.vm_config import Doorbell, QueuePair, SharedMemory, VmSettings

MIB = 1 << 20
BUFFER = 0x8030_0000
PAIR, BELL, MEMORY = 9, 5, 7


class Guest:
    """A guest that does what the test tells it, one step after the other."""

    def __init__(self) -> None:
        self.steps: list[Callable[[Cpu, DeviceTree], object]] = []
        self.results: list[object] = []

    def program(self, cpu: Cpu, x0: int) -> None:
        tree = read_device_tree(cpu, x0)
        while True:
            while self.steps:
                self.results.append(self.steps.pop(0)(cpu, tree))
            Hypercalls(cpu).scheduler_yield()


class Pair:
    """Two guests in two VMs, the first the queue's and the bell's other side of the second."""

    def __init__(self, system: gunyah.System) -> None:
        self.system = system
        self.guests = Guest(), Guest()
        self.vms: list[PrimaryVm] = []
        for index, name in enumerate(("left", "right")):
            other = ("right", "left")[index]
            bell = (Doorbell(BELL, other),)
            image = parse_image(pyimage.pack(system.load_program(name, self.guests[index].program)), name)
            settings = VmSettings(
                name=name,
                image=image,
                memory=4 * MIB,
                console="none",
                affinity="proxy",
                queues=(QueuePair(PAIR, other, depth=4, message_size=64),),
                shared=(SharedMemory(MEMORY, 0x4000, peers=(other,)),),
                doorbells=() if index else bell,
                doorbell_sources=bell if index else (),
            )
            self.vms.append(system.primary.vm(settings))

    def do(self, index: int, step: Callable[[Cpu, DeviceTree], object]) -> object:
        guest = self.guests[index]
        before = len(guest.results)
        guest.steps.append(step)
        assert self.system.run(lambda: len(guest.results) > before, 10), self.system.hypervisor.reports
        return guest.results[-1]

    def send(self, index: int, data: bytes) -> object:
        def step(cpu: Cpu, tree: DeviceTree) -> int:
            cpu.write(BUFFER, data)
            capability = node(tree, "message-queue-9").u64s("reg")[0]
            return Hypercalls(cpu).try_call("msgqueue_send", capability, len(data), BUFFER, 0)[0]

        return self.do(index, step)

    def receive(self, index: int) -> object:
        def step(cpu: Cpu, tree: DeviceTree) -> bytes | int:
            capability = node(tree, "message-queue-9").u64s("reg")[1]
            error, size, _ = Hypercalls(cpu).try_msgqueue_receive(capability, BUFFER, 64)
            return error or cpu.read(BUFFER, size)

        return self.do(index, step)

    def ring(self) -> object:
        def step(cpu: Cpu, tree: DeviceTree) -> int:
            capability = node(tree, "doorbell-source-5").u64s("reg")[0]
            return Hypercalls(cpu).try_call("doorbell_send", capability, 0b100)[0]

        return self.do(1, step)

    def heard(self) -> object:
        def step(cpu: Cpu, tree: DeviceTree) -> int:
            return Hypercalls(cpu).doorbell_receive(node(tree, "doorbell-5").u64s("reg")[0], 0xFF)

        return self.do(0, step)

    def memory(self, index: int, data: bytes | None = None) -> object:
        def step(cpu: Cpu, tree: DeviceTree) -> bytes:
            buffer = tree.by_phandle(node(tree, "shm-7").u32("memory-region"))
            assert buffer is not None
            base = buffer.reg()[0][0]
            if data is not None:
                cpu.write(base, data)
            return cpu.read(base, 8)

        return self.do(index, step)


def node(tree: DeviceTree, name: str) -> Node:
    return next(node for node in tree.node("/hypervisor").children if node.name.split("@")[0] == name)


@pytest.fixture
def system() -> Iterator[gunyah.System]:
    with gunyah.System(seed=1) as system:
        before = system.ledger()
        free = system.primary.kernel.services.heap.free_bytes
        yield system
        assert not system.ledger().since(before)
        assert system.primary.kernel.services.heap.free_bytes == free
        assert not system.rm.log.errors()
        assert not system.primary.kernel.oopses


def test_siblings_talk_by_queue_bell_and_memory(system: gunyah.System) -> None:
    pair = Pair(system)
    left, right = pair.vms
    left.start()
    assert right.status == VmStatus.LOAD
    right.start()
    assert pair.send(0, b"to the right") == 0 and pair.receive(1) == b"to the right"
    assert pair.send(1, b"to the left") == 0 and pair.receive(0) == b"to the left"
    assert pair.ring() == 0 and pair.heard() == 0b100
    pair.memory(0, b"written!")
    assert pair.memory(1) == b"written!"
    buffer = left.inside.shared[MEMORY]
    assert system.primary.call(lambda: buffer.read(8)) == b"written!"
    for vm in pair.vms:
        vm.reset()
    for vm in pair.vms:
        vm.deallocate()


@pytest.mark.parametrize("goes", [0, 1], ids=["who made them", "who joined them"])
def test_one_sibling_goes_and_comes_back_and_the_other_keeps_its_ends(system: gunyah.System, goes: int) -> None:
    pair = Pair(system)
    stays = 1 - goes
    for vm in pair.vms:
        vm.start()
    pair.memory(stays, b"still in")
    for _ in range(3):
        assert pair.send(stays, b"for the dead") == 0
        assert pair.send(goes, b"last words") == 0
        pair.vms[goes].reset()
        assert pair.send(stays, b"to nobody") == 0
        pair.vms[goes].start()
        # What was on its way to the one that went is gone; what it had said is not.
        assert pair.receive(goes) == b"to nobody"
        assert pair.receive(goes) == Error.MSGQUEUE_EMPTY
        assert pair.receive(stays) == b"last words"
        assert pair.send(goes, b"again") == 0 and pair.receive(stays) == b"again"
        assert pair.send(stays, b"hello") == 0 and pair.receive(goes) == b"hello"
        assert pair.ring() == 0 and pair.heard() == 0b100
        assert pair.memory(goes) == b"still in"
    for vm in pair.vms:
        vm.reset()
    for vm in pair.vms:
        vm.deallocate()


def test_both_siblings_live_many_times_in_either_order(system: gunyah.System) -> None:
    pair = Pair(system)
    for order in ((0, 1), (1, 0), (1, 0), (0, 1)):
        for index in order:
            pair.vms[index].start()
        assert pair.send(order[0], b"hi") == 0 and pair.receive(order[1]) == b"hi"
        for index in order:
            pair.vms[index].reset()
    for vm in pair.vms:
        vm.deallocate()


def test_a_vm_whose_sibling_still_has_their_memory_cannot_be_deallocated(system: gunyah.System) -> None:
    pair = Pair(system)
    left, right = pair.vms
    left.start()
    right.start()
    with pytest.raises(VmError, match="VM left shares memory with right, which must be reset before"):
        left.deallocate()
    assert left.status == VmStatus.RUNNING
    right.reset()
    left.deallocate()
    right.deallocate()


def test_siblings_that_differ_about_their_queue_are_refused_with_both_wishes(system: gunyah.System) -> None:
    guest = Guest()
    vms = []
    for index, name in enumerate(("left", "right")):
        image = parse_image(pyimage.pack(system.load_program(name, guest.program)), name)
        queue = QueuePair(PAIR, ("right", "left")[index], depth=4 + index)
        vms.append(
            system.primary.vm(VmSettings(name=name, image=image, memory=4 * MIB, console="none", queues=(queue,)))
        )
    vms[0].start()
    with pytest.raises(RmRefused, match="5 messages of 240 bytes, but VM 128 has made the pair 0x9 for 4 of 240"):
        vms[1].start()
    vms[0].deallocate()


def test_memory_with_an_unknown_vm_is_refused(system: gunyah.System) -> None:
    image = parse_image(pyimage.pack(system.load_program("alone", Guest().program)), "alone")
    shared = (SharedMemory(MEMORY, 0x1000, peers=("nobody",)),)
    vm = system.primary.vm(VmSettings(name="alone", image=image, memory=4 * MIB, console="none", shared=shared))
    with pytest.raises(VmError, match="there is no VM 'nobody' to share memory with; there are: alone"):
        vm.start()
    assert vm.status == VmStatus.NONE
