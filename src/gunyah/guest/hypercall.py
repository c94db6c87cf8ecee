"""Hypercalls as a guest makes them: one typed method per call of the table, in both encodings.

Native: HVC #(0x6000 + N), arguments from X0 (hypercalls.md 1.1; RM uses it). SMCCC: HVC #0 with the function id in X0
and everything shifted by one register (1.2; Linux uses it). Reserved arguments are filled in from the table. Addresses
of buffers are guest virtual (= IPA here). A call that fails raises HypercallFailed; the ``try_`` forms return the
error instead, for hot paths on which "empty" and "full" are ordinary answers.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from enum import Enum
from typing import NamedTuple

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import BY_NAME, HYPERCALLS, Hypercall
from gunyah.abi.types import U32, CapID
from gunyah.guest.cpu import Cpu

__all__ = ["Encoding", "HypercallFailed", "Hypercalls", "Identity", "signed"]

_SEND = BY_NAME["msgqueue_send"]
_RECEIVE = BY_NAME["msgqueue_receive"]
_IDENTIFY = BY_NAME["hypervisor_identify"]


class Encoding(Enum):
    """How a call is put into registers."""

    NATIVE = "native"
    SMCCC = "smccc"


class Identity(NamedTuple):
    """Result of hypervisor_identify: the API info word and three words of feature flags (hypercalls.md 3.1)."""

    api_info: int
    flags: tuple[int, int, int]


def signed(x0: int) -> int:
    """The error in X0: its low 32 bits, signed (hypercalls.md 1.1 tells why not all 64)."""
    error = x0 & U32
    return error - 0x1_0000_0000 if error & 0x8000_0000 else error


def _name(error: int) -> str:
    try:
        return f"{Error(error).name} ({error})"
    except ValueError:
        return f"unknown error {error}"


class HypercallFailed(Exception):
    """A hypercall answered an error. ``error`` is error_t (int32), ``call`` the call's name."""

    def __init__(self, error: int, call: str, sentence: str) -> None:
        super().__init__(sentence)
        self.error = error
        self.call = call
        self.sentence = sentence


