"""Life of secondary VMs: allocate, start, stop, exit, reset, deallocate, and the reports about it.

Messages as in rm-rpc.md 6, exit and reset as in rm-behaviour.md 11.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from gunyah.abi.errors import Error, RmError
from gunyah.abi.profile import PUBLIC_2023
from gunyah.abi.rm import (
    STOP_FORCE,
    ExitCode,
    ExitFlag,
    ExitType,
    MemOwner,
    MessageId,
    NotificationId,
    VmExit,
    VmExited,
    VmidReply,
    VmidWord,
    VmShutdown,
    VmStatus,
    VmStop,
    common_reason,
)
from gunyah.abi.types import CPU_INDEX_INVALID, U32, VMID_HLOS, VMID_RM
from gunyah.abi.vcpu import (
    POWEREDOFF_EXITED,
    RESET_TYPE_MASK,
    RESET_TYPE_SMC64,
    RESET_TYPE_SYSTEM_RESET,
    VcpuRunState,
)
from gunyah.guest.hypercall import HypercallFailed
from gunyah.rm import start
from gunyah.rm.errors import RmFailure, failure_of
from gunyah.rm.vm import ResetStage, Vm
from gunyah.rm.vm_objects import VcpuObject, VmObjects

if TYPE_CHECKING:
    from gunyah.rm.manager import Handler, ResourceManager

__all__ = ["HANDLERS", "park", "report_exit", "unpark", "vcpu_halted"]

_KILL_PATIENCE = 64
"""Turns RM gives killed vCPUs to unwind."""
_KILL_PAUSE = 100_000
"""Nanoseconds RM sleeps between two turns, so that vCPUs of lower priority can run."""


# -- allocation --------------------------------------------------------------------------------------------------------


def _allocate(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    if client.vmid != VMID_HLOS:
        raise RmFailure(RmError.DENIED, f"VM {client.vmid} is not the primary VM, which alone creates VMs")
    wanted = VmidWord.unpack(payload).vmid
    vm = rm.vms.add(Vm(rm.vms.free_vmid(wanted), client.vmid, PUBLIC_2023))
    return b"" if wanted else VmidReply(vm.vmid).pack()


def _deallocate(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    vm = rm.vms.owned(VmidWord.unpack(payload).vmid, client)
    rm.vms.remove(vm)
    return b""


# -- start and stop ----------------------------------------------------------------------------------------------------


def _start(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    vm = rm.vms.owned(VmidWord.unpack(payload).vmid, client)
    if vm.state is not VmStatus.READY:
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} is {vm.state.name}, READY is needed")
    try:
        start.run(rm, vm)
    except Exception:
        vm.state = VmStatus.INIT_FAILED
        rm.send_status(vm)
        raise
    vm.become(VmStatus.RUNNING)
    rm.send_status(vm)
    return b""


def _stop(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = VmStop.unpack(payload)
    vm = rm.vms.owned(request.vmid, client, RmError.VMID_INVALID)
    if not vm.may_become(VmStatus.EXITED):
        why = "refuses to be shut down" if vm.no_shutdown else f"is {vm.state.name}"
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} {why}")
    if request.flags & STOP_FORCE:
        report_exit(rm, vm, ExitType.VM_STOP_FORCED)
    else:
        rm.notify(vm.vmid, NotificationId.VM_SHUTDOWN, VmShutdown(request.reason).pack())
    return b""


def _exit(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    request = VmExit.unpack(payload)
    if client.crash_fatal:
        raise RmFailure(RmError.ARGUMENT_INVALID, f"VM {client.vmid} is crash-fatal and may not exit")
    if request.exit_code not in (
        ExitCode.NORMAL,
        ExitCode.SOFTWARE_ERROR,
        ExitCode.BUS_ERROR,
        ExitCode.DEVICE_ERROR,
    ):
        raise RmFailure(RmError.MSG_INVALID, f"exit code {request.exit_code} is not one of 0, 1, 3, 4")
    if client.owner == VMID_RM:
        # The reference ends itself here; the primary VM leaves by PSCI (reference.md, defects).
        raise RmFailure(RmError.DENIED, f"VM {client.vmid} belongs to RM and cannot exit")
    client.no_shutdown = False
    if not client.may_become(VmStatus.EXITED):
        raise RmFailure(RmError.VM_STATE, f"VM {client.vmid} is {client.state.name}")
    report_exit(rm, client, ExitType.VM_EXIT, flags=request.exit_flags, code=request.exit_code)
    return b""


# -- exits -------------------------------------------------------------------------------------------------------------


def report_exit(
    rm: ResourceManager,
    vm: Vm,
    exit_type: ExitType,
    *,
    flags: int = 0,
    code: int = ExitCode.NORMAL,
    extra: tuple[int, ...] = (),
) -> None:
    """EXITED: vCPUs stopped, VM_STATUS to peers, VM_EXITED to the owner; RmFailure where that is impossible."""
    vm.become(VmStatus.EXITED)
    if vm.objects is not None:
        stop_vcpus(rm, vm, vm.objects)
    rm.send_status(vm)
    exited = VmExited(vm.vmid, exit_type, (common_reason(flags, code), *extra))
    rm.notify(vm.owner, NotificationId.VM_EXITED, exited.pack())


def vcpu_halted(rm: ResourceManager, vm: Vm, vcpu: VcpuObject) -> None:
    """A vCPU stopped for good: the end of its VM (rm-behaviour.md 11)."""
    if vm.objects is None or vcpu not in vm.objects.vcpus or not vm.may_become(VmStatus.EXITED):
        return
    try:
        state, first, second, _ = rm.hyp.vcpu_run_check(vcpu.capability)
    except HypercallFailed as failure:
        rm.log.warning(f"VM {vm.vmid}: vCPU {vcpu.index} halted in an unknown state: {failure}")
        state, first, second = U32, 0, 0
    code = ExitCode.SOFTWARE_ERROR if vm.crash_message is not None else ExitCode.NORMAL
    if state == VcpuRunState.POWERED_OFF:
        report_exit(rm, vm, ExitType.PLATFORM_OFF, code=code)
    elif state == VcpuRunState.PSCI_SYSTEM_RESET and first & RESET_TYPE_SYSTEM_RESET:
        report_exit(rm, vm, ExitType.PLATFORM_RESET, code=code)
    elif state == VcpuRunState.PSCI_SYSTEM_RESET:
        wide = bool(first & RESET_TYPE_SMC64)
        cookie = second if wide else second & U32
        extra = (first & RESET_TYPE_MASK, cookie & U32, cookie >> 32)
        flags = ExitFlag.SYSTEM_RESET2_64 if wide else 0
        report_exit(rm, vm, ExitType.PSCI_SYSTEM_RESET2, flags=flags, code=code, extra=extra)
    elif state == VcpuRunState.FAULT:
        report_exit(rm, vm, ExitType.SOFTWARE_ERROR, code=code)
    else:
        report_exit(rm, vm, ExitType.SOFTWARE_ERROR, code=ExitCode.UNKNOWN_ERROR)


def stop_vcpus(rm: ResourceManager, vm: Vm, objects: VmObjects) -> None:
    """Kill every vCPU and wait until all are gone, a bounded time."""
    for vcpu in objects.vcpus:
        if vcpu.exited:
            continue
        try:
            rm.hyp.vcpu_kill(vcpu.capability)
        except HypercallFailed as failure:
            # OBJECT_STATE: it never started, so nothing of it can run.
            if failure.error != Error.OBJECT_STATE:
                rm.log.warning(f"VM {vm.vmid}: vCPU {vcpu.index} cannot be killed: {failure}")
            vcpu.exited = True
    # A dying vCPU still needs a core to unwind on.
    unpark(rm, vm)
    for turn in range(_KILL_PATIENCE):
        waiting = [vcpu for vcpu in objects.vcpus if not vcpu.exited and not _has_exited(rm, vcpu)]
        if not waiting:
            return
        if turn:
            rm.sleep(_KILL_PAUSE)
        else:
            rm.hyp.scheduler_yield()
    rm.log.error(f"VM {vm.vmid}: vCPUs {[vcpu.index for vcpu in waiting]} do not stop")


def park(rm: ResourceManager, vm: Vm, objects: VmObjects) -> None:
    """Take every vCPU off its core. Proxy-scheduled ones are the owner's to run or not."""
    for vcpu in objects.vcpus:
        if not vcpu.proxy and not vcpu.parked:
            _set_core(rm, vm, vcpu, CPU_INDEX_INVALID)
            vcpu.parked = True


