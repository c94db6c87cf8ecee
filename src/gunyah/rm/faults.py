"""Faults that a test can make RM have: refused, dropped, delayed or duplicated answers, memory that runs out.

    with system.rm.faults.deny("VM_START", code=RmError.BUSY):
        ...
    with system.rm.faults.nomem(map=3):
        ...

A rule holds inside its ``with`` block, for the messages it names (all when it names none), the client it names (any),
and at most ``times`` times. Without rules the cost is one test of an empty list.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from gunyah.abi.errors import Error, RmError
from gunyah.abi.rm import MessageId, NotificationId
from gunyah.guest.hypercall import HypercallFailed

__all__ = ["Faults", "Rule", "What"]


class What(Enum):
    """What happens to a message."""

    DENY = "deny"
    DROP = "drop"
    DELAY = "delay"
    DUPLICATE = "duplicate"


@dataclass(slots=True, eq=False)
class Rule:
    """One fault. ``used`` counts how often it happened."""

    what: What
    ids: frozenset[int]
    client: int | None
    times: int | None
    code: RmError = RmError.DENIED
    nanoseconds: int = 0
    used: int = 0

    def applies(self, client: int, message_id: int) -> bool:
        """Whether the rule takes this message; counts it if so."""
        if self.ids and message_id not in self.ids:
            return False
        if self.client is not None and client != self.client:
            return False
        if self.times is not None and self.used >= self.times:
            return False
        self.used += 1
        return True


def _ids(names: tuple[str | int, ...]) -> frozenset[int]:
    ids: set[int] = set()
    for name in names:
        if isinstance(name, int):
            ids.add(name)
        elif name in MessageId.__members__:
            ids.add(MessageId[name])
        elif name in NotificationId.__members__:
            ids.add(NotificationId[name])
        else:
            raise ValueError(f"{name!r} is no RM message")
    return frozenset(ids)


class Faults:
    """The faults of one Resource Manager. Names are those of ``MessageId`` and ``NotificationId``."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self._countdown: dict[str, list[int]] = {}

    def match(self, client: int, message_id: int) -> Rule | None:
        """The first rule that takes a request of ``client``, or a notification to it."""
        for rule in self.rules:
            if rule.applies(client, message_id):
                return rule
        return None

    @contextmanager
    def _rule(self, rule: Rule) -> Iterator[Rule]:
        self.rules.append(rule)
        try:
            yield rule
        finally:
            self.rules.remove(rule)

    @contextmanager
    def deny(
        self, *names: str | int, code: RmError = RmError.DENIED, client: int | None = None, times: int | None = None
    ) -> Iterator[Rule]:
        """Requests are answered ``code`` and have no effect."""
        with self._rule(Rule(What.DENY, _ids(names), client, times, code)) as rule:
            yield rule

    @contextmanager
    def drop(self, *names: str | int, client: int | None = None, times: int | None = None) -> Iterator[Rule]:
        """Requests take effect and get no reply; notifications are lost."""
        with self._rule(Rule(What.DROP, _ids(names), client, times)) as rule:
            yield rule

    @contextmanager
    def delay(
        self, *names: str | int, nanoseconds: int, client: int | None = None, times: int | None = None
    ) -> Iterator[Rule]:
        """Replies and notifications come ``nanoseconds`` of machine time later."""
        with self._rule(Rule(What.DELAY, _ids(names), client, times, nanoseconds=nanoseconds)) as rule:
            yield rule

    @contextmanager
    def duplicate(self, *names: str | int, client: int | None = None, times: int | None = None) -> Iterator[Rule]:
        """Replies and notifications are sent twice."""
        with self._rule(Rule(What.DUPLICATE, _ids(names), client, times)) as rule:
            yield rule

    @contextmanager
    def nomem(self, **operations: int) -> Iterator[None]:
        """The n-th operation from now fails with NOMEM: ``nomem(map=1)``, ``nomem(donate=3)``, ``nomem(create=2)``."""
        entries = [(name, [count]) for name, count in operations.items()]
        for name, counter in entries:
            if name not in ("map", "donate", "create"):
                raise ValueError(f"{name!r} is no operation; there are map, donate and create")
            self._countdown[name] = counter
        try:
            yield
        finally:
            for name, counter in entries:
                if self._countdown.get(name) is counter:
                    del self._countdown[name]

    def before(self, operation: str) -> None:
        """Called by RM before an operation that can run out of memory; raises HypercallFailed when it is its turn."""
        counter = self._countdown.get(operation)
        if counter is None:
            return
        counter[0] -= 1
        if counter[0] == 0:
            raise HypercallFailed(Error.NOMEM, operation, f"{operation}: out of memory (injected)")
