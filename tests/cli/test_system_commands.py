"""The commands that bring a system up or ask a running one, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SECONDS = 60


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "gunyah.cli.main", *map(str, arguments)]


class Shell:
    """Runs commands with an own place for run directories."""

    def __init__(self, runtime: Path) -> None:
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}

    def run(self, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            input=stdin,
            env=self.environment,
        )

    def refused(self, *arguments: str | Path) -> str:
        """The one line that a refused command prints."""
        answer = self.run(*arguments)
        assert answer.returncode == 1
        assert answer.stdout == ""
        assert answer.stderr.count("\n") == 1
        return answer.stderr.strip()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def running(shell: Shell) -> Iterator[subprocess.Popen[str]]:
    """``gunyah demo --interactive`` in another process, up."""
    process = subprocess.Popen(
        command("demo", "--interactive", "--json", "--seed", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=shell.environment,
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["identified"]
    yield process
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SECONDS)


def test_demo_as_json_is_one_object_that_says_what_held(shell: Shell) -> None:
    answer = shell.run("demo", "--json")
    assert answer.stdout.count("\n") == 1
    said = json.loads(answer.stdout)
    assert (said["identified"], said["api"], said["variant"]) == (True, 1, 81)
    assert said["sysfs"]["/sys/hypervisor/gunyah/features"].split() == ["cspace", "message-queue"]
    assert (said["rm"]["ok"], said["rm"]["vmid"]) == (True, 3)
    assert said["loopback"]["ok"] is True
    assert said["loopback"]["bytes"] > 0
    assert set(said["terminals"]) == {"ttyGH0", "ttyGH1"}
    assert isinstance(said["native_guest"]["ok"], bool)
    assert answer.returncode == (0 if said["ok"] else 1)
    assert said["ok"] is said["native_guest"]["ok"]


def test_demo_without_a_terminal_tells_each_step(shell: Shell) -> None:
    answer = shell.run("demo", "--profile", "v4")
    for words in ("API version 1, variant 81", "VM_GET_VMID", "ttyGH1", "complete and in order"):
        assert words in answer.stdout
    assert "\x1b" not in answer.stdout


@pytest.mark.parametrize("suffix", ["perfetto-trace", "jsonl", "log"])
def test_demo_writes_a_trace(shell: Shell, tmp_path: Path, suffix: str) -> None:
    trace = tmp_path / f"demo.{suffix}"
    shell.run("demo", "--json", "--trace-out", trace)
    assert b"VM_CONSOLE_WRITE" in trace.read_bytes()


def test_demo_with_trace_keeps_stdout_for_json(shell: Shell) -> None:
    answer = shell.run("demo", "--json", "--trace")
    assert json.loads(answer.stdout)["identified"]
    assert "msgqueue_send(" in answer.stderr


def test_a_terminal_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "gunyah").write_text("")
    assert "the run directory" in Shell(tmp_path).refused("demo")


def test_sysfs_is_read_without_a_running_system(shell: Shell) -> None:
    assert shell.run("sysfs", "cat", "/sys/hypervisor/gunyah/variant").stdout == "81\n"
    tree = shell.run("sysfs", "tree", "/sys/hypervisor")
    assert tree.returncode == 0
    assert tree.stdout.splitlines()[0] == "/sys/hypervisor/"
    assert any("features" in line for line in tree.stdout.splitlines())


def test_sysfs_as_json_is_one_object(shell: Shell) -> None:
    assert json.loads(shell.run("sysfs", "cat", "/sys/hypervisor/type", "--json").stdout)["content"] == "gunyah\n"
    tree = json.loads(shell.run("sysfs", "tree", "/sys/hypervisor", "--json").stdout)["tree"]
    assert {child["name"] for child in tree["children"]} == {"gunyah", "type"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("sysfs", "cat", "/sys/hypervisor/gunyah/colour"), "/hypervisor/gunyah/colour does not exist"),
        (("sysfs", "cat", "/sys/hypervisor"), "/sys/hypervisor is a directory"),
        (("sysfs", "tree", "/sys/nothing"), "/nothing does not exist"),
        (("ps",), "no system is running in "),
        (("ledger",), "no system is running in "),
        (("console",), "no system is running in "),
        (("trace", "--system", "worker"), "no system named 'worker' is running in "),
        (("run",), "run needs either --kernel IMAGE or a SYSTEM.toml"),
        (("run", "--kernel", "absent"), "--kernel absent cannot be read: No such file or directory"),
        (("run", "absent.toml"), "absent.toml cannot be read: No such file or directory"),
        (("run", "--kernel", "x", "--memory", "12Q"), "argument --memory: '12Q' is not a size such as 256M"),
        (("run", "--kernel", "x", "--vcpus", "9"), "argument --vcpus: '9' is not a number from 1 to 8"),
        (("run", "--kernel", "x", "--timeout", "soon"), "argument --timeout: 'soon' is not a number of seconds"),
        (("run", "--kernel", "x", "--profile", "v5"), "argument --profile: invalid choice: 'v5'"),
        (("demo", "--trace-out", "/absent/x.jsonl"), "the trace /absent/x.jsonl cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_line(shell: Shell, arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in shell.refused(*arguments)


def test_run_of_a_system_file_prints_the_consoles_and_ends_with_the_time(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "system.toml").write_text('seed = 1\n[primary]\nprofile = "v4"\n')
    answer = shell.run("run", tmp_path / "system.toml", "--timeout", "0.3")
    assert answer.returncode == 4
    assert "ttyGH0" in answer.stdout
    assert "ttyGH1" in answer.stdout


def test_run_of_a_wrong_system_file_is_one_line(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "system.toml").write_text("colour = 1")
    assert "colour: is not a known key" in shell.refused("run", tmp_path / "system.toml")


def test_a_running_system_answers_from_other_processes(shell: Shell, running: subprocess.Popen[str]) -> None:
    vms = json.loads(shell.run("ps", "--json").stdout)["vms"]
    assert {vm["vmid"]: vm["name"] for vm in vms} == {3: "primary VM", 255: "RM"}
    assert "primary VM" in shell.run("ps").stdout
    ledger = json.loads(shell.run("ledger", "--json").stdout)
    assert set(ledger) == {"memory", "heaps", "objects"}
    assert "objects" in shell.run("ledger").stdout
    assert shell.run("sysfs", "cat", "/sys/hypervisor/gunyah/api").stdout == "1\n"
    consoles = shell.run("console", "--list").stdout
    assert "ttyGH0" in consoles
    assert "there is no console 'ttyGH9'; known are ttyGH0, ttyGH1" in shell.refused("console", "ttyGH9")
    assert "VMID" in shell.run("ps", "--system", str(running.pid)).stdout


def test_trace_watches_a_running_system(shell: Shell, running: subprocess.Popen[str], tmp_path: Path) -> None:
    out = tmp_path / "watched.perfetto-trace"
    tracing = subprocess.Popen(command("trace", "--seconds", "1", "--out", out), env=shell.environment)
    assert shell.run("trace", "--seconds", "0.2", "--json").returncode == 0
    assert tracing.wait(timeout=SECONDS) == 0
    assert out.exists()


def test_console_copies_a_pipe_and_ends_with_the_terminal(shell: Shell, running: subprocess.Popen[str]) -> None:
    listed = shell.run("console", "--list").stdout
    path = next(line.split()[-1] for line in listed.splitlines() if "ttyGH1" in line)
    other = os.open(path, os.O_RDWR | os.O_NOCTTY)
    console = subprocess.Popen(
        command("console", "ttyGH0"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=shell.environment
    )
    try:
        assert console.stdin is not None
        assert console.stdout is not None
        console.stdin.write(b"from the pipe")
        console.stdin.flush()
        received = b""
        while len(received) < 13:
            received += os.read(other, 100)
        assert received == b"from the pipe"
        os.write(other, b"to the pipe")
        assert console.stdout.read(11) == b"to the pipe"
    finally:
        os.close(other)
        running.send_signal(signal.SIGINT)
        console.communicate(timeout=SECONDS)


def test_ctrl_c_leaves_nothing_behind(shell: Shell, tmp_path: Path, running: subprocess.Popen[str]) -> None:
    assert len(list((tmp_path / "gunyah").iterdir())) == 1
    running.send_signal(signal.SIGINT)
    running.wait(timeout=SECONDS)
    assert list((tmp_path / "gunyah").iterdir()) == []


def test_with_several_systems_the_choice_is_asked_for(shell: Shell, running: subprocess.Popen[str]) -> None:
    second = subprocess.Popen(
        command("demo", "--interactive", "--json"), stdout=subprocess.PIPE, text=True, env=shell.environment
    )
    try:
        assert second.stdout is not None
        second.stdout.readline()
        assert "2 systems are running" in shell.refused("ps")
        assert shell.run("ps", "--system", str(second.pid)).returncode == 0
    finally:
        second.send_signal(signal.SIGTERM)
        second.communicate(timeout=SECONDS)
