"""The guest of a VM that a recording of its owner started: idle, and it ends as the recording says it ended.

VM_EXITED tells how (rm-rpc.md 4.4 and 12): by message, by PSCI, or not by itself at all but because its owner stopped
it.
"""

from __future__ import annotations

from collections.abc import Sequence

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

__all__ = ["RecordedGuest", "own_exit", "run_to_its_end", "uses_psci"]

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
    """One VM's boot vCPU. ``end`` is set when the time has come; a VM that never ends by itself just waits."""

    def __init__(self, ends_by_itself: bool) -> None:
        self.ends_by_itself = ends_by_itself
        self.end: VmExited | None = None

    def program(self, cpu: Cpu, x0: int) -> None:
        monitor = Monitor(cpu)
        while self.ends_by_itself and self.end is None:
            monitor.hypercall(BY_NAME["scheduler_yield"].number)
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
            tree = fdt.parse(monitor.cpu.read(x0, fdt.total_size(monitor.cpu.read(x0, 40))))
            tx, rx = next(tree.find_compatible("gunyah-resource-manager")).u64s("reg")
            client = RmClient(monitor, tx, rx, x0 + SCRATCH_OFFSET)
            client.request(MessageId.VM_EXIT, VmExit(common & 0xFFFF, common >> 16 & 0xFF).pack())


def _psci(cpu: Cpu, function: int, *arguments: int) -> None:
    for number in range(8):
        cpu.x[number] = (function, *arguments)[number] if number <= len(arguments) else 0
    cpu.hvc(0)


def run_to_its_end(monitor: Monitor, client: RmClient, vmid: int) -> None:
    """Give the VM the time it needs to end; a proxy-scheduled vCPU is run by its owner (rm-behaviour.md 5.3)."""
    reply = client.request(MessageId.VM_GET_HYP_RESOURCES, VmidWord(vmid).pack()).payload
    vcpus = []
    if reply[:4] == bytes(4):
        listed = HypResourcesReply.unpack(reply[4:]).resources
        vcpus = [r for r in listed if r.type == ResourceType.VIRTUAL_CPU and r.label == 0 and r.virq != U32]
    run, give = BY_NAME["vcpu_run"].number, BY_NAME["scheduler_yield"].number
    for _ in range(TURNS):
        if vcpus:
            x = monitor.hypercall(run, vcpus[0].cap_id, 0, 0, 0, 0)
            if x[0] or x[1] in (VcpuRunState.POWERED_OFF, VcpuRunState.PSCI_SYSTEM_RESET):
                break
        monitor.hypercall(give)
