"""Words with which the hypercall table is written: a call, its arguments, its results, and what it demands.

Order of the checks a call makes (hypercalls.md 1.1 and 2, and the order of the reference's handlers):

1. reserved arguments ("res0" must be 0, "res1" all ones; native encoding only),
2. reserved bits marked ``early``,
3. capabilities, in the order of the table,
4. the other reserved bits,
5. INIT state of an object that is being configured,
6. what the call's own code checks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from gunyah.abi.errors import Error
from gunyah.abi.objects import OBJECT_ACTIVATE, ObjectType

__all__ = [
    "Argument",
    "CALL_NUMBER_MAX",
    "Capability",
    "HVC_BASE",
    "HVC_WINDOW",
    "Hypercall",
    "KIND_MASKS",
    "ReservedBits",
    "Result",
    "SMCCC_BASE",
    "Status",
]

HVC_BASE = 0x6000
"""HVC immediate of call number 0 (hypercalls.md 1.1)."""
HVC_WINDOW = range(0x6000, 0x6200)
"""Immediates the API sets aside for calls."""
CALL_NUMBER_MAX = 0x68
"""Highest call number with a meaning; the reference's dispatch table ends here."""
SMCCC_BASE = 0xC600_8000
"""SMCCC function id of call number 0 (hypercalls.md 1.2)."""

KIND_MASKS: dict[str, int] = {
    "capid": 0xFFFF_FFFF_FFFF_FFFF,
    "u64": 0xFFFF_FFFF_FFFF_FFFF,
    "u32": 0xFFFF_FFFF,
    "u16": 0xFFFF,
    "bool": 0xFF,
    "res0": 0xFFFF_FFFF_FFFF_FFFF,
    "res1": 0xFFFF_FFFF_FFFF_FFFF,
}
"""Bits of the register that an argument of each kind uses; the others are ignored (hypercalls.md 1.1)."""


class Status(Enum):
    """What a call number leads to."""

    PROVIDED = "provided"
    """The call exists and works."""
    UNIMPLEMENTED = "unimplemented"
    """The call exists, checks its reserved arguments and answers UNIMPLEMENTED as 32 bits (X0 = 0xffffffff)."""
    ABSENT = "absent"
    """Named by the API, not built: the same as RESERVED for the caller."""
    RESERVED = "reserved"
    """No call has this number: X0 = -1 as 64 bits, X1..X7 = 0, nothing is checked."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One input register, in order from X0 (native) or X1 (SMCCC)."""

    name: str
    kind: str
    """"capid", "u64", "u32", "u16", "bool" (low byte), "res0" (must be 0) or "res1" (must be all ones)."""
    meaning: str = ""
    """What the number is: "ipa", "pa", "va", "bytes", "ns", "ticks", "virq", "flags", "enum", "index", "count", ..."""
    cspace: str = ""
    """A capid's home: the argument that holds the CSpace in which the id is interpreted; empty: the caller's CSpace."""


@dataclass(frozen=True, slots=True)
class Result:
    """One output register after the error, in order from X1 (or from X0 when the call has no error)."""

    name: str
    kind: str
    """"capid", "u64", "u32" (zero-extended) or "bool" (0 or 1)."""
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Capability:
    """One capability lookup a call makes."""

    argument: str
    """Name of the argument that holds the id."""
    type: ObjectType | None
    """Object type demanded; None takes any."""
    rights: int
    """All of these bits are demanded."""
    active: bool = True
    """The object must be ACTIVE (33 otherwise)."""
    configure: bool = False
    """The "cfg" lookup: rights first, then type (52), any state; INIT (33) is demanded when all lookups succeeded."""
    when: str = ""
    """Under which condition the lookup happens, in words; the call's own code makes such a lookup itself."""

    def __post_init__(self) -> None:
        # A plain int: testing an IntFlag against a capability's rights at every call would cost microseconds.
        object.__setattr__(self, "rights", int(self.rights))


@dataclass(frozen=True, slots=True)
class ReservedBits:
    """Bits of an argument that must be 0, checked outside the call's own code."""

    argument: str
    mask: int
    error: Error = Error.ARGUMENT_INVALID
    early: bool = True
    """Before any capability is looked at; otherwise after the lookups and before the INIT state is demanded."""


@dataclass(frozen=True, slots=True)
class Hypercall:
    """One call number of the hypercall interface (hypercalls.md 3)."""

    number: int
    """Call number, 0x00..0x68; -1 for a vendor call that has none."""
    name: str
    """The field's name; "reserved" or "unassigned" for a number without a call."""
    arguments: tuple[Argument, ...] = ()
    results: tuple[Result, ...] = ()
    """Outputs after the error."""
    capabilities: tuple[Capability, ...] = ()
    reserved_bits: tuple[ReservedBits, ...] = ()
    errors: tuple[Error, ...] = ()
    """Documented errors beyond those of the capability lookups and of reserved arguments."""
    summary: str = ""
    section: str = ""
    """Where the fact sheet tells it."""
    has_error: bool = True
    """X0 is the error. Only hypervisor_identify has none."""
    status: Status = Status.PROVIDED
    unimplemented_results: tuple[int, ...] = ()
    """What a call with status UNIMPLEMENTED leaves in X1.. beside the error."""
    note: str = ""
    masks: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """Per argument: the register bits it uses."""
    reserved: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)
    """(argument position, value demanded) of each reserved argument."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "masks", tuple(KIND_MASKS[argument.kind] for argument in self.arguments))
        demanded = {"res0": 0, "res1": 0xFFFF_FFFF_FFFF_FFFF}
        object.__setattr__(
            self,
            "reserved",
            tuple((i, demanded[a.kind]) for i, a in enumerate(self.arguments) if a.kind in demanded),
        )

    @property
    def hvc(self) -> int:
        """Immediate of the native HVC."""
        return HVC_BASE + self.number

    @property
    def smccc(self) -> int:
        """SMCCC function id."""
        return SMCCC_BASE + self.number

    @property
    def dispatched(self) -> bool:
        """There is a call behind the number, be it only to say UNIMPLEMENTED."""
        return self.status in (Status.PROVIDED, Status.UNIMPLEMENTED)

    @property
    def inputs(self) -> tuple[Argument, ...]:
        """Arguments without the reserved ones: what the call's code and a caller's wrapper deal with."""
        return tuple(argument for argument in self.arguments if argument.kind not in ("res0", "res1"))

    def position(self, argument: str) -> int:
        """Register number (native encoding) of the argument called ``argument``; KeyError if there is none."""
        for i, candidate in enumerate(self.arguments):
            if candidate.name == argument:
                return i
        raise KeyError(f"{self.name} has no argument {argument}")


def capid(name: str, cspace: str = "") -> Argument:
    """A capability id argument."""
    return Argument(name, "capid", "capid", cspace)


def u64(name: str, meaning: str = "") -> Argument:
    """A 64-bit argument."""
    return Argument(name, "u64", meaning)


def u32(name: str, meaning: str = "") -> Argument:
    """A 32-bit argument."""
    return Argument(name, "u32", meaning)


RES0 = Argument("res0", "res0")
RES1 = Argument("res1", "res1")

NEW_CAP = Result("new_cap", "capid", "capid")


def configure(argument: str, kind: ObjectType) -> Capability:
    """The "cfg" lookup of hypercalls.md 2."""
    return Capability(argument, kind, OBJECT_ACTIVATE, active=False, configure=True)
