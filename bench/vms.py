"""What VMs cost: to make and destroy one by hypercalls, and to have a hundred of them.

`python -m bench.vms COUNT` makes so many native VMs in a process of its own and prints its resident bytes as JSON.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gunyah.guest.cpu import Cpu
from gunyah.host.conformance.stage import Stage

from .harness import Figure, Group, NotHere
from .maker import FIRST_BASE, VmMaker

__all__ = ["VM_GROUPS"]

LIVES = 20
FEW, MANY = 10, 100
SMALL = 0x20_0000
FIRST_VMID = 0x80
MB = 1e6


def _lives() -> list[float]:
    """CPU milliseconds of each life of a VM with 8 vCPUs, 256 MB, 2 queues and a doorbell."""
    stage = Stage()
    times: list[float] = []
    left: list[bool] = []

    def root(cpu: Cpu, x0: int) -> None:
        maker = VmMaker(cpu, x0)
        for _ in range(LIVES):
            start = time.process_time()
            vm = maker.make(FIRST_VMID, vcpus=8, memory=256 << 20, queues=2, doorbells=1, base=FIRST_BASE)
            maker.destroy(vm)
            times.append((time.process_time() - start) * 1e3)
        left.append(True)
        while True:
            cpu.wfi()

    stage.start_root(stage.image_of(root))
    if not stage.run(lambda: bool(left)):
        raise NotHere(f"the VMs cannot be made: {stage.why_it_ended()}")
    stage.close()
    return times


def _resident() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


def alive(count: int) -> dict[str, int]:
    """Make ``count`` native VMs that run once and sleep; the process' resident bytes before and after."""
    stage = Stage()
    done: list[bool] = []
    sleep = struct.pack("<3I", 0xF900_0000, 0xD503_207F, 0x17FF_FFFF)  # str x0, [x0]; wfi; b .-4
    before: list[int] = []

    def root(cpu: Cpu, x0: int) -> None:
        maker = VmMaker(cpu, x0)
        for number in range(count):
            if number == 1:
                # The first one brings the engine with it.
                before.append(_resident())
            vm = maker.make(FIRST_VMID + number, vcpus=1, memory=SMALL)
            cpu.write(vm.base, sleep)
            maker.hyp.vcpu_poweron(vm.vcpus[0], vm.base, vm.base + 0x1000)
            maker.hyp.scheduler_yield()
        done.append(True)
        while True:
            cpu.wfi()

    stage.start_root(stage.image_of(root))
    if not stage.run(lambda: bool(done)):
        raise SystemExit(f"{count} VMs cannot be made: {stage.why_it_ended()}")
    stage.hypervisor.run(deadline=stage.hypervisor.clock.ticks() + 1000)
    after = _resident()
    started = sum(1 for vcpu in stage.hypervisor.vcpus.values() if vcpu.vmid >= FIRST_VMID and vcpu.vmid != 255)
    stage.close()
    return {"before": before[0], "after": after, "vcpus": started}


def _in_own_process(count: int) -> dict[str, int]:
    done = subprocess.run([sys.executable, "-m", "bench.vms", str(count)], capture_output=True, text=True)
    if done.returncode:
        raise NotHere(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}")
    result: dict[str, int] = json.loads(done.stdout)
    return result


def _many(rounds: int, missing: dict[str, str]) -> Mapping[str, Sequence[float]]:
    if not Path("/proc/self/statm").exists():
        raise NotHere("resident memory is read from /proc, which is not here")
    few = [_in_own_process(FEW) for _ in range(rounds)]
    many = [_in_own_process(MANY) for _ in range(rounds)]
    return {
        "vms_100_resident": [result["after"] / MB for result in many],
        "vm_resident": [(m["after"] - f["after"]) / (MANY - FEW) / 1e3 for f, m in zip(few, many, strict=True)],
    }


VM_GROUPS = (
    Group(
        (Figure("vm_life", "ms", "a VM made and destroyed: 8 vCPUs, 256 MB, 2 queues, 1 doorbell", 20),),
        lambda rounds, missing: {"vm_life": [value for _ in range(rounds) for value in _lives()]},
    ),
    Group(
        (
            Figure("vms_100_resident", "MB", "the process with 100 small native VMs alive", 1000),
            Figure("vm_resident", "kB", "each VM more, between the 10th and the 100th"),
        ),
        _many,
        rounds=1,
    ),
)


if __name__ == "__main__":
    print(json.dumps(alive(int(sys.argv[1]))))
