"""Several VMs under one debugger: Python ones, and native ones that the primary VM has started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gunyah.host.gdb.server import GdbServer
from gunyah.host.loop import HostLoop
from gunyah.hypervisor.vcpu import Vcpu
from gunyah.system import System
from gunyah.vmm.images import Segment, parse_image
from gunyah.vmm.vm_config import VmSettings

from .rig import AT, GUEST, PC, Client

START = AT["_start"]


class PythonMachine:
    """A system with the Linux stack in Python as its primary VM, and a stub."""

    def __init__(self) -> None:
        self.loop = HostLoop()
        self.system = System(clock="virtual", seed=1, host=self.loop)
        self.system.start()
        self.server = GdbServer(self.loop, self.system.hypervisor, 0)

    def vcpu(self, vmid: int) -> Vcpu:
        """The boot vCPU of a VM."""
        return next(v for v in self.system.hypervisor.vcpus.values() if v.vmid == vmid and v.vic_index == 0)

    def start_native(self, name: str) -> int:
        """Let the primary VM start the guest; its VMID."""
        (segment,) = [segment for segment in parse_image(GUEST.read_bytes(), "guest").segments if segment.data]
        assert isinstance(segment, Segment)
        image = parse_image(segment.data, name)
        vm = self.system.primary.vm(VmSettings(name=name, image=image, memory=4 << 20, console="none"))
        vm.start()
        return int(vm.vmid)


@pytest.fixture
def machine() -> Iterator[PythonMachine]:
    machine = PythonMachine()
    yield machine
    machine.server.close(linger=0.0)
    machine.system.close()
    machine.loop.close()


def test_a_machine_of_python_vms_can_be_looked_at_stopped_and_resumed(machine: PythonMachine) -> None:
    gdb = Client(machine)
    assert gdb.ask("?") == "T05thread:p3.1;"
    assert not machine.vcpu(3).runnable and not machine.vcpu(3).blocks & ~256 & ~8
    assert len(gdb.ask("g")) > 2 * 8 * 31
    assert "Python program" in gdb.ask("vCont;s:p3.1")
    gdb.ask("D;3")
    gdb.socket.close()
    machine.system.run(lambda: not machine.server.connected)
    assert machine.system.primary.tty("ttyGH0").write(b"x") == 1


def test_two_native_vms_are_debugged_apart(machine: PythonMachine) -> None:
    first, second = machine.start_native("a"), machine.start_native("b")
    machine.system.run(timeout=0.01)
    gdb = Client(machine)
    # A native VM is the one that gdb finds.
    assert gdb.ask("?") == f"T05thread:p{first:x}.1;"
    base = gdb.pc & ~0xFFF
    assert AT["wait"] - START <= gdb.pc - base <= AT["finish"] - START
    work = base + AT["work"] - START
    assert gdb.ask(f"Z0,{work:x},4") == "OK"
    # The other one runs on meanwhile, over the same address.
    before = machine.vcpu(second).run_ticks
    machine.system.run(lambda: machine.vcpu(second).run_ticks > before)
    assert gdb.set_register(PC, base) == "OK"
    assert gdb.ask(f"vCont;c:p{first:x}.-1") == f"T05thread:p{first:x}.1;swbreak:;"
    assert gdb.pc == work

    assert gdb.ask(f"vAttach;{second:x}") == f"T00thread:p{second:x}.1;"
    other = gdb.pc & ~0xFFF
    assert gdb.set_register(PC, other) == "OK"
    # Its memory is its own: nobody has put a breakpoint there.
    hardware = other + AT["again"] - START
    assert gdb.ask(f"Z1,{hardware:x},4") == "OK"
    assert gdb.ask(f"vCont;c:p{second:x}.-1") == f"T05thread:p{second:x}.1;hwbreak:;"
    gdb.ask(f"z1,{hardware:x},4")
    counter = other + AT["counter"] - START
    assert gdb.ask(f"Z2,{counter:x},8") == "OK"
    assert gdb.ask(f"vCont;c:p{second:x}.-1") == f"T05thread:p{second:x}.1;watch:{counter:x};"
    assert gdb.ask(f"Hgp{first:x}.1") == "OK" and gdb.pc == work


def test_a_native_vm_that_comes_later_can_be_attached_to(machine: PythonMachine) -> None:
    gdb = Client(machine)
    assert gdb.ask("D;3") == "OK"
    vmid = machine.start_native("late")
    machine.system.run(timeout=0.01)
    assert f'<column name="pid">{vmid}</column>' in gdb.ask("qXfer:osdata:read:processes:0,1000")
    assert gdb.ask(f"vAttach;{vmid:x}") == f"T00thread:p{vmid:x}.1;"
    before = gdb.pc
    assert gdb.ask(f"vCont;s:p{vmid:x}.1") == f"T05thread:p{vmid:x}.1;"
    assert gdb.pc != before


def test_a_vm_that_ends_is_a_process_that_has_exited(machine: PythonMachine) -> None:
    vmid = machine.start_native("a")
    machine.system.run(timeout=0.01)
    gdb = Client(machine)
    base = gdb.pc & ~0xFFF
    assert gdb.set_register(PC, base + AT["finish"] - START) == "OK"
    assert gdb.ask(f"vCont;c:p{vmid:x}.-1") == f"W00;process:{vmid:x}"
    assert gdb.ask("?") == "W00"
    assert machine.system.stopped is None
