"""Bad images and bad guests in a SYSTEM.toml: one line for each, and every other VM goes on as if nothing were."""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.host.guests import ECHO
from tests.native.test_hostile_images import LOST, QUIET
from tests.vmm.test_images import efi_image

from gunyah.cli.main import main

PATIENCE = 120.0
"""Seconds; only a failure takes that long."""

X86 = b"\x7fELF\x02\x01\x01" + bytes(11) + struct.pack("<H", 62) + bytes(100)
CUT_OFF = efi_image()[:-100]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "x86").write_bytes(X86)
    (tmp_path / "cut").write_bytes(CUT_OFF)
    (tmp_path / "echo").write_bytes(ECHO)
    (tmp_path / "empty").write_bytes(b"")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(80 << 20)
    for name in ("jumps to unmapped memory", "executes garbage", "has a vector of calls"):
        (tmp_path / name.replace(" ", "-")).write_bytes(LOST[name][0].pack())
    (tmp_path / "masked").write_bytes(QUIET["loops with interrupts off"].pack())
    return tmp_path


BAD = {
    "a truncated Image": ('image = "cut"', "cut: the arm64 Image is cut off: "),
    "another architecture": ('image = "x86"', "is an ELF file for x86-64, not for AArch64"),
    "nothing": ('image = "empty"', "0 bytes are no image"),
    "a RAM disk larger than memory": ('image = "echo"\ninitrd = "large"', "RAM disk of 80.0 MiB does not fit"),
    "a tree that is none": ('image = "echo"\ndtb = "x86"', "is no device tree"),
    "too many vCPUs": ('image = "echo"\nvcpus = 9', "9 is not in 1..8"),
    "no file": ('image = "none"', "none"),
}


@pytest.mark.parametrize("where", ("primary", "vm.bad"))
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_status_1(
    files: Path, capsys: pytest.CaptureFixture[str], name: str, where: str
) -> None:
    keys, expected = BAD[name]
    kind = 'kind = "native"\n' if where == "primary" else ""
    path = files / "system.toml"
    path.write_text(f'[{where}]\n{kind}{keys}\nmemory = "64M"\n')
    assert main(["run", "--timeout", "5", str(path)]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and expected in told, told


def start(files: Path, content: str, *arguments: str) -> subprocess.Popen[str]:
    path = files / "system.toml"
    path.write_text(content)
    return subprocess.Popen(
        [sys.executable, "-m", "gunyah.cli.main", "run", *arguments, str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(files)},
    )


def test_lost_vms_are_told_of_and_the_others_answer(files: Path) -> None:
    # Given four secondary VMs that are lost or let nothing in, and one that is well,
    lost = ("jumps-to-unmapped-memory", "executes-garbage", "has-a-vector-of-calls")
    vms = (*lost, "masked", "echo")
    content = "cores = 2\n" + "".join(f'[vm.{name}]\nimage = "{name}"\nmemory = "4M"\n' for name in vms)
    with start(files, content) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            terminal = ""
            while "leave with" not in (line := process.stdout.readline()):
                assert line, process.stderr.read()
                if line.startswith("echo "):
                    terminal = line.rsplit(None, 1)[-1]
            # when somebody types at that one's terminal,
            console = os.open(terminal, os.O_RDWR | os.O_NOCTTY)
            os.write(console, b"well")
            got, end = b"", time.monotonic() + PATIENCE
            while b"well" not in got:
                assert select.select([console], [], [], max(0.0, end - time.monotonic()))[0], got
                got += os.read(console, 100)
            os.close(console)
            # then it answers, and each lost one has its line.
            told = [process.stderr.readline() for _ in lost]
            assert all(".vcpu0 is lost: " in line for line in told), told
            assert {line.split(": ")[1] for line in told} == set(lost)
        finally:
            process.terminate()
        assert process.wait(PATIENCE) in (0, 143)
        assert process.stderr.read() == ""


def test_a_lost_native_primary_vm_of_a_system_is_told_of_and_its_time_ends(files: Path) -> None:
    content = '[primary]\nkind = "native"\nimage = "executes-garbage"\nmemory = "64M"\n'
    with start(files, content, "--timeout", "1") as process:
        assert process.wait(PATIENCE) == 4
        assert process.stderr is not None
        told = process.stderr.read()
    assert told.count("\n") == 1 and "vm3.vcpu0 is lost" in told
