"""Debian's kernel here and under qemu-system-aarch64, and bare-metal loops on both: CPU seconds as ratios.

The runs take turns, so that both sides see the same minute of a shared machine. Each side is a process of its own with
the console on a pipe; what is counted is its user and system time, its start included. Kernel and RAM disk are those
that tools/fetch_linux.py has fetched, or GUNYAH_LINUX_IMAGE and GUNYAH_LINUX_INITRD; nothing is fetched here.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path

from tools.fetch_linux import cache_directory

from .harness import Figure, Group, NotHere
from .processes import Machine

__all__ = ["LINUX_GROUPS"]

QEMU = "qemu-system-aarch64"
BOOTARGS = "console=ttyAMA0 nokaslr kpti=off"
"""Without address randomisation there is no kernel page-table isolation to pay for, on either side."""
PROMPT = b"guest# "

STEPS: Mapping[str, str] = {
    "sha256": "dd if=/dev/zero bs=1M count=32 2>/dev/null | sha256sum",
    "gzip": "gzip -c s > /dev/null; gzip -c s > /dev/null",
    "fork_exec": "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done",
    "syscalls": "dd if=/dev/zero of=/dev/null bs=1 count=100000 2>/dev/null",
}
"""The last is 200,000 system calls: a read and a write for each byte."""
PREPARE = "stty cols 500; seq 1 300000 > s"
WORDS: Mapping[str, tuple[str, float]] = {
    "boot": ("boot of Debian's cloud kernel to a shell", 1.45),
    "sha256": ("32 MB through sha256sum", 1.3),
    "gzip": ("gzip of twice 2 MB", 1.3),
    "fork_exec": ("100 times fork and exec", 1.3),
    "syscalls": ("200,000 system calls", 1.0),
}


def _files() -> tuple[Path, Path]:
    image, initrd = os.environ.get("GUNYAH_LINUX_IMAGE"), os.environ.get("GUNYAH_LINUX_INITRD")
    if image and initrd:
        return Path(image), Path(initrd)
    cache = cache_directory()
    kernel, ramdisk = cache / "Image-cloud", cache / "initramfs.cpio"
    if not kernel.exists() or not ramdisk.exists():
        raise NotHere("no kernel: run tools/fetch_linux.py, or set GUNYAH_LINUX_IMAGE and GUNYAH_LINUX_INITRD")
    return kernel, ramdisk


def _gunyah(kernel: Path, *more: str) -> list[str]:
    return [str(Path(sys.executable).with_name("gunyah")), "run", "--kernel", str(kernel), "--memory", "256M", *more]


def _qemu(kernel: Path, *more: str) -> list[str]:
    machine = ["-M", "virt,gic-version=3", "-cpu", "cortex-a72", "-accel", "tcg,thread=single", "-m", "256"]
    return [QEMU, *machine, "-nic", "none", "-nographic", "-monitor", "none", "-serial", "stdio",
            "-no-reboot", "-kernel", str(kernel), *more]  # fmt: skip


def _conversation(command: Sequence[str]) -> dict[str, float]:
    """CPU seconds of the boot and of each step; peak resident bytes at the shell."""
    with Machine(command) as machine:
        at = machine.wait(PROMPT)
        result = {"boot": machine.cpu_seconds(), "resident": float(machine.peak_resident())}
        machine.type(f"{PREPARE}\n".encode())
        at = machine.wait(PROMPT, at)
        for name, step in STEPS.items():
            before = machine.cpu_seconds()
            machine.type(f"{step}\n".encode())
            at = machine.wait(PROMPT, at)
            result[name] = machine.cpu_seconds() - before
        machine.type(b"poweroff -f\n")
    return result


def _linux(rounds: int, missing: dict[str, str]) -> Mapping[str, Sequence[float]]:
    kernel, ramdisk = _files()
    ours: dict[str, list[float]] = defaultdict(list)
    theirs: dict[str, list[float]] = defaultdict(list)
    sides: list[tuple[dict[str, list[float]], list[str]]] = [
        (ours, _gunyah(kernel, "--initrd", str(ramdisk), "--cmdline", BOOTARGS))
    ]
    if shutil.which(QEMU):
        sides.append((theirs, _qemu(kernel, "-initrd", str(ramdisk), "-append", BOOTARGS)))
    for _ in range(rounds):
        for collected, command in sides:
            for name, value in _conversation(command).items():
                collected[name].append(value)
    results: dict[str, Sequence[float]] = {f"linux_{name}": ours[name] for name in WORDS}
    results["linux_resident"] = [value / 1e6 for value in ours["resident"]]
    for name in WORDS:
        if theirs:
            results[f"qemu_{name}"] = theirs[name]
            results[f"linux_{name}_ratio"] = [min(ours[name]) / max(min(theirs[name]), 1 / 100)]
        else:
            missing[f"qemu_{name}"] = missing[f"linux_{name}_ratio"] = f"{QEMU} is not here"
    return results


LOOPS = ("alu", "copy")


def _loops(command: Sequence[str]) -> dict[str, float]:
    """CPU seconds of each loop of the compute guest, which says before and after each that it is there."""
    with Machine(command) as machine:
        at, result = machine.wait(b"ready\n"), {}
        before = machine.cpu_seconds()
        for name in LOOPS:
            at = machine.wait(f"{name}\n".encode(), at)
            now = machine.cpu_seconds()
            result[name], before = now - before, now
    return result


def _bare_metal(rounds: int, missing: dict[str, str]) -> Mapping[str, Sequence[float]]:
    if not shutil.which(QEMU):
        raise NotHere(f"{QEMU} is not here")
    ours: dict[str, list[float]] = defaultdict(list)
    theirs: dict[str, list[float]] = defaultdict(list)
    with as_file(files("gunyah.vmm.guests") / "compute.bin") as guest:
        for _ in range(rounds):
            for collected, command in ((ours, _gunyah(guest)), (theirs, _qemu(guest))):
                for name, value in _loops(command).items():
                    collected[name].append(value)
    results: dict[str, Sequence[float]] = {}
    for name in LOOPS:
        results[f"bare_{name}"], results[f"qemu_bare_{name}"] = ours[name], theirs[name]
        results[f"bare_{name}_ratio"] = [min(ours[name]) / max(min(theirs[name]), 1 / 100)]
    return results


def _figures(names: Mapping[str, tuple[str, float]], ours: str, theirs: str) -> tuple[Figure, ...]:
    rows: list[Figure] = []
    for name, (words, target) in names.items():
        rows.append(Figure(f"{ours}{name}_ratio", "x", f"{words}, to QEMU", target))
        rows.append(Figure(f"{ours}{name}", "s", f"{words}, CPU seconds"))
        rows.append(Figure(f"{theirs}{name}", "s", f"{words}, QEMU's CPU seconds"))
    return tuple(rows)


_BARE = {"alu": ("bare-metal arithmetic", 1.3), "copy": ("bare-metal copy and sum of memory", 1.3)}
LINUX_GROUPS = (
    Group(_figures(_BARE, "bare_", "qemu_bare_"), _bare_metal, rounds=16),
    Group(
        (*_figures(WORDS, "linux_", "qemu_"), Figure("linux_resident", "MB", "peak at the shell, 256 MB guest", 160)),
        _linux,
    ),
)
