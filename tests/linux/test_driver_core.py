import errno

import pytest

from gunyah.abi.identify import UID_PUBLIC, UID_QUALCOMM_V4, UID_V4
from gunyah.guest.fdt import FdtError
from gunyah.linux.device import Device, Driver
from gunyah.linux.errno import ProbeDefer
from gunyah.linux.sysfs import UID_QUALCOMM_PUBLIC

from .scripted import DTB, TREE, Machine

RM_NODE = "hypervisor:gunyah-resource-mgr@0"


# -- identification and its files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", [UID_PUBLIC, UID_V4, UID_QUALCOMM_V4, UID_QUALCOMM_PUBLIC])
def test_every_spelling_of_the_uid_is_recognised(uid):
    machine = Machine(uid=uid)
    sysfs = machine.kernel.sysfs
    assert sysfs.read("/sys/hypervisor/type") == b"gunyah\n"
    assert sysfs.read("/sys/hypervisor/gunyah/api") == b"1\n"
    assert sysfs.read("/sys/hypervisor/gunyah/variant") == b"81\n"
    assert sysfs.read("/sys/hypervisor/gunyah/features") == b"cspace message-queue \n"
    assert "gunyah: Running under Gunyah hypervisor 51/v1" in machine.kernel.log.text()
    with pytest.raises(PermissionError):
        sysfs.write("/sys/hypervisor/gunyah/api", b"2")


def test_another_hypervisor_gets_no_files_and_no_message_but_the_drivers_work():
    machine = Machine(uid=(0xFFFF_FFFF, 0, 0, 0))
    assert not machine.kernel.sysfs.exists("/sys/hypervisor")
    assert [record for record in machine.kernel.log.records if record.level < 7] == []
    assert machine.kernel.tty_names() == ["ttyGH0", "ttyGH1"]


def test_an_unknown_api_version_is_told_once():
    machine = Machine(api=0x5100_0000_0000_8002)
    assert not machine.kernel.sysfs.exists("/sys/hypervisor")
    assert machine.kernel.log.text().count("Unrecognized gunyah version: 2") == 1


def test_module_exit_removes_what_init_made():
    machine = Machine()
    machine.do(machine.kernel.gunyah.exit)
    assert machine.kernel.sysfs.listdir("/sys/hypervisor") == []
    machine.do(machine.kernel.gunyah.exit)
    machine.do(machine.kernel.gunyah.init)
    assert machine.kernel.sysfs.read("/sys/hypervisor/gunyah/api") == b"1\n"


# -- the device tree -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("reg = <0x1", "gone = <0x1", "there is no reg property"),
        (">, <0x11110000 0x22220002>", ">", "reg has 1 64-bit entries, 1 is missing"),
        ("interrupts = <GIC_SPI", "gone = <GIC_SPI", "there is no interrupts property"),
        (", <GIC_SPI 4 IRQ_TYPE_EDGE_RISING>", "", "interrupts has 1 entries, 1 is missing"),
        ("GIC_SPI 4 IRQ_TYPE_EDGE_RISING", "GIC_SPI 4", "interrupts has 5 cells, the controller takes 3 each"),
        ("GIC_SPI 3 IRQ", "7 3 IRQ", "is not <0|1 number flags>"),
        ("GIC_SPI 3 IRQ_TYPE_EDGE_RISING", "GIC_SPI 3 7", "flags 0x7 name no trigger type"),
        ("GIC_SPI 3 ", "GIC_SPI 988 ", "number 988 is not below 988"),
        ("interrupts = <GIC_SPI", "qcom,tx-message-size = <8>; interrupts = <GIC_SPI", "at least 32 is needed"),
        ("interrupt-parent = <&gic>", "interrupt-parent = <99>", "refers to a node that does not exist"),
    ],
)
def test_a_wrong_node_fails_the_probe_with_one_sentence_and_nothing_else(old, new, words):
    tree = TREE.replace(old, new, 1)
    assert tree != TREE
    machine = Machine(tree=tree)
    lines = [record.text for record in machine.kernel.log.records if record.level <= 4]
    assert len(lines) == 1 and lines[0].startswith(f"gh_rsc_mgr: probe of {RM_NODE} failed with") and words in lines[0]
    assert machine.kernel.resource_managers == []
    assert machine.kernel.services.heap.free_bytes == machine.kernel.services.heap.total
    assert not {35, 36} & machine.cpu.enabled
    assert not machine.kernel.oopses


