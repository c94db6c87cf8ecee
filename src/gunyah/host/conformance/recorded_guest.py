"""The guest of a VM that a recording of its owner started: idle, and it ends as the recording says it ended.

VM_EXITED tells how (rm-rpc.md 4.4 and 12): by message, by PSCI, or not by itself at all but because its owner stopped
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gunyah.abi import smccc
from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.layout import PayloadError
from gunyah.abi.rm.enums import ExitFlag, ExitType, ResourceType
from gunyah.abi.rm.messages import MessageId, NotificationId
from gunyah.abi.rm.notifications import VmExited
from gunyah.abi.rm.query import HypResourcesReply
from gunyah.abi.rm.vm import VmExit, VmidWord
from gunyah.abi.types import U32
from gunyah.abi.vcpu import VcpuRunState
from gunyah.guest import fdt
from gunyah.guest.cpu import Cpu
from gunyah.host.conformance.monitor import Monitor
from gunyah.host.conformance.rpc import RmClient
from gunyah.host.conformance.vectors import RmStep

__all__ = ["Driver", "RecordedGuest", "own_exit", "uses_psci"]

PSCI_ENDS = frozenset({ExitType.PLATFORM_OFF, ExitType.PLATFORM_RESET, ExitType.PSCI_SYSTEM_RESET2})
OWN_ENDS = PSCI_ENDS | {ExitType.VM_EXIT}
"""Exit types that are the guest's own doing."""
SCRATCH_OFFSET = 0x8_0000
"""Bytes behind the device tree where the guest has a buffer."""
TURNS = 256


def own_exit(step: RmStep) -> VmExited | None:
    """The exit that a notification reports, when it was the guest's own doing."""
    if step.kind != "notification" or step.message != NotificationId.VM_EXITED:
        return None
    try:
        exited = VmExited.unpack(step.payload)
    except PayloadError:
        return None
    return exited if exited.exit_type in OWN_ENDS else None


def uses_psci(steps: Sequence[RmStep], vmid: int) -> bool:
    """The VM ended by a PSCI call, so its device tree offers PSCI."""
    ends = [own_exit(step) for step in steps]
    return any(end is not None and end.vmid == vmid and end.exit_type in PSCI_ENDS for end in ends)


class RecordedGuest:
    """One VM's boot vCPU. ``end`` is set when the time has come, ``job`` when the recording has a request of its own; a
    VM that does nothing just waits."""

    def __init__(self, active: bool) -> None:
        self.active = active
        self.end: VmExited | None = None
        self.job: Callable[[Monitor, RmClient], None] | None = None

    def program(self, cpu: Cpu, x0: int) -> None:
        """The vCPU's code; ``x0`` is the IPA of its device tree."""
        monitor = Monitor(cpu)
        client: RmClient | None = None
        while self.active and self.end is None:
            if self.job is None:
                monitor.hypercall(BY_NAME["scheduler_yield"].number)
                continue
            if client is None:
                client = _client(monitor, x0)
            self.job(monitor, client)
            self.job = None
        if self.end is not None:
            self._leave(monitor, x0, self.end)
        while True:
            cpu.wfi()

    def _leave(self, monitor: Monitor, x0: int, end: VmExited) -> None:
        common, *more = end.reason or (0,)
        if end.exit_type == ExitType.PLATFORM_OFF:
            _psci(monitor.cpu, smccc.PSCI_SYSTEM_OFF)
        elif end.exit_type == ExitType.PLATFORM_RESET:
            _psci(monitor.cpu, smccc.PSCI_SYSTEM_RESET)
        elif end.exit_type == ExitType.PSCI_SYSTEM_RESET2:
            kind, low, high = (*more, 0, 0, 0)[:3]
            wide = common & ExitFlag.SYSTEM_RESET2_64
            function = smccc.PSCI_SYSTEM_RESET2_64 if wide else smccc.PSCI_SYSTEM_RESET2_32
            _psci(monitor.cpu, function, kind, high << 32 | low)
        else:
            _client(monitor, x0).request(MessageId.VM_EXIT, VmExit(common & 0xFFFF, common >> 16 & 0xFF).pack())


def _client(monitor: Monitor, x0: int) -> RmClient:
    """RM as the device tree at IPA ``x0`` names it."""
    tree = fdt.parse(monitor.cpu.read(x0, fdt.total_size(monitor.cpu.read(x0, 40))))
    tx, rx = next(tree.find_compatible("gunyah-resource-manager")).u64s("reg")
    return RmClient(monitor, tx, rx, x0 + SCRATCH_OFFSET)


def _psci(cpu: Cpu, function: int, *arguments: int) -> None:
    for number in range(8):
        cpu.x[number] = (function, *arguments)[number] if number <= len(arguments) else 0
    cpu.hvc(0)


class Driver:
    """Gives a VM the time it needs; a proxy-scheduled vCPU is run by its owner (rm-behaviour.md 5.3)."""

    def __init__(self, monitor: Monitor, client: RmClient, vmid: int) -> None:
        self._monitor = monitor
        self._vcpu: int | None = None
        reply = client.request(MessageId.VM_GET_HYP_RESOURCES, VmidWord(vmid).pack()).payload
        for entry in HypResourcesReply.unpack(reply[4:]).resources if reply[:4] == bytes(4) else ():
            if entry.type == ResourceType.VIRTUAL_CPU and entry.label == 0 and entry.virq != U32:
                self._vcpu = entry.cap_id

    def turn(self) -> bool:
        """Let the VM go on for a while; False when it is over."""
        if self._vcpu is not None:
            x = self._monitor.hypercall(BY_NAME["vcpu_run"].number, self._vcpu, 0, 0, 0, 0)
            if x[0] or x[1] in (VcpuRunState.POWERED_OFF, VcpuRunState.PSCI_SYSTEM_RESET):
                return False
        self._monitor.hypercall(BY_NAME["scheduler_yield"].number)
        return True

    def to_the_end(self) -> None:
        """Until the VM is over, or long enough for one that another core runs."""
        for _ in range(TURNS):
            if not self.turn():
                break
