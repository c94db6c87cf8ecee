"""A machine with the real hypervisor and the real Resource Manager, driven by a bare client in the primary VM.

The client is as simple as a guest can be: it finds its queues in the device tree, sends packets and polls. A scenario
is a function that gets the client; it runs as the primary VM's code, and what it raises is raised by the test.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.rm.trees import board_tree

from gunyah.abi import pyimage
from gunyah.abi.errors import RmError
from gunyah.abi.rm import (
    AclEntry,
    ConsoleWrite,
    HandleReply,
    HypResource,
    HypResourcesReply,
    MemCreate,
    MemRelease,
    MessageId,
    NotificationId,
    SglEntry,
    VmConfigImage,
    VmidReply,
    VmidWord,
    VmStop,
)
from gunyah.guest import fdt
from gunyah.guest.cpu import Cpu, GuestAbort, GuestUndefined
from gunyah.guest.hypercall import Hypercalls
from gunyah.hypervisor import python_executor
from gunyah.hypervisor.boot import start_root_vm
from gunyah.hypervisor.hypervisor import Hypervisor
from gunyah.machine import board
from gunyah.machine.clock import VirtualClock
from gunyah.machine.memory import PhysicalMemory
from gunyah.rm.manager import ResourceManager

BUFFER = 0x4800_0000
PATIENCE = 60 * board.COUNTER_FREQUENCY
GuestFunction = Callable[[Cpu, int], None]


class Refused(Exception):
    """RM answered an error."""

    def __init__(self, code: int, data: bytes, message_id: int) -> None:
        super().__init__(f"{message_id:#x}: {RmError(code).name}")
        self.code = RmError(code)
        self.data = data


@dataclass
class Rig:
    """The machine, not yet started. ``guests`` are Python programs that images can name."""

    profile: str = "2023"
    console_loopback: bool = True
    cores: int = 0xFF
    seed: int = 7
    rm: ResourceManager = field(default_factory=ResourceManager)

    def __post_init__(self) -> None:
        self.memory = PhysicalMemory([(board.RAM.base, board.RAM.size)])
        self.hypervisor = Hypervisor(self.memory, VirtualClock(), seed=self.seed)

    def image(self, name: str, function: GuestFunction) -> bytes:
        """Image of a Python program."""
        program = python_executor.Program(
            name, function, lambda esr, far, why: GuestAbort(esr, far, why), lambda why: GuestUndefined(why)
        )
        return pyimage.pack(self.hypervisor.register_program(program))

    def run(self, scenario: Callable[[Client], None], tree: fdt.DeviceTree | None = None) -> None:
        """Boot, run the scenario in the primary VM to its end, and stop the machine."""
        outcome: list[BaseException | None] = []

        def primary(cpu: Cpu, x0: int) -> None:
            try:
                scenario(Client(self, cpu, x0))
                outcome.append(None)
            except Exception as error:
                outcome.append(error)
            while True:
                cpu.wfi()

        self.memory.write(board.HLOS_ENTRY, self.image("primary", primary))
        tree = tree or board_tree()
        self.memory.write(board.HLOS_DEVICE_TREE, tree.pack())
        extra = {"profile": self.profile, "console_loopback": self.console_loopback}
        start_root_vm(self.hypervisor, self.image("rm", self.rm.program), usable_cores=self.cores, extra=extra)
        try:
            self.hypervisor.run(lambda: bool(outcome), deadline=PATIENCE)
            if not outcome:
                raise AssertionError(f"the scenario did not end: {self.hypervisor.remarks} {self.hypervisor.reports}")
            if outcome[0] is not None:
                raise outcome[0]
            assert not self.rm.log.errors(), "\n".join(self.rm.log.errors())
        finally:
            for vcpu in list(self.hypervisor.vcpus.values()):
                if vcpu.executor is not None:
                    vcpu.executor.kill()


class Client:
    """RM as seen from the primary VM: synchronous calls, notifications collected on the way."""

    def __init__(self, rig: Rig, cpu: Cpu, tree_address: int, *, buffer: int = BUFFER) -> None:
        self.rig = rig
        self.cpu = cpu
        self.hyp = Hypercalls(cpu)
        size = fdt.total_size(cpu.read(tree_address, 40))
        self.tree = fdt.parse(cpu.read(tree_address, size))
        node = next(self.tree.find_compatible("gunyah-resource-manager"))
        self.tx, self.rx = node.u64s("reg")
        self.buffer = buffer
        self.notifications: list[tuple[int, bytes]] = []
        self.packet_size = 240
        self._sequence = 0
        self._replies: list[tuple[int, int, bytes]] = []
        self._parts: list[bytes] = []
        self._left = 0

    # -- packets -------------------------------------------------------------------------------------------------------

    def send_packet(self, packet: bytes) -> None:
        """Put raw bytes into the queue; waits for room."""
        self.cpu.write(self.buffer, packet)
        while True:
            error, _ = self.hyp.try_msgqueue_send(self.tx, len(packet), self.buffer)
            if error != 61:
                assert error == 0, f"send: {error}"
                return
            self.poll()
            self.hyp.scheduler_yield()

    def receive_packet(self) -> bytes | None:
        """The next packet, or None."""
        error, size, _ = self.hyp.try_msgqueue_receive(self.rx, self.buffer + 2048, 1023)
        return None if error else self.cpu.read(self.buffer + 2048, size)

    def poll(self) -> None:
        """Take everything that has arrived."""
        while (packet := self.receive_packet()) is not None:
            kind, fragments = packet[1] & 3, packet[1] >> 2
            if kind:
                self._head, self._parts, self._left = (kind, *struct.unpack("<HI", packet[2:8])), [], fragments
            else:
                self._left -= 1
            self._parts.append(packet[8:])
            if not self._left:
                kind, sequence, message_id = self._head
                payload = b"".join(self._parts)
                if kind == 2:
                    self._replies.append((sequence, message_id, payload))
                else:
                    self.notifications.append((message_id, payload))

    # -- calls ---------------------------------------------------------------------------------------------------------

    def send(self, message_id: int, payload: bytes = b"") -> int:
        """Send a request; its sequence number."""
        sequence, room = self._sequence & 0xFFFF, self.packet_size - 8
        self._sequence += 1
        fragments = max(0, -(-len(payload) // room) - 1)
        for index in range(fragments + 1):
            kind = 1 if index == 0 else 0
            head = struct.pack("<BBHI", 0x21, kind | fragments << 2, sequence, message_id)
            self.send_packet(head + payload[index * room : (index + 1) * room])
        return sequence

    def receive(self, sequence: int, turns: int = 20_000) -> bytes:
        """The reply's payload to request ``sequence``."""
        for _ in range(turns):
            self.poll()
            for reply in self._replies:
                if reply[0] == sequence:
                    self._replies.remove(reply)
                    return reply[2]
            self.hyp.scheduler_yield()
        raise AssertionError(f"no reply to request {sequence}")

    def raw(self, message_id: int, payload: bytes = b"") -> tuple[RmError, bytes]:
        """Request and reply: error and data."""
        reply = self.receive(self.send(message_id, payload))
        return RmError(int.from_bytes(reply[:4], "little")), reply[4:]

    def call(self, message_id: int, payload: bytes = b"") -> bytes:
        """Request and reply; raises Refused."""
        error, data = self.raw(message_id, payload)
        if error:
            raise Refused(error, data, message_id)
        return data

    def refused(self, message_id: int, payload: bytes = b"") -> RmError:
        """The error of a request that must fail."""
        error, _ = self.raw(message_id, payload)
        assert error != RmError.OK, f"{MessageId(message_id).name} succeeded"
        return error

    def await_notification(self, notification: int, turns: int = 20_000) -> bytes:
        """Payload of the next notification with that id; earlier ones of other kinds stay."""
        for _ in range(turns):
            self.poll()
            for entry in self.notifications:
                if entry[0] == notification:
                    self.notifications.remove(entry)
                    return entry[1]
            self.hyp.scheduler_yield()
        raise AssertionError(f"no {NotificationId(notification).name}; {self.notifications}")

    # -- conveniences --------------------------------------------------------------------------------------------------

    def allocate(self, vmid: int = 0) -> int:
        data = self.call(MessageId.VM_ALLOCATE, VmidWord(vmid).pack())
        return vmid or VmidReply.unpack(data).vmid

    def word(self, message_id: int, vmid: int) -> bytes:
        return self.call(message_id, VmidWord(vmid).pack())

    def state(self, vmid: int) -> int:
        return self.word(MessageId.VM_GET_STATE, vmid)[0]

    def await_state(self, vmid: int, state: int, turns: int = 20_000) -> None:
        """Until the VM is in a state."""
        for _ in range(turns):
            if self.state(vmid) == state:
                return
        raise AssertionError(f"VM {vmid} is in state {self.state(vmid)}")

    def lend(
        self,
        vmid: int,
        ranges: list[tuple[int, int]],
        *,
        rights: int = 7,
        label: int = 0,
        flags: int = 0,
        message: int = MessageId.MEM_LEND,
        own: int | None = None,
        mem_type: int = 0,
    ) -> int:
        acl = (AclEntry(vmid, rights),) + ((AclEntry(3, own),) if own is not None else ())
        sgl = tuple(SglEntry(*piece) for piece in ranges)
        return HandleReply.unpack(self.call(message, MemCreate(mem_type, flags, label, acl, sgl).pack())).handle

    def reclaim(self, handle: int, flags: int = 0) -> None:
        self.call(MessageId.MEM_RECLAIM, MemRelease(handle, flags).pack())

    def configure(
        self, vmid: int, handle: int, tree_offset: int, tree_size: int, auth: int = 0, size: int = 0x1000
    ) -> None:
        request = VmConfigImage(vmid, auth, handle, 0, size, tree_offset, tree_size)
        self.call(MessageId.VM_CONFIG_IMAGE, request.pack())

    def resources(self, vmid: int) -> tuple[HypResource, ...]:
        return HypResourcesReply.unpack(self.word(MessageId.VM_GET_HYP_RESOURCES, vmid)).resources

    def create(
        self,
        image: bytes,
        tree: fdt.DeviceTree,
        *,
        base: int = 0x5000_0000,
        size: int = 0x20_0000,
        share: bool = False,
        vmid: int = 0,
    ) -> tuple[int, int]:
        """Allocate, load, lend (or share), configure and initialise a VM; (VMID, memparcel)."""
        vmid = self.allocate(vmid)
        return vmid, self.load(vmid, image, tree, base=base, size=size, share=share)

    def load(
        self,
        vmid: int,
        image: bytes,
        tree: fdt.DeviceTree,
        *,
        base: int = 0x5000_0000,
        size: int = 0x20_0000,
        share: bool = False,
    ) -> int:
        """Load, lend (or share), configure and initialise a VM that exists; the memparcel."""
        self.cpu.write(base, image)
        blob = tree.pack()
        self.cpu.write(base + 0x1_0000, blob)
        message, own = (MessageId.MEM_SHARE, 7) if share else (MessageId.MEM_LEND, None)
        handle = self.lend(vmid, [(base, size)], message=message, own=own)
        self.configure(vmid, handle, 0x1_0000, 0x1_0000)
        self.word(MessageId.VM_INIT, vmid)
        return handle

    def start(self, vmid: int) -> None:
        self.word(MessageId.VM_START, vmid)

    def stop(self, vmid: int) -> None:
        self.call(MessageId.VM_STOP, VmStop(vmid, 1, 7).pack())

    def destroy(self, vmid: int, handle: int | None) -> None:
        """Reset, reclaim, deallocate."""
        self.word(MessageId.VM_RESET, vmid)
        self.await_state(vmid, 11)
        if handle is not None:
            self.reclaim(handle)
        self.word(MessageId.VM_DEALLOCATE, vmid)

    def console(self, message: int, target: int, data: bytes | None = None) -> RmError:
        payload = VmidWord(target).pack() if data is None else ConsoleWrite(target, data).pack()
        return self.raw(message, payload)[0]


class GuestClient(Client):
    """The same from inside a secondary VM; its device tree is at x0."""

    def __init__(self, rig: Rig, cpu: Cpu, x0: int) -> None:
        super().__init__(rig, cpu, x0, buffer=(x0 & ~0x1F_FFFF) + 0x10_0000)
