"""An example of every RM request: it stands on the request's page in docs/rm and runs as a test.

Each function is named after its message; ``rm`` is the primary VM's client, ``lab`` what ``tools.rm_lab`` offers.
"""

from __future__ import annotations

from gunyah.abi.errors import RmError
from gunyah.abi.rm import (
    AuthType,
    ExitType,
    IrqNotify,
    MemCreateFlag,
    MemNotify,
    MemTrans,
    NotificationId,
    OsStatus,
    ResourceType,
    VmStatus,
)
from gunyah.secondary import PrimaryRm

from .rm_lab import RmLab, refused


def mem_donate(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    handle = rm.mem_donate([(guest.vmid, 7)], [(lab.memory(), 0x1000)])
    guest.rm.mem_accept(handle, MemTrans.DONATE)
    with refused(RmError.HANDLE_INVALID):
        rm.mem_reclaim(handle)


def mem_lend(rm: PrimaryRm, lab: RmLab) -> None:
    vmid = rm.vm_allocate()
    handle = rm.mem_lend([(vmid, 6)], [(lab.memory(0x2000), 0x2000)], label=7)
    rm.mem_reclaim(handle)


def mem_share(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    handle = rm.mem_share([(guest.vmid, 4), (3, 6)], [(lab.memory(), 0x1000)])
    where = guest.rm.mem_accept(handle, MemTrans.SHARE).sgl[0]
    assert where.size == 0x1000


def mem_append(rm: PrimaryRm, lab: RmLab) -> None:
    vmid = rm.vm_allocate()
    handle = rm.mem_lend([(vmid, 7)], [(lab.memory(), 0x1000)], flags=MemCreateFlag.APPEND)
    rm.mem_append(handle, [(lab.memory(), 0x1000)], done=False)
    rm.mem_append(handle, [(lab.memory(), 0x1000)])


def mem_accept(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    handle = rm.mem_lend([(guest.vmid, 6)], [(lab.memory(), 0x1000)])
    where = guest.rm.mem_accept(handle, MemTrans.LEND).sgl[0]
    assert (where.address % 0x1000, where.size) == (0, 0x1000)


def mem_release(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    handle = rm.mem_lend([(guest.vmid, 6)], [(lab.memory(), 0x1000)])
    guest.rm.mem_accept(handle, MemTrans.LEND)
    guest.rm.mem_release(handle, sanitize=True)
    rm.mem_reclaim(handle)


def mem_reclaim(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    handle = rm.mem_lend([(guest.vmid, 6)], [(lab.memory(), 0x1000)])
    guest.rm.mem_accept(handle, MemTrans.LEND)
    with refused(RmError.MEM_INUSE):
        rm.mem_reclaim(handle)
    guest.rm.mem_release(handle)
    rm.mem_reclaim(handle)


def mem_notify(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    handle = rm.mem_lend([(guest.vmid, 6)], [(lab.memory(), 0x1000)])
    rm.mem_notify(handle, MemNotify.SHARED, tag=5, vmids=[guest.vmid])
    guest.rm.mem_accept(handle, MemTrans.LEND)
    guest.rm.mem_notify(handle, MemNotify.ACCEPTED, tag=5)
    assert rm.wait_notification(NotificationId.MEM_ACCEPTED).payload.vmid == guest.vmid


def mem_qcom_lookup_sgl(rm: PrimaryRm, lab: RmLab) -> None:
    vmid, address = rm.vm_allocate(), lab.memory()
    handle = rm.mem_lend([(vmid, 7)], [(address, 0x1000)])
    with refused(RmError.LOOKUP_FAILED):
        rm.mem_qcom_lookup_sgl([(vmid, 6)], [(address, 0x1000)])
    rm.mem_reclaim(handle)


def fw_milestone(rm: PrimaryRm, lab: RmLab) -> None:
    rm.fw_milestone()
    with refused(RmError.DENIED):
        rm.fw_milestone()


def fw_set_vm_firmware(rm: PrimaryRm, lab: RmLab) -> None:
    handle = rm.mem_donate([(255, 7)], [(lab.memory(0x2000), 0x2000)])
    rm.fw_set_vm_firmware(AuthType.ANDROID, handle, 0, 0x2000)


def vm_allocate(rm: PrimaryRm, lab: RmLab) -> None:
    assert rm.vm_allocate() == 0x80
    assert rm.vm_allocate(20) == 20
    with refused(RmError.NORESOURCE):
        rm.vm_allocate(20)


def vm_deallocate(rm: PrimaryRm, lab: RmLab) -> None:
    vmid = rm.vm_allocate()
    rm.vm_deallocate(vmid)
    with refused(RmError.NORESOURCE):
        rm.vm_get_state(vmid)


def vm_config_image(rm: PrimaryRm, lab: RmLab) -> None:
    vmid = rm.vm_allocate()
    handle, dtb = lab.lent_image(vmid)
    rm.vm_config_image(vmid, handle, dtb=dtb)
    assert rm.vm_get_state(vmid).vm_status == VmStatus.INIT


def vm_auth_image(rm: PrimaryRm, lab: RmLab) -> None:
    vmid = rm.vm_allocate()
    handle, dtb = lab.lent_image(vmid)
    rm.vm_config_image(vmid, handle, dtb=dtb, auth_type=AuthType.PLATFORM)
    assert rm.vm_get_state(vmid).vm_status == VmStatus.AUTH
    rm.vm_auth_image(vmid)
    assert rm.vm_get_state(vmid).vm_status == VmStatus.INIT


def vm_init(rm: PrimaryRm, lab: RmLab) -> None:
    vmid = rm.vm_allocate()
    handle, dtb = lab.lent_image(vmid)
    rm.vm_config_image(vmid, handle, dtb=dtb)
    rm.vm_init(vmid)
    assert rm.vm_get_state(vmid).vm_status == VmStatus.READY


def vm_start(rm: PrimaryRm, lab: RmLab) -> None:
    vmid = rm.vm_allocate()
    handle, dtb = lab.lent_image(vmid)
    rm.vm_config_image(vmid, handle, dtb=dtb)
    rm.vm_init(vmid)
    rm.vm_start(vmid)
    assert rm.vm_get_state(vmid).vm_status == VmStatus.RUNNING


def vm_stop(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    rm.vm_stop(guest.vmid, force=True)
    end = rm.wait_notification(NotificationId.VM_EXITED).payload
    assert (end.vmid, end.exit_type) == (guest.vmid, ExitType.VM_STOP_FORCED)


def vm_reset(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    rm.vm_stop(guest.vmid)
    rm.vm_reset(guest.vmid)
    while rm.wait_notification(NotificationId.VM_STATUS).payload.vm_status != VmStatus.RESET:
        pass


def vm_suspend(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    rm.vm_suspend(guest.vmid)
    assert rm.vm_get_state(guest.vmid).vm_status == VmStatus.PAUSED


def vm_resume(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    rm.vm_suspend(guest.vmid)
    rm.vm_resume(guest.vmid)
    assert rm.vm_get_state(guest.vmid).vm_status == VmStatus.RUNNING


def vm_set_status(rm: PrimaryRm, lab: RmLab) -> None:
    # Only VMs with a VMID of 4 to 31 have a status to set.
    with refused(RmError.DENIED):
        rm.vm_set_status(OsStatus.RUN)


def vm_exit(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    guest.rm.vm_exit(flags=1, code=3)
    end = rm.wait_notification(NotificationId.VM_EXITED).payload
    assert (end.exit_type, end.reason) == (ExitType.VM_EXIT, (0x3_0001,))


def vm_get_state(rm: PrimaryRm, lab: RmLab) -> None:
    assert rm.vm_get_state().vm_status == VmStatus.RUNNING
    assert rm.vm_get_state(rm.vm_allocate()).vm_status == VmStatus.LOAD


def vm_set_crash_msg(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    guest.rm.vm_set_crash_msg(b"out of coffee")
    assert rm.vm_get_crash_msg(guest.vmid) == b"out of coffee"


def vm_get_crash_msg(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    assert rm.vm_get_crash_msg(guest.vmid) == b""
    guest.rm.vm_set_crash_msg(b"last words")
    assert rm.vm_get_crash_msg(guest.vmid) == b"last words"


def vm_host_get_type(rm: PrimaryRm, lab: RmLab) -> None:
    host = rm.vm_host_get_type()
    assert (host.architecture, host.hypervisor, host.version) == (0x64, 1, 1)


def vm_get_id(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest("worker")
    names = {identity.type: identity.data for identity in rm.vm_get_id(guest.vmid)}
    assert names[2] == b"worker"


def vm_lookup_uri(rm: PrimaryRm, lab: RmLab) -> None:
    assert rm.vm_lookup_uri("gunyah:nobody") == ()


def vm_lookup_guid(rm: PrimaryRm, lab: RmLab) -> None:
    assert rm.vm_lookup_guid(bytes(range(16))) == ()


def vm_lookup_name(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest("worker")
    assert rm.vm_lookup_name("worker") == (guest.vmid,)


def vm_get_vmid(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    assert (rm.vm_get_vmid(), guest.rm.vm_get_vmid()) == (3, guest.vmid)


def vm_get_owner(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    assert (rm.vm_get_owner(), guest.rm.vm_get_owner()) == (255, 3)


def vm_get_peers(rm: PrimaryRm, lab: RmLab) -> None:
    vmids = rm.vm_allocate(), rm.vm_allocate()
    assert rm.vm_get_peers() == vmids


def vm_get_hyp_resources(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    (vcpu,) = rm.vm_get_hyp_resources(guest.vmid)
    assert vcpu.type == ResourceType.VIRTUAL_CPU


def vm_get_hyp_capids(rm: PrimaryRm, lab: RmLab) -> None:
    with refused(RmError.UNIMPLEMENTED):
        rm.vm_get_hyp_capids(3)


def vm_get_hyp_irqs(rm: PrimaryRm, lab: RmLab) -> None:
    with refused(RmError.UNIMPLEMENTED):
        rm.vm_get_hyp_irqs(3)


def vm_set_time_base(rm: PrimaryRm, lab: RmLab) -> None:
    vmid = rm.vm_allocate()
    # Too early: the clock is an object that VM_INIT makes.
    with refused(RmError.VM_STATE):
        rm.vm_set_time_base(1_700_000_000_000_000_000, 0, vmid)


def vm_set_firmware_mem(rm: PrimaryRm, lab: RmLab) -> None:
    vmid = rm.vm_allocate()
    handle, dtb = lab.lent_image(vmid)
    rm.vm_config_image(vmid, handle, dtb=dtb)
    # A VM without authentication has no firmware.
    with refused(RmError.ARGUMENT_INVALID):
        rm.vm_set_firmware_mem(vmid, handle, 0, 0x1000)


def vm_set_context(rm: PrimaryRm, lab: RmLab) -> None:
    vmid = rm.vm_allocate()
    handle, dtb = lab.lent_image(vmid)
    rm.vm_config_image(vmid, handle, dtb=dtb)
    rm.vm_set_context(vmid, 0, 2, 0x1234)


def vm_set_demand_paging(rm: PrimaryRm, lab: RmLab) -> None:
    vmid = rm.vm_allocate()
    handle, dtb = lab.lent_image(vmid)
    rm.vm_config_image(vmid, handle, dtb=dtb)
    rm.vm_set_demand_paging(vmid, [(0x8000_0000, 0x100_0000)])


def vm_set_address_layout(rm: PrimaryRm, lab: RmLab) -> None:
    vmid = rm.vm_allocate()
    handle, dtb = lab.lent_image(vmid)
    rm.vm_config_image(vmid, handle, dtb=dtb)
    rm.vm_set_address_layout(vmid, 0, 0x8000_0000, 0x100_0000)


def vm_irq_lend(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    handle = rm.vm_irq_lend(guest.vmid, 72, label=1)
    rm.vm_irq_reclaim(handle)


def vm_irq_accept(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    handle = rm.vm_irq_lend(guest.vmid, 72)
    assert guest.rm.vm_irq_accept(handle) == 72


def vm_irq_release(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    handle = rm.vm_irq_lend(guest.vmid, 72)
    guest.rm.vm_irq_accept(handle)
    guest.rm.vm_irq_release(handle)


def vm_irq_reclaim(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    handle = rm.vm_irq_lend(guest.vmid, 72)
    guest.rm.vm_irq_accept(handle)
    with refused(RmError.IN_USE):
        rm.vm_irq_reclaim(handle)
    guest.rm.vm_irq_release(handle)
    rm.vm_irq_reclaim(handle)


def vm_irq_notify(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    handle = rm.vm_irq_lend(guest.vmid, 72)
    rm.vm_irq_notify(handle, IrqNotify.LENT, [guest.vmid])
    guest.rm.vm_irq_accept(handle)
    guest.rm.vm_irq_notify(handle, IrqNotify.ACCEPTED)
    assert rm.wait_notification(NotificationId.VM_IRQ_ACCEPTED).payload.handle == handle


def vm_irq_unmap(rm: PrimaryRm, lab: RmLab) -> None:
    with refused(RmError.UNIMPLEMENTED):
        rm.vm_irq_unmap(0)


def vm_console_open(rm: PrimaryRm, lab: RmLab) -> None:
    rm.vm_console_open(lab.guest().vmid)


def vm_console_close(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    rm.vm_console_close(guest.vmid)
    with refused(RmError.DENIED):
        rm.vm_console_write(guest.vmid, b"closed")


def vm_console_write(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    rm.vm_console_open(guest.vmid)
    guest.rm.vm_console_open()
    guest.rm.vm_console_write(0, b"hello owner")
    chars = rm.wait_notification(NotificationId.VM_CONSOLE_CHARS).payload
    assert (chars.vmid, chars.data) == (guest.vmid, b"hello owner")


def vm_console_flush(rm: PrimaryRm, lab: RmLab) -> None:
    guest = lab.guest()
    rm.vm_console_open(guest.vmid)
    rm.vm_console_flush(guest.vmid)


def ipa_reserve(rm: PrimaryRm, lab: RmLab) -> None:
    normal, region = 4, (0x1_0000_0000, 0x1000_0000)
    (base,) = lab.guest().rm.ipa_reserve_any([(*region, 0x20_0000, 0x20_0000)], generic=normal)
    assert base % 0x20_0000 == 0


def ipa_unreserve(rm: PrimaryRm, lab: RmLab) -> None:
    with refused(RmError.UNIMPLEMENTED):
        rm.ipa_unreserve(0, bytes(4))
