"""Boots a Linux again and again, then keeps a machine busy, and reads the kernel's log: `python -m tools.soak`.

First N boots in a row of Debian's cloud kernel (what tools/fetch_linux.py fetched, or GUNYAH_LINUX_IMAGE and
GUNYAH_LINUX_INITRD) to a shell and off again, each with another seed and with 1, 2 and 4 vCPUs in turn; then 1, 2, 4
and so on up to V secondary VMs at once, and what each of them costs; then a machine with 4 vCPUs under a load of
hashing, copying, packing and forking for M minutes of guest time. A stall, an oops, a warning, a report of the
hypervisor, a lost power-off or a wrong sum of computed data is a failure: the log is kept, and the exit status is 1.

On the real clock a busy host looks to the guest as if its cores were away for long times. The virtual clock counts what
the guest does, a nanosecond an instruction, so that a busy host does not show; four busy vCPUs need about ten times as
long as on the real clock.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gunyah.abi.rm import ExitType
from gunyah.native import NativePrimary
from gunyah.secondary import PrimaryVm
from gunyah.system import System
from gunyah.vmm.loader import read_image
from gunyah.vmm.vm_config import VmSettings
from tools.fetch_linux import cache_directory, fetch

__all__ = ["Console", "SoakFailure", "linux_files", "one_boot", "secondary_vms", "stress"]

PROMPT = b"guest# "
BOOT_SECONDS = 300.0
"""Of guest time; an undisturbed boot takes two, and other programs may need the host's cores."""
VCPUS = (1, 2, 4)
SECONDARY_MEMORY = 104 << 20
"""Eight times that is what the board has for the primary VM's guests."""
PART_SECONDS = 10
"""Guest time between two looks at the log and the shell."""

TROUBLE = re.compile(
    r"Oops|BUG[: ]|WARNING|Call trace|stall|lockup|hung task|Unable to handle|Internal error|SError|panic"
    r"|Out of memory|oom-killer",
    re.IGNORECASE,
)
HARMLESS = re.compile(r"panic=|kernel\.panic|panic_on|random: .*")
"""What a healthy kernel says with the same words."""

LOADS = {
    "hash": "while :; do dd if=/dev/zero bs=64k count=64 2>/dev/null | sha256sum >> /tmp/hashes; done",
    "copy": "while :; do dd if=/dev/zero of=/tmp/big bs=1M count=16 2>/dev/null; md5sum /tmp/big >/dev/null; done",
    "pack": "seq 1 60000 > /tmp/words; while :; do gzip -c /tmp/words | gunzip | md5sum >> /tmp/packs; done",
    "fork": "while :; do (/bin/true; /bin/echo x) >/dev/null; ls -lR /sys/class >/dev/null; done",
}
"""Busybox only; each runs in two shells, twice as many as there are vCPUs."""


class SoakFailure(Exception):
    """A machine did not do what it should; one sentence."""


def linux_files() -> tuple[Path, Path]:
    """Kernel and RAM disk: the named ones, else those of the cache, fetched where they are missing."""
    image, initrd = os.environ.get("GUNYAH_LINUX_IMAGE"), os.environ.get("GUNYAH_LINUX_INITRD")
    return (Path(image), Path(initrd)) if image and initrd else fetch(cache_directory())


class Console:
    """A machine with a shell on its console."""

    def __init__(self, files: tuple[Path, Path], *, vcpus: int, seed: int, clock: str, memory: int = 256 << 20) -> None:
        self.primary = NativePrimary(kernel=files[0], ramdisk=files[1], bootargs="console=ttyAMA0")
        self.reports: list[str] = []
        self.system = System(
            self.primary, clock=clock, seed=seed, memory=memory, vcpus=vcpus, reporter=self.reports.append
        )

    def wait(self, start: int = 0, seconds: float = BOOT_SECONDS, words: bytes = PROMPT) -> str:
        """What comes on the console from ``start`` until ``words``."""
        found = self.system.run(until=lambda: self.primary.output.find(words, start) >= 0, timeout=seconds)
        text = self.primary.output[start:].decode("utf-8", "replace")
        if not found:
            raise SoakFailure(f"{words.decode()!r} has not come within {seconds:g} s: {self.system.last_words()}")
        return text

    def run(self, command: str, seconds: float = BOOT_SECONDS) -> str:
        """What a command prints."""
        start = len(self.primary.output)
        self.primary.type(command.encode() + b"\n")
        text = self.wait(start, seconds)
        return text[: text.index(PROMPT.decode())].replace("\r\n", "\n").partition("\n")[2].strip()

    def power_off(self) -> None:
        """Off by PSCI."""
        self.primary.type(b"poweroff -f\n")
        self.system.run(until=lambda: self.system.stopped is not None, timeout=BOOT_SECONDS)
        if self.system.stopped != "off":
            raise SoakFailure(f"poweroff left the machine {self.system.stopped or 'running'}")

    @property
    def log(self) -> str:
        """Everything on the console so far."""
        return self.primary.output.decode("utf-8", "replace")

    def check(self) -> None:
        """Raise SoakFailure with what the hypervisor has reported, or the first line of trouble in the log."""
        if self.reports:
            raise SoakFailure(f"the hypervisor says: {self.reports[0]}")
        for line in self.log.splitlines():
            if TROUBLE.search(line) and not HARMLESS.search(line):
                raise SoakFailure(f"the log says: {line.strip()}")


@contextmanager
def _machine(files: tuple[Path, Path], vcpus: int, seed: int, clock: str, memory: int = 256 << 20) -> Iterator[Console]:
    console = Console(files, vcpus=vcpus, seed=seed, clock=clock, memory=memory)
    try:
        with console.system:
            yield console
    except SoakFailure as failure:
        with tempfile.NamedTemporaryFile("w", prefix="gunyah-soak-", suffix=".log", delete=False) as kept:
            kept.write(console.log)
        raise SoakFailure(f"{failure} (log in {kept.name})") from None


