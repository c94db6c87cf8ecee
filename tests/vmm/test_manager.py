"""Secondary VMs from the primary VM's user side: bare-metal and Python guests, by RPC alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gunyah
from gunyah.abi import pyimage
from gunyah.abi.errors import RmError
from gunyah.abi.profile import PUBLIC_2023
from gunyah.abi.rm import ExitType, MessageId, NotificationId, ResourceType, VmStatus
from gunyah.guest.cpu import Cpu, GuestAbort
from gunyah.guest.fdt import DeviceTree
from gunyah.guest.hypercall import Hypercalls
from gunyah.linux.kernel import Kernel
from gunyah.linux.rm_client import RmRefused
from gunyah.linux.setup import read_device_tree
from gunyah.vmm.guests import guest_image
from gunyah.vmm.images import parse_image
from gunyah.vmm.loader import LoadError
from gunyah.vmm.manager import VmError
from gunyah.vmm.vm_config import QueuePair, SharedMemory, VmSettings, configured_tree, placement_of

MIB = 1 << 20
SYSTEM_OFF = 0x8400_0008


@pytest.fixture
def system() -> Iterator[gunyah.System]:
    with gunyah.System(clock="virtual", seed=1) as system:
        yield system
        assert not system.primary.kernel.oopses
        assert not system.rm.log.errors()


def demo(name: str = "demo", **changes: Any) -> VmSettings:
    return VmSettings(**{"name": name, "image": guest_image("demo"), "memory": 4 * MIB, **changes})


def program(system: gunyah.System, name: str, function: Callable[[Cpu, int], None], **changes: Any) -> VmSettings:
    """A Python function as the guest."""
    image = parse_image(pyimage.pack(system.load_program(name, function)), name)
    return demo(name, image=image, console="none", **changes)


def power_off(cpu: Cpu) -> None:
    cpu.x[0] = SYSTEM_OFF
    cpu.hvc(0)


def idle(cpu: Cpu, x0: int) -> None:
    while True:
        cpu.wfi()


def test_a_bare_metal_image_lives_many_times_and_leaves_nothing(system: gunyah.System) -> None:
    vm = system.primary.vm(demo())
    before = system.ledger()
    free = system.primary.kernel.services.heap.free_bytes
    for _ in range(10):
        vm.start()
        assert vm.vmid == 0x80
        assert vm.read_until(b"guest: goodbye\n").startswith(b"guest: hello")
        assert vm.wait_exit(10).exit_type == ExitType.PLATFORM_OFF
        vm.deallocate()
        assert vm.status == VmStatus.NONE
        assert not system.ledger().since(before)
        assert system.primary.kernel.services.heap.free_bytes == free


def test_a_vm_that_was_reset_starts_again_under_its_vmid(system: gunyah.System) -> None:
    vm = system.primary.vm(demo())
    vm.start()
    for _ in range(3):
        vm.read_until(b"goodbye")
        vm.wait_exit(10)
        vm.restart()
        assert vm.vmid == 0x80
    vm.deallocate()


def test_eight_vms_run_at_once_each_with_its_own_console(system: gunyah.System) -> None:
    vms = [system.primary.vm(demo(f"vm{index}")) for index in range(8)]
    before = system.ledger()
    for vm in vms:
        vm.start()
    assert [vm.vmid for vm in vms] == list(range(0x80, 0x88))
    for vm in reversed(vms):
        assert b"vmid: %d\n" % vm.vmid in vm.read_until(b"goodbye")
    for vm in vms:
        vm.deallocate()
    assert not system.ledger().since(before)


def test_a_running_vm_is_stopped_and_a_stopped_one_cannot_be_stopped(system: gunyah.System) -> None:
    vm = system.primary.vm(program(system, "idle", idle))
    with pytest.raises(VmError, match="idle is NONE, it does not run"):
        vm.stop()
    vm.start()
    assert vm.status == VmStatus.RUNNING
    with pytest.raises(VmError, match="is RUNNING; it can be started when"):
        vm.start()
    vm.stop()
    assert vm.exit is not None and vm.exit.exit_type == ExitType.VM_STOP_FORCED
    assert vm.inside.exit_words() == "was stopped"
    vm.reset()
    assert vm.status == VmStatus.RESET
    vm.start()
    vm.deallocate()


def test_a_paused_vm_does_nothing_until_it_is_resumed(system: gunyah.System) -> None:
    steps: list[int] = []

    def count(cpu: Cpu, x0: int) -> None:
        while True:
            steps.append(1)
            Hypercalls(cpu).scheduler_yield()

    vm = system.primary.vm(program(system, "counter", count, affinity="proxy"))
    vm.start()
    assert system.run(lambda: len(steps) > 3, 5)
    vm.pause()
    assert vm.status == VmStatus.PAUSED
    system.run(None, 0.01)
    seen = len(steps)
    system.run(None, 0.1)
    assert len(steps) == seen
    vm.resume()
    assert system.run(lambda: len(steps) > seen, 5)
    vm.deallocate()


def test_a_gunyah_aware_guest_has_its_console_at_the_owners_end(system: gunyah.System) -> None:
    kernel = Kernel(PUBLIC_2023)

    def shell(kernel: Kernel) -> None:
        file = kernel.open_tty("ttyGH0")
        file.set_raw()
        while (data := file.read(100)) != b"q":
            file.write(data.upper())
        kernel.power_off()

    kernel._init = shell
    image = parse_image(pyimage.pack(system.load_program("linux", kernel.main)), "linux")
    vm = system.primary.vm(demo("linux", image=image, console="rm", memory=16 * MIB))
    vm.start()
    assert system.run(lambda: kernel.booted, 10)
    assert system.run(lambda: bool(vm.write(b"hello") and vm.output), 10)
    assert b"HELLO" in vm.read_until(b"HELLO")
    system.run(None, 0.1)
    vm.write(b"q")
    assert vm.wait_exit(10).exit_type == ExitType.PLATFORM_OFF
    vm.deallocate()


def test_memory_that_is_lent_is_gone_until_the_vm_is(system: gunyah.System) -> None:
    vm = system.primary.vm(program(system, "idle", idle))
    vm.start()
    memory = vm.inside._memory
    assert memory is not None
    address = memory.address
    with pytest.raises(GuestAbort):
        system.primary.call(lambda: system.primary.kernel.services.cpu.read(address, 8))
    vm.deallocate()
    assert system.primary.call(lambda: system.primary.kernel.services.cpu.read(address, 8)) == bytes(8)


def test_a_vm_with_shared_memory_queue_and_doorbell_meets_its_owner(system: gunyah.System) -> None:
    def guest(cpu: Cpu, x0: int) -> None:
        tree = read_device_tree(cpu, x0)
        node = next(node for node in tree.root.walk() if node.name.startswith("buffer@"))
        base, _ = node.reg()[0]
        while cpu.read(base, 4) != b"ping":
            Hypercalls(cpu).scheduler_yield()
        cpu.write(base + 4, b"pong")
        power_off(cpu)

    settings = program(
        system,
        "sharer",
        guest,
        affinity="proxy",
        share=True,
        shared=(SharedMemory(7, 0x4000),),
        queues=(QueuePair(9),),
        doorbells=(5,),
        doorbell_sources=(6,),
    )
    vm = system.primary.vm(settings)
    before = system.ledger()
    kernel = system.primary.kernel
    vm.start()
    buffer = vm.inside.shared[7]
    system.primary.call(lambda: buffer.write(b"ping"))
    assert vm.wait_exit(10).exit_type == ExitType.PLATFORM_OFF
    assert system.primary.call(lambda: buffer.read(4, 4)) == b"pong"
    kinds = {(ResourceType(entry.type), entry.label) for entry in vm.inside.resources}
    assert kinds == {
        (ResourceType.VIRTUAL_CPU, 0),
        (ResourceType.DOORBELL_SRC, 5),
        (ResourceType.DOORBELL, 6),
        (ResourceType.MSG_QUEUE_SEND, 9),
        (ResourceType.MSG_QUEUE_RECV, 9),
    }
    vm.deallocate()
    assert not system.ledger().since(before)
    assert not kernel.oopses


def test_a_start_that_rm_refuses_leaves_nothing_and_says_why(system: gunyah.System) -> None:
    before = system.ledger()
    free = system.primary.kernel.services.heap.free_bytes
    vm = system.primary.vm(program(system, "cores", idle, cores=(7,)))
    with pytest.raises(RmRefused, match=r"VM_INIT → NORESOURCE: .*affinity-map names core 7, which cannot be used"):
        vm.start()
    assert (vm.vmid, vm.status) == (0, VmStatus.NONE)
    assert not system.ledger().since(before)
    assert system.primary.kernel.services.heap.free_bytes == free


@pytest.mark.parametrize(
    "message",
    [
        MessageId.VM_CONFIG_IMAGE,
        MessageId.MEM_LEND,
        MessageId.VM_INIT,
        MessageId.VM_GET_HYP_RESOURCES,
        MessageId.VM_START,
    ],
)
def test_a_failure_at_any_step_of_a_start_leaves_nothing(system: gunyah.System, message: MessageId) -> None:
    before = system.ledger()
    vm = system.primary.vm(demo())
    with system.rm.faults.deny(message, times=1), pytest.raises(RmRefused):
        vm.start()
    assert (vm.vmid, vm.status) == (0, VmStatus.NONE)
    assert not system.ledger().since(before)
    vm.start()
    vm.read_until(b"goodbye")
    vm.deallocate()


def test_settings_that_contradict_themselves_are_refused_in_one_sentence() -> None:
    with pytest.raises(LoadError, match='affinity "proxy", not'):
        demo(affinity="static")
    with pytest.raises(LoadError, match="no whole number of pages"):
        demo(memory=3 * MIB + 1)
    with pytest.raises(LoadError, match="console 'tv'"):
        demo(console="tv")


def test_a_tree_that_is_given_keeps_its_configuration() -> None:
    settings = demo()
    placement = placement_of(settings)
    tree = configured_tree(settings, placement)
    tree.node("/gunyah-vm-config").set_strings("image-name", "other")
    again = configured_tree(demo(tree=tree), placement)
    assert again.node("/gunyah-vm-config").string("image-name") == "other"
    bare = DeviceTree()
    with pytest.raises(LoadError):
        configured_tree(demo(tree=bare), placement)


def test_rm_answers_and_refuses_at_the_prompt(system: gunyah.System) -> None:
    rm = system.primary.rm
    assert rm.vm_get_vmid() == 3
    assert rm.vm_get_owner() == 255
    vmid = rm.vm_allocate()
    assert rm.vm_get_peers() == (vmid,)
    assert rm.vm_get_state(vmid).vm_status == VmStatus.LOAD
    rm.vm_deallocate(vmid)
    with pytest.raises(RmRefused, match="VM_GET_STATE → NORESOURCE: there is no VM 128") as refused:
        rm.vm_get_state(vmid)
    assert (refused.value.error, refused.value.message) == (RmError.NORESOURCE, MessageId.VM_GET_STATE)


def test_notifications_come_in_order_and_can_be_waited_for(system: gunyah.System) -> None:
    rm = system.primary.rm
    vm = system.primary.vm(demo())
    vm.start()
    assert rm.wait_notification(NotificationId.VM_EXITED).payload == vm.exit
    names = [notice.name for notice in rm.notifications()]
    assert names.count("VM_STATUS") == len(names)
    with pytest.raises(TimeoutError, match=r"no VM_EXITED within 0\.1 s"):
        rm.wait_notification(NotificationId.VM_EXITED, timeout=0.1)
    vm.deallocate()
