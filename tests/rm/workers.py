"""Secondary VMs that do what a scenario tells them: functions that run as their own code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.rm.rig import Client, GuestClient, Refused, Rig
from tests.rm.trees import vm_tree

from gunyah.abi.rm import MemAccept, MemAcceptFlag, MemAcceptReply, MemRelease, MessageId, SglEntry
from gunyah.guest.cpu import Cpu, GuestAbort

POOL = 0x6000_0000
"""Memory of the primary VM that scenarios give away."""
PAGE = 0x1000
DONE = int(MemAcceptFlag.DONE)


class Worker:
    """A secondary VM that does what it is told: functions that get its own client."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig = rig
        self.jobs: list[Callable[[GuestClient], Any]] = []
        self.results: list[Any] = []
        self.image = rig.image(name, self.guest)
        self.vmid = 0
        self.handle = 0

    def guest(self, cpu: Cpu, x0: int) -> None:
        client = GuestClient(self.rig, cpu, x0)
        while True:
            if not self.jobs:
                client.hyp.scheduler_yield()
                continue
            job = self.jobs.pop()
            try:
                self.results.append(job(client))
            except (GuestAbort, Refused, AssertionError) as error:
                self.results.append(error)

    def begin(self, client: Client, index: int) -> Worker:
        self.vmid, self.handle = client.create(
            self.image, vm_tree(f"worker-{index}", core=1 + index % 7), base=0x5000_0000 + index * 0x20_0000
        )
        client.start(self.vmid)
        return self

    def does(self, client: Client, job: Callable[[GuestClient], Any]) -> Any:
        """Run a job in the VM; its value, or its exception raised here."""
        self.jobs.append(job)
        while not self.results:
            client.hyp.scheduler_yield()
            client.poll()
        result = self.results.pop()
        if isinstance(result, Exception):
            raise result
        return result

    def accept(
        self, client: Client, handle: int, trans: int, flags: int = DONE, sgl: tuple[SglEntry, ...] = ()
    ) -> list[SglEntry]:
        request = MemAccept(handle, 0, trans, flags, sgl=sgl).pack()
        reply = self.does(client, lambda guest: guest.call(MessageId.MEM_ACCEPT, request))
        return list(MemAcceptReply.unpack(reply).sgl) if not sgl else []

    def release(self, client: Client, handle: int, flags: int = 0) -> None:
        self.does(client, lambda guest: guest.call(MessageId.MEM_RELEASE, MemRelease(handle, flags).pack()))

    def can(self, client: Client, address: int) -> tuple[bool, bool]:
        """(readable, writable) as the VM's own accesses find out; what is there stays."""

        def probe(guest: GuestClient) -> tuple[bool, bool]:
            return touch(guest.cpu, address)

        found: tuple[bool, bool] = self.does(client, probe)
        return found


def touch(cpu: Cpu, address: int) -> tuple[bool, bool]:
    """(readable, writable) as accesses of eight bytes find out; what is there stays."""
    try:
        old = cpu.read(address, 8)
    except GuestAbort:
        old = None
    try:
        cpu.write(address, old or bytes(8))
    except GuestAbort:
        return old is not None, False
    return old is not None, True


def with_workers(count: int, scenario: Callable[[Client, list[Worker]], None]) -> None:
    """A machine with running workers."""
    rig = Rig()
    workers = [Worker(rig, f"worker-{index}") for index in range(count)]

    def whole(client: Client) -> None:
        for index, worker in enumerate(workers):
            worker.begin(client, index)
        client.notifications.clear()
        scenario(client, workers)

    rig.run(whole)