def one_boot(files: tuple[Path, Path], vcpus: int, seed: int, clock: str) -> None:
    """To the shell, a sum of a MiB of zeros, and off. Raises SoakFailure."""
    with _machine(files, vcpus, seed, clock) as console:
        console.wait()
        # On a busy host the kernel may put in a word about a late timer, so the sum is looked for in all that comes.
        got = console.run("head -c 1048576 /dev/zero | sha256sum")
        if hashlib.sha256(bytes(1 << 20)).hexdigest() not in got:
            raise SoakFailure(f"sha256sum of a MiB of zeros is {got}")
        console.power_off()
        console.check()


def secondary_vms(files: tuple[Path, Path], count: int) -> float:
    """Boot `count` VMs at once, have each compute and say its name, and switch them off; CPU seconds of each.

    Raises SoakFailure.
    """
    image, ramdisk = read_image(files[0]), files[1].read_bytes()
    with System(clock="real", seed=count, memory=1 << 30) as system:
        vms: dict[str, PrimaryVm] = {}
        for number in range(count):
            settings = VmSettings(
                name=f"debian{number}",
                image=image,
                ramdisk=ramdisk,
                memory=SECONDARY_MEMORY,
                bootargs="console=ttyAMA0 nokaslr quiet",
                seed=bytes([number]) * 64,
            )
            vms[settings.name] = system.primary.vm(settings)
        began = time.process_time()
        for vm in vms.values():
            vm.start()
        seconds = BOOT_SECONDS * count
        for name, vm in vms.items():
            vm.read_until(PROMPT, seconds)
            vm.write(f"echo {name} $((6*7)) is well; poweroff -f\n".encode())
        for name, vm in vms.items():
            vm.read_until(f"{name} 42 is well".encode(), seconds)
            ended = vm.wait_exit(seconds)
            if ended.exit_type != ExitType.PLATFORM_OFF:
                raise SoakFailure(f"{name} ended with {ended}")
        if system.primary.kernel.oopses:
            raise SoakFailure(f"the primary VM: {system.primary.kernel.oopses[0]}")
        return (time.process_time() - began) / count


def stress(files: tuple[Path, Path], minutes: float, clock: str, tell: Callable[[str], object] = print) -> float:
    """Keep 4 vCPUs busy; the guest seconds that passed under load. Raises SoakFailure."""
    # Eight loops that fork leave much to be freed later; a guest without memory to spare would be busy reclaiming it.
    with _machine(files, 4, 1, clock, 512 << 20) as console:
        console.wait()
        # The shell would break its echo of long commands.
        console.run("stty cols 500")
        console.run("dmesg -n 8")
        for name, load in LOADS.items():
            console.run(f"echo '{load}' > /tmp/{name}.sh")
            for _ in range(2):
                console.run(f"sh /tmp/{name}.sh &")
        begin = last = _uptime(console)
        told = time.monotonic()
        while last - begin < minutes * 60:
            console.run(f"sleep {PART_SECONDS}", seconds=PART_SECONDS + BOOT_SECONDS)
            console.check()
            now = _uptime(console)
            if time.monotonic() - told > 20:
                told = time.monotonic()
                tell(f"stress: {now - begin:.0f} s of guest time, load {console.run('cut -c1-14 /proc/loadavg')}")
            last = now
        for name, expected in (("hashes", hashlib.sha256(bytes(4 << 20)).hexdigest()), ("packs", _packed())):
            sums = console.run(f"wc -l < /tmp/{name}; grep -vc '^{expected}' /tmp/{name}").split()
            tell(f"stress: {sums[0]} sums of {name}, {sums[1]} of them wrong")
            # Two shells append to one file; its last line may be half written.
            if int(sums[1]) > 1 or int(sums[0]) == 0:
                raise SoakFailure(f"{sums[1]} of {sums[0]} sums of {name} are wrong")
        interrupts = console.run("grep -E 'arch_timer|IPI' /proc/interrupts")
        tell(f"stress: interrupts at the end\n{interrupts}")
        console.power_off()
        console.check()
        return last - begin


def _uptime(console: Console) -> float:
    return float(console.run("cut -d' ' -f1 /proc/uptime"))


def _packed() -> str:
    return hashlib.md5("".join(f"{number}\n" for number in range(1, 60001)).encode()).hexdigest()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--boots", type=int, default=20, help="boots in a row, default %(default)s")
    parser.add_argument("--vms", type=int, default=0, help="secondary VMs at once, at most 8; default none")
    parser.add_argument("--minutes", type=float, default=5.0, help="guest time under load, default %(default)s")
    parser.add_argument("--clock", choices=("real", "virtual"), default="real", help="default %(default)s")
    options = parser.parse_args()
    files = linux_files()
    try:
        for number in range(options.boots):
            began, vcpus = time.monotonic(), VCPUS[number % len(VCPUS)]
            one_boot(files, vcpus, number, options.clock)
            gc.collect()
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            took = time.monotonic() - began
            print(f"boot {number + 1} of {options.boots}: {vcpus} vCPUs, {took:.1f} s, peak {resident} MB", flush=True)
        for number in (*(n for n in (1, 2, 4) if n < options.vms), options.vms)[: options.vms]:
            each = secondary_vms(files, number)
            print(f"secondary VMs: {number} at once, {each:.2f} CPU seconds each", flush=True)
        if options.minutes > 0:
            passed = stress(files, options.minutes, options.clock, lambda words: print(words, flush=True))
            print(f"stress: {passed:.0f} s of guest time on 4 vCPUs without trouble")
    except SoakFailure as failure:
        print(f"soak: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
