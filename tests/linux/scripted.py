"""A Linux kernel on a vCPU without a hypervisor, with a Resource Manager that the test scripts packet by packet.

For what a healthy machine does not do: a full queue, silence, malformed packets, errors. What it does is tested on the
whole system.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from greenlet import getcurrent, greenlet
from tests.guest.fake_cpu import RAM_BASE, FakeCpu

from gunyah.abi.identify import API_FLAGS_0, API_INFO, UID_PUBLIC
from gunyah.abi.profile import PUBLIC_2023, Profile
from gunyah.abi.rm import Header, MessageId, MessageType
from gunyah.guest.dts import parse_dts
from gunyah.linux.kernel import Kernel

TX_CAP, RX_CAP = 0x1111_0000_2222_0001, 0x1111_0000_2222_0002
TX_INTID, RX_INTID = 35, 36
DTB = RAM_BASE + 0x10_0000
RAM = 8 << 20
U64 = 0xFFFF_FFFF_FFFF_FFFF

TREE = f"""
/dts-v1/;
/ {{
	#address-cells = <2>; #size-cells = <2>; interrupt-parent = <&gic>;
	memory@40000000 {{ device_type = "memory"; reg = <0 {RAM_BASE:#x} 0 {RAM:#x}>; }};
	chosen {{ bootargs = "console=ttynull quiet"; }};
	gic: intc@8000000 {{ compatible = "arm,gic-v3"; interrupt-controller; #interrupt-cells = <3>;
		reg = <0 0x08000000 0 0x10000>, <0 0x080a0000 0 0xf60000>; }};
	hypervisor {{
		#address-cells = <2>; #size-cells = <0>;
		compatible = "gunyah-hypervisor", "simple-bus";
		gunyah-resource-mgr@0 {{
			compatible = "gunyah-resource-manager";
			reg = <{TX_CAP >> 32:#x} {TX_CAP & 0xFFFFFFFF:#x}>, <{RX_CAP >> 32:#x} {RX_CAP & 0xFFFFFFFF:#x}>;
			interrupts = <GIC_SPI {TX_INTID - 32} IRQ_TYPE_EDGE_RISING>, <GIC_SPI {RX_INTID - 32} IRQ_TYPE_EDGE_RISING>;
		}};
	}};
}};
"""

Rm = Callable[[bytes], Iterable[bytes]]


def reply_to(packet: bytes, payload: bytes = b"", error: int = 0) -> bytes:
    """RM's one-packet answer to a request."""
    header = Header.unpack(packet)
    return Header(MessageType.REPLY, header.msg_id, header.seq).pack() + error.to_bytes(4, "little") + payload


def good_rm(packet: bytes) -> list[bytes]:
    """Answers everything with OK, and VM_GET_VMID with 45."""
    header = Header.unpack(packet)
    if header.type != MessageType.REQUEST:
        return []
    return [reply_to(packet, (45).to_bytes(4, "little") if header.msg_id == MessageId.VM_GET_VMID else b"")]


def silent_rm(packet: bytes) -> list[bytes]:
    """Never answers."""
    return []


class _Cpu(FakeCpu):
    def __init__(self, machine: Machine) -> None:
        super().__init__(RAM)
        self.machine = machine

    def idle(self) -> None:
        self.machine.idle()

    def nudge(self) -> None:
        pass


class Machine:
    """``do`` runs a function as a task of the kernel; ``sent`` is every packet that came to RM."""

    def __init__(
        self,
        rm: Rm = good_rm,
        *,
        profile: Profile = PUBLIC_2023,
        tree: str = TREE,
        depth: int = 8,
        uid: tuple[int, int, int, int] = UID_PUBLIC,
        api: int = API_INFO,
        cmdline: str | None = None,
    ) -> None:
        self.rm = rm
        self.depth = depth
        self.uid = uid
        self.api = api
        self.to_rm: deque[bytes] = deque()
        self.from_rm: deque[bytes] = deque()
        self.sent: list[bytes] = []
        self.sends = 0
        self.stalled = False
        self.send_error = 0
        self.deadline = 0
        self.cpu = _Cpu(self)
        self.cpu.on_hvc = self._hvc
        self.cpu.write(DTB, parse_dts(tree).pack())
        self.kernel = Kernel(profile, cmdline=cmdline)
        self._test = getcurrent()
        self._vm = greenlet(lambda: self.kernel.main(self.cpu, DTB))
        self.asleep = False
        self.run(lambda: self.kernel.booted, 60)

    # -- the hypervisor ------------------------------------------------------------------------------------------------

    def _hvc(self, imm: int) -> None:
        x = self.cpu.x
        call = x[0]
        assert imm == 0
        if call == 0x8600_FF01:
            x[0:4] = self.uid
        elif call == 0xC600_8000:
            x[0:4] = [self.api, API_FLAGS_0, 0, 0]
        elif call == 0xC600_801B:
            x[0:2] = self._send(x[1], x[2], x[3], x[4])
        elif call == 0xC600_801C:
            x[0:3] = self._receive(x[1], x[2], x[3])
        else:
            x[0] = U64

    def _send(self, cap: int, size: int, address: int, flags: int) -> list[int]:
        self.sends += 1
        if cap != TX_CAP or flags & ~1:
            return [52, 0]
        if self.send_error:
            return [self.send_error, 0]
        if len(self.to_rm) >= self.depth:
            return [61, 0]
        self.to_rm.append(self.cpu.read(address, size))
        return [0, int(len(self.to_rm) < self.depth)]

    def _receive(self, cap: int, address: int, size: int) -> list[int]:
        if cap != RX_CAP:
            return [52, 0, 0]
        if not self.from_rm:
            return [60, 0, 0]
        packet = self.from_rm.popleft()
        assert len(packet) <= size
        self.cpu.write(address, packet)
        return [0, len(packet), int(bool(self.from_rm))]

    # -- the Resource Manager ------------------------------------------------------------------------------------------

    def inject(self, *packets: bytes) -> None:
        """Packets from RM."""
        for packet in packets:
            self.from_rm.append(packet)
            if len(self.from_rm) == 1:
                self.cpu.raise_irq(RX_INTID)

    def _serve(self) -> bool:
        if self.stalled or not self.to_rm:
            return False
        packet = self.to_rm.popleft()
        if len(self.to_rm) == self.depth - 1:
            self.cpu.raise_irq(TX_INTID)
        self.sent.append(packet)
        self.inject(*self.rm(packet))
        return True

    # -- running -------------------------------------------------------------------------------------------------------

    def idle(self) -> None:
        """The vCPU waits: RM runs, or time passes, or the test goes on."""
        if self._serve():
            return
        registers = self.cpu.registers
        due = registers["CNTV_CVAL_EL0"] if registers["CNTV_CTL_EL0"] & 1 else None
        if due is not None and due <= self.deadline:
            self.cpu.now = max(self.cpu.now, due)
            return
        self.asleep = True
        self._test.switch()

    def run(self, until: Callable[[], bool] = lambda: False, seconds: float = 0) -> bool:
        """Let the VM run until ``until()`` or until it has nothing to do for ``seconds`` of its time."""
        self.deadline = self.cpu.now + int(seconds * 62_500_000)
        self._test = getcurrent()
        while not until():
            self.asleep = False
            if self._vm.dead:
                return until()
            self._vm.switch()
            if self.asleep and not until():
                self.cpu.now = max(self.cpu.now, self.deadline)
                return False
        return True

    def do(self, function: Callable[..., object], *arguments: object, seconds: float = 60) -> object:
        """Run ``function(*arguments)`` as a task and return its result."""
        submission = self.kernel.submit(function, *arguments)
        assert self.run(lambda: submission.done, seconds), f"still blocked after {seconds} s: {self.kernel.log.text()}"
        return submission.result()

    @property
    def gh(self) -> object:
        """The RM connection."""
        return self.kernel.resource_managers[0]

    def requests(self) -> list[tuple[int, bytes]]:
        """(message id, payload) of the one-packet requests that RM got."""
        return [(Header.unpack(packet).msg_id, packet[8:]) for packet in self.sent]
