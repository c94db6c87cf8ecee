"""The benchmarks. Each makes the system it needs, does one round and tells operations and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import gunyah
from gunyah.abi import pyimage
from gunyah.abi.hypercalls import BY_NAME
from gunyah.guest.cpu import Cpu
from gunyah.host.conformance.monitor import Monitor
from gunyah.host.conformance.rpc import RmClient
from gunyah.host.conformance.runner import primary_environment
from gunyah.host.conformance.stage import Stage
from gunyah.hypervisor.boot import start_root_vm

from .guests import Exchange, hypercall_loop, root_with_peer
from .harness import Benchmark

__all__ = ["BENCHMARKS"]

CALLS = 50_000
MESSAGES = 10_000
REQUESTS = 1_000
LOOPBACK = 256 * 1024
GET_VMID = 0x5600_0024


def _in_root(work: Callable[[Cpu, int], float]) -> float:
    """Seconds that ``work(cpu, x0)`` reports from inside the root VM of a fresh machine."""
    seconds: list[float] = []

    def program(cpu: Cpu, x0: int) -> None:
        seconds.append(work(cpu, x0))
        while True:
            cpu.wfi()

    stage = Stage()
    stage.start_root(stage.image_of(program))
    _until(stage, lambda: bool(seconds))
    return seconds[0]


def _until(stage: Stage, done: Callable[[], bool]) -> None:
    if not stage.hypervisor.run(done):
        raise RuntimeError(f"the machine ended before its benchmark: {stage.why_it_ended()}")
    stage.close()


def hypercall() -> tuple[float, float]:
    loop = hypercall_loop(BY_NAME["hypervisor_identify"].hvc, (), CALLS)
    return CALLS, _in_root(lambda cpu, x0: loop(cpu))


def hypercall_capability() -> tuple[float, float]:
    def work(cpu: Cpu, x0: int) -> float:
        given = Monitor(cpu).root_environment(x0).capabilities()
        monitor = Monitor(cpu)
        x = monitor.hypercall(BY_NAME["partition_create_doorbell"].number, given["$partition"], given["$cspace"], 0)
        monitor.hypercall(BY_NAME["object_activate"].number, x[1], 0)
        return hypercall_loop(BY_NAME["doorbell_send"].hvc, (x[1], 1, 0), CALLS)(cpu)

    return CALLS, _in_root(work)


def message_queue() -> tuple[float, float]:
    stage = Stage()
    exchange = Exchange(MESSAGES)
    root = root_with_peer(exchange, stage.register)
    start_root_vm(stage.hypervisor, pyimage.pack(stage.register("root", root)))
    _until(stage, lambda: exchange.done)
    return 2 * MESSAGES, exchange.seconds


def rm_rpc() -> tuple[float, float]:
    seconds: list[float] = []

    def program(cpu: Cpu, x0: int) -> None:
        monitor = Monitor(cpu)
        environment = primary_environment(monitor, x0)
        client = RmClient(monitor, environment.tx, environment.rx, environment.scratch)
        client.request(GET_VMID, b"")
        start = time.process_time()
        for _ in range(REQUESTS):
            client.request(GET_VMID, b"")
        seconds.append(time.process_time() - start)
        while True:
            cpu.wfi()

    stage = Stage()
    stage.start_primary(stage.image_of(program))
    _until(stage, lambda: bool(seconds))
    return REQUESTS, seconds[0]


def console_loopback() -> tuple[float, float]:
    data = bytes(range(256)) * (LOOPBACK // 256)
    with gunyah.System() as system:
        gh0, gh1 = system.primary.tty("ttyGH0"), system.primary.tty("ttyGH1")
        got = bytearray()
        sent = 0
        start = time.process_time()
        while len(got) < len(data):
            if sent < len(data):
                sent += gh0.write(data[sent : sent + 4096])
            got += gh1.read(65536)
        seconds = time.process_time() - start
    if bytes(got) != data:
        raise RuntimeError("the loopback returned other bytes than were written")
    return len(data), seconds


def boot() -> tuple[float, float]:
    start = time.process_time()
    with gunyah.System():
        seconds = time.process_time() - start
    return 1, seconds


BENCHMARKS = (
    Benchmark("hypercall", "calls/s", "hypervisor_identify from a Python VM", hypercall, 200_000),
    Benchmark("hypercall_capability", "calls/s", "doorbell_send from a Python VM", hypercall_capability),
    Benchmark("message_queue", "messages/s", "240 bytes between two VMs, both ways", message_queue, 50_000),
    Benchmark("rm_rpc", "requests/s", "VM_GET_VMID and its reply", rm_rpc, 5_000),
    Benchmark("console_loopback", "bytes/s", "ttyGH0 to ttyGH1", console_loopback, 1_000_000, rounds=3),
    Benchmark("boot", "boots/s", "a system from nothing to a running primary VM", boot, rounds=3),
)
"""What Python VMs do. Native guests are measured in ``native``, ``vms`` and ``linux``."""