def test_a_tree_that_cannot_be_used_ends_the_vm_with_one_sentence():
    with pytest.raises(FdtError, match=f"the device tree at {DTB:#x} cannot be used: not a device tree"):
        _boot_with(bytes(64))
    with pytest.raises(FdtError, match="no memory node with reg"):
        Machine(tree=TREE.replace('device_type = "memory"', 'device_type = "x"'))


def _boot_with(blob):
    machine = Machine()
    machine.cpu.write(DTB, blob)
    machine.kernel.main(machine.cpu, DTB)


def test_without_a_bus_above_it_the_rm_node_becomes_no_device():
    machine = Machine(tree=TREE.replace('"gunyah-hypervisor", "simple-bus"', '"gunyah-hypervisor-1.0"'))
    assert [dev.name for dev in machine.kernel.platform.devices] == ["8000000.intc", "hypervisor"]


def test_the_later_hypervisor_driver_makes_the_devices_itself_and_takes_them_away():
    machine = Machine(tree=TREE.replace('"gunyah-hypervisor", "simple-bus"', '"gunyah-hypervisor"'))
    assert machine.kernel.tty_names() == ["ttyGH0", "ttyGH1"]
    machine.do(machine.kernel.sysfs.write, "/sys/bus/platform/drivers/gunyah/unbind", b"hypervisor\n")
    assert machine.kernel.tty_names() == []
    assert [dev.name for dev in machine.kernel.platform.devices] == ["8000000.intc", "hypervisor"]
    machine.do(machine.kernel.sysfs.write, "/sys/bus/platform/drivers/gunyah/bind", b"hypervisor\n")
    assert machine.kernel.tty_names() == ["ttyGH0", "ttyGH1"]


def test_memory_that_is_reserved_is_not_heap():
    extra = (
        "reserved-memory { #address-cells = <2>; #size-cells = <2>; ranges; r@0 { reg = <0 0x40300000 0 0x1000>; }; };"
        " memory@40000000"
    )
    tree = TREE.replace("memory@40000000", extra, 1).replace("/ {", "/memreserve/ 0x40400000 0x2000; / {", 1)
    heap = Machine(tree=tree).kernel.services.heap
    taken = [(base, end) for (_, base), (end, _) in zip(heap._free, heap._free[1:], strict=False)]
    assert (0x4030_0000, 0x4030_1000) in taken and (0x4040_0000, 0x4040_2000) in taken


# -- drivers ---------------------------------------------------------------------------------------------------------


class Supplier(Driver):
    name = "supplier"

    def __init__(self):
        self.there = False

    def probe(self, dev):
        self.there = True


class Consumer(Driver):
    name = "consumer"

    def __init__(self, supplier):
        self.supplier = supplier
        self.log = []

    def probe(self, dev):
        self.log.append("probe")
        dev.on_release(lambda: self.log.append("released"))
        if not self.supplier.there:
            raise ProbeDefer("the supplier is not there yet")

    def remove(self, dev):
        self.log.append("remove")


def test_a_deferred_probe_is_repeated_when_something_else_was_bound():
    machine = Machine()
    bus = machine.kernel.auxiliary
    bus.match = lambda dev, driver: dev.name == driver.name
    supplier = Supplier()
    consumer = Consumer(supplier)
    device = Device("consumer")

    def main():
        bus.register_driver(consumer)
        bus.add_device(device)
        assert device.driver is None and bus.core.deferred == [device]
        bus.register_driver(supplier)
        bus.add_device(Device("supplier"))
        machine.kernel.services.workqueues.system.flush()
        assert device.driver is consumer and bus.core.deferred == []
        bus.unregister_driver(consumer)
        assert device.driver is None
        bus.remove_device(device)

    machine.do(main)
    assert consumer.log == ["probe", "released", "probe", "remove", "released"]


