"""What a Linux kernel with the VM manager says to RM and the hypervisor, byte for byte (linux-clients.md 9).

The client sends the kernel's own bytes, not what our encoders make of them, and drives a native guest with vcpu_run:
console bytes, a read, an ioeventfd's write, doorbells of an irqfd, PSCI.
"""

from __future__ import annotations

import struct

import pytest
from tests.native.code import Code
from tests.rm.rig import Client, Rig
from tests.rm.trees import vdevice, vm_tree

from gunyah.guest.fdt import DeviceTree
from gunyah.hypervisor import proxy

SIZE, TREE, PAGE = 0x20_0000, 0x1F_0000, 0x1000
GUEST = 0x8000_0000
GICD = 0x0800_0000
CONSOLE, QUESTION, EVENT, READY, TAKEN = 0x900_0000, 0x900_0018, 0x900_0100, 0x900_0200, 0x900_0204
BELL, BELL_INTID = 5, 37
TEXT = b"hello from the guest\n"
SYSTEM_OFF, SYSTEM_RESET = 0x8400_0008, 0x8400_0009
VM_EXITED, VM_STATUS = 0x5610_0001, 0x5610_0008
# State of vcpu_run; what the vCPU's end looks like; exit type that RM reports.
ENDS = {SYSTEM_OFF: (2, 1), SYSTEM_RESET: (0x100, 2)}


def pages() -> list[tuple[int, int]]:
    """353 pieces of 2 MB, as a kernel that has run for a while finds them: 194 single pages, 159 pairs."""
    pieces, address = [], 0x5000_0000
    for index in range(353):
        size = PAGE if index < 194 else 2 * PAGE
        pieces.append((address, size))
        address += size + PAGE
    return pieces


def store(code: Code, place: int, register: int, size: int) -> None:
    """A register into a device; changes X0."""
    code.mov(0, place).word((size.bit_length() - 1) << 30 | 0x3900_0000 | register)


def guest(end: int, rings: int) -> bytes:
    """Text, a question, an event, ``rings`` doorbells waited for, and the end."""
    code = Code()
    for character in TEXT:
        store(code.mov(1, character), CONSOLE, 1, 1)
    load_w2_x0 = 0xB940_0002
    code.mov(0, QUESTION).word(load_w2_x0).mov(3, 0xCAFE_0018).cmp(2, 3).bc("ne", "stop")
    store(code.mov(1, 0x1234), EVENT, 1, 4)
    if rings:
        bit = 1 << BELL_INTID % 32
        for offset, value in ((0, 0x12), (0x84, bit), (0xC08, 2 << BELL_INTID % 16 * 2), (0x104, bit)):
            store(code.mov(1, value), GICD + offset, 1, 4)
        store(code.mov(1, 0), GICD + 0x6000 + 8 * BELL_INTID, 1, 8)
        code.mov(1, 0xF0).msr("ICC_PMR_EL1", 1).mov(1, 1).msr("ICC_IGRPEN1_EL1", 1)
        code.mov(4, rings).mov(5, 1020)
        store(code.label("ring"), READY, 4, 4)
        code.label("wait").wfi().mrs(1, "ICC_IAR1_EL1").cmp(1, 5).bc("hs", "wait")
        store(code, TAKEN, 1, 4)
        code.msr("ICC_EOIR1_EL1", 1).subi(4, 4, 1).cbnz(4, "ring")
    code.mov(0, end).hvc()
    code.label("stop").wfi().b("stop")
    return code.pack()


def tree() -> DeviceTree:
    made = vm_tree(affinity="proxy", console=False)
    bell = vdevice(made, "bell-5", "doorbell", label=BELL, generate="/hypervisor/bell-5")
    bell.set_cells("interrupts", 0, BELL, 1)
    bell.set_flag("source-can-clear")
    return made


