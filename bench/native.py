"""What native code costs: the bench guest's calls, traps and interrupts, and switches between two native VMs.

The guest measures with the system counter and prints a line for each of its rounds (vmm/guests/bench.S). It owns both
ends of a message queue that is made for it here.
"""

from __future__ import annotations

import struct
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.msgqueue import CreateInfo
from gunyah.abi.types import VMID_HLOS
from gunyah.guest.cpu import Cpu
from gunyah.host.conformance.stage import Stage
from gunyah.hypervisor.msgqueue import MsgQueue
from gunyah.machine.board import COUNTER_FREQUENCY
from gunyah.native import NativePrimary
from gunyah.system import System
from gunyah.vmm.guests import guest_image

from .harness import Figure, Group, NotHere
from .maker import VmMaker

__all__ = ["NATIVE_GROUPS"]

MAILBOX = 0x2100
"""Where the guest looks for its queue's capabilities, from its first instruction on."""
SECONDS = 120.0
SWITCHES = 5_000

GUEST_FIGURES = (
    Figure("native_identify", "us", "hypervisor_identify from native code and back", 0.8),
    Figure("native_psci_version", "us", "PSCI_VERSION by HVC"),
    Figure("native_receive_empty", "us", "receive from an empty message queue"),
    Figure("native_gicd_read", "us", "an emulated GICD register read", 1.0),
    Figure("native_id_register", "us", "a trapped identification register read"),
    Figure("native_queue_240", "us", "message queue: send and receive of 240 bytes", 6.0),
    Figure("native_get_vmid", "us", "GET_VMID round trip with RM, sleeping in between", 60.0),
    Figure("native_timer_latency", "us", "from a timer's time to its handler, out of WFI"),
)
LINES = ("identify", "psci_version", "receive_empty", "gicd_read", "id_register", "queue_240", "rpc", "timer_interrupt")
"""What the guest calls the figures."""


def _guest_output() -> str:
    primary = NativePrimary(kernel=guest_image("bench"))
    with System(primary, clock="real", seed=1) as system:
        if not system.run(until=lambda: b"ready\n" in primary.output, timeout=SECONDS):
            raise NotHere(f"the guest did not come up: {system.last_words()}")
        assert system.root is not None and primary.placement is not None
        (vcpu,) = (vcpu for vcpu in system.hypervisor.vcpus.values() if vcpu.vmid == VMID_HLOS)
        assert vcpu.cspace is not None
        queue = MsgQueue(system.root.cspace.partition)
        queue.configure(CreateInfo(8, 240).pack())
        queue.activate()
        capability = vcpu.cspace.create_master(queue)
        system.memory.write(primary.placement.entry + MAILBOX, struct.pack("<2Q", capability, capability))
        if not system.run(until=lambda: system.stopped is not None, timeout=SECONDS):
            raise NotHere(f"the guest did not end within {SECONDS:g} s")
    return primary.output.decode()


def _guest(rounds: int, missing: dict[str, str]) -> Mapping[str, Sequence[float]]:
    names = dict(zip(LINES, (figure.name for figure in GUEST_FIGURES), strict=True))
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for line in _guest_output().splitlines():
            words = line.split()
            if len(words) == 3 and words[0] in names:
                found[names[words[0]]].append(int(words[2]) / COUNTER_FREQUENCY * 1e6 / int(words[1]))
    return found


def _yield_loop(count: int) -> bytes:
    """AArch64: yield ``count`` times, then sleep for good."""
    yields = BY_NAME["scheduler_yield"].hvc
    words = (
        0xD280_0013 | (count & 0xFFFF) << 5,  # mov x19, #count
        0xD280_0000,  # loop: mov x0, #0
        0xD280_0001,  # mov x1, #0
        0xD400_0002 | yields << 5,  # hvc #scheduler_yield
        0xF100_0673,  # subs x19, x19, #1
        0x54FF_FF81,  # b.ne loop
        0xD503_207F,  # sleep: wfi
        0x17FF_FFFF,  # b sleep
    )
    return struct.pack(f"<{len(words)}I", *words)


def _switches() -> float:
    """CPU microseconds from one native VM to the other: both give their core away at every turn."""
    stage = Stage()
    ready: list[int] = []

    def root(cpu: Cpu, x0: int) -> None:
        maker = VmMaker(cpu, x0)
        for vmid in (0x80, 0x81):
            vm = maker.make(vmid, vcpus=1, memory=0x20_0000)
            cpu.write(vm.base, _yield_loop(SWITCHES))
            maker.hyp.vcpu_poweron(vm.vcpus[0], vm.base, 0)
            ready.append(vmid)
        while True:
            cpu.wfi()

    stage.start_root(stage.image_of(root))
    hv = stage.hypervisor
    if not hv.run(lambda: len(ready) == 2):
        raise NotHere(f"two native VMs cannot be made: {stage.why_it_ended()}")
    start = time.process_time()
    # Both VMs sleep when their turns are done; then nobody has anything to do and the machine comes back.
    hv.run(lambda: all(v.vmid not in (0x80, 0x81) or not v.runnable for v in hv.vcpus.values()))
    seconds = time.process_time() - start
    stage.close()
    return seconds / (2 * SWITCHES) * 1e6


def _world_switch(rounds: int, missing: dict[str, str]) -> Mapping[str, Sequence[float]]:
    return {"world_switch": [_switches() for _ in range(rounds)]}


NATIVE_GROUPS = (
    Group(GUEST_FIGURES, _guest, rounds=2),
    Group((Figure("world_switch", "us", "yield of one native VM to another, on one core"),), _world_switch),
)
