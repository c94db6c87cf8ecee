"""A system on the user's machine: its terminals, /sys and control socket, used from other processes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gunyah.host.control import ControlClient
from gunyah.host.demo import loopback
from gunyah.host.errors import HostError
from gunyah.host.hosted import HostedSystem
from gunyah.host.rundir import running_systems
from gunyah.host.sysfs_mount import SysfsMount
from gunyah.host.trace import open_trace

from .terminals import client

SECONDS = 60.0

BOTH_WAYS = """
import hashlib, random, threading
size = int(sys.argv[3])
lines = [os.open(path, os.O_RDWR | os.O_NOCTTY) for path in sys.argv[1:3]]
contents = [random.Random(seed).randbytes(size) for seed in (1, 2)]
received = [bytearray(), bytearray()]
def write(index):
    view = memoryview(contents[index])
    while view: view = view[os.write(lines[index], view):]
def read(index):
    while len(received[index]) < size: received[index] += os.read(lines[index], 65536)
threads = [threading.Thread(target=work, args=(index,)) for work in (write, read) for index in (0, 1)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(received[0] == contents[1] and received[1] == contents[0])
"""


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[HostedSystem]:
    with HostedSystem(base=tmp_path, seed=1) as hosted:
        hosted.wait_for_terminals(2)
        yield hosted


def paths(hosted: HostedSystem) -> tuple[Path, Path]:
    first, second = (console.path for console in hosted.consoles)
    assert first is not None
    assert second is not None
    return first, second


def output(hosted: HostedSystem, process: subprocess.Popen[bytes]) -> bytes:
    """Run the machine until the process has ended; what it printed."""
    assert hosted.run(lambda: process.poll() is not None, SECONDS)
    printed, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    return printed.strip()


def inside(hosted: HostedSystem, *words: str | Path) -> bytes:
    """What a shell command says while the machine runs."""
    return output(hosted, subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE))


def settled(hosted: HostedSystem) -> None:
    """Run until every terminal that its users have closed is closed in the VM too."""
    assert hosted.run(lambda: not hosted.bridges.busy, SECONDS)


def test_terminals_have_stable_names_in_the_run_directory(hosted: HostedSystem) -> None:
    assert [path.name for path in paths(hosted)] == ["ttyGH0", "ttyGH1"]
    assert all(path.parent == hosted.directory.path for path in paths(hosted))
    assert list(running_systems(hosted.directory.base)) == [hosted.directory.path]


def test_random_bytes_both_ways_at_once_through_terminals_of_another_process(hosted: HostedSystem) -> None:
    assert output(hosted, client(BOTH_WAYS, *paths(hosted), str(300_000))) == b"True"


def test_the_demos_loopback_holds_again_and_again(hosted: HostedSystem) -> None:
    for size in (1, 1012, 1013, 5000):
        outcome = loopback(hosted, size)
        assert outcome["ok"], outcome
        assert outcome["bytes"] == 2 * size


def test_bytes_written_right_after_opening_both_are_not_lost(hosted: HostedSystem) -> None:
    script = (
        "one, two = (os.open(path, os.O_RDWR | os.O_NOCTTY) for path in sys.argv[1:])\n"
        "os.write(one, b'at once')\n"
        "got = b''\n"
        "while len(got) < 7: got += os.read(two, 7)\n"
        "print(got)"
    )
    for _ in range(5):
        assert output(hosted, client(script, *paths(hosted))) == b"b'at once'"


def test_what_was_written_before_the_close_arrives(hosted: HostedSystem) -> None:
    first, second = paths(hosted)
    script = (
        "line, got = open(sys.argv[1], 'rb', 0), b''\n"
        "while not got.endswith(b'end'): got += line.read(4096)\n"
        "print(len(got))"
    )
    reader = client(script, second)
    assert hosted.run(lambda: hosted.consoles[1].pty is not None and hosted.consoles[1].pty.is_open, SECONDS)
    inside(hosted, sys.executable, "-c", "import sys; open(sys.argv[1], 'wb', 0).write(b'x' * 3000 + b'end')", first)
    assert output(hosted, reader).split() == [b"3003"]
    settled(hosted)


def test_a_reader_that_sleeps_stops_the_writer_and_nobody_else(hosted: HostedSystem) -> None:
    first, second = paths(hosted)
    script = (
        "import random\n"
        "content = random.Random(5).randbytes(400_000)\n"
        "line, view = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY), memoryview(content)\n"
        "while view: view = view[os.write(line, view):]\n"
        "print('written', flush=True)\n"
        "sys.stdin.read()"
    )
    writer = client(script, first)
    sleeper = os.open(second, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        assert hosted.run(lambda: hosted.consoles[0].held > 0, SECONDS)
        assert writer.poll() is None
        # The machine is not held up by the reader: processes in the VM and the control socket are served.
        question = (
            "from gunyah.host.control import ControlClient\n"
            "print(len(ControlClient(sys.argv[1]).call('ps')['vms']))"
        )
        assert output(hosted, client(question, hosted.directory.control_socket)) == b"2"
        received = bytearray()

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                received.extend(os.read(sleeper, 65536))

        hosted.loop.add_reader(sleeper, read)
        assert hosted.run(lambda: len(received) >= 400_000, SECONDS)
        hosted.loop.remove_reader(sleeper)
    finally:
        os.close(sleeper)
        writer.communicate(timeout=SECONDS)
    assert received == random.Random(5).randbytes(400_000)


def test_users_that_are_killed_in_the_middle_hold_nobody_up(hosted: HostedSystem) -> None:
    first, second = paths(hosted)
    flood = "line = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)\nwhile True: os.write(line, bytes(4096))"
    drain = "line = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)\nwhile True: os.read(line, 4096)"
    for victim in (0, 1):
        processes = [client(flood, first), client(drain, second)]
        assert hosted.run(lambda: all(console.busy for console in hosted.consoles), SECONDS)
        hosted.run(lambda: False, 0.1)
        processes[victim].kill()
        hosted.run(lambda: False, 0.1)
        processes[1 - victim].kill()
        for process in processes:
            process.communicate(timeout=SECONDS)
        settled(hosted)
    assert loopback(hosted)["ok"]


def test_hang_up_in_the_vm_hangs_up_the_terminal_and_a_fresh_one_follows(hosted: HostedSystem) -> None:
    first, _ = paths(hosted)
    before = first.readlink()
    line = os.open(first, os.O_RDWR | os.O_NOCTTY)
    try:
        assert hosted.run(lambda: hosted.kernel.tty._port("ttyGH0").tty is not None, SECONDS)
        tty = hosted.kernel.tty._port("ttyGH0").tty
        assert tty is not None
        hosted.post(lambda: hosted.kernel.spawn(tty.hangup))
        assert hosted.run(lambda: first.is_symlink() and first.readlink() != before, SECONDS)
        with pytest.raises(OSError, match="Input/output error"):
            os.write(line, b"x")
    finally:
        os.close(line)
    assert loopback(hosted)["ok"]


def test_terminals_go_and_come_back_with_the_driver(hosted: HostedSystem) -> None:
    first, second = paths(hosted)
    driver, device = "/bus/auxiliary/drivers/gunyah_tty", b"gunyah_rsc_mgr.console.0"
    line = os.open(first, os.O_RDWR | os.O_NOCTTY)
    try:
        assert hosted.run(lambda: hosted.kernel.tty._port("ttyGH0").tty is not None, SECONDS)
        hosted.post(lambda: hosted.kernel.spawn(hosted.kernel.sysfs.write, f"{driver}/unbind", device))
        assert hosted.run(lambda: not hosted.consoles, SECONDS)
        assert not first.is_symlink()
        assert not second.is_symlink()
    finally:
        os.close(line)
    hosted.post(lambda: hosted.kernel.spawn(hosted.kernel.sysfs.write, f"{driver}/bind", device))
    hosted.wait_for_terminals(2)
    assert [path.name for path in paths(hosted)] == ["ttyGH0", "ttyGH1"]
    assert loopback(hosted)["ok"]


def test_control_socket_answers_what_runs(hosted: HostedSystem) -> None:
    script = (
        "import json\n"
        "from gunyah.host.control import ControlClient\n"
        "with ControlClient(sys.argv[1]) as client:\n"
        "    print(json.dumps([client.call('ps'), client.call('ledger'), client.call('consoles'),\n"
        "        client.call('sysfs-cat', path='/sys/hypervisor/gunyah/api'), client.call('sysfs-tree', path='/sys')]))"
    )
    ps, ledger, consoles, api, tree = json.loads(output(hosted, client(script, hosted.directory.control_socket)))
    vms = {vm["name"]: vm for vm in ps["vms"]}
    assert set(vms) == {"RM", "primary VM"}
    assert vms["primary VM"]["consoles"] == ["ttyGH0", "ttyGH1"]
    assert any("vcpu0" in entry["object"] for entry in ledger["objects"])
    assert sum(row["bytes"] for row in ledger["memory"]) > 1 << 28
    assert [console["path"] for console in consoles] == [str(path) for path in paths(hosted)]
    assert api == "1\n"
    assert "hypervisor" in [child["name"] for child in tree["children"]]


def test_trace_over_the_control_socket_shows_calls_and_ends(hosted: HostedSystem) -> None:
    script = (
        "from gunyah.host.control import ControlClient\n"
        "with ControlClient(sys.argv[1]) as client:\n"
        "    for event in client.stream('trace', form='text', milliseconds=300):\n"
        "        print(event, end='')"
    )
    tracer = client(script, hosted.directory.control_socket)
    assert hosted.run(lambda: hosted.system.instruments, SECONDS)
    loopback(hosted)
    assert b"VM_CONSOLE_WRITE" in output(hosted, tracer)
    assert not hosted.system.instruments


def test_sys_is_mounted_where_the_machine_can(hosted: HostedSystem) -> None:
    try:
        mount = SysfsMount(hosted.directory)
    except HostError as error:
        assert str(error).startswith("not mounted: ")
        assert error.__context__ is None or isinstance(error.__context__, OSError)
        return
    try:
        assert inside(hosted, "cat", mount.path / "hypervisor/gunyah/variant") == b"81"
        assert inside(hosted, "cat", mount.path / "class/tty/ttyGH0/vmid") == b"self"
        assert b"features" in inside(hosted, "ls", mount.path / "hypervisor/gunyah").split()
    finally:
        mount.close()
    assert not mount.path.is_mount()


def test_nothing_is_left_when_the_system_is_closed(tmp_path: Path) -> None:
    with HostedSystem(base=tmp_path) as hosted:
        hosted.wait_for_terminals(2)
        line = os.open(paths(hosted)[0], os.O_RDWR | os.O_NOCTTY)
    try:
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(HostError, match="no system answers"):
            ControlClient(hosted.directory.control_socket)
        with pytest.raises(OSError, match="Input/output error"):
            os.write(line, b"x")
    finally:
        os.close(line)


def test_a_run_directory_that_cannot_be_made_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"the run directory .*/file/base cannot be made: Not a directory"):
        HostedSystem(base=tmp_path / "file" / "base")


def test_what_the_system_refuses_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="profile 'v9' is not one of"):
        HostedSystem(base=tmp_path, profile="v9")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["boot.perfetto-trace", "boot.jsonl", "boot.log"])
def test_a_whole_boot_is_traced(tmp_path: Path, name: str) -> None:
    with HostedSystem(base=tmp_path / "run", traces=[open_trace(tmp_path / name)]) as hosted:
        hosted.wait_for_terminals(2)
    content = (tmp_path / name).read_bytes()
    assert b"msgqueue_send" in content
    assert b"VM_GET_VMID" in content
    if name.endswith("perfetto-trace"):
        from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

        parsed = Trace()
        parsed.ParseFromString(content)
        events = [packet.track_event for packet in parsed.packet if packet.HasField("track_event")]
        sent = {flow for event in events for flow in event.flow_ids}
        received = {flow for event in events for flow in event.terminating_flow_ids}
        assert received
        assert received <= sent