class Kernel:
    """The driver: its requests in its order."""

    def __init__(self, client: Client, image: bytes, share: bool) -> None:
        self.client = client
        self.share = share
        self.blob = tree().pack()
        self.image = image.ljust(TREE, b"\0") + self.blob.ljust(SIZE - TREE, b"\0")
        self.ready: list[int] = []

    def call(self, message_id: int, payload: bytes, data: int = 0) -> bytes:
        error, answer = self.client.raw(message_id, payload)
        assert error == 0 and len(answer) == data, (hex(message_id), error, answer)
        return answer

    def fill(self) -> None:
        offset = 0
        for address, size in pages():
            self.client.cpu.write(address, self.image[offset : offset + size])
            offset += size

    def start(self) -> None:
        acl = b""
        if self.share:
            (own,) = struct.unpack("<I", self.call(0x5600_0024, b"", 4))
            acl = struct.pack("<HBB", own, 7, 0)
        self.vmid, zero = struct.unpack("<HH", self.call(0x5600_0001, bytes(4), 4))
        assert zero == 0
        self.word = struct.pack("<HH", self.vmid, 0)
        acl = struct.pack("<HBB", self.vmid, 7, 0) + acl
        pieces = pages()
        lists = struct.pack("<I", len(acl) // 4) + acl + struct.pack("<HH", len(pieces), 0)
        lists += b"".join(struct.pack("<QQ", *piece) for piece in pieces) + bytes(4)
        (self.parcel,) = struct.unpack("<I", self.call(0x5100_0013 if self.share else 0x5100_0012, bytes(8) + lists, 4))
        self.call(0x5600_0009, struct.pack("<HHIQQQQ", self.vmid, 0, self.parcel, 0, 0, TREE, len(self.blob)))
        self.call(0x5600_000B, self.word)
        answer = self.call(0x5600_0020, self.word, 4 + 2 * 44)
        found = [struct.unpack_from("<BBHIIQIIQQ", answer, 4 + 44 * index) for index in range(2)]
        resources = {(kind, label): (cap, virq) for kind, _, _, _, label, cap, _, virq, _, _ in found}
        self.vcpu, virq = resources[4, 0]
        self.bell, no_virq = resources[0, BELL]
        assert 32 <= virq <= 1019 and no_virq == 0
        self.call(0x5600_0004, self.word)

    def hvc(self, function: int, *arguments: int) -> list[int]:
        """SMCCC 1.2: X0 to X17 go out and come back."""
        x = self.client.cpu.x
        x[0:18] = [function, *arguments, *([0] * (17 - len(arguments)))]
        self.client.cpu.hvc(0)
        return list(x[0:18])

    def run(self, rings: int, ends_with: int) -> bytes:
        """VCPU_RUN until the vCPU is off; what the guest wrote."""
        text, events, answer = bytearray(), [], 0
        for _ in range(400):
            error, state, first, second, third, *rest = self.hvc(0xC600_8065, self.vcpu, answer)
            answer = 0
            assert error == 0 and not any(rest), (error, rest)
            if state == 4:
                assert (first, second) == (QUESTION, 4)
                answer = 0xCAFE_0018
            elif state == 5 and first == CONSOLE:
                assert second == 1
                text.append(third)
            elif state == 5 and first == READY:
                assert self.hvc(0xC600_8012, self.bell, 1)[0] == 0
            elif state == 5:
                events.append((first, second, third))
            elif state == ends_with:
                break
            else:
                assert state in (0, 1, 3), state
        else:
            raise AssertionError(f"the guest did not end: {bytes(text)!r} {events}")
        assert events == [(EVENT, 4, 0x1234), *[(TAKEN, 4, BELL_INTID)] * rings]
        return bytes(text)

    def end(self) -> None:
        self.call(0x5600_0006, self.word)
        while self.client.await_notification(VM_STATUS)[:5] != self.word + b"\x0b":
            pass
        self.call(0x5100_0015, struct.pack("<II", self.parcel, 0))
        self.call(0x5600_0002, self.word)
        self.client.notifications.clear()


@pytest.mark.parametrize("share", [False, True], ids=["lend", "share"])
@pytest.mark.parametrize("end", [SYSTEM_OFF, SYSTEM_RESET], ids=["off", "reset"])
@pytest.mark.parametrize("rings", [0, 3], ids=["plain", "irqfd"])
def test_the_kernels_requests_start_a_vm_run_it_and_take_it_down(share: bool, end: int, rings: int) -> None:
    rig = Rig()
    state, exit_type = ENDS[end]

    def scenario(client: Client) -> None:
        kernel = Kernel(client, guest(end, rings), share)
        for _ in range(3):
            kernel.fill()
            kernel.start()
            assert kernel.run(rings, state) == TEXT
            exited = client.await_notification(VM_EXITED)
            vmid, kind, size = struct.unpack_from("<HHI", exited)
            assert (vmid, kind, len(exited)) == (kernel.vmid, exit_type, 8 + size)
            # A kernel that does not know how the vCPU ended runs it again until it is told that it is off.
            assert kernel.hvc(0xC600_8065, kernel.vcpu)[:3] == [0, 2, 1]
            kernel.end()

    rig.run(scenario)


def test_a_vm_that_is_closed_while_it_runs_is_stopped_by_force_and_reports_it() -> None:
    rig = Rig()

    def scenario(client: Client) -> None:
        kernel = Kernel(client, Code().label("again").b("again").pack(), False)
        for _ in range(3):
            kernel.fill()
            kernel.start()
            for _ in range(3):
                assert kernel.hvc(0xC600_8065, kernel.vcpu)[:2] == [0, 0]
            kernel.call(0x5600_0005, struct.pack("<HBBI", kernel.vmid, 1, 0, 3))
            assert client.await_notification(VM_EXITED)[:4] == struct.pack("<HH", kernel.vmid, 7)
            assert kernel.hvc(0xC600_8065, kernel.vcpu)[:3] == [0, 2, 1]
            kernel.end()

    rig.run(scenario)


def test_the_kernel_never_finds_a_dying_vcpu_busy_because_rm_runs_it_too() -> None:
    rig = Rig()

    def scenario(client: Client) -> None:
        kernel = Kernel(client, Code().label("again").b("again").pack(), False)
        kernel.fill()
        kernel.start()
        assert kernel.hvc(0xC600_8065, kernel.vcpu)[:2] == [0, 0]
        vcpus = {vcpu.vmid: vcpu for vcpu in rig.hypervisor.vcpus.values()}
        vcpus[kernel.vmid].kill()
        # RM's vcpu_run, and before RM has its answer the kernel's own.
        assert proxy.start(vcpus[255], vcpus[kernel.vmid], (0, 0, 0)) == (2, 1, 0, 0)
        assert kernel.hvc(0xC600_8065, kernel.vcpu)[:3] == [0, 2, 1]
        kernel.call(0x5600_0005, struct.pack("<HBBI", kernel.vmid, 1, 0, 3))
        kernel.end()

    rig.run(scenario)