def test_bind_and_unbind_name_a_device_and_refuse_others():
    machine = Machine()
    write = machine.kernel.sysfs.write
    base = "/sys/bus/platform/drivers/gh_rsc_mgr/"
    for file, name in (("unbind", b"nothing"), ("bind", b"hypervisor"), ("bind", RM_NODE.encode())):
        with pytest.raises(OSError, match=r"no device that|does not match") as failure:
            machine.do(write, base + file, name)
        assert failure.value.errno == errno.ENODEV
    assert "driver" in machine.kernel.sysfs.listdir(f"/sys/bus/platform/devices/{RM_NODE}")
    machine.do(write, base + "unbind", RM_NODE.encode())
    assert "driver" not in machine.kernel.sysfs.listdir(f"/sys/bus/platform/devices/{RM_NODE}")


def test_calls_that_wait_when_the_device_goes_end_with_an_error():
    machine = Machine()
    gh = machine.gh
    machine.rm = lambda packet: []
    waiting = machine.kernel.submit(gh.call, 0x5600_0042)
    machine.run(seconds=0.1)
    machine.do(machine.kernel.platform.unbind, gh.dev)
    assert machine.run(lambda: waiting.done, 1)
    with pytest.raises(OSError, match="connection is gone") as failure:
        waiting.result()
    assert failure.value.errno == errno.ENODEV
    with pytest.raises(OSError, match="connection is gone"):
        machine.do(gh.call, 0x5600_0042)


def test_the_tree_of_sysfs_links_devices_buses_and_classes():
    sysfs = Machine().kernel.sysfs
    assert sysfs.listdir("/sys/bus") == ["auxiliary", "platform"]
    assert sysfs.listdir("/sys/bus/auxiliary/devices") == ["gunyah_rsc_mgr.console.0"]
    target = sysfs.readlink("/sys/bus/auxiliary/devices/gunyah_rsc_mgr.console.0")
    assert target == f"../../../devices/platform/hypervisor/{RM_NODE}/gunyah_rsc_mgr.console.0"
    assert sysfs.read(f"/sys/devices/platform/hypervisor/{RM_NODE}/uevent") == b"DRIVER=gh_rsc_mgr\n"
    assert sysfs.listdir("/sys/class/tty") == ["ttyGH0", "ttyGH1"]
    for path, kind in (("/sys/nowhere", FileNotFoundError), ("/sys/bus", IsADirectoryError)):
        with pytest.raises(kind):
            sysfs.read(path)
    with pytest.raises(NotADirectoryError):
        sysfs.listdir("/sys/hypervisor/type")


# -- processes and files ---------------------------------------------------------------------------------------------


def test_processes_open_files_by_path():
    machine = Machine()
    kernel = machine.kernel

    def main():
        assert kernel.open("/proc/cmdline").read(100) == b"console=ttynull quiet\n"
        assert b"gh_msgq_rx" in kernel.open("/proc/interrupts").read(4096)
        assert kernel.open("/sys/hypervisor/gunyah/variant").read(10) == b"81\n"
        assert kernel.open("/dev/null").write(b"x") == 1
        kernel.open("/dev/kmsg").write(b"from a process\n")
        with kernel.open("/dev/ttyGH0") as file:
            assert file.name == "ttyGH0"
        with pytest.raises(FileNotFoundError):
            kernel.open("/etc/passwd")
        assert kernel.vfs.listdir("/dev") == ["console", "kmsg", "null", "ttyGH0", "ttyGH1"]

    machine.do(main)
    assert "from a process" in kernel.log.text()


def test_a_process_that_fails_is_reported_and_the_others_go_on():
    machine = Machine()
    machine.kernel.post(lambda: machine.kernel.spawn(lambda: 1 / 0, name="bad"))
    assert machine.do(lambda: "fine") == "fine"
    assert "task bad ended with ZeroDivisionError" in machine.kernel.log.text()
    assert "ZeroDivisionError" in machine.kernel.oopses[0]
