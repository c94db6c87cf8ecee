"""A hostile root VM whose every call is held against the executable specification."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gunyah.hypervisor.specification.checker import Checker
from tools.fuzz.choices import records
from tools.fuzz.root_attack import RootAttack

__all__ = ["CheckedAttack"]

ACTS_MAX = 2000
"""The checker reads the whole state before and after each call."""


class CheckedAttack(RootAttack):
    """A finding is the first call after which the hypervisor is not where the specification allows it to be."""

    def __init__(self, acts: Iterable[bytes], *, seed: int = 1) -> None:
        super().__init__(acts, seed=seed)
        self._checker = Checker(self.hv)
        self.hv.instruments.append(self._checker)

    @staticmethod
    def stream(seed: int, count: int) -> Iterator[bytes]:
        """At most ACTS_MAX acts of a seed."""
        return records(seed, min(count, ACTS_MAX))

    def _judge(self) -> None:
        if self._checker.divergence is not None:
            self.findings.append(self._checker.divergence.headline)
            return
        # The judge and the end of the VMs are no calls.
        self.hv.instruments.remove(self._checker)
        super()._judge()
