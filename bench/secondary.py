"""What secondary VMs cost that are made by RPC alone, from a Linux primary VM in Python."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence

from tools.rm_lab import RmLab

import gunyah
from gunyah.abi import pyimage
from gunyah.abi.profile import PUBLIC_2023
from gunyah.abi.rm import MemTrans
from gunyah.linux.kernel import Kernel
from gunyah.linux.rm_client import RmClient, rm_calls_of
from gunyah.vmm.images import parse_image
from gunyah.vmm.vm_config import VmSettings

from .harness import Benchmark, Figure, Group

__all__ = ["SECONDARY_BENCHMARKS", "SECONDARY_GROUPS"]

LIVES = 20
PAGES = 512
CLIENTS = 8
REQUESTS = 250
MIB = 1 << 20

# movz x1, #0x900, lsl #16; mov w3, #'!'; str w3, [x1]; wfi; b .-4: a byte to the UART is its third instruction.
FIRST_WORDS = struct.pack("<5I", 0xD2A1_2001, 0x5280_0423, 0xB900_0023, 0xD503_207F, 0x17FF_FFFF)


def _lives(rounds: int, missing: dict[str, str]) -> Mapping[str, Sequence[float]]:
    """CPU milliseconds from the call of start to the guest's first store, and of stop with deallocate."""
    starts: list[float] = []
    ends: list[float] = []
    with gunyah.System() as system:
        image = parse_image(FIRST_WORDS, "first words")
        vm = system.primary.vm(VmSettings(name="bench", image=image, memory=64 * MIB))
        seen: list[float] = []
        vm.inside.console.listen(lambda data: seen.append(time.process_time()))
        # The first life brings the CPU engine with it.
        for life in range(LIVES * rounds + 1):
            seen.clear()
            begun = time.process_time()
            vm.start()
            system.run(lambda: bool(seen), 10)
            stopping = time.process_time()
            vm.stop()
            vm.deallocate()
            if life:
                starts.append((seen[0] - begun) * 1e3)
                ends.append((time.process_time() - stopping) * 1e3)
    return {"vm_start": starts, "vm_stop": ends}


def _memparcel(rounds: int, missing: dict[str, str]) -> Mapping[str, Sequence[float]]:
    """CPU milliseconds of sharing 2 MB in 512 entries of a page, accepting, releasing and reclaiming them."""
    times: dict[str, list[float]] = {"memparcel_2mb": [], "memparcel_2mb_scattered": []}
    with gunyah.System(console_loopback=False) as system:
        lab = RmLab(system)
        guest = lab.guest()
        base = lab.memory(2 * PAGES * 0x1000)
        acl = [(guest.vmid, 6), (3, 6)]
        for stride, name in zip((0x1000, 0x2000), times, strict=True):
            pages = [(base + stride * index, 0x1000) for index in range(PAGES)]
            for _ in range(3 * rounds):
                begun = time.process_time()
                handle = lab.rm.mem_share(acl, pages)
                guest.rm.mem_accept(handle, MemTrans.SHARE)
                guest.rm.mem_release(handle)
                lab.rm.mem_reclaim(handle)
                times[name].append((time.process_time() - begun) * 1e3)
    return times


def _clients() -> tuple[float, float]:
    """Requests of eight VMs at once."""
    with gunyah.System(console_loopback=False) as system:
        go: list[bool] = []
        done: list[int] = []

        def client(kernel: Kernel) -> None:
            rm = RmClient(rm_calls_of(lambda: kernel.resource_managers))
            while not go:
                kernel.scheduler.sleep(1_000_000)
            for _ in range(REQUESTS):
                rm.vm_get_vmid()
            done.append(1)

        kernels = [Kernel(PUBLIC_2023, cmdline="console=ttynull", init=client) for _ in range(CLIENTS)]
        for index, kernel in enumerate(kernels):
            image = parse_image(pyimage.pack(system.load_program("client", kernel.main)), "client")
            settings = VmSettings(name=f"client{index}", image=image, memory=16 * MIB, console="rm")
            system.primary.vm(settings).start()
        system.run(lambda: all(kernel.booted for kernel in kernels), 10)
        begun = time.process_time()
        go.append(True)
        if not system.run(lambda: len(done) == CLIENTS, 60):
            raise RuntimeError("the clients have not ended")
        return CLIENTS * REQUESTS, time.process_time() - begun


SECONDARY_GROUPS = (
    Group(
        (
            Figure("vm_start", "ms", "a VM by RPC, from the call to its first store", 10),
            Figure("vm_stop", "ms", "its stop, reset, reclaim and deallocation", 25),
        ),
        _lives,
        rounds=1,
    ),
    Group(
        (
            Figure("memparcel_2mb", "ms", "2 MB in 4 KB entries shared, accepted, released, reclaimed", 15),
            Figure("memparcel_2mb_scattered", "ms", "the same of 512 pages with gaps between them"),
        ),
        _memparcel,
        rounds=3,
    ),
)

SECONDARY_BENCHMARKS = (
    Benchmark("rm_rpc_8", "requests/s", "VM_GET_VMID of 8 secondary VMs at once", _clients, 5_000, rounds=3),
)
