"""The real thing: Debian's gdb-multiarch against a running machine. CI installs it (.ci/packages)."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .rig import AT, GDB, GUEST, HOST, Machine, converse


def debug(*commands: str, before: tuple[str, ...] = (), mode: str = "remote") -> str:
    """What gdb prints for the commands, connected to a held guest; "" on a machine without gdb-multiarch.

    There the same promises are kept by test_stub, which speaks the protocol itself.
    """
    if GDB is None:
        return ""
    with Machine() as machine:
        target = f"target {mode} {HOST}:{machine.server.port}"
        return converse(machine.system, machine.loop, machine.server, [*before, target, *commands], image=GUEST)


def expect(output: str, *patterns: str) -> None:
    """All of them are there, in this order."""
    if GDB is None:
        return
    at = 0
    for pattern in patterns:
        found = re.compile(pattern).search(output, at)
        assert found is not None, f"{pattern!r} is not in what follows {output[:at][-200:]!r}:\n{output[at:]}"
        at = found.end()


def test_break_at_a_symbol_look_around_and_go_on_to_the_end() -> None:
    output = debug("break work", "continue", "info registers x0 pc cpsr", "x/i $pc", "bt 2", "delete", "continue")
    expect(
        output,
        r"0x0000000041000000 in _start",
        r'Thread 1 "vm3.vcpu0" hit Breakpoint 1, 0x0+4100005c in work',
        r"x0 +0x3 ",
        r"pc +0x4100005c ",
        r"cpsr +0x3c5 +\[ SP EL=1 F I A D \]",
        r"=> 0x4100005c <work>:\sldr\sx1, \[x20\]",
        r"#1 +0x0+41000020 in again",
        r"\[Inferior 1 \(process 3\) exited normally\]",
    )


def test_registers_and_memory_are_modified_and_the_guest_computes_with_them() -> None:
    output = debug(
        "break *work+8", "continue", "set $x1 = 0x1234", "set {long}&flag = 0x55", "x/gx &flag", "stepi",
        "x/gx &counter", "print/x $VBAR_EL1", "print $v3.d.u[0]", "set $v3.s.u = {1, 2, 3, 4}", "print/x $v3.d.u[1]",
    )  # fmt: skip
    expect(output, r"<flag>:\s0x0+55", r"<counter>:\s0x0+1234", r"= 0x41000800", r"= 0", r"= 0x400000003")


def test_single_steps_go_where_the_program_goes() -> None:
    output = debug("stepi 7", "info symbol $pc", "stepi", "info symbol $pc", "nexti", "stepi 3", "info symbol $pc")
    expect(output, r"again \+ 4|again in", r"work in section", r"work \+ 8|work \+ 4|again")


def test_a_function_of_the_guest_is_called_from_the_command_line() -> None:
    output = debug(
        "break work", "continue", "delete", "print ((long (*)(long)) work)(5)", "print $x0", "x/gx &counter", "finish"
    )
    expect(output, r"hit Breakpoint 1", r"\$1 = 5", r"\$2 = 3", r"<counter>:\s0x0+5", r"in again")


def test_sections_are_compared_with_memory_that_has_breakpoints() -> None:
    output = debug("set breakpoint always-inserted on", "break work", "compare-sections .text", "continue")
    expect(output, r"Section \.text, range .*: matched\.", r"hit Breakpoint 1")


def test_a_watchpoint_tells_old_and_new_value() -> None:
    output = debug("watch *(long *)&counter", "continue", "continue", "delete", "rwatch *(int *)&flag", "continue")
    expect(
        output,
        r"Hardware watchpoint 1",
        r"Old value = 0\s+New value = 3\s+0x0+41000068 in work",
        r"Old value = 3\s+New value = 5",
        r"Hardware read watchpoint 2",
        r"Value = (0|119)\s+0x0+410000(48|74) in (wait|parked|second)",
    )


def test_two_vcpus_are_two_threads() -> None:
    output = debug(
        "break second", "continue", "info threads", "stepi", "thread 1", "info symbol $pc", "delete", "continue"
    )
    expect(
        output,
        r'Thread 2 "vm3.vcpu1" hit Breakpoint 1, .* in second',
        r'1 +Thread 3.1 "vm3.vcpu0" \(paused\)',
        r'\* 2 +Thread 3.2 "vm3.vcpu1" \(paused\)',
        r"in second",
        r"(again|wait)",
        r"exited normally",
    )


def test_a_hardware_breakpoint_waits_for_an_address_that_is_not_mapped_yet() -> None:
    mapped = AT["mapped"] + 0x4000_0000
    output = debug(
        "set $pc = mmu", f"hbreak *{mapped:#x}", "continue", f"x/2i {mapped:#x}", f"break *{mapped + 8:#x}", "continue",
        "print/x $x8", "print/x $SCTLR_EL1 & 1", f"x/wx {mapped + 8:#x}", "x/wx 0xc0000000",
    )  # fmt: skip
    expect(
        output,
        r"Hardware assisted breakpoint 1",
        rf"Breakpoint 1, 0x0+{mapped:x} in",
        rf"=> {mapped:#x}:\snop\s+{mapped + 4:#x}:\smov\sx8, #0x55",
        rf"Breakpoint 2, 0x0+{mapped + 8:x} in",
        r"= 0x55",
        r"= 0x1",
        rf"{mapped + 8:#x}:\s0xd503201f",
        r"Cannot access memory at address 0xc0000000",
    )


def test_every_vm_can_be_an_inferior() -> None:
    output = debug(
        "info os processes", "add-inferior", "inferior 2", "attach 255", "info threads", "info registers x0 pc",
        "stepi", "inferior 1", "break work", "continue", "detach inferior 2", "info inferiors", "monitor vms",
        mode="extended-remote",
    )  # fmt: skip
    expect(
        output,
        r"3 +AArch64 +primary VM",
        r"255 +Python +RM",
        r'1.1 +Thread 3.1 "vm3.vcpu0"',
        r'\* 2.1 +Thread 255.1 "root" \(Python, paused\)',
        r"pc +0x80480000",
        r"VM 255 is a Python program and has no instructions to step",
        r'Thread 1.1 "vm3.vcpu0" hit Breakpoint 1.* in work',
        r"Inferior 2 \(process 255\) detached",
        r"\* 1 +process 3",
        r"255 +RM +Python +0: idle",
    )


def test_in_non_stop_mode_the_other_vcpu_runs_on() -> None:
    output = debug("break second", "continue", "info threads", before=("set non-stop on",))
    expect(output, r"in _start", r'Thread 2 "vm3.vcpu1" hit Breakpoint 1.* in second', r"1 +Thread 3.1 .*\(running\)")


def test_kill_switches_the_machine_off() -> None:
    output = debug("break work", "continue", "kill", mode="extended-remote")
    expect(output, r"Breakpoint 1, .*work", r"Inferior 1 .* killed")


@pytest.mark.parametrize("described", [False, True], ids=["kernel", "system file"])
def test_the_command_serves_gdb_and_a_leaving_gdb_lets_the_vm_run(described: bool, tmp_path: Path) -> None:
    system = tmp_path / "system.toml"
    system.write_text(f'[primary]\nkind = "native"\nimage = "{GUEST}"\nmemory = "64M"\nvcpus = 2\n')
    kernel = ["--kernel", str(GUEST), "--memory", "64M", "--vcpus", "2"]
    arguments = ["run", *([str(system)] if described else kernel), "--gdb", "0", "--gdb-wait"]
    program = [sys.executable, "-c", "import sys; from gunyah.cli.main import main; sys.exit(main(sys.argv[1:]))"]
    with subprocess.Popen(
        [*program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        port = None
        for line in run.stdout:
            found = re.search(r"the VM waits for gdb: target extended-remote 127\.0\.0\.1:(\d+)", line)
            if found is not None:
                port = found[1]
                break
        assert port is not None
        if GDB is None:
            run.send_signal(signal.SIGTERM)
            run.communicate(timeout=60)
            return
        # Nothing has run yet, however long it takes gdb to come.
        time.sleep(0.1)
        commands = (f"target remote {HOST}:{port}", "print $pc", "break work", "continue", "detach")
        words = [word for command in commands for word in ("-ex", command)]
        done = subprocess.run([GDB, "-nx", "-batch", *words, str(GUEST)], capture_output=True, text=True, timeout=60)
        expect(done.stdout, r"<_start>", r"Breakpoint 1, .*work", r"Inferior 1 \(process 3\) detached")
        run.communicate(timeout=60)
        assert run.returncode == 0
