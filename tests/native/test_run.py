"""``gunyah run --kernel`` as a person at a terminal, or a script, uses it: exit status, console, and refusals."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gunyah.cli.main import main
from gunyah.guest.fdt import parse
from gunyah.vmm.guests import guest_bytes

PATIENCE = 120.0
"""Seconds; only a failure takes that long."""

# AArch64 instructions
OFF = (0x5280_0100, 0x72B0_8000, 0xD400_0002)  # mov w0, #8; movk w0, #0x8400, lsl #16; hvc #0
RESET = (0x5280_0120, 0x72B0_8000, 0xD400_0002)  # mov w0, #9; ...
HERE = 0x1400_0000  # b .
WILD = (0xD2AE_0000, 0xD61F_0000)  # mov x0, #0x70000000; br x0
GARBAGE = (1, 1, 1)  # udf #1
WAIT = (0xD503_207F, 0x17FF_FFFF)  # wfi; b .-4
ECHO = (
    0xD2A1_2001,  # mov x1, #0x9000000
    0x5280_0A22,  # mov w2, #'Q'
    0xB940_1820,  # 0: ldr w0, [x1, #0x18]      FR
    0x3727_FFE0,  # tbnz w0, #4, 0b             RXFE
    0xB940_0020,  # ldr w0, [x1]                DR
    0xB900_0020,  # str w0, [x1]
    0x6B02_001F,  # cmp w0, w2
    0x54FF_FF61,  # b.ne 0b
    *OFF,
)


def program(tmp_path: Path, *words: int) -> Path:
    path = tmp_path / "guest.bin"
    path.write_bytes(struct.pack(f"<{len(words)}I", *words))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "gunyah.cli.main", "run", *map(str, arguments)]


def run(*arguments: object, typed: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(*arguments), input=typed, capture_output=True, timeout=PATIENCE)


def test_system_off_is_status_0_and_the_console_is_standard_output(tmp_path: Path) -> None:
    kernel = tmp_path / "demo.bin"
    kernel.write_bytes(guest_bytes("demo"))
    done = run("--kernel", kernel)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"guest: hello from EL1\n")
    assert done.stdout.endswith(b"guest: goodbye\n")


def test_system_reset_is_status_3(tmp_path: Path) -> None:
    assert run("--kernel", program(tmp_path, *RESET)).returncode == 3


@pytest.mark.parametrize(
    "words", [(HERE,), WAIT, WILD, GARBAGE], ids=["loops with interrupts off", "sleeps", "jumps wild", "is garbage"]
)
def test_time_out_ends_whatever_the_guest_does_with_status_4(tmp_path: Path, words: tuple[int, ...]) -> None:
    done = run("--kernel", program(tmp_path, *words), "--timeout", "0.5")
    assert done.returncode == 4, done.stderr


def test_standard_input_reaches_the_guest_and_comes_back(tmp_path: Path) -> None:
    kernel = program(tmp_path, *ECHO)
    done = run("--kernel", kernel, "--timeout", "60", typed=b"echo me \x01a twice Q never")
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"echo me \x01 twice Q"


def test_input_from_a_file_reaches_the_guest(tmp_path: Path) -> None:
    typed = tmp_path / "typed"
    typed.write_bytes(b"from a file Q")
    with typed.open("rb") as source:
        done = subprocess.run(
            command("--kernel", program(tmp_path, *ECHO), "--timeout", "60"),
            stdin=source,
            capture_output=True,
            timeout=PATIENCE,
        )
    assert (done.returncode, done.stdout) == (0, b"from a file Q")


@pytest.mark.parametrize("words", [(HERE,), WAIT, GARBAGE], ids=["loops", "sleeps", "is garbage"])
def test_ctrl_a_x_leaves_at_any_time(tmp_path: Path, words: tuple[int, ...]) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command("--kernel", program(tmp_path, *words), "--timeout", "100"),
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
    )
    os.close(slave)
    assert process.stderr is not None
    assert b"leave with Ctrl-A x" in process.stderr.readline()
    time.sleep(0.2)
    os.write(master, b"\x01x")
    assert process.wait(PATIENCE) == 0
    os.close(master)
    process.stderr.close()


def test_a_signal_ends_a_run_as_shells_expect(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("--kernel", program(tmp_path, *WAIT)), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    process.stderr.readline()
    process.terminate()
    assert process.wait(PATIENCE) == 128 + 15
    process.stderr.close()


def test_the_tree_that_the_vm_gets_can_be_had(tmp_path: Path) -> None:
    target = tmp_path / "out.dtb"
    options = ["--vcpus", "3", "--memory", "128M", "--cmdline", "quiet", "--dump-dtb", target]
    done = run("--kernel", program(tmp_path, HERE), *options)
    assert (done.returncode, done.stdout) == (0, b"")
    tree = parse(target.read_bytes())
    assert tree.node("/memory@40000000").reg() == [(0x4000_0000, 128 << 20)]
    assert tree.node("/chosen").string("bootargs") == "quiet"
    assert len(tree.node("/cpus").children) == 3
    (manager,) = tree.find_compatible("gunyah-resource-manager")
    assert len(manager.u64s("reg")) == 2
    # What was written is a tree that can be given.
    again = run("--kernel", program(tmp_path, *OFF), "--dtb", target)
    assert again.returncode == 1
    assert b"/hypervisor" in again.stderr


def test_bad_input_is_status_1_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = program(tmp_path, *OFF)
    text = tmp_path / "text"
    text.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(11) + struct.pack("<H", 62) + bytes(100))
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(300 << 20)
    for arguments, words in (
        (["--kernel", tmp_path / "none"], "cannot be read"),
        (["--kernel", tmp_path], "cannot be read"),
        (["--kernel", text], "not for AArch64"),
        (["--kernel", kernel, "--initrd", large], "RAM disk of 300.0 MiB does not fit"),
        (["--kernel", kernel, "--initrd", tmp_path / "none"], "cannot be read"),
        (["--kernel", kernel, "--dtb", kernel], "is no device tree"),
        (["--kernel", kernel, "--vcpus", "9"], "from 1 to 8"),
        (["--kernel", kernel, "--vcpus", "0"], "from 1 to 8"),
        (["--kernel", kernel, "--memory", "3M"], "multiple of 2 MiB"),
        (["--kernel", kernel, "--memory", "4G"], "up to 1024 MiB"),
        (["--kernel", kernel, "--memory", "lots"], "not a size"),
        (["--kernel", kernel, "--timeout", "-1"], "seconds"),
        (["--kernel", kernel, "--profile", "v5"], "v5"),
        (["--kernel", kernel, "--dump-dtb", tmp_path / "no" / "where"], "cannot be written"),
        ([], "needs either --kernel"),
    ):
        try:
            status: object = main(["run", *map(str, arguments)])
        except SystemExit as left:
            status = left.code
        told = capsys.readouterr().err
        assert status == 1, (arguments, told)
        assert len(told.strip().splitlines()) == 1, told
        assert words in told, (words, told)


@pytest.mark.linux
def test_linux_on_a_script_s_standard_input(linux: tuple[Path, Path]) -> None:
    kernel, initrd = linux
    done = run(
        "--kernel",
        kernel,
        "--initrd",
        initrd,
        "--vcpus",
        "2",
        "--timeout",
        "100",
        typed=b"echo $((6*7))\npoweroff -f\n",
    )
    assert done.returncode == 0, done.stderr
    assert b"\r\n42\r\n" in done.stdout
