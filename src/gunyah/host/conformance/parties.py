"""The two places from which requests of one recording are made: the VM that replays, and a VM that it has started."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gunyah.host.conformance.monitor import Monitor
from gunyah.host.conformance.recorded_guest import Driver, RecordedGuest
from gunyah.host.conformance.rpc import TURNS, NoAnswer, RmClient

__all__ = ["GuestParty", "Party"]

Result = TypeVar("Result")


class Party:
    """The VM that replays: work is done at once."""

    def __init__(self, monitor: Monitor, client: RmClient) -> None:
        self.monitor = monitor
        self.client = client

    def do(self, work: Callable[[Monitor, RmClient], Result]) -> Result:
        """What ``work`` gives when it is done with the VM's own monitor and client; raises what it raises."""
        return work(self.monitor, self.client)


class GuestParty(Party):
    """A VM that the replaying one has started: it does the work while its owner gives it time."""

    def __init__(self, owner: Party, guest: RecordedGuest, vmid: int) -> None:
        super().__init__(owner.monitor, owner.client)
        self._guest = guest
        self._driver = Driver(owner.monitor, owner.client, vmid)

    def do(self, work: Callable[[Monitor, RmClient], Result]) -> Result:
        """As above, with the guest's monitor and client; raises NoAnswer too, when it never comes to an end."""
        done: list[Result | Exception] = []

        def job(monitor: Monitor, client: RmClient) -> None:
            try:
                done.append(work(monitor, client))
            except Exception as failure:
                # It belongs to whoever ordered the work, not to the VM that did it.
                done.append(failure)

        self._guest.job = job
        for _ in range(TURNS):
            if done or not self._driver.turn():
                break
        if not done:
            raise NoAnswer("the secondary VM did not come to an end with it")
        result = done[0]
        if isinstance(result, Exception):
            raise result
        return result
