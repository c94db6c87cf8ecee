"""The VMs that the benchmarks run: a root VM that makes a second VM with a link to it, as plain hypercalls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gunyah.abi import pyimage
from gunyah.abi.errors import Error
from gunyah.abi.memory import (
    Access,
    MapMemtype,
    MappingAttributes,
    MemextentAttributes,
    MemextentMemtype,
    MemextentType,
)
from gunyah.abi.msgqueue import CreateInfo
from gunyah.abi.objects import MsgqueueRight
from gunyah.guest.cpu import Cpu, Program
from gunyah.guest.gic import Gic
from gunyah.guest.hypercall import Hypercalls
from gunyah.machine import board
from gunyah.rm.environment import read_environment

__all__ = ["MESSAGE", "Exchange", "hypercall_loop", "root_with_peer"]

MESSAGE = 240
DEPTH = 8
PEER_BASE = 0x5000_0000
PEER_SIZE = 0x20_0000
PEER_VMID = 0x80
OUT_VIRQ, IN_VIRQ = 40, 41


def hypercall_loop(immediate: int, arguments: tuple[int, ...], count: int) -> Callable[[Cpu], float]:
    """A guest's loop of ``count`` calls with their arguments written anew each time; returns the seconds it took."""

    def loop(cpu: Cpu) -> float:
        x, hvc = cpu.x, cpu.hvc
        numbered = tuple(enumerate(arguments))
        start = time.process_time()
        for _ in range(count):
            for number, value in numbered:
                x[number] = value
            hvc(immediate)
        return time.process_time() - start

    return loop


@dataclass
class Exchange:
    """Both directions at once: each side sends ``count`` messages and takes as many."""

    count: int
    seconds: float = 0.0
    received: list[int] = field(default_factory=lambda: [0, 0])
    started: float = 0.0

    @property
    def done(self) -> bool:
        return all(number >= self.count for number in self.received)

    def side(self, index: int, cpu: Cpu, hyp: Hypercalls, tx: int, rx: int, out: int, into: int) -> None:
        """Send until the queue is full, take until it is empty, wait for an interrupt of either; until all is done."""
        sent, received, size = 0, 0, MESSAGE
        full, empty = Error.MSGQUEUE_FULL, Error.MSGQUEUE_EMPTY
        while sent < self.count or received < self.count:
            busy = False
            while sent < self.count:
                error, _ = hyp.try_msgqueue_send(tx, size, out)
                if error == full:
                    break
                sent += 1
                busy = True
            while received < self.count:
                error, _, _ = hyp.try_msgqueue_receive(rx, into, size)
                if error == empty:
                    break
                received += 1
                busy = True
            if not busy:
                cpu.wfi()
        self.received[index] = received
        if self.done:
            self.seconds = time.process_time() - self.started


def _nothing() -> None:
    """The interrupt only has to wake its VM; the loop looks at both queues."""


def root_with_peer(exchange: Exchange, register: Callable[[str, Program], int]) -> Program:
    """A root VM that makes a second VM and a pair of queues, and exchanges messages with it."""

    def peer(cpu: Cpu, x0: int) -> None:
        hyp = Hypercalls(cpu)
        tx = cpu.load(x0, 8)
        rx = cpu.load(x0 + 8, 8)
        gic = Gic(cpu, board.GICD.base, board.GICR.base)
        _listen(gic)
        exchange.side(1, cpu, hyp, tx, rx, x0 + 0x1000, x0 + 0x2000)
        while True:
            cpu.wfi()

    def root(cpu: Cpu, x0: int) -> None:
        environment = read_environment(cpu, x0)
        hyp = Hypercalls(cpu)
        partition, cspace = environment.partition, environment.cspace
        extent = hyp.partition_create_memextent(partition, cspace)
        attributes = MemextentAttributes(Access.RWX, MemextentMemtype.ANY, MemextentType.BASIC).pack()
        hyp.memextent_configure(extent, PEER_BASE, PEER_SIZE, attributes)
        hyp.object_activate(extent)
        space = hyp.partition_create_addrspace(partition, cspace)
        hyp.addrspace_configure(space, PEER_VMID)
        hyp.object_activate(space)
        mapping = MappingAttributes(Access.RWX, Access.RWX, MapMemtype.NORMAL_WB).pack()
        hyp.addrspace_map(environment.addrspace, extent, PEER_BASE, mapping)
        hyp.addrspace_map(space, extent, PEER_BASE, mapping)
        peer_cspace = hyp.partition_create_cspace(partition, cspace)
        hyp.cspace_configure(peer_cspace, 64)
        hyp.object_activate(peer_cspace)
        vic = hyp.partition_create_vic(partition, cspace)
        hyp.vic_configure(vic, 1, 64)
        hyp.object_activate(vic)
        vcpu = hyp.partition_create_thread(partition, cspace)
        hyp.vcpu_configure(vcpu, 0)
        hyp.cspace_attach_thread(peer_cspace, vcpu)
        hyp.addrspace_attach_thread(space, vcpu)
        hyp.vic_attach_vcpu(vic, vcpu, 0)
        hyp.vcpu_set_affinity(vcpu, 0)
        hyp.object_activate(vcpu)
        queues = []
        for sender, receiver in ((environment.vic, vic), (vic, environment.vic)):
            queue = hyp.partition_create_msgqueue(partition, cspace)
            hyp.msgqueue_configure(queue, CreateInfo(DEPTH, MESSAGE).pack())
            hyp.object_activate(queue)
            hyp.msgqueue_bind_send_virq(queue, sender, OUT_VIRQ)
            hyp.msgqueue_bind_receive_virq(queue, receiver, IN_VIRQ)
            queues.append(queue)
        rx = hyp.cspace_copy_cap_from(cspace, queues[0], peer_cspace, int(MsgqueueRight.RECEIVE))
        tx = hyp.cspace_copy_cap_from(cspace, queues[1], peer_cspace, int(MsgqueueRight.SEND))
        cpu.write(PEER_BASE, pyimage.pack(register("peer", peer)))
        cpu.store(PEER_BASE + 0x1000, tx, 8)
        cpu.store(PEER_BASE + 0x1008, rx, 8)
        gic = Gic(cpu, board.GICD.base, board.GICR.base)
        _listen(gic)
        hyp.vcpu_poweron(vcpu, PEER_BASE, PEER_BASE + 0x1000)
        exchange.started = time.process_time()
        heap = environment.heap_base
        exchange.side(0, cpu, hyp, queues[0], queues[1], heap, heap + 0x1000)
        while True:
            cpu.wfi()

    return root


def _listen(gic: Gic) -> None:
    gic.start()
    gic.enable(OUT_VIRQ, _nothing)
    gic.enable(IN_VIRQ, _nothing)
