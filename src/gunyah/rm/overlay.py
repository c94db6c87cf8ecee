"""The nodes RM adds to a device tree: /hypervisor with the RM link (rm-behaviour.md 4 and 7).

The 2023 profile gets the structure recorded from the reference (reference.md 2); the v4 profile gets what the v4
binding describes, plus "simple-bus", without which its kernel creates no device for the child (linux-clients.md 1).
"""

from __future__ import annotations

from gunyah.abi.profile import V4, Profile
from gunyah.abi.vic import SPI_BASE
from gunyah.guest.fdt import DeviceTree, FdtError, Node
from gunyah.rm.virq import FREE_IRQ_START
from gunyah.rm.vm_objects import LinkEnds

__all__ = ["EDGE_RISING", "LEVEL_HIGH", "add_primary_nodes", "add_vm_id", "interrupt_cells", "link_properties"]

EDGE_RISING, LEVEL_HIGH = 1, 4
_PPI_BASE = 16
_SPI, _PPI = 0, 1


def interrupt_cells(virq: int, flags: int = EDGE_RISING) -> tuple[int, int, int]:
    """GIC cells of INTID ``virq``: type, number relative to the type's base, flags."""
    if virq >= SPI_BASE:
        return _SPI, virq - SPI_BASE, flags
    return _PPI, virq - _PPI_BASE, flags


def link_properties(node: Node, link: LinkEnds, free_irq_start: int) -> None:
    """What every RM-RPC node of the public RM carries beside its compatibles."""
    node.set_u64s("reg", link.tx, link.rx)
    node.set_cells("interrupts", *interrupt_cells(link.tx_virq), *interrupt_cells(link.rx_virq))
    node.set_flag("qcom,is-full-duplex")
    node.set_cells("qcom,free-irq-start", free_irq_start)
    node.set_cells("qcom,tx-queue-depth", link.queue_depth)
    node.set_cells("qcom,rx-queue-depth", link.queue_depth)
    node.set_cells("qcom,tx-message-size", link.message_size)
    node.set_cells("qcom,rx-message-size", link.message_size)


def add_vm_id(hypervisor: Node, vmid: int) -> Node:
    """The node that tells a VM its VMID."""
    node = hypervisor.add("qcom,gunyah-vm")
    node.set_strings("compatible", "qcom,gunyah-vm-id-1.0", "qcom,gunyah-vm-id")
    node.set_strings("qcom,vendor", "Qualcomm")
    node.set_cells("qcom,vmid", vmid)
    return node


def add_primary_nodes(tree: DeviceTree, vmid: int, profile: Profile, link: LinkEnds) -> Node:
    """Add /hypervisor to the primary VM's tree; raises FdtError when there is one already."""
    if tree.root.child("hypervisor") is not None:
        raise FdtError("the device tree has a node /hypervisor already")
    hypervisor = tree.root.add("hypervisor")
    hypervisor.set_cells("#address-cells", 2)
    hypervisor.set_cells("#size-cells", 0)
    if profile is V4:
        hypervisor.set_strings("compatible", "gunyah-hypervisor-1.0", "gunyah-hypervisor", "simple-bus")
        node = hypervisor.add("gunyah-resource-mgr@0")
        node.set_strings("compatible", "gunyah-resource-manager-1-0", "gunyah-resource-manager")
        node.set_u64s("reg", link.tx, link.rx)
        node.set_cells("interrupts", *interrupt_cells(link.tx_virq), *interrupt_cells(link.rx_virq))
        return hypervisor
    hypervisor.set_strings("compatible", "qcom,gunyah-hypervisor-1.0", "qcom,gunyah-hypervisor", "simple-bus")
    node = hypervisor.add(f"qcom,resource-manager-rpc@{link.tx:016x}")
    node.set_strings("compatible", "gunyah-resource-manager", "qcom,resource-manager-1-0", "qcom,resource-manager")
    link_properties(node, link, FREE_IRQ_START)
    add_vm_id(hypervisor, vmid)
    return hypervisor
