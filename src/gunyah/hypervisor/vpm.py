"""Virtual PM groups: the vCPUs of a VM that see one PSCI (objects.md 11, hypercalls.md 3.12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.abi.objects import ObjectType
from gunyah.abi.smccc import POWER_STATE_CPU_LEVEL
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.objects import KernelObject
from gunyah.hypervisor.scheduler import CORES
from gunyah.hypervisor.vcpu import Block
from gunyah.hypervisor.vgic_affinity import MPIDR_AFFINITY
from gunyah.hypervisor.virq import VirqSource

if TYPE_CHECKING:
    from gunyah.hypervisor.hypercall import Handler
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.partition import Partition
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.hypervisor.vic import Vic

__all__ = ["HANDLERS", "VpmGroup"]

RUNNING = 1
CPUS_SUSPENDED = 2

EXCLUDE_FROM_AGGREGATION = 1

_GONE = int(Block.LIFECYCLE | Block.POWERED_OFF)
_SUSPENDED = int(Block.SUSPENDED)


class VpmGroup(KernelObject):
    """vpm_group_t: up to 8 vCPUs, each at an index."""

    type = ObjectType.VPM_GROUP
    heap_size = 384

    def __init__(self, partition: Partition | None) -> None:
        super().__init__(partition)
        self.aggregates = True
        self.members: dict[int, Vcpu] = {}
        self.source = VirqSource(self, "vpm group")

    def attach(self, vcpu: Vcpu, index: int) -> None:
        """Remember the place; a clash shows when the vCPU is activated. ARGUMENT_INVALID for an index of 8 or more."""
        vcpu.require_init()
        if index >= CORES:
            raise HypervisorError(Error.ARGUMENT_INVALID, f"{self}: index {index} is not below {CORES}")
        self.get()
        if vcpu.vpm is not None:
            vcpu.vpm.put()
        vcpu.vpm = self
        vcpu.vpm_index = index

    def check_free(self, index: int) -> None:
        """DENIED when another vCPU has the index."""
        if index in self.members:
            raise HypervisorError(Error.DENIED, f"{self}: index {index} belongs to {self.members[index]}")

    def vcpu_activated(self, vcpu: Vcpu) -> None:
        """The vCPU takes its place."""
        self.members[vcpu.vpm_index] = vcpu

    def vcpu_stopped(self, vcpu: Vcpu) -> None:
        """A member was powered off or exited: nothing to add up on this board."""

    def vcpu_gone(self, vcpu: Vcpu) -> None:
        """The vCPU leaves."""
        if self.members.get(vcpu.vpm_index) is vcpu:
            del self.members[vcpu.vpm_index]

    @property
    def online(self) -> int:
        """Members that are powered on."""
        return sum(not member.powered_off for member in self.members.values())

    @property
    def vm_state(self) -> int:
        """1 while some member is awake, else 2 (vpm_state_t).

        Only what PSCI knows counts: WFI is no suspend, a vCPU is awake from when it first runs, and a group that is
        left out of aggregation keeps no record of anybody.
        """
        awake = self.aggregates and any(_is_awake(member) for member in self.members.values())
        return RUNNING if awake else CPUS_SUSPENDED

    def index_of(self, vcpu: Vcpu, affinity: int) -> int | None:
        """Member index that an MPIDR affinity value names, None for one that can't exist in this VM."""
        vic = vcpu.vic
        if vic is None:
            return affinity if affinity < CORES else None
        for member_index, member in self.members.items():
            if vic.mpidr(member.vic_index) & MPIDR_AFFINITY == affinity:
                return member_index
        return next((index for index in range(CORES) if vic.mpidr(index) & MPIDR_AFFINITY == affinity), None)

    def system_stop(self, caller: Vcpu, reset: tuple[int, int] | None) -> None:
        """SYSTEM_OFF (``reset`` None) or SYSTEM_RESET of a VM: the others are killed, the caller is forced off and its
        halt raised.
        """
        for member in list(self.members.values()):
            if member is not caller:
                member.kill()
        caller.reset_state = reset
        caller.power_off()
        caller.halt_source.assert_(edge_only=True)

    def _deactivate(self) -> None:
        self.source.unbind()


def _is_awake(vcpu: Vcpu) -> bool:
    if vcpu.blocks & _GONE or not vcpu.started:
        return False
    return not vcpu.blocks & _SUSPENDED or vcpu.suspend_word & POWER_STATE_CPU_LEVEL == 0


def vpm_group_attach_vcpu(hv: Hypervisor, vcpu: Vcpu, group: VpmGroup, member: Vcpu, index: int) -> None:
    """hypercalls.md 3.12, 0x603C."""
    group.attach(member, index)


def vpm_group_bind_virq(hv: Hypervisor, vcpu: Vcpu, group: VpmGroup, vic: Vic, virq: int) -> None:
    """hypercalls.md 3.12, 0x6043."""
    vic.bind_shared(group.source, virq)


def vpm_group_unbind_virq(hv: Hypervisor, vcpu: Vcpu, group: VpmGroup) -> None:
    """hypercalls.md 3.12, 0x6044."""
    group.source.unbind()


def vpm_group_get_state(hv: Hypervisor, vcpu: Vcpu, group: VpmGroup) -> tuple[int]:
    """hypercalls.md 3.12, 0x6045: result vpm_state_t."""
    return (group.vm_state,)


def vpm_group_configure(hv: Hypervisor, vcpu: Vcpu, group: VpmGroup, options: int) -> None:
    """hypercalls.md 3.12, 0x6066."""
    group.aggregates = not options & EXCLUDE_FROM_AGGREGATION


HANDLERS: Mapping[str, Handler] = {
    "vpm_group_attach_vcpu": vpm_group_attach_vcpu,
    "vpm_group_bind_virq": vpm_group_bind_virq,
    "vpm_group_unbind_virq": vpm_group_unbind_virq,
    "vpm_group_get_state": vpm_group_get_state,
    "vpm_group_configure": vpm_group_configure,
}
