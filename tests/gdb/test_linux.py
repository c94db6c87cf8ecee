"""gdb-multiarch against a running Linux guest: kernel and user addresses, system calls, and Linux lives on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.native.shell import Shell

from gunyah.host.gdb.server import GdbServer
from gunyah.host.loop import HostLoop

from .rig import GDB, HOST, converse
from .test_gdb import expect

pytestmark = pytest.mark.linux

SYSTEM_CALL_VECTOR = "*($VBAR_EL1 + 0x400)"
"""Synchronous exceptions from EL0 in AArch64 state."""


def test_gdb_stops_linux_at_system_calls_and_linux_goes_on_afterwards(linux: tuple[Path, Path]) -> None:
    # With a random base, EL0 has vectors of its own, which enter the kernel behind the first instruction of these.
    with Shell(linux, vcpus=2, bootargs="nokaslr") as shell:
        loop = HostLoop()
        hypervisor = shell.system.hypervisor
        hypervisor.host = loop
        server = GdbServer(loop, hypervisor, 0)
        try:
            if GDB is None:
                return
            output = converse(
                shell.system,
                loop,
                server,
                [
                    f"target remote {HOST}:{server.port}",
                    "info threads",
                    "info registers pc TTBR1_EL1",
                    # In the middle of idling or not: one instruction is one instruction.
                    "stepi",
                    f"hbreak {SYSTEM_CALL_VECTOR}",
                    "continue",
                    "x/2i $ELR_EL1 - 4",
                    "stepi 3",
                    "print $pc - $VBAR_EL1 < 0x800",
                    "delete",
                    f"break {SYSTEM_CALL_VECTOR}",
                    "continue",
                    "print/x $ESR_EL1",
                    "delete",
                    # The current task's thread_info.flags, which every return to user space looks at.
                    "rwatch -location *(long *)$SP_EL0",
                    "continue",
                    "delete",
                    "detach",
                ],
                # A key pressed makes the shell call the kernel.
                meanwhile=lambda: shell.primary.type(b"#"),
            )
        finally:
            server.close()
            loop.close()
            hypervisor.host = None
        expect(
            output,
            r'1 +Thread 3.1 "vm3.vcpu0"',
            r'2 +Thread 3.2 "vm3.vcpu1"',
            r"pc +0xffff",
            r"TTBR1_EL1 +0x",
            r"Hardware assisted breakpoint 1",
            r"hit Breakpoint 1",
            r":\s(svc|.*)",
            r"= (1|true)",
            r"hit Breakpoint 2",
            r"= 0x(56|5a|92|82)",
            r"Hardware read watchpoint 3",
            r"Value = ",
            r"Inferior 1 \(process 3\) detached",
        )
        shell.type(b"\n")
        assert shell.run("echo $((6 * 7))") == "42"
        assert "stall" not in shell.text and "lockup" not in shell.text
        assert shell.end("poweroff -f") == "off"