class Hypercalls:
    """The hypercalls of one vCPU. Capability ids are those of the VM's own capability space."""

    def __init__(self, cpu: Cpu, encoding: Encoding = Encoding.NATIVE) -> None:
        self.cpu = cpu
        self.encoding = encoding
        smccc = encoding is Encoding.SMCCC
        first = 1 if smccc else 0
        # Per call: HVC immediate, registers before and after the caller's arguments.
        self._plans: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], int]] = {}
        for call in HYPERCALLS.values():
            if call.number < 0:
                continue
            head = (call.smccc,) if smccc else ()
            tail = tuple(value for _, value in call.reserved)
            self._plans[call.name] = (0 if smccc else call.hvc, head, tail, len(call.arguments) + first)
        self._send = self._plans[_SEND.name]
        self._receive = self._plans[_RECEIVE.name]

    def call(self, name: str, *arguments: int) -> MutableSequence[int]:
        """Make the call ``name``; the registers afterwards (results from X1). Raises HypercallFailed."""
        error, x = self.try_call(name, *arguments)
        if error:
            raise self.failure(error, name, *arguments)
        return x

    def try_call(self, name: str, *arguments: int) -> tuple[int, MutableSequence[int]]:
        """Make the call ``name``; its error (int32) and the registers afterwards."""
        immediate, head, tail, count = self._plans[name]
        x = self.cpu.x
        x[0:count] = (*head, *arguments, *tail)
        self.cpu.hvc(immediate)
        x0 = x[0]
        return (signed(x0) if x0 else 0), x

    @staticmethod
    def failure(error: int, name: str, *arguments: int) -> HypercallFailed:
        """The exception for ``error`` of call ``name``, with the arguments in its sentence."""
        call: Hypercall = BY_NAME[name]
        given = ", ".join(f"{a.name}={value:#x}" for a, value in zip(call.inputs, arguments, strict=False))
        return HypercallFailed(error, name, f"{name}({given}): {_name(error)}")

    # -- hot paths -----------------------------------------------------------------------------------------------------

    def try_msgqueue_send(self, msgqueue: int, size: int, data: int, send_flags: int = 0) -> tuple[int, bool]:
        """msgqueue_send without an exception: (error, not_full); ``data`` is an address, ``size`` in bytes."""
        immediate, head, tail, count = self._send
        x = self.cpu.x
        x[0:count] = (*head, msgqueue, size, data, send_flags, *tail)
        self.cpu.hvc(immediate)
        x0 = x[0]
        return (signed(x0) if x0 else 0), x[1] & 0xFF != 0

    def try_msgqueue_receive(self, msgqueue: int, buffer: int, buf_size: int) -> tuple[int, int, bool]:
        """msgqueue_receive without an exception: (error, size in bytes, not_empty)."""
        immediate, head, tail, count = self._receive
        x = self.cpu.x
        x[0:count] = (*head, msgqueue, buffer, buf_size, *tail)
        self.cpu.hvc(immediate)
        x0 = x[0]
        return (signed(x0) if x0 else 0), x[1], x[2] & 0xFF != 0

    # -- identification ------------------------------------------------------------------------------------------------

    def hypervisor_identify(self) -> Identity:
        """API info word and feature flags; has no error (hypercalls.md 3.1)."""
        immediate, head, _, _ = self._plans[_IDENTIFY.name]
        x = self.cpu.x
        x[0 : len(head)] = head
        self.cpu.hvc(immediate)
        return Identity(x[0], (x[1], x[2], x[3]))

    # -- partitions: object creation -----------------------------------------------------------------------------------

    def partition_create_cspace(self, src_partition: int, cspace: int) -> CapID:
        """Make a new cspace in INIT state and put its master capability into the CSpace (hypercalls.md 3.2)."""
        x = self.call("partition_create_cspace", src_partition, cspace)
        return CapID(x[1])

    def partition_create_addrspace(self, src_partition: int, cspace: int) -> CapID:
        """Make a new addrspace in INIT state and put its master capability into the CSpace (hypercalls.md 3.2)."""
        x = self.call("partition_create_addrspace", src_partition, cspace)
        return CapID(x[1])

    def partition_create_memextent(self, src_partition: int, cspace: int) -> CapID:
        """Make a new memextent in INIT state and put its master capability into the CSpace (hypercalls.md 3.2)."""
        x = self.call("partition_create_memextent", src_partition, cspace)
        return CapID(x[1])

    def partition_create_thread(self, src_partition: int, cspace: int) -> CapID:
        """Make a new thread in INIT state and put its master capability into the CSpace (hypercalls.md 3.2)."""
        x = self.call("partition_create_thread", src_partition, cspace)
        return CapID(x[1])

    def partition_create_doorbell(self, src_partition: int, cspace: int) -> CapID:
        """Make a new doorbell in INIT state and put its master capability into the CSpace (hypercalls.md 3.2)."""
        x = self.call("partition_create_doorbell", src_partition, cspace)
        return CapID(x[1])

    def partition_create_msgqueue(self, src_partition: int, cspace: int) -> CapID:
        """Make a new msgqueue in INIT state and put its master capability into the CSpace (hypercalls.md 3.2)."""
        x = self.call("partition_create_msgqueue", src_partition, cspace)
        return CapID(x[1])

    def partition_create_vic(self, src_partition: int, cspace: int) -> CapID:
        """Make a new vic in INIT state and put its master capability into the CSpace (hypercalls.md 3.2)."""
        x = self.call("partition_create_vic", src_partition, cspace)
        return CapID(x[1])

    def partition_create_vpm_group(self, src_partition: int, cspace: int) -> CapID:
        """Make a new vpm_group in INIT state and put its master capability into the CSpace (hypercalls.md 3.2)."""
        x = self.call("partition_create_vpm_group", src_partition, cspace)
        return CapID(x[1])

    def partition_create_virtio_mmio(self, src_partition: int, cspace: int) -> CapID:
        """Make a new virtio_mmio in INIT state and put its master capability into the CSpace (hypercalls.md 3.2)."""
        x = self.call("partition_create_virtio_mmio", src_partition, cspace)
        return CapID(x[1])

    # -- objects -------------------------------------------------------------------------------------------------------

    def object_activate(self, cap: int) -> None:
        """Bring an object from INIT into service; a failure makes it FAILED for good (hypercalls.md 3.3)."""
        self.call("object_activate", cap)

    def object_activate_from(self, cspace: int, cap: int) -> None:
        """Activate an object that is named by its id in another CSpace (hypercalls.md 3.3)."""
        self.call("object_activate_from", cspace, cap)

    # -- capability spaces ---------------------------------------------------------------------------------------------

    def cspace_delete_cap_from(self, cspace: int, cap: int) -> None:
        """Free a slot, valid or revoked; the last capability to an object lets the object go (hypercalls.md 3.4)."""
        self.call("cspace_delete_cap_from", cspace, cap)

    def cspace_copy_cap_from(self, src_cspace: int, src_cap: int, dest_cspace: int, rights_mask: int) -> CapID:
        """Copy a capability with its rights cut down to a mask (hypercalls.md 3.4)."""
        x = self.call("cspace_copy_cap_from", src_cspace, src_cap, dest_cspace, rights_mask)
        return CapID(x[1])

    def cspace_configure(self, cspace: int, max_caps: int) -> None:
        """Set how many capabilities a CSpace may hold (hypercalls.md 3.4)."""
        self.call("cspace_configure", cspace, max_caps)

    def cspace_attach_thread(self, cspace: int, thread: int) -> None:
        """Give a thread its CSpace, in place of an earlier one (hypercalls.md 3.4)."""
        self.call("cspace_attach_thread", cspace, thread)

    def cspace_revoke_caps_from(self, src_cspace: int, master_cap: int) -> None:
        """Revoke every other capability to a master capability's object, in every CSpace (hypercalls.md 3.4)."""
        self.call("cspace_revoke_caps_from", src_cspace, master_cap)

    # -- address spaces ------------------------------------------------------------------------------------------------

    def addrspace_attach_thread(self, addrspace: int, thread: int) -> None:
        """Bind a vCPU to its stage-2 address space (hypercalls.md 3.5)."""
        self.call("addrspace_attach_thread", addrspace, thread)

    def addrspace_map(
        self,
        addrspace: int,
        memextent: int,
        vbase: int,
        map_attrs: int,
        map_flags: int = 0,
        offset: int = 0,
        size: int = 0,
    ) -> None:
        """Map an extent, or part of a sparse one, at an IPA (hypercalls.md 3.5)."""
        self.call("addrspace_map", addrspace, memextent, vbase, map_attrs, map_flags, offset, size)

    def addrspace_unmap(
        self, addrspace: int, memextent: int, vbase: int, map_flags: int = 0, offset: int = 0, size: int = 0
    ) -> None:
        """Take back a mapping of an extent at an IPA (hypercalls.md 3.5)."""
        self.call("addrspace_unmap", addrspace, memextent, vbase, map_flags, offset, size)

    def addrspace_update_access(
        self,
        addrspace: int,
        memextent: int,
        vbase: int,
        access_attrs: int,
        map_flags: int = 0,
        offset: int = 0,
        size: int = 0,
    ) -> None:
        """Change the access of a mapping and keep its memory type (hypercalls.md 3.5)."""
        self.call("addrspace_update_access", addrspace, memextent, vbase, access_attrs, map_flags, offset, size)

    def addrspace_configure(self, addrspace: int, vmid: int) -> None:
        """Set the VMID of an address space (hypercalls.md 3.5)."""
        self.call("addrspace_configure", addrspace, vmid)

    def addrspace_attach_vdma(self, addrspace: int, dma_device: int, index: int) -> None:
        """Attach a DMA port of a virtual device; no object has one (hypercalls.md 3.5)."""
        self.call("addrspace_attach_vdma", addrspace, dma_device, index)

    def addrspace_lookup(self, addrspace: int, memextent: int, vbase: int, size: int) -> tuple[int, int, int]:
        """Find which contiguous part of an extent stands at an IPA (hypercalls.md 3.5)."""
        x = self.call("addrspace_lookup", addrspace, memextent, vbase, size)
        return x[1], x[2], x[3] & U32

    def addrspace_configure_info_area(self, addrspace: int, info_area_me: int, ipa: int) -> None:
        """Choose extent and IPA of the VM's information page (hypercalls.md 3.5)."""
        self.call("addrspace_configure_info_area", addrspace, info_area_me, ipa)

    def addrspace_configure_vmmio(self, addrspace: int, vbase: int, size: int, op: int) -> None:
        """Declare or withdraw an IPA window whose faults go to the vCPU's proxy scheduler (hypercalls.md 3.5)."""
        self.call("addrspace_configure_vmmio", addrspace, vbase, size, op)

    def addrspace_attach_vdevice(
        self, addrspace: int, vdevice: int, index: int, vbase: int, size: int, flags: int = 0
    ) -> None:
        """Place an interface of an emulated device at an IPA (hypercalls.md 3.5)."""
        self.call("addrspace_attach_vdevice", addrspace, vdevice, index, vbase, size, flags)

    # -- memory extents ------------------------------------------------------------------------------------------------

    def memextent_modify(self, memextent: int, flags: int, offset: int = 0, size: int = 0) -> None:
        """Unmap everywhere, zero, clean caches, or wait for other cores (hypercalls.md 3.6)."""
        self.call("memextent_modify", memextent, flags, offset, size)

    def memextent_configure(self, memextent: int, phys_base: int, size: int, attributes: int) -> None:
        """Make an extent a range of its partition's memory (hypercalls.md 3.6)."""
        self.call("memextent_configure", memextent, phys_base, size, attributes)

    def memextent_configure_derive(
        self, memextent: int, parent_memextent: int, offset: int, size: int, attributes: int
    ) -> None:
        """Make an extent a range of a parent extent (hypercalls.md 3.6)."""
        self.call("memextent_configure_derive", memextent, parent_memextent, offset, size, attributes)

    def memextent_donate(self, options: int, source: int, destination: int, offset: int, size: int) -> None:
        """Hand pages from an extent to its child, its parent or its sibling (hypercalls.md 3.6)."""
        self.call("memextent_donate", options, source, destination, offset, size)

    # -- vCPUs and scheduler -------------------------------------------------------------------------------------------

    def vcpu_configure(self, vcpu: int, vcpu_options: int) -> None:
        """Store the options that activation will validate (hypercalls.md 3.7)."""
        self.call("vcpu_configure", vcpu, vcpu_options)

    def vcpu_poweron(self, vcpu: int, entry_point: int, context: int, flags: int = 0) -> None:
        """Reset a powered-off vCPU's EL1 state and let it run (hypercalls.md 3.7)."""
        self.call("vcpu_poweron", vcpu, entry_point, context, flags)

    def vcpu_poweroff(self, vcpu: int, flags: int = 0) -> None:
        """Power the calling vCPU off; returns only on failure (hypercalls.md 3.7)."""
        self.call("vcpu_poweroff", vcpu, flags)

    def vcpu_kill(self, vcpu: int) -> None:
        """Make a new vCPU exit the next time it would return to its guest (hypercalls.md 3.7)."""
        self.call("vcpu_kill", vcpu)

    def scheduler_yield(self, control: int = 0, arg1: int = 0) -> None:
        """Give up the CPU, to anyone or to one thread (hypercalls.md 3.8)."""
        self.call("scheduler_yield", control, arg1)

    def vcpu_set_affinity(self, vcpu: int, affinity: int) -> None:
        """Choose the physical CPU, or with -1 none (hypercalls.md 3.7)."""
        self.call("vcpu_set_affinity", vcpu, affinity)

    def vcpu_set_priority(self, vcpu: int, priority: int) -> None:
        """Set the scheduling priority before activation (hypercalls.md 3.7)."""
        self.call("vcpu_set_priority", vcpu, priority)

    def vcpu_set_timeslice(self, vcpu: int, timeslice: int) -> None:
        """Set the timeslice before activation (hypercalls.md 3.7)."""
        self.call("vcpu_set_timeslice", vcpu, timeslice)

    def vcpu_bind_virq(self, vcpu: int, vic: int, virq: int, virq_type: int) -> None:
        """Bind the halt or the run-wakeup interrupt; the latter makes the vCPU proxy-scheduled (hypercalls.md 3.7)."""
        self.call("vcpu_bind_virq", vcpu, vic, virq, virq_type)

    def vcpu_unbind_virq(self, vcpu: int, virq_type: int) -> None:
        """Unbind the halt or the run-wakeup interrupt (hypercalls.md 3.7)."""
        self.call("vcpu_unbind_virq", vcpu, virq_type)

    def vcpu_register_write(self, vcpu: int, register_set: int, register_index: int, value: int) -> None:
        """Set a register of a powered-off vCPU (hypercalls.md 3.7)."""
        self.call("vcpu_register_write", vcpu, register_set, register_index, value)

    def vcpu_run(
        self, vcpu: int, resume_data_0: int = 0, resume_data_1: int = 0, resume_data_2: int = 0
    ) -> tuple[int, int, int, int]:
        """Run a proxy-scheduled vCPU in the caller's place and tell why it stopped (hypercalls.md 3.7)."""
        x = self.call("vcpu_run", vcpu, resume_data_0, resume_data_1, resume_data_2)
        return x[1] & U32, x[2], x[3], x[4]

    def vcpu_run_check(self, vcpu: int) -> tuple[int, int, int, int]:
        """Tell why a vCPU is stopped, without running it (hypercalls.md 3.7)."""
        x = self.call("vcpu_run_check", vcpu)
        return x[1] & U32, x[2], x[3], x[4]

    # -- doorbells -----------------------------------------------------------------------------------------------------

    def doorbell_bind_virq(self, doorbell: int, vic: int, virq: int) -> None:
        """Bind a doorbell to a shared interrupt (hypercalls.md 3.9)."""
        self.call("doorbell_bind_virq", doorbell, vic, virq)

    def doorbell_unbind_virq(self, doorbell: int) -> None:
        """Unbind a doorbell's interrupt (hypercalls.md 3.9)."""
        self.call("doorbell_unbind_virq", doorbell)

    def doorbell_send(self, doorbell: int, new_flags: int) -> int:
        """Set flags, raise the interrupt, and tell the flags as they were (hypercalls.md 3.9)."""
        x = self.call("doorbell_send", doorbell, new_flags)
        return x[1]

    def doorbell_receive(self, doorbell: int, clear_flags: int) -> int:
        """Clear flags and tell the flags as they were (hypercalls.md 3.9)."""
        x = self.call("doorbell_receive", doorbell, clear_flags)
        return x[1]

    def doorbell_reset(self, doorbell: int) -> None:
        """Put flags and masks back to their initial values (hypercalls.md 3.9)."""
        self.call("doorbell_reset", doorbell)

    def doorbell_mask(self, doorbell: int, enable_mask: int, ack_mask: int) -> None:
        """Choose which flags interrupt and which clear themselves (hypercalls.md 3.9)."""
        self.call("doorbell_mask", doorbell, enable_mask, ack_mask)

    # -- message queues ------------------------------------------------------------------------------------------------

    def msgqueue_bind_send_virq(self, msgqueue: int, vic: int, virq: int) -> None:
        """Bind the sender's interrupt (hypercalls.md 3.10)."""
        self.call("msgqueue_bind_send_virq", msgqueue, vic, virq)

    def msgqueue_bind_receive_virq(self, msgqueue: int, vic: int, virq: int) -> None:
        """Bind the receiver's interrupt (hypercalls.md 3.10)."""
        self.call("msgqueue_bind_receive_virq", msgqueue, vic, virq)

    def msgqueue_unbind_send_virq(self, msgqueue: int) -> None:
        """Unbind the sender's interrupt (hypercalls.md 3.10)."""
        self.call("msgqueue_unbind_send_virq", msgqueue)

    def msgqueue_unbind_receive_virq(self, msgqueue: int) -> None:
        """Unbind the receiver's interrupt (hypercalls.md 3.10)."""
        self.call("msgqueue_unbind_receive_virq", msgqueue)

    def msgqueue_send(self, msgqueue: int, size: int, data: int, send_flags: int) -> bool:
        """Queue a message copied from the caller's EL1 virtual address (hypercalls.md 3.10)."""
        x = self.call("msgqueue_send", msgqueue, size, data, send_flags)
        return bool(x[1] & 0xFF)

    def msgqueue_receive(self, msgqueue: int, buffer: int, buf_size: int) -> tuple[int, bool]:
        """Take the oldest message into the caller's EL1 virtual address (hypercalls.md 3.10)."""
        x = self.call("msgqueue_receive", msgqueue, buffer, buf_size)
        return x[1], bool(x[2] & 0xFF)

    def msgqueue_flush(self, msgqueue: int) -> None:
        """Drop every message (hypercalls.md 3.10)."""
        self.call("msgqueue_flush", msgqueue)

    def msgqueue_configure_send(self, msgqueue: int, not_full_threshold: int, not_full_holdoff: int = U32) -> None:
        """Choose at which depth the sender is told of room (hypercalls.md 3.10)."""
        self.call("msgqueue_configure_send", msgqueue, not_full_threshold, not_full_holdoff)

    def msgqueue_configure_receive(self, msgqueue: int, not_empty_threshold: int, not_empty_holdoff: int = U32) -> None:
        """Choose at which depth the receiver is told of messages (hypercalls.md 3.10)."""
        self.call("msgqueue_configure_receive", msgqueue, not_empty_threshold, not_empty_holdoff)

    def msgqueue_configure(self, msgqueue: int, create_info: int) -> None:
        """Set depth and message size (hypercalls.md 3.10)."""
        self.call("msgqueue_configure", msgqueue, create_info)

    # -- interrupts ----------------------------------------------------------------------------------------------------

    def hwirq_bind_virq(self, hwirq: int, vic: int, virq: int) -> None:
        """Forward a physical interrupt to a virtual one (hypercalls.md 3.11)."""
        self.call("hwirq_bind_virq", hwirq, vic, virq)

    def hwirq_unbind_virq(self, hwirq: int) -> None:
        """Disable a forwarded interrupt and disconnect it (hypercalls.md 3.11)."""
        self.call("hwirq_unbind_virq", hwirq)

    def vic_configure(self, vic: int, max_vcpus: int, max_virqs: int, vic_options: int = 0, max_msis: int = 0) -> None:
        """Set how many vCPUs, shared interrupts and MSIs a VIC serves (hypercalls.md 3.11)."""
        self.call("vic_configure", vic, max_vcpus, max_virqs, vic_options, max_msis)

    def vic_attach_vcpu(self, vic: int, vcpu: int, index: int) -> None:
        """Give a vCPU its place at a VIC (hypercalls.md 3.11)."""
        self.call("vic_attach_vcpu", vic, vcpu, index)

    def vic_bind_msi_source(self, vic: int, msi_source: int) -> None:
        """Take interrupts from an MSI source; no object is one (hypercalls.md 3.11)."""
        self.call("vic_bind_msi_source", vic, msi_source)

    def vgic_set_mpidr_mapping(
        self, vic: int, mask: int, aff0_shift: int, aff1_shift: int, aff2_shift: int, aff3_shift: int, mt: int
    ) -> None:
        """Choose how a vCPU's index becomes its MPIDR (hypercalls.md 3.11)."""
        self.call("vgic_set_mpidr_mapping", vic, mask, aff0_shift, aff1_shift, aff2_shift, aff3_shift, mt)

    # -- virtual PM groups ---------------------------------------------------------------------------------------------

    def vpm_group_attach_vcpu(self, vpm_group: int, vcpu: int, index: int) -> None:
        """Put a vCPU into a power group, which gives it PSCI (hypercalls.md 3.12)."""
        self.call("vpm_group_attach_vcpu", vpm_group, vcpu, index)

    def vpm_group_bind_virq(self, vpm_group: int, vic: int, virq: int) -> None:
        """Bind the interrupt that tells of system suspend (hypercalls.md 3.12)."""
        self.call("vpm_group_bind_virq", vpm_group, vic, virq)

    def vpm_group_unbind_virq(self, vpm_group: int) -> None:
        """Unbind the system-suspend interrupt (hypercalls.md 3.12)."""
        self.call("vpm_group_unbind_virq", vpm_group)

    def vpm_group_get_state(self, vpm_group: int) -> int:
        """Tell the power state of the group's VM (hypercalls.md 3.12)."""
        x = self.call("vpm_group_get_state", vpm_group)
        return x[1]

    def vpm_group_configure(self, vpm_group: int, flags: int) -> None:
        """Set the group's options (hypercalls.md 3.12)."""
        self.call("vpm_group_configure", vpm_group, flags)

    # -- virtio-MMIO ---------------------------------------------------------------------------------------------------

    def virtio_mmio_configure(
        self, virtio_mmio: int, memextent: int, vqs_num: int, flags: int, device_type: int
    ) -> None:
        """Give a device its register page, queues and type (hypercalls.md 3.15)."""
        self.call("virtio_mmio_configure", virtio_mmio, memextent, vqs_num, flags, device_type)

    def virtio_mmio_backend_bind_virq(self, virtio_mmio: int, vic: int, virq: int) -> None:
        """Bind the interrupt the backend raises, in the frontend's VIC (hypercalls.md 3.15)."""
        self.call("virtio_mmio_backend_bind_virq", virtio_mmio, vic, virq)

    def virtio_mmio_backend_unbind_virq(self, virtio_mmio: int) -> None:
        """Unbind the interrupt the backend raises (hypercalls.md 3.15)."""
        self.call("virtio_mmio_backend_unbind_virq", virtio_mmio)

    def virtio_mmio_frontend_bind_virq(self, virtio_mmio: int, vic: int, virq: int) -> None:
        """Bind the interrupt that frontend register writes raise, in the backend's VIC (hypercalls.md 3.15)."""
        self.call("virtio_mmio_frontend_bind_virq", virtio_mmio, vic, virq)

    def virtio_mmio_frontend_unbind_virq(self, virtio_mmio: int) -> None:
        """Unbind the interrupt that frontend register writes raise (hypercalls.md 3.15)."""
        self.call("virtio_mmio_frontend_unbind_virq", virtio_mmio)

    def virtio_mmio_backend_assert_virq(self, virtio_mmio: int, interrupt_status: int) -> None:
        """Set interrupt status bits and interrupt the frontend (hypercalls.md 3.15)."""
        self.call("virtio_mmio_backend_assert_virq", virtio_mmio, interrupt_status)

    def virtio_mmio_backend_set_dev_features(self, virtio_mmio: int, sel: int, dev_feat: int) -> None:
        """Set 32 of the features the device offers (hypercalls.md 3.15)."""
        self.call("virtio_mmio_backend_set_dev_features", virtio_mmio, sel, dev_feat)

    def virtio_mmio_backend_set_queue_num_max(self, virtio_mmio: int, sel: int, queue_num_max: int) -> None:
        """Set the largest size of a queue (hypercalls.md 3.15)."""
        self.call("virtio_mmio_backend_set_queue_num_max", virtio_mmio, sel, queue_num_max)

    def virtio_mmio_backend_get_drv_features(self, virtio_mmio: int, sel: int) -> int:
        """Read 32 of the features the driver accepted (hypercalls.md 3.15)."""
        x = self.call("virtio_mmio_backend_get_drv_features", virtio_mmio, sel)
        return x[1] & U32

    def virtio_mmio_backend_get_queue_info(self, virtio_mmio: int, sel: int) -> tuple[int, int, int, int, int]:
        """Read how the driver set a queue up (hypercalls.md 3.15)."""
        x = self.call("virtio_mmio_backend_get_queue_info", virtio_mmio, sel)
        return x[1] & U32, x[2] & U32, x[3], x[4], x[5]

    def virtio_mmio_backend_get_notification(self, virtio_mmio: int) -> tuple[int, int]:
        """Read and clear which queues were kicked and why (hypercalls.md 3.15)."""
        x = self.call("virtio_mmio_backend_get_notification", virtio_mmio)
        return x[1], x[2]

    def virtio_mmio_backend_acknowledge_reset(self, virtio_mmio: int) -> None:
        """Finish a reset the driver asked for: Status reads 0 (hypercalls.md 3.15)."""
        self.call("virtio_mmio_backend_acknowledge_reset", virtio_mmio)

    def virtio_mmio_backend_update_status(self, virtio_mmio: int, val: int) -> None:
        """Set bits of the Status register (hypercalls.md 3.15)."""
        self.call("virtio_mmio_backend_update_status", virtio_mmio, val)

    def virtio_input_configure(
        self, virtio_mmio: int, devids: int, prop_bits: int, num_evtypes: int, num_absaxes: int
    ) -> None:
        """Make room for an input device's description (hypercalls.md 3.16)."""
        self.call("virtio_input_configure", virtio_mmio, devids, prop_bits, num_evtypes, num_absaxes)

    def virtio_input_set_data(self, virtio_mmio: int, sel: int, subsel: int, size: int, data: int) -> None:
        """Store one item of an input device's description (hypercalls.md 3.16)."""
        self.call("virtio_input_set_data", virtio_mmio, sel, subsel, size, data)

    # -- trace, entropy ------------------------------------------------------------------------------------------------

    def trace_update_class_flags(self, set_flags: int, clear_flags: int) -> int:
        """Set and clear trace classes; open to every VM (hypercalls.md 3.13)."""
        x = self.call("trace_update_class_flags", set_flags, clear_flags)
        return x[1]

    def prng_get_entropy(self, num_bytes: int) -> tuple[int, int, int, int]:
        """Get up to 16 random bytes, at a limited rate (hypercalls.md 3.16)."""
        x = self.call("prng_get_entropy", num_bytes)
        return x[1] & U32, x[2] & U32, x[3] & U32, x[4] & U32
