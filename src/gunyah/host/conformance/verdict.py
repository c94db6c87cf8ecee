"""What came of one step, and how a report words it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from gunyah.host.conformance.vectors import Step

__all__ = ["Outcome", "Trouble", "Verdict"]


class Outcome(Enum):
    PASSED = "passed"
    FAILED = "failed"
    DEVIATION = "deviation"


class Trouble(Enum):
    """Kinds of failure, in the order in which a report lists them."""

    UNIMPLEMENTED = "not implemented here"
    WRONG_ERROR = "another result code"
    WRONG_VALUE = "another value"
    WRONG_MESSAGE = "another message"
    NO_REPLY = "no answer"
    STOPPED = "the guest stopped"
    NOT_REACHED = "not reached"
    NAME_UNKNOWN = "unknown $name"
    NOT_READABLE = "note not understood"
    CRASHED = "does not survive what crashed the reference"
    NO_NATIVE = "needs a native guest"
    BOOT = "the system did not boot"


@dataclass
class Verdict:
    """``expected`` and ``got`` are the words that differ; ``values`` what was really answered, for a recording."""

    file: str
    step: Step
    outcome: Outcome = Outcome.PASSED
    trouble: Trouble | None = None
    expected: str = ""
    got: str = ""
    why: str = ""
    reason: str = ""
    values: tuple[str, ...] = field(default=())

    def fail(self, trouble: Trouble, expected: str, got: str, why: str = "") -> Verdict:
        self.outcome = Outcome.FAILED
        self.trouble = trouble
        self.expected = expected
        self.got = got
        self.why = why
        return self
