"""Debian's stock arm64 kernel as the primary VM, to a shell and off again."""

from __future__ import annotations

import hashlib
import re
import zlib
from pathlib import Path

import pytest

from .shell import Shell

pytestmark = pytest.mark.linux


@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_linux_boots_to_a_shell_computes_what_the_host_computes_and_powers_off(
    linux: tuple[Path, Path], vcpus: int
) -> None:
    with Shell(linux, vcpus=vcpus) as shell:
        assert shell.run("nproc") == str(vcpus)
        assert "aarch64" in shell.run("uname -m")
        size = 1 << 20
        assert shell.run(f"head -c {size} /dev/zero | sha256sum").split()[0] == hashlib.sha256(bytes(size)).hexdigest()
        words = "".join(f"{number}\n" for number in range(1, 20001)).encode()
        checks = shell.run("seq 1 20000 > s; md5sum < s; gzip -c s | gunzip | crc32").split()
        assert checks[0] == hashlib.md5(words).hexdigest()
        assert int(checks[-1], 16) == zlib.crc32(words)
        for cpu in range(vcpus):
            assert shell.run(f"taskset {1 << cpu:x} grep -c ^processor /proc/cpuinfo") == str(vcpus)
        assert shell.end("poweroff -f") == "off"
        assert not re.search(r"Oops|BUG:|WARNING:|Call trace|stall", shell.text), shell.text[-3000:]


def test_linux_finds_the_machine_that_the_hypervisor_shows(linux: tuple[Path, Path]) -> None:
    with Shell(linux) as shell:
        cpuinfo = shell.run("cat /proc/cpuinfo")
        features = re.search(r"Features\s*: (.*)", cpuinfo)
        assert features is not None
        assert set(features[1].split()) == {"fp", "asimd", "evtstrm", "aes", "pmull", "sha1", "sha2", "crc32", "cpuid"}
        assert "CPU part\t: 0x051" in cpuinfo
        interrupts = shell.run("cat /proc/interrupts")
        assert re.search(r"GICv3\s+27 Level\s+arch_timer", interrupts)
        assert re.search(r"GICv3\s+33 Level\s+uart-pl011", interrupts)
        assert shell.run("cat /sys/firmware/devicetree/base/hypervisor/compatible | tr '\\0' ' '").startswith(
            "qcom,gunyah-hypervisor-1.0"
        )
        assert shell.run("date -u +%Y") == "2024"
        assert "Vulnerable" not in shell.run("cat /sys/devices/system/cpu/vulnerabilities/spectre_*")


def test_a_minute_asleep_passes_in_the_guest_and_costs_the_host_nothing(linux: tuple[Path, Path]) -> None:
    with Shell(linux) as shell:
        before = float(shell.run("cut -d' ' -f1 /proc/uptime"))
        shell.run("sleep 60", seconds=90)
        after = float(shell.run("cut -d' ' -f1 /proc/uptime"))
        assert 60 <= after - before < 61


def test_reboot_stops_the_machine_with_a_reset(linux: tuple[Path, Path]) -> None:
    with Shell(linux) as shell:
        assert shell.end("reboot -f") == "reset"


def test_cores_leave_and_come_back(linux: tuple[Path, Path]) -> None:
    with Shell(linux, vcpus=2) as shell:
        online = "/sys/devices/system/cpu/cpu1/online"
        shell.run(f"echo 0 > {online}")
        assert shell.run("nproc") == "1"
        shell.run(f"echo 1 > {online}")
        assert shell.run("nproc") == "2"
        assert shell.run("taskset 2 echo here") == "here"


def test_typed_input_of_any_length_arrives_whole(linux: tuple[Path, Path]) -> None:
    with Shell(linux) as shell:
        text = "".join(chr(33 + number * 7 % 90) for number in range(3000))
        shell.primary.type(b"stty -echo; echo list''en; cat > typed\n")
        shell.wait_for(b"listen\r\n")
        for start in range(0, len(text), 200):
            shell.primary.type(text[start : start + 200].encode() + b"\n")
        shell.type(b"\x04")
        shell.type(b"stty echo\n")
        assert shell.run("tr -d '\\n' < typed | md5sum").split()[0] == hashlib.md5(text.encode()).hexdigest()