def unpark(rm: ResourceManager, vm: Vm) -> None:
    """Put parked vCPUs back on their cores."""
    for vcpu in vm.objects.vcpus if vm.objects is not None else ():
        if vcpu.parked:
            _set_core(rm, vm, vcpu, vcpu.core)
            vcpu.parked = False


def _set_core(rm: ResourceManager, vm: Vm, vcpu: VcpuObject, core: int) -> None:
    for _ in range(_KILL_PATIENCE):
        error, _ = rm.hyp.try_call("vcpu_set_affinity", vcpu.capability, core)
        if error != Error.RETRY:
            break
        # An earlier change is still under way.
        rm.sleep(_KILL_PAUSE)
    if error:
        raise failure_of(error, f"vCPU {vcpu.index} of VM {vm.vmid} cannot be moved to core {core:#x}")


def _has_exited(rm: ResourceManager, vcpu: VcpuObject) -> bool:
    """A proxy-scheduled vCPU must be run to finish dying (objects.md 5.1)."""
    call = "vcpu_run" if vcpu.proxy else "vcpu_run_check"
    arguments = (vcpu.capability, 0, 0, 0) if vcpu.proxy else (vcpu.capability,)
    error, x = rm.hyp.try_call(call, *arguments)
    if error and vcpu.proxy:
        # Somebody is inside vcpu_run for it, or it is gone and cannot be run any more.
        error, x = rm.hyp.try_call("vcpu_run_check", vcpu.capability)
    if not error and x[1] & U32 in (VcpuRunState.POWERED_OFF, VcpuRunState.PSCI_SYSTEM_RESET):
        vcpu.exited = x[1] & U32 == VcpuRunState.PSCI_SYSTEM_RESET or bool(x[2] & POWEREDOFF_EXITED)
    return vcpu.exited


