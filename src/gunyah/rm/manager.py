"""The Resource Manager itself: its parts, its event loop, and the dispatch of requests (rm-behaviour.md 2).

RM is one vCPU and one loop: it serves transmit and receive interrupts of its clients' queues, halt interrupts of their
vCPUs, and deferred work one piece per pass, so that nobody waits for another VM's destruction. Handlers are functions
``(rm, client, payload) -> reply data`` that raise RmFailure to refuse; whatever else they raise is a defect of RM that
is logged, answered DENIED and survived.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from gunyah.abi.errors import RmError
from gunyah.abi.rm import (
    MESSAGES,
    MessageType,
    NotificationId,
    PayloadError,
    VmStatusNotification,
    message_name,
    pack_reply,
)
from gunyah.abi.types import VMID_RM
from gunyah.abi.vic import SPI_BASE
from gunyah.guest.cpu import Cpu
from gunyah.guest.gic import Gic
from gunyah.guest.heap import Heap
from gunyah.guest.hypercall import HypercallFailed, Hypercalls
from gunyah.guest.timer import Timers
from gunyah.rm import dispatch, primary
from gunyah.rm.console import Consoles
from gunyah.rm.environment import Environment, read_environment
from gunyah.rm.errors import RmFailure, failure_of
from gunyah.rm.faults import Faults, What
from gunyah.rm.firmware import Firmware
from gunyah.rm.irq import IrqManager
from gunyah.rm.link import Link
from gunyah.rm.log import Log
from gunyah.rm.memory import Memory
from gunyah.rm.memparcel_table import MemparcelTable
from gunyah.rm.rpc import Message, sequence_numbers
from gunyah.rm.virq import VirqAllocator
from gunyah.rm.vm import Vm, VmTable

__all__ = ["Handler", "Observer", "ResourceManager"]

Handler: TypeAlias = "Callable[[ResourceManager, Vm, bytes], bytes]"
"""Serves one request id: the reply's data after the error word, or RmFailure, PayloadError, HypercallFailed."""
Observer: TypeAlias = "Callable[[int, str, int, bytes], None]"
"""Sees (client VMID, "request" | "reply" | "notification", message id, payload)."""

_OWN_SPI_LAST = 95
"""RM's VIC has 64 shared interrupts, 32..95 (boot.md 3)."""


