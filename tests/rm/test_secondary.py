"""Secondary VMs from the first request to the last: Python guests under the real hypervisor and RM."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from tests.rm.rig import BUFFER, Client, GuestClient, Refused, Rig
from tests.rm.trees import BASE, vdevice, vm_tree

from gunyah.abi.errors import RmError
from gunyah.abi.rm import (
    CrashMessage,
    ExitType,
    MessageId,
    NotificationId,
    ResourceType,
    VmExit,
    VmExited,
    VmidWord,
    VmStatus,
    VmStop,
)
from gunyah.guest.cpu import Cpu, GuestAbort
from gunyah.guest.hypercall import Hypercalls

SYSTEM_OFF, SYSTEM_RESET, SYSTEM_RESET2 = 0x8400_0008, 0x8400_0009, 0xC400_0012
OPEN, WRITE = MessageId.VM_CONSOLE_OPEN, MessageId.VM_CONSOLE_WRITE


def psci(cpu: Cpu, function: int, *arguments: int) -> int:
    cpu.x[0 : 1 + len(arguments)] = (function, *arguments)
    cpu.hvc(0)
    return cpu.x[0]


def idle(cpu: Cpu, x0: int) -> None:
    while True:
        cpu.wfi()


def test_a_vm_boots_talks_on_its_console_and_switches_itself_off() -> None:
    rig = Rig()

    def guest(cpu: Cpu, x0: int) -> None:
        client = GuestClient(rig, cpu, x0)
        assert client.call(MessageId.VM_GET_VMID) == struct.pack("<I", 0x80)
        client.console(OPEN, 0)
        data = client.await_notification(NotificationId.VM_CONSOLE_CHARS)
        client.console(WRITE, 0, b"got " + data[4:])
        psci(cpu, SYSTEM_OFF)

    image = rig.image("guest", guest)

    def scenario(client: Client) -> None:
        vmid, handle = client.create(image, vm_tree())
        assert client.state(vmid) == VmStatus.READY
        client.console(OPEN, vmid)
        client.start(vmid)
        assert client.state(vmid) == VmStatus.RUNNING
        client.notifications.clear()
        while not any(entry[0] == NotificationId.VM_CONSOLE_CHARS for entry in client.notifications):
            client.console(WRITE, vmid, b"x")
            client.poll()
        chars = client.await_notification(NotificationId.VM_CONSOLE_CHARS)
        assert chars[:2] == struct.pack("<H", vmid) and chars[4:] == b"got x"
        exited = VmExited.unpack(client.await_notification(NotificationId.VM_EXITED))
        assert (exited.vmid, exited.exit_type, exited.reason) == (vmid, ExitType.PLATFORM_OFF, (0,))
        assert client.state(vmid) == VmStatus.EXITED
        client.destroy(vmid, handle)

    rig.run(scenario)


def test_the_same_vm_lives_ten_times_and_leaves_nothing_behind() -> None:
    rig = Rig()
    image = rig.image("guest", lambda cpu, x0: psci(cpu, SYSTEM_OFF) and None)

    def kinds() -> Counter[str]:
        return Counter(type(obj).__name__ for obj in rig.hypervisor.objects())

    def scenario(client: Client) -> None:
        counts: list[Counter[str]] = []
        for _ in range(10):
            vmid, handle = client.create(image, vm_tree())
            assert vmid == 0x80
            client.start(vmid)
            client.await_notification(NotificationId.VM_EXITED)
            client.destroy(vmid, handle)
            counts.append(kinds())
            client.notifications.clear()
        assert counts[0] == counts[-1]
        assert client.cpu.read(0x5000_0000, 4)

    rig.run(scenario)


def test_a_vm_that_was_reset_is_configured_and_started_again() -> None:
    rig = Rig()
    image = rig.image("guest", lambda cpu, x0: psci(cpu, SYSTEM_OFF) and None)

    def scenario(client: Client) -> None:
        vmid, handle = client.create(image, vm_tree())
        for _ in range(3):
            client.start(vmid)
            client.await_notification(NotificationId.VM_EXITED)
            client.word(MessageId.VM_RESET, vmid)
            client.await_state(vmid, VmStatus.RESET)
            client.reclaim(handle)
            client.notifications.clear()
            handle = client.load(vmid, image, vm_tree())
            assert client.await_notification(NotificationId.VM_STATUS)[4] == VmStatus.INIT
        client.destroy(vmid, handle)

    rig.run(scenario)


@pytest.mark.parametrize(
    ("call", "kind", "reason"),
    [
        ((SYSTEM_OFF,), ExitType.PLATFORM_OFF, (0,)),
        ((SYSTEM_RESET,), ExitType.PLATFORM_RESET, (0,)),
        ((SYSTEM_RESET2, 0x8000_0001, 0x1234_5678_9ABC_DEF0), ExitType.PSCI_SYSTEM_RESET2, None),
    ],
)
def test_every_psci_end_is_reported_as_what_it_was(
    call: tuple[int, ...], kind: ExitType, reason: tuple[int, ...] | None
) -> None:
    rig = Rig()
    image = rig.image("guest", lambda cpu, x0: psci(cpu, *call) and None)

    def scenario(client: Client) -> None:
        vmid, _ = client.create(image, vm_tree())
        client.start(vmid)
        exited = VmExited.unpack(client.await_notification(NotificationId.VM_EXITED))
        assert exited.exit_type == kind
        assert exited.reason == (reason or (1 << 15, 0x8000_0001, 0x9ABC_DEF0, 0x1234_5678))

    rig.run(scenario)


def test_a_guest_may_leave_by_rpc_with_flags_and_code() -> None:
    rig = Rig()

    def guest(cpu: Cpu, x0: int) -> None:
        client = GuestClient(rig, cpu, x0)
        client.call(MessageId.VM_SET_CRASH_MSG, CrashMessage(b"it was me").pack())
        assert client.refused(MessageId.VM_EXIT, VmExit(0, 2).pack()) == RmError.MSG_INVALID
        client.call(MessageId.VM_EXIT, VmExit(1, 3).pack())

    image = rig.image("guest", guest)

    def scenario(client: Client) -> None:
        vmid, _ = client.create(image, vm_tree())
        client.start(vmid)
        exited = VmExited.unpack(client.await_notification(NotificationId.VM_EXITED))
        assert (exited.exit_type, exited.reason) == (ExitType.VM_EXIT, (0x3_0001,))
        message = CrashMessage.unpack(client.word(MessageId.VM_GET_CRASH_MSG, vmid)).message
        assert message == b"it was me"

    rig.run(scenario)


def test_the_owner_stops_a_vm_by_force_and_a_graceful_stop_only_asks() -> None:
    rig = Rig()
    seen: list[bytes] = []

    def guest(cpu: Cpu, x0: int) -> None:
        client = GuestClient(rig, cpu, x0)
        seen.append(client.await_notification(NotificationId.VM_SHUTDOWN, turns=1_000_000))
        idle(cpu, x0)

    image = rig.image("guest", guest)

    def scenario(client: Client) -> None:
        vmid, handle = client.create(image, vm_tree())
        client.start(vmid)
        client.call(MessageId.VM_STOP, VmStop(vmid, 0, 42).pack())
        while not seen:
            client.hyp.scheduler_yield()
            client.state(vmid)
        assert seen == [struct.pack("<I", 42)]
        assert client.state(vmid) == VmStatus.RUNNING
        client.stop(vmid)
        exited = VmExited.unpack(client.await_notification(NotificationId.VM_EXITED))
        assert exited.exit_type == ExitType.VM_STOP_FORCED
        client.destroy(vmid, handle)

    rig.run(scenario)


def test_a_vm_is_refused_what_does_not_fit_its_state() -> None:
    rig = Rig()
    image = rig.image("guest", idle)

    def scenario(client: Client) -> None:
        vmid = client.allocate()
        word = VmidWord(vmid).pack()
        for message in (MessageId.VM_START, MessageId.VM_INIT, MessageId.VM_RESET):
            assert client.refused(message, word) == RmError.VM_STATE
        assert client.refused(MessageId.VM_STOP, VmStop(vmid, 1).pack()) == RmError.VM_STATE
        assert client.refused(MessageId.VM_GET_HYP_RESOURCES, word) == RmError.NORESOURCE
        handle = client.load(vmid, image, vm_tree())
        assert client.refused(MessageId.VM_INIT, word) == RmError.VM_STATE
        assert client.refused(MessageId.VM_DEALLOCATE, word) == RmError.VM_STATE
        client.start(vmid)
        assert client.refused(MessageId.VM_START, word) == RmError.VM_STATE
        assert client.refused(MessageId.VM_RESET, word) == RmError.VM_STATE
        client.stop(vmid)
        assert client.refused(MessageId.VM_STOP, VmStop(vmid, 1).pack()) == RmError.VM_STATE
        client.destroy(vmid, handle)
        assert client.refused(MessageId.VM_GET_STATE, word) == RmError.NORESOURCE

    rig.run(scenario)


def test_lent_memory_is_out_of_the_owners_reach_while_it_is_lent() -> None:
    rig = Rig()
    image = rig.image("guest", idle)

    def scenario(client: Client) -> None:
        vmid, handle = client.create(image, vm_tree())
        with pytest.raises(GuestAbort):
            client.cpu.read(0x5000_0000, 4)
        client.start(vmid)
        with pytest.raises(GuestAbort):
            client.cpu.write(0x5000_0000, b"!")
        client.stop(vmid)
        client.destroy(vmid, handle)
        client.cpu.write(0x5000_0000, b"mine")

    rig.run(scenario)


def test_a_shared_image_starts_a_vm_too_and_both_see_it() -> None:
    rig = Rig()
    found: list[bytes] = []

    def guest(cpu: Cpu, x0: int) -> None:
        while cpu.read(BASE + 0x8_0000, 4) != b"ping":
            Hypercalls(cpu).scheduler_yield()
        found.append(b"ping")
        cpu.write(BASE + 0x8_0000, b"pong")
        idle(cpu, x0)

    image = rig.image("guest", guest)

    def scenario(client: Client) -> None:
        vmid, handle = client.create(image, vm_tree(), share=True)
        client.start(vmid)
        client.cpu.write(0x5008_0000, b"ping")
        while client.cpu.read(0x5008_0000, 4) != b"pong":
            client.state(vmid)
        client.stop(vmid)
        client.destroy(vmid, handle)

    rig.run(scenario)


def test_a_proxy_scheduled_vm_runs_only_when_its_owner_runs_it() -> None:
    rig = Rig()
    steps: list[str] = []

    def guest(cpu: Cpu, x0: int) -> None:
        steps.append("runs")
        assert cpu.load(0x900_0018, 4) == 0xCAFE_0018
        cpu.store(0x900_0100, 0x1234, 4)
        psci(cpu, SYSTEM_OFF)

    image = rig.image("guest", guest)

    def scenario(client: Client) -> None:
        vmid, handle = client.create(image, vm_tree(affinity="proxy"))
        vcpu = client.resources(vmid)[0]
        assert (vcpu.type, vcpu.label, vcpu.virq) == (ResourceType.VIRTUAL_CPU, 0, 962)
        client.start(vmid)
        for _ in range(100):
            client.hyp.scheduler_yield()
        assert not steps
        data = 0
        exits: list[tuple[int, ...]] = []
        for _ in range(50):
            state, *values = client.hyp.vcpu_run(vcpu.cap_id, data)
            data = 0xCAFE_0018 if state == 4 else 0
            if state in (4, 5):
                exits.append((state, *values))
            if state == 2:
                break
        assert exits == [(4, 0x900_0018, 4, 0), (5, 0x900_0100, 4, 0x1234)]
        assert VmExited.unpack(client.await_notification(NotificationId.VM_EXITED)).exit_type == ExitType.PLATFORM_OFF
        client.destroy(vmid, handle)
        with pytest.raises(Exception, match="CAP_NULL"):
            client.hyp.vcpu_run(vcpu.cap_id)

    rig.run(scenario)


def test_eight_vms_with_a_console_each_run_at_once() -> None:
    rig = Rig()

    def guest(cpu: Cpu, x0: int) -> None:
        client = GuestClient(rig, cpu, x0)
        client.console(OPEN, 0)
        while True:
            data = client.await_notification(NotificationId.VM_CONSOLE_CHARS, turns=1_000_000)
            client.console(WRITE, 0, data[4:].upper())

    image = rig.image("guest", guest)

    def scenario(client: Client) -> None:
        vms = []
        for index in range(8):
            base = 0x5000_0000 + index * 0x20_0000
            vms.append(client.create(image, vm_tree(f"vm-{index}"), base=base))
            client.console(OPEN, vms[-1][0])
            client.start(vms[-1][0])
        answers: dict[int, bytes] = {}
        while len(answers) < 8:
            for vmid, _ in vms:
                if vmid not in answers:
                    client.console(WRITE, vmid, b"vm%d;" % vmid)
            client.poll()
            for notification, payload in client.notifications:
                if notification == NotificationId.VM_CONSOLE_CHARS:
                    answers[int.from_bytes(payload[:2], "little")] = payload[4:]
            client.notifications.clear()
        for vmid, handle in vms:
            assert answers[vmid] == b"VM%d;" % vmid
            client.stop(vmid)
            client.destroy(vmid, handle)

    rig.run(scenario)


def test_bells_and_queues_of_the_configuration_reach_the_owner() -> None:
    rig = Rig()

    def guest(cpu: Cpu, x0: int) -> None:
        client = GuestClient(rig, cpu, x0)
        tree = client.tree
        bell = next(tree.find_compatible("qcom,gunyah-doorbell")).u64s("reg")[0]
        source = next(tree.find_compatible("qcom,gunyah-doorbell-source")).u64s("reg")[0]
        pair = next(node for node in tree.find_compatible("qcom,gunyah-message-queue") if node.name.startswith("pair"))
        tx, rx = pair.u64s("reg")
        while not client.hyp.doorbell_receive(bell, 1):
            client.hyp.scheduler_yield()
        client.hyp.doorbell_send(source, 8)
        while (found := client.hyp.try_msgqueue_receive(rx, client.buffer, 240))[0]:
            client.hyp.scheduler_yield()
        client.hyp.msgqueue_send(tx, found[1], client.buffer, 1)
        idle(cpu, x0)

    image = rig.image("guest", guest)
    tree = vm_tree()
    vdevice(tree, "bell", "doorbell", label=0x42, generate="/hypervisor/bell")
    vdevice(tree, "source", "doorbell-source", label=0x43, generate="/hypervisor/source")
    vdevice(tree, "pair", "message-queue-pair", label=0x44, generate="/hypervisor/pair")

    def scenario(client: Client) -> None:
        vmid, handle = client.create(image, tree)
        resources = {(entry.type, entry.label): entry for entry in client.resources(vmid)}
        bell = resources[ResourceType.DOORBELL_SRC, 0x42]
        source = resources[ResourceType.DOORBELL, 0x43]
        send, receive = (resources[kind, 0x44] for kind in (ResourceType.MSG_QUEUE_SEND, ResourceType.MSG_QUEUE_RECV))
        assert bell.virq == 0 and all(960 <= entry.virq < 1020 for entry in (source, send, receive))
        client.start(vmid)
        client.hyp.doorbell_send(bell.cap_id, 1)
        while not client.hyp.doorbell_receive(source.cap_id, 8):
            client.state(vmid)
        client.cpu.write(BUFFER, b"there and back")
        client.hyp.msgqueue_send(send.cap_id, 14, BUFFER, 0)
        while client.hyp.try_msgqueue_receive(receive.cap_id, BUFFER + 64, 240)[0]:
            client.state(vmid)
        assert client.cpu.read(BUFFER + 64, 14) == b"there and back"
        client.stop(vmid)
        client.destroy(vmid, handle)

    rig.run(scenario)


def test_siblings_find_each_other_by_name_and_label() -> None:
    rig = Rig()
    heard: list[bytes] = []

    def talker(cpu: Cpu, x0: int) -> None:
        client = GuestClient(rig, cpu, x0)
        pair = next(node for node in client.tree.root.walk() if node.name.startswith("pair@"))
        cpu.write(client.buffer, b"hello sibling")
        client.hyp.msgqueue_send(pair.u64s("reg")[0], 13, client.buffer, 1)
        idle(cpu, x0)

    def listener(cpu: Cpu, x0: int) -> None:
        client = GuestClient(rig, cpu, x0)
        pair = next(node for node in client.tree.root.walk() if node.name.startswith("pair@"))
        while (found := client.hyp.try_msgqueue_receive(pair.u64s("reg")[1], client.buffer, 240))[0]:
            client.hyp.scheduler_yield()
        heard.append(cpu.read(client.buffer, found[1]))
        idle(cpu, x0)

    images = rig.image("talker", talker), rig.image("listener", listener)

    def scenario(client: Client) -> None:
        vms = []
        for index, name in enumerate(("left", "right")):
            tree = vm_tree(name)
            other = ("right", "left")[index]
            vdevice(tree, "pair", "message-queue-pair", label=9, generate="/hypervisor/pair", peer=f"vm-name:{other}")
            vms.append(client.create(images[index], tree, base=0x5000_0000 + index * 0x20_0000))
            assert all(entry.type == ResourceType.VIRTUAL_CPU for entry in client.resources(vms[-1][0]))
        for vmid, _ in vms:
            client.start(vmid)
        while not heard:
            client.state(vms[0][0])
        assert heard == [b"hello sibling"]
        for vmid, handle in vms:
            client.stop(vmid)
            client.destroy(vmid, handle)

    rig.run(scenario)


def test_a_configuration_that_is_refused_leaves_a_vm_that_can_be_reset() -> None:
    rig = Rig()
    tree = vm_tree()
    del tree.node("/gunyah-vm-config").properties["image-name"]

    def scenario(client: Client) -> None:
        with pytest.raises(Refused, match="MEM_INVALID"):
            client.create(b"", tree)
        assert client.state(0x80) == VmStatus.INIT_FAILED
        assert any("image-name is missing" in line for line in rig.rm.explain(3))
        client.destroy(0x80, 0)

    rig.run(scenario)
