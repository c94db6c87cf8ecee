"""A system with secondary VMs as a user has it: run from a file, watched and steered by commands, typed at."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.test_system_commands import SECONDS, Shell, command
from tests.host.guests import ECHO, IDLE, REBOOT

from gunyah.vmm.guests import guest_bytes


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    for name, image in (("echo", ECHO), ("idle", IDLE), ("reboot", REBOOT), ("demo", guest_bytes("demo"))):
        (tmp_path / f"{name}.bin").write_bytes(image)
    return Shell(tmp_path)


def system_file(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "system.toml"
    path.write_text("seed = 1\n" + content)
    return path


class Running:
    """``gunyah run SYSTEM.toml`` in another process."""

    def __init__(self, shell: Shell, path: Path) -> None:
        self.shell = shell
        self.process = subprocess.Popen(
            command("run", path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=shell.environment
        )
        self.terminals: dict[str, str] = {}
        assert self.process.stdout is not None
        while "leave with" not in (line := self.process.stdout.readline()):
            assert line, self.process.stderr.read() if self.process.stderr else ""
            words = line.rsplit(None, 2)
            if len(words) == 3:
                self.terminals[words[1]] = words[2]

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, *words: str) -> str:
        answer = self.shell.run(*words)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def states(self) -> dict[str, str]:
        return {vm["name"]: vm["state"] for vm in json.loads(self.ask("ps", "--json"))["vms"]}

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=SECONDS)
        return self.process.returncode


@pytest.fixture
def running(shell: Shell, tmp_path: Path) -> Iterator[Running]:
    content = '[vm.{0}]\nimage = "{0}.bin"\nmemory = "4M"\n'
    path = system_file(
        tmp_path,
        content.format("echo") + content.format("idle") + 'console = "rm"\nstart = false\n',
    )
    running = Running(shell, path)
    yield running
    assert running.stop() == 0


def typed(path: str, data: bytes, wanted: bytes) -> bytes:
    line = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(line, data)
        got, end = b"", time.monotonic() + SECONDS
        while wanted not in got:
            assert select.select([line], [], [], max(0.0, end - time.monotonic()))[0], got
            got += os.read(line, 4096)
        return got
    finally:
        os.close(line)


def test_a_system_whose_vms_all_end_ends_with_0_and_says_how_each_did(shell: Shell, tmp_path: Path) -> None:
    vm = '[vm.{0}]\nimage = "demo.bin"\nmemory = "4M"\npeers = ["{1}"]\n'
    path = system_file(tmp_path, 'until = "vms"\n' + vm.format("one", "two") + vm.format("two", "one"))
    answer = shell.run("run", path)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.count("  powered off\n") == 2
    assert {"one", "two", "ttyGH0"} <= {line.split()[-2] for line in answer.stdout.splitlines() if "/" in line}


def test_a_guest_that_asks_for_a_reset_is_started_again(shell: Shell, tmp_path: Path) -> None:
    path = system_file(tmp_path, '[vm.reboot]\nimage = "reboot.bin"\nmemory = "4M"\n')
    answer = shell.run("run", "--timeout", "2", path)
    assert answer.returncode == 4
    assert answer.stdout.count("reboot  asked for a reset, starting again") > 1


def test_bytes_typed_into_a_vms_terminal_come_back_from_the_vm(running: Running) -> None:
    terminal = running.terminals["echo"]
    assert typed(terminal, b"hello vm\n", b"vm\n") == b"hello vm\n"
    assert typed(terminal, b"again", b"again") == b"again"
    typed(terminal, b"q", b"q")
    assert running.line() == "echo  powered off"
    assert running.states()["echo"] == "exited (powered off)"


def test_vms_are_started_stopped_reset_paused_and_resumed_from_the_shell(running: Running) -> None:
    states = running.states()
    assert (states["echo"], states["idle"]) == ("running", "not started")
    assert running.ask("start", "idle") == "idle (VMID 129): running\n"
    assert running.ask("pause", "idle") == "idle (VMID 129): paused\n"
    assert running.states()["idle"] == "paused"
    assert running.ask("resume", "129") == "idle (VMID 129): running\n"
    assert running.ask("stop", "idle") == "idle (VMID 129): exited (was stopped)\n"
    assert running.ask("restart", "idle") == "idle (VMID 129): running\n"
    assert running.ask("reset", "idle") == "idle (VMID 129): reset\n"
    assert json.loads(running.ask("start", "idle", "--json"))["state"] == "running"
    assert "VM idle is RUNNING; it can be started when it is new or was reset" in running.shell.refused("start", "idle")
    assert "there is no secondary VM 'nobody'; there are: echo, idle" in running.shell.refused("stop", "nobody")


def test_rm_is_called_and_explained_from_the_shell(running: Running) -> None:
    assert "vm_status: 3" in running.ask("rm", "call", "VM_GET_STATE", "vmid=0x80")
    answer = json.loads(running.ask("rm", "call", "vm-get-hyp-resources", "vmid=128", "--json"))
    assert [(entry["type"], entry["label"]) for entry in answer["reply"]["resources"]] == [(4, 0), (0, 1)]
    refused = running.shell.run("rm", "call", "VM_GET_STATE", "vmid=77")
    assert (refused.returncode, refused.stderr) == (2, "gunyah: VM_GET_STATE → NORESOURCE: there is no VM 77\n")
    assert "VM_GET_STATE → NORESOURCE" in running.ask("explain")
    explained = running.ask("explain", "NORESOURCE")
    assert "RM error NORESOURCE (2): no free id" in explained
    assert "RM, to VM 3: VM_GET_STATE → NORESOURCE: there is no VM 77" in explained
    assert "no field 'x'; it has vmid" in running.shell.refused("rm", "call", "VM_GET_STATE", "x=1")
    assert "do you mean VM_GET_STATE" in running.shell.refused("rm", "call", "VM_GET_STAT")


def test_top_shows_every_vm_with_its_time_queues_and_memory(running: Running) -> None:
    seen = json.loads(running.ask("top", "--json"))
    assert {"echo", "RM", "primary VM"} <= {vm["name"] for vm in seen["vms"]}
    assert all(vm["ns"] >= 0 for vm in seen["vms"]) and seen["queues"] and seen["memory"]
    picture = running.ask("top", "--once", "--seconds", "0.2")
    assert "MEMORY OWNER" in picture and "echo" in picture
    assert "RAM of primary VM" in picture and "RM to" in picture
    whose = {row["whose"] for row in json.loads(running.ask("ledger", "--json"))["memory"]}
    assert {"RAM of primary VM", "memparcel 0x0: lend of primary VM to echo"} <= whose


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('[vm.a]\nimage = "echo.bin"\nmemory = "4M"\nvcpus = 9\n', "9 is not in 1..8"),
        ('[vm.a]\nimage = "system.toml"\ndtb = "echo.bin"\nmemory = "4M"\n', "echo.bin is no device tree"),
        ('[vm.a]\nimage = "echo.bin"\nmemory = "1M"\n', "too small"),
    ],
)
def test_a_file_that_cannot_be_run_is_one_sentence(shell: Shell, tmp_path: Path, content: str, sentence: str) -> None:
    path = system_file(tmp_path, content)
    assert sentence in shell.refused("run", path)
    linted = shell.run("lint", path)
    assert linted.returncode == 1 and sentence in linted.stdout


def test_a_native_primary_vm_of_a_file_has_its_uart_as_a_terminal(shell: Shell, tmp_path: Path) -> None:
    path = system_file(tmp_path, '[primary]\nkind = "native"\nimage = "echo.bin"\nmemory = "64M"\n')
    running = Running(shell, path)
    assert typed(running.terminals["console"], b"native", b"native") == b"native"
    assert "native one: its own drivers" in shell.refused("rm", "call", "VM_GET_VMID")
    typed(running.terminals["console"], b"q", b"q")
    assert running.process.wait(SECONDS) == 0
    running.process.communicate()


def test_codes_are_explained_without_a_running_system(shell: Shell) -> None:
    said = shell.run("explain", "0x14", "ENODEV", "PLATFORM_OFF").stdout
    assert "RM error VM_STATE (0x14): the VM is in a state in which this call is not possible" in said
    assert "errno -ENODEV" in said and "exit type PLATFORM_OFF (1): the guest switched itself off" in said
    assert "'wrong' is no error" in shell.refused("explain", "wrong")
    assert "no system is running" in shell.refused("explain")


def test_a_code_is_explained_as_the_drivers_and_sources_spell_it(shell: Shell) -> None:
    said = shell.run("explain", "-ENODEV").stdout
    assert "-ENODEV: errno -ENODEV (-19): No such device" in said and "from RM error NORESOURCE" in said
    assert shell.run("explain", "-19", "--json").stdout.count("ENODEV") == 1
    assert "do you mean ENODEV" in shell.refused("explain", "-ENODEF")
    assert "unrecognized arguments: --colour" in shell.refused("explain", "--colour")
