"""Hypercalls of hardware interrupts and virtual interrupt controllers (hypercalls.md 3.11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.vgic_affinity import MpidrMapping

if TYPE_CHECKING:
    from gunyah.hypervisor.hwirq import HwIrq
    from gunyah.hypervisor.hypercall import Handler
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Vcpu
    from gunyah.hypervisor.vic import Vic

__all__ = ["HANDLERS"]


def hwirq_bind_virq(hv: Hypervisor, vcpu: Vcpu, hwirq: HwIrq, vic: Vic, virq: int) -> None:
    """0x6026."""
    hwirq.bind(vic, virq)


def hwirq_unbind_virq(hv: Hypervisor, vcpu: Vcpu, hwirq: HwIrq) -> None:
    """0x6027."""
    hwirq.unbind()


def vic_configure(
    hv: Hypervisor, vcpu: Vcpu, vic: Vic, max_vcpus: int, max_virqs: int, vic_options: int, max_msis: int
) -> None:
    """0x6028."""
    vic.configure(max_vcpus, max_virqs, vic_options, max_msis)


def vic_attach_vcpu(hv: Hypervisor, vcpu: Vcpu, vic: Vic, target: Vcpu, index: int) -> None:
    """0x6029."""
    target.require_init()
    vic.attach_vcpu(target, index)


def vic_bind_msi_source(hv: Hypervisor, vcpu: Vcpu, vic: Vic, msi_source: int) -> None:
    """0x6056: no object of this platform is an MSI source, whatever the id names."""
    raise HypervisorError(Error.CSPACE_WRONG_OBJECT_TYPE, f"capability {msi_source:#x} is no MSI source")


def vgic_set_mpidr_mapping(
    hv: Hypervisor, vcpu: Vcpu, vic: Vic, mask: int, aff0: int, aff1: int, aff2: int, aff3: int, multithread: int
) -> None:
    """0x6067."""
    vic.set_mpidr_mapping(MpidrMapping.from_arguments(mask, (aff0, aff1, aff2, aff3), multithread != 0))


HANDLERS: Mapping[str, Handler] = {
    "hwirq_bind_virq": hwirq_bind_virq,
    "hwirq_unbind_virq": hwirq_unbind_virq,
    "vic_configure": vic_configure,
    "vic_attach_vcpu": vic_attach_vcpu,
    "vic_bind_msi_source": vic_bind_msi_source,
    "vgic_set_mpidr_mapping": vgic_set_mpidr_mapping,
}