class ResourceManager:
    """One Resource Manager. Made before the machine starts; ``program`` is the root VM's code.

    ``log``, ``faults`` and ``observers`` are for whoever looks from outside; nothing else is meant to be touched while
    it runs.
    """

    def __init__(self) -> None:
        self.log = Log()
        self.faults = Faults()
        self.observers: list[Observer] = []
        self.started = False
        self.cpu: Cpu
        self.environment: Environment
        self.hyp: Hypercalls
        self.gic: Gic
        self.timers: Timers
        self.heap: Heap
        self.memory: Memory
        self.irqs: IrqManager
        self._forget()

    def _forget(self) -> None:
        """State of one life: a machine that starts again keeps only log, faults and observers."""
        self.vms = VmTable()
        self.consoles = Consoles(self.notify)
        self.own_virqs = VirqAllocator(last=_OWN_SPI_LAST, start=SPI_BASE)
        self.firmware = Firmware()
        self.links: dict[int, Link] = {}
        self.next_sequence = sequence_numbers()
        self._work: deque[Callable[[], None]] = deque()
        self._events: deque[Callable[[], None]] = deque()
        self._handlers = dispatch.table()

    # -- start ---------------------------------------------------------------------------------------------------------

    def program(self, cpu: Cpu, x0: int) -> None:
        """The root VM's program: environment at IPA ``x0``; never returns."""
        self.start(cpu, x0)
        self.serve()

    def start(self, cpu: Cpu, x0: int) -> None:
        """Everything up to the moment when the primary VM runs (rm-behaviour.md 2.2)."""
        self._forget()
        self.cpu = cpu
        environment = self.environment = read_environment(cpu, x0)
        self.hyp = Hypercalls(cpu)
        identity = self.hyp.hypervisor_identify()
        self.log.note(f"Resource Manager starts; hypervisor API {identity.api_info & 0x3FFF}")
        self.gic = Gic(cpu, environment.gicd_address, environment.gicr_address)
        self.gic.start()
        self.timers = Timers(cpu)
        self.timers.start(self.gic)
        self.heap = Heap(cpu, [(environment.heap_base, environment.heap_size)])
        self.memory = Memory(self.hyp, environment)
        self.memory.before = self.faults.before
        self.parcels = MemparcelTable(self.memory, self.vms)
        self.irqs = IrqManager(self.hyp, environment.hwirqs, self._random_word())
        primary.build(self)
        self.started = True

    def _random_word(self) -> int:
        try:
            return self.hyp.prng_get_entropy(4)[0]
        except HypercallFailed as failure:
            self.log.warning(f"no entropy for interrupt handles: {failure}")
            return 0x4000_0000

    # -- the loop ------------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Event loop; never returns."""
        while True:
            if not self.step():
                self.wait()

    def wait(self) -> None:
        """Sleep until an interrupt, unless one has brought work since the last look."""
        cpu = self.cpu
        cpu.irq_masked = True
        if not self._runnable():
            cpu.wfi()
        cpu.irq_masked = False

    def sleep(self, nanoseconds: int) -> None:
        """Let other vCPUs run for a while; interrupts that come meanwhile are served afterwards."""
        over: list[bool] = []
        timer = self.timers.after(nanoseconds, lambda: over.append(True))
        while not over:
            self.cpu.irq_masked = True
            if not over:
                self.cpu.wfi()
            self.cpu.irq_masked = False
        timer.cancel()

    def _runnable(self) -> bool:
        return bool(self._events or self._work or any(link.runnable for link in self.links.values()))

    def step(self) -> bool:
        """One pass: events, one message per client, one piece of deferred work. False when there was nothing."""
        worked = False
        while self._events:
            worked = True
            self._guard(self._events.popleft())
        for link in list(self.links.values()):
            if link.runnable:
                worked = True
                try:
                    self._serve_link(link)
                except Exception:
                    self.log.error(f"link of VM {link.vm.vmid}\n{traceback.format_exc()}")
        if self._work:
            worked = True
            self._guard(self._work.popleft())
        return worked

    def _serve_link(self, link: Link) -> None:
        if link.room:
            link.pump()
        if link.pending and link.accepts:
            message = link.receive()
            if message is not None:
                self._serve_message(link, message)

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            self.log.error(f"deferred work failed\n{traceback.format_exc()}")

    def defer(self, work: Callable[[], None]) -> None:
        """Run ``work`` in a later pass."""
        self._work.append(work)

    def post(self, event: Callable[[], None]) -> None:
        """Run ``event`` in the next pass; allowed in interrupt handlers."""
        self._events.append(event)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _serve_message(self, link: Link, message: Message) -> None:
        if message.type is not MessageType.REQUEST:
            # Replies mean nothing here; notifications count from the hypervisor's pseudo-client only (rm-rpc.md 1.6).
            return
        for observer in self.observers:
            observer(link.vm.vmid, "request", message.id, message.payload)
        rule = self.faults.match(link.vm.vmid, message.id) if self.faults.rules else None
        if rule is None:
            self.send_reply(link, message, self.answer(link.vm, message))
            return
        payload = pack_reply(rule.code) if rule.what is What.DENY else self.answer(link.vm, message)
        if rule.what is What.DELAY:
            self.timers.after(rule.nanoseconds, lambda: self.post(lambda: self.send_reply(link, message, payload)))
            return
        for _ in range({What.DROP: 0, What.DUPLICATE: 2}.get(rule.what, 1)):
            self.send_reply(link, message, payload)

    def send_reply(self, link: Link, message: Message, payload: bytes) -> None:
        """Answer a request."""
        for observer in self.observers:
            observer(link.vm.vmid, "reply", message.id, payload)
        link.outbox.reply(message, payload)

    def answer(self, client: Vm, message: Message) -> bytes:
        """The reply's payload to one request; never raises."""
        handler = self._handlers.get(message.id)
        if handler is None:
            return self._refuse(client, message, RmFailure(RmError.UNIMPLEMENTED, "RM has no handler for this message"))
        try:
            return pack_reply(RmError.OK, handler(self, client, message.payload))
        except RmFailure as failure:
            return self._refuse(client, message, failure)
        except PayloadError as error:
            return self._refuse(client, message, RmFailure(error.error, str(error), _failure_data(message.id)))
        except HypercallFailed as error:
            return self._refuse(client, message, failure_of(error.error, str(error)))
        except Exception:
            self.log.error(f"{message_name(message.id)} of VM {client.vmid}\n{traceback.format_exc()}")
            return self._refuse(client, message, RmFailure(RmError.DENIED, "a defect of RM, see its log"))

    def _refuse(self, client: Vm, message: Message, failure: RmFailure) -> bytes:
        sentence = f"{message_name(message.id)} → {failure.code.name}: {failure}"
        client.sentences.append(sentence)
        self.log.warning(f"VM {client.vmid}: {sentence}")
        return pack_reply(failure.code, failure.data)

    # -- notifications -------------------------------------------------------------------------------------------------

    def notify(self, vmid: int, notification: int, payload: bytes) -> None:
        """Send a notification to a VM; nothing happens when it has no link."""
        link = self.links.get(vmid)
        if link is None:
            return
        rule = self.faults.match(vmid, notification) if self.faults.rules else None
        if rule is not None and rule.what is What.DELAY:
            self.timers.after(rule.nanoseconds, lambda: self.post(lambda: self._notify(link, notification, payload)))
            return
        copies = 1 if rule is None else {What.DROP: 0, What.DENY: 0, What.DUPLICATE: 2}.get(rule.what, 1)
        for _ in range(copies):
            self._notify(link, notification, payload)

    def _notify(self, link: Link, notification: int, payload: bytes) -> None:
        for observer in self.observers:
            observer(link.vm.vmid, "notification", notification, payload)
        link.outbox.notify(notification, payload)

    def send_status(self, vm: Vm) -> None:
        """VM_STATUS to every running peer that has a link (rm-rpc.md 12)."""
        payload = VmStatusNotification(vm.vmid, vm.state, vm.os_state, vm.app_status).pack()
        for peer in vm.peers:
            if peer.vmid != VMID_RM and peer.state is peer.state.RUNNING:
                self.notify(peer.vmid, NotificationId.VM_STATUS, payload)

    # -- sight ---------------------------------------------------------------------------------------------------------

    def explain(self, vmid: int) -> list[str]:
        """The latest refusals a client got, oldest first."""
        vm = self.vms.get(vmid) if self.started else None
        return list(vm.sentences) if vm is not None else []


def _failure_data(message_id: int) -> bytes:
    """What follows the error word of the two messages whose failures carry a hypervisor error (rm-rpc.md 11)."""
    entry = MESSAGES.get(message_id)
    if entry is None or entry.failure is None:
        return b""
    return b"\x01\0\0\0"
