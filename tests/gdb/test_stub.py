"""The stub over a running machine: what gdb may ask, and what guests notice of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from gunyah.host.gdb.breakpoints import BRK
from gunyah.host.gdb.registers import GENERAL, REGISTERS
from gunyah.host.gdb.server import HOST
from gunyah.machine.engine import MDCR

from .rig import AT, CPSR, PC, ROOT, SP, V0, Client, Machine

NAMES = {register.name: number for number, register in enumerate(REGISTERS)}


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture
def gdb(machine: Machine) -> Client:
    return Client(machine)


def text_at(machine: Machine, name: str, size: int = 4) -> bytes:
    return machine.hv.memory.read(AT[name], size)


# -- stopping and looking ----------------------------------------------------------------------------------------------


def test_a_held_vm_has_not_run_an_instruction(gdb: Client) -> None:
    assert gdb.ask("?") == "T05thread:p3.1;"
    assert gdb.pc == AT["_start"]


def test_every_vcpu_is_a_thread_and_every_vm_a_process(gdb: Client) -> None:
    assert gdb.ask("qfThreadInfo") == "mp3.1,p3.2"
    processes = gdb.ask("qXfer:osdata:read:processes:0,1000")
    assert '<column name="pid">3</column>' in processes and '<column name="pid">255</column>' in processes
    threads = gdb.ask("qXfer:threads:read::0,1000")
    assert 'id="p3.2"' in threads and "paused" in threads


def test_a_software_breakpoint_stops_there_and_is_not_seen_in_memory(machine: Machine, gdb: Client) -> None:
    before = text_at(machine, "work")
    assert gdb.ask(f"Z0,{AT['work']:x},4") == "OK"
    assert machine.hv.memory.read(AT["work"], 4) == BRK
    assert gdb.read(AT["work"] - 6, 12)[6:10] == before
    assert gdb.go() == "T05thread:p3.1;swbreak:;"
    assert gdb.pc == AT["work"] and gdb.register(0) == 3
    assert gdb.ask(f"z0,{AT['work']:x},4") == "OK"
    assert text_at(machine, "work") == before


def test_stepping_from_a_breakpoint_executes_what_it_hides(machine: Machine, gdb: Client) -> None:
    gdb.ask(f"Z0,{AT['work']:x},4")
    gdb.go()
    assert gdb.step() == "T05thread:p3.1;"
    assert gdb.pc == AT["work"] + 4
    assert machine.hv.memory.read(AT["work"], 4) == BRK
    assert gdb.go() == "T05thread:p3.1;swbreak:;" and gdb.register(0) == 2


def test_writing_over_a_breakpoint_changes_what_it_hides(machine: Machine, gdb: Client) -> None:
    gdb.ask(f"Z0,{AT['work']:x},4")
    nop = bytes.fromhex("1f2003d5")
    assert gdb.ask(f"M{AT['work']:x},4:{nop.hex()}") == "OK"
    assert gdb.read(AT["work"], 4) == nop and machine.hv.memory.read(AT["work"], 4) == BRK
    gdb.ask(f"z0,{AT['work']:x},4")
    assert text_at(machine, "work") == nop


def test_a_hardware_breakpoint_stops_without_changing_memory(machine: Machine, gdb: Client) -> None:
    before = text_at(machine, "work")
    assert gdb.ask(f"Z1,{AT['work']:x},4") == "OK"
    assert gdb.go() == "T05thread:p3.1;hwbreak:;"
    assert gdb.pc == AT["work"] and text_at(machine, "work") == before
    gdb.step()
    assert gdb.go() == "T05thread:p3.1;hwbreak:;" and gdb.register(0) == 2
    gdb.ask(f"z1,{AT['work']:x},4")
    assert gdb.go() == "W00;process:3"


def test_there_are_six_breakpoint_registers(gdb: Client) -> None:
    for n in range(6):
        assert gdb.ask(f"Z1,{AT['work'] + 4 * n:x},4") == "OK"
    assert gdb.ask(f"Z1,{AT['work'] + 64:x},4").startswith("E.")


@pytest.mark.parametrize(("kind", "reply"), [(2, "watch"), (4, "awatch")])
def test_a_watchpoint_stops_before_the_write(gdb: Client, kind: int, reply: str) -> None:
    gdb.ask(f"Z0,{AT['work']:x},4")
    gdb.go()
    gdb.ask(f"z0,{AT['work']:x},4")
    if kind == 4:
        gdb.step()
    assert gdb.ask(f"Z{kind},{AT['counter']:x},8") == "OK"
    assert gdb.go() == f"T05thread:p3.1;{reply}:{AT['counter']:x};"
    assert gdb.pc == AT["work"] + 8
    assert gdb.read(AT["counter"], 8) == bytes(8)
    gdb.step()
    assert gdb.read(AT["counter"], 8) == (3).to_bytes(8, "little")


def test_a_read_watchpoint_stops_before_the_read(gdb: Client) -> None:
    assert gdb.ask(f"Z3,{AT['counter'] + 6:x},2") == "OK"
    assert gdb.go() == f"T05thread:p3.1;rwatch:{AT['counter'] + 6:x};"
    assert gdb.pc == AT["work"]
    assert gdb.ask(f"z3,{AT['counter'] + 6:x},2") == "OK"
    assert gdb.go() == "W00;process:3"


# -- stepping ----------------------------------------------------------------------------------------------------------


def test_a_step_over_a_call_to_the_hypervisor_is_one_instruction(gdb: Client) -> None:
    gdb.ask(f"Z0,{AT['wait'] - 8:x},4")
    gdb.go()
    assert gdb.pc == AT["wait"] - 8
    gdb.step()
    assert gdb.pc == AT["wait"] - 4 and gdb.register(0) == 0


def test_a_step_over_a_device_access_is_one_instruction(machine: Machine, gdb: Client) -> None:
    gdb.jump("device")
    for n in range(1, 5):
        gdb.step()
        assert gdb.pc == AT["device"] + 4 * n
    assert bytes(machine.primary.output) == b"!"
    assert gdb.register(2) & 0x80


def test_a_step_over_wfi_does_not_wait(gdb: Client) -> None:
    gdb.jump("parked")
    assert gdb.step() == "T05thread:p3.1;" and gdb.pc == AT["parked"] + 4
    assert gdb.step() == "T05thread:p3.1;" and gdb.pc == AT["parked"]


def test_ctrl_c_stops_a_vcpu_that_sleeps(machine: Machine, gdb: Client) -> None:
    gdb.jump("parked")
    gdb.send("vCont;c:p3.1")
    machine.run(lambda: machine.vcpu().blocks & 8 != 0)
    gdb.socket.sendall(b"\x03")
    assert gdb.answer() == b"T02thread:p3.1;"
    assert gdb.pc == AT["parked"] + 4


def test_a_step_into_an_exception_stops_at_the_vector_and_leaves_no_trace(gdb: Client) -> None:
    gdb.ask(f"Z0,{AT['again']:x},4")
    gdb.go()
    gdb.ask(f"z0,{AT['again']:x},4")
    gdb.jump("own_break")
    gdb.step()
    gdb.step()
    assert gdb.pc == AT["vectors"] + 0x200
    assert gdb.register(NAMES["ESR_EL1"]) == 0xF2000123
    assert gdb.register(NAMES["ELR_EL1"]) == AT["own_break"] + 4
    assert not gdb.register(NAMES["SPSR_EL1"]) & 1 << 21
    for _ in range(7):
        gdb.step()
    assert gdb.pc == AT["own_break"] + 12 and gdb.register(7) == 2


def test_a_step_over_a_range_is_one_request(gdb: Client) -> None:
    assert gdb.ask(f"vCont;r{AT['_start']:x},{AT['again']:x}:p3.1") == "T05thread:p3.1;"
    assert gdb.pc == AT["again"]


def test_a_step_over_a_range_stops_at_a_breakpoint_inside(gdb: Client) -> None:
    gdb.ask(f"Z0,{AT['_start'] + 8:x},4")
    assert gdb.ask(f"vCont;r{AT['_start']:x},{AT['again']:x}:p3.1") == "T05thread:p3.1;swbreak:;"
    assert gdb.pc == AT["_start"] + 8


def test_ctrl_c_stops_a_guest_that_never_stops_by_itself(gdb: Client) -> None:
    gdb.jump("spin")
    gdb.send("vCont;c:p3.-1")
    gdb.socket.sendall(b"\x03")
    assert gdb.answer() == b"T02thread:p3.1;"
    assert AT["spin"] <= gdb.pc <= AT["spin"] + 4


# -- registers ---------------------------------------------------------------------------------------------------------


def test_registers_are_read_and_written(gdb: Client) -> None:
    for number, value in ((5, 0x1234_5678_9ABC_DEF0), (30, 0x77), (SP, 0x4200_0000)):
        assert gdb.set_register(number, value) == "OK"
        assert gdb.register(number) == value
    assert gdb.set_register(V0 + 31, 1 << 127 | 5, 16) == "OK"
    assert gdb.register(V0 + 31) == 1 << 127 | 5
    assert gdb.register(CPSR) == 0x3C5
    assert gdb.set_register(CPSR, 0x8000_0005, 4) == "OK"
    assert gdb.register(CPSR) == 0x8000_0005


def test_all_general_registers_come_and_go_at_once(gdb: Client) -> None:
    everything = gdb.ask("g")
    assert len(everything) == 2 * sum(register.size for register in REGISTERS[:GENERAL])
    changed = (7).to_bytes(8, "little").hex() + everything[16:]
    assert gdb.ask("G" + changed) == "OK"
    assert gdb.register(0) == 7 and gdb.ask("g") == changed


def test_system_registers_are_those_of_el1(machine: Machine, gdb: Client) -> None:
    gdb.ask(f"Z0,{AT['again']:x},4")
    gdb.go()
    assert gdb.register(NAMES["VBAR_EL1"]) == AT["vectors"]
    assert gdb.register(NAMES["SCTLR_EL1"]) == 0x30D0_0800
    assert gdb.set_register(NAMES["TPIDR_EL0"], 0x99) == "OK"
    assert machine.executor().context.registers.read("TPIDR_EL0") == 0x99


@pytest.mark.parametrize("pstate", [0x3C9, 0x3CD, 0x1D3, 0x3C6])
def test_no_debugger_puts_a_guest_into_a_state_above_its_own(gdb: Client, pstate: int) -> None:
    assert gdb.set_register(CPSR, pstate, 4).startswith("E.")
    assert gdb.register(CPSR) == 0x3C5


# -- memory ------------------------------------------------------------------------------------------------------------


def test_memory_is_read_and_written_in_both_spellings(gdb: Client) -> None:
    address = AT["counter"]
    assert gdb.ask(f"M{address:x},3:0a0b0c") == "OK"
    assert gdb.ask(b"X%x,4:}\x03}\x04}]" % (address + 3)) == "E01"
    assert gdb.ask(b"X%x,4:}\x03}\x04a}]" % (address + 3)) == "OK"
    assert gdb.read(address, 7) == b"\x0a\x0b\x0c#$a}"
    assert gdb.ask(f"x{address:x},7") == "b\x0a\x0b\x0c}\x03}\x04a}]"


@pytest.mark.parametrize("address", [0, 0x3FFF_F000, 0x8048_0000, 0xFFFF_FFFF_FFFF_FFFC, 0x0900_0000])
def test_what_is_not_the_vms_memory_is_error_14(gdb: Client, address: int) -> None:
    assert gdb.ask(f"m{address:x},4") == "E14"
    assert gdb.ask(f"M{address:x},4:00000000") == "E14"
    assert gdb.ask(f"Z0,{address & ~3:x},4") == "E14"


def test_a_read_that_leaves_memory_gives_what_there_is(gdb: Client) -> None:
    end = 0x4000_0000 + (64 << 20)
    assert len(gdb.read(end - 5, 100)) == 5


def test_memory_is_the_guests_own_view_when_its_mmu_is_on(machine: Machine, gdb: Client) -> None:
    mapped = AT["mapped"] + 0x4000_0000
    gdb.jump("mmu")
    assert gdb.ask(f"Z1,{mapped:x},4") == "OK"
    assert gdb.go() == "T05thread:p3.1;hwbreak:;"
    assert gdb.pc == mapped
    assert gdb.read(mapped, 4) == text_at(machine, "mapped")
    assert gdb.ask("mc0000000,4") == "E14"
    # The page is read-only for the guest, and a debugger's writes get there all the same.
    gdb.ask(f"z1,{mapped:x},4")
    assert gdb.ask(f"Z0,{mapped + 8:x},4") == "OK"
    assert machine.hv.memory.read(AT["mapped"] + 8, 4) == BRK
    assert gdb.go() == "T05thread:p3.1;swbreak:;"
    assert gdb.register(8) == 0x55


# -- more than one vCPU ------------------------------------------------------------------------------------------------


def test_the_second_vcpu_stops_and_the_first_with_it(machine: Machine, gdb: Client) -> None:
    gdb.ask(f"Z0,{AT['second']:x},4")
    assert gdb.go() == "T05thread:p3.2;swbreak:;"
    assert gdb.pc == AT["second"] and gdb.register(0) == 0x77
    assert gdb.ask("Hgp3.1") == "OK"
    assert AT["again"] < gdb.pc < AT["finish"]
    assert gdb.step("p3.2") == "T05thread:p3.2;"
    assert gdb.pc == AT["second"] + 4


def test_one_vcpu_runs_while_the_other_stays(gdb: Client) -> None:
    gdb.ask(f"Z0,{AT['second']:x},4")
    gdb.go()
    gdb.ask(f"z0,{AT['second']:x},4")
    gdb.ask(f"Z0,{AT['finish']:x},4")
    gdb.send("vCont;c:p3.1")
    gdb.socket.sendall(b"\x03")
    assert gdb.answer() == b"T02thread:p3.1;"
    assert gdb.read(AT["flag"], 8) == bytes(8)
    assert gdb.go() == "T05thread:p3.1;swbreak:;"


# -- other VMs ---------------------------------------------------------------------------------------------------------


def test_a_python_vm_is_a_process_that_shows_registers_and_memory_and_does_not_step(
    machine: Machine, gdb: Client
) -> None:
    assert gdb.ask("vAttach;ff") == "T00thread:pff.1;"
    assert gdb.ask("g")[2 * 8 * 31 : 2 * 8 * 32] == "x" * 16
    assert gdb.register(0) == machine.vcpu(0, ROOT).x[0]
    assert b"GUNYAHPY" in gdb.read(gdb.pc, 64)
    assert "cannot" in gdb.set_register(0, 1)
    assert gdb.ask("vCont;s:pff.1").startswith("E.VM 255 is a Python program")
    assert gdb.ask(f"Z0,{gdb.pc:x},4").startswith("E.VM 255 is a Python program")
    assert gdb.ask("D;ff") == "OK"
    assert gdb.ask("qfThreadInfo") == "mp3.1,p3.2"


def test_stopping_one_vm_does_not_stop_the_others(machine: Machine, gdb: Client) -> None:
    root = machine.vcpu(0, ROOT)
    before = root.run_ticks
    root.wake()
    machine.run(lambda: root.run_ticks > before)
    assert gdb.pc == AT["_start"]


def test_a_breakpoint_of_another_vm_in_shared_memory_is_passed_over(machine: Machine, gdb: Client) -> None:
    connection = machine.server._connection
    assert connection is not None
    connection.conversation.target.breakpoints.insert(99, 0x1234_5678, AT["work"])
    connection.conversation.target.breakpoints.insert(99, 0x1234_0000, AT["wait"])
    assert gdb.go() == "W00;process:3"
    assert machine.hv.memory.read_u64(AT["counter"]) == 6


# -- the guest's own debug facilities ----------------------------------------------------------------------------------


def test_a_guests_own_brk_goes_to_its_own_vector(gdb: Client) -> None:
    gdb.ask(f"Z0,{AT['again']:x},4")
    gdb.go()
    gdb.jump("own_break")
    gdb.ask(f"Z0,{AT['own_break'] + 8:x},4")
    assert gdb.go() == "T05thread:p3.1;swbreak:;"
    assert gdb.register(10) == 0xF2000123
    assert gdb.register(11) == AT["own_break"] + 8
    assert gdb.register(12) & 0xFFF == 0x3C5


def test_a_guest_reads_in_its_debug_registers_what_it_wrote(machine: Machine, gdb: Client) -> None:
    gdb.jump("own_debug")
    gdb.ask(f"Z1,{AT['after_own_debug']:x},4")
    assert gdb.go() == "T05thread:p3.1;hwbreak:;"
    assert (gdb.register(2), gdb.register(3), gdb.register(4)) == (0x8000, 0x1000, 10)
    gdb.ask("D")
    core = machine.executor().context.core
    assert core is not None
    registers = machine.executor().context.registers
    assert registers.read("MDSCR_EL1") == 0x8000
    assert not registers.read("MDCR_EL2") & MDCR.TDE


# -- coming and going --------------------------------------------------------------------------------------------------


def nothing_is_left(machine: Machine) -> None:
    assert not machine.server.connected
    assert text_at(machine, "work") != BRK
    assert all(not vcpu.blocks & 256 for vcpu in machine.hv.vcpus.values())
    assert machine.hv.native_cpu is not None and machine.hv.native_cpu.debugger is None


def test_after_detaching_the_machine_is_as_before(machine: Machine, gdb: Client) -> None:
    gdb.ask(f"Z0,{AT['work']:x},4")
    gdb.ask(f"Z2,{AT['flag']:x},8")
    gdb.go()
    gdb.jump("spin")
    assert gdb.ask("D;3") == "OK"
    gdb.socket.close()
    machine.run(lambda: not machine.server.connected)
    nothing_is_left(machine)
    assert machine.vcpu().runnable


def test_a_gdb_that_disappears_leaves_nothing_behind(machine: Machine, gdb: Client) -> None:
    gdb.ask(f"Z0,{AT['work']:x},4")
    gdb.ask(f"Z1,{AT['finish']:x},4")
    gdb.go()
    gdb.jump("spin")
    gdb.socket.close()
    machine.run(lambda: not machine.server.connected)
    nothing_is_left(machine)
    assert machine.vcpu().runnable


def test_another_gdb_may_come_afterwards_and_none_meanwhile(machine: Machine, gdb: Client) -> None:
    second = socket.create_connection((HOST, machine.server.port))
    second.settimeout(0)
    refused: list[bytes] = []

    def closed() -> bool:
        try:
            refused.append(second.recv(1))
        except BlockingIOError:
            return False
        return True

    machine.run(closed)
    assert refused == [b""]
    gdb.jump("spin")
    gdb.socket.close()
    machine.run(lambda: not machine.server.connected)
    assert Client(machine).ask("?").startswith("T05thread:p3.")


def test_a_killed_primary_vm_is_a_machine_that_is_off(machine: Machine, gdb: Client) -> None:
    gdb.send("vKill;3")
    machine.run(lambda: False)
    assert machine.system.stopped == "off"


def test_power_off_is_the_end_of_the_process(gdb: Client) -> None:
    assert gdb.go() == "W00;process:3"


def test_a_reset_is_an_end_with_its_exit_status(gdb: Client) -> None:
    gdb.jump("finish")
    gdb.step()
    gdb.step()
    gdb.set_register(0, 0x8400_0009)
    assert gdb.go() == "W03;process:3"


def test_a_system_without_a_debugger_has_nothing_of_it() -> None:
    with Machine(wait=False) as machine:
        machine.run(lambda: False)
        assert machine.system.stopped == "off"
        assert machine.hv.native_cpu is not None and machine.hv.native_cpu.debugger is None


# -- non-stop ----------------------------------------------------------------------------------------------------------


def test_in_non_stop_mode_each_vcpu_stops_alone(machine: Machine) -> None:
    gdb = Client(machine)
    assert gdb.ask("QNonStop:1") == "OK"
    assert gdb.ask("?") == "T00thread:p3.1;"
    assert gdb.ask("vStopped") == "OK"
    assert gdb.answer() == b"Stop:T00thread:p3.2;"
    assert gdb.ask("vStopped") == "OK"
    gdb.ask(f"Z0,{AT['second']:x},4")
    assert gdb.ask("vCont;c") == "OK"
    assert gdb.answer() == b"Stop:T05thread:p3.2;swbreak:;"
    assert gdb.ask("vStopped") == "OK"
    first = machine.vcpu(0)
    assert first.runnable
    assert gdb.ask("vCont;t:p3.1") == "OK"
    assert gdb.answer() == b"Stop:T00thread:p3.1;"
    assert gdb.ask("vStopped") == "OK"
    assert not first.runnable
    assert gdb.ask("Hgp3.1") == "OK"
    assert AT["wait"] <= gdb.pc < AT["finish"]


# -- hostile clients ---------------------------------------------------------------------------------------------------

NONSENSE = [
    "", "p", "pffffffffffffffffffff", "pffff", "P", "P0=", "P0=zz", "P21=00", "g1", "Gzz", "G" + "00" * 7, "m", "m0",
    "m,", "mzz,4", "m41000000,ffffffffffffffff", "mffffffffffffffff,ffffffffffffffff", "M41000000,4:00", "M0", "X0,4:a",
    "X41000000,1:}", "Z", "Z0", "Z0,1,4", "Z0,41000000,8", "Z2,41000000,0", "Z2,41000000,ffffffff", "Z9,0,4", "z0,8,4",
    "Z2,fffffffffffffffe,4", "H", "Hx1", "Hg", "Hgp", "Hgp3.9", "Hgp99.1", "T", "T99", "D;99", "vCont", "vCont;",
    "vCont;x", "vCont;r", "vCont;r1:p3.1", "vCont;c:p3.zz", "vAttach;", "vAttach;7", "vKill;99", "QNonStop:7", "qXfer:",
    "qXfer:features:read:x.xml:0,10", "qXfer:features:read:target.xml:ffffffff,10", "qXfer:threads:write::0:00",
    "qCRC:41000000,10", "qRcmd,zz", "qRcmd,00", "qThreadExtraInfo,zz", "vMustReplyEmpty", "\x00", "vStopped", "i", "!",
]  # fmt: skip


def test_nonsense_is_answered_and_stops_nothing(machine: Machine, gdb: Client) -> None:
    for packet in NONSENSE:
        answer = gdb.ask(packet)
        assert answer == "" or answer[0] in "ElmbO" or len(answer) < 0x5000, packet
    assert gdb.ask("?").startswith("T05")
    assert not any("gdb:" in remark for remark in machine.hv.remarks)
    assert gdb.ask("vCont;c:p3.-1") == "W00;process:3"


def test_a_client_that_never_reads_is_disconnected(machine: Machine, gdb: Client) -> None:
    request = frame_of(f"m{AT['_start']:x},2000")

    def flood() -> bool:
        try:
            gdb.socket.send(request * 100)
        except OSError:
            return True
        return not machine.server.connected

    machine.run(flood)
    nothing_is_left(machine)


def test_bytes_that_are_no_packets_are_dropped(machine: Machine, gdb: Client) -> None:
    gdb.socket.sendall(b"\xff\x00GET / HTTP/1.1\r\n\r\n#00$" + b"a" * 100_000)
    gdb.socket.sendall(frame_of("?"))
    assert gdb.answer().startswith(b"T05")


def frame_of(content: str) -> bytes:
    return b"$" + content.encode() + b"#%02x" % (sum(content.encode()) & 0xFF)


def test_monitor_lists_the_vms(gdb: Client) -> None:
    words = bytes.fromhex(gdb.ask("qRcmd," + b"vms".hex())).decode()
    assert "primary VM" in words and "RM" in words and "AArch64" in words
    assert "vms" in bytes.fromhex(gdb.ask("qRcmd," + b"help".hex())).decode()


def test_pc_is_a_register_like_others(gdb: Client) -> None:
    gdb.jump("device")
    assert gdb.register(PC) == AT["device"]