# -- reset -------------------------------------------------------------------------------------------------------------


def _reset(rm: ResourceManager, client: Vm, payload: bytes) -> bytes:
    vm = rm.vms.owned(VmidWord.unpack(payload).vmid, client, RmError.VMID_INVALID)
    if vm.no_reset:
        raise RmFailure(RmError.DENIED, f"VM {vm.vmid} refuses to be reset")
    if not vm.may_become(VmStatus.RESETTING):
        raise RmFailure(RmError.VM_STATE, f"VM {vm.vmid} is {vm.state.name}; EXITED, READY or INIT_FAILED is needed")
    if vm.state is not VmStatus.EXITED and vm.objects is not None:
        stop_vcpus(rm, vm, vm.objects)
    vm.become(VmStatus.RESETTING)
    vm.reset_stage = ResetStage.DESTROY_VDEVICES
    rm.send_status(vm)
    rm.defer(lambda: _reset_step(rm, vm))
    return b""


def _reset_step(rm: ResourceManager, vm: Vm) -> None:
    """One small piece of a VM's destruction; the next follows in a later pass (rm-behaviour.md 11)."""
    objects = vm.objects
    stage = vm.reset_stage
    following = {
        ResetStage.DESTROY_VDEVICES: ResetStage.RELEASE_MEMPARCELS,
        ResetStage.RELEASE_MEMPARCELS: ResetStage.RELEASE_IRQS,
        ResetStage.RELEASE_IRQS: ResetStage.DESTROY_VM,
        ResetStage.DESTROY_VM: ResetStage.CLEANUP,
        ResetStage.CLEANUP: ResetStage.COMPLETED,
    }
    done = True
    try:
        if stage is ResetStage.DESTROY_VDEVICES and objects is not None:
            rm.consoles.destroy(vm.vmid)
            if objects.devices:
                objects.destroy_device(objects.devices[-1])
                done = False
        elif stage is ResetStage.RELEASE_MEMPARCELS and objects is not None:
            done = not _release_one(rm, vm)
        elif stage is ResetStage.RELEASE_IRQS and objects is not None:
            rm.irqs.forget(vm)
        elif stage is ResetStage.DESTROY_VM and objects is not None:
            rm.parcels.abandon(vm)
            rm.parcels.return_donations(vm)
            objects.destroy()
            vm.objects = None
        elif stage is ResetStage.CLEANUP:
            vm.clear()
    except (RmFailure, HypercallFailed) as failure:
        # What cannot be given back stays behind with a line in the log; the VM's owner is not left waiting.
        rm.log.error(f"VM {vm.vmid}: reset stage {stage.name}: {failure}")
    if stage is ResetStage.COMPLETED:
        vm.become(VmStatus.RESET)
        rm.send_status(vm)
        vm.drop_peers()
        return
    if done:
        vm.reset_stage = following[stage]
    rm.defer(lambda: _reset_step(rm, vm))


def _release_one(rm: ResourceManager, vm: Vm) -> bool:
    """Release the oldest accepted memparcel and tell its owner; False when there is none."""
    parcel = rm.parcels.release_one_accepted(vm)
    if parcel is None:
        return False
    rm.notify(parcel.owner, NotificationId.MEM_RELEASED, MemOwner(parcel.handle, vm.vmid, parcel.tag).pack())
    return True


HANDLERS: Mapping[int, Handler] = MappingProxyType(
    {
        MessageId.VM_ALLOCATE: _allocate,
        MessageId.VM_DEALLOCATE: _deallocate,
        MessageId.VM_START: _start,
        MessageId.VM_STOP: _stop,
        MessageId.VM_EXIT: _exit,
        MessageId.VM_RESET: _reset,
    }
)
