"""Steps without an instruction: what the recorder saw in its interrupt controller, and wrote as a note.

The notes are sentences, so this is their grammar: actions (``SGIR write``), register reads (``GICD TYPER @0x4 =
0x349001f``), faulting accesses (``exc=1 esr=...``), and interrupts acknowledged until none was left (``irqs=[40]``).
What a note does not state is not checked; a note that states nothing readable fails its step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gunyah.guest.cpu import GuestAbort, GuestUndefined
from gunyah.host.conformance.monitor import GICD, GICR, Monitor

__all__ = ["Bindings", "Drain", "Finding", "observe", "trigger_of"]

VALUE = r"(?:0x[0-9a-fA-F]+|ABORT\(esr=0x[0-9a-fA-F]+\)|EXC esr=0x[0-9a-fA-F]+)"
OFFSETS: Mapping[str, Mapping[str, int]] = {
    "GICD": {
        "CTLR": 0x0, "TYPER": 0x4, "IIDR": 0x8, "TYPER2": 0xC, "STATUSR": 0x10, "SETSPI_NSR": 0x40, "IGROUPR0": 0x80,
        "ISENABLER0": 0x100, "ICFGR2": 0xC08, "IGRPMODR0": 0xD00, "SGIR": 0xF00, "PIDR4": 0xFFD0, "PIDR0": 0xFFE0,
        "PIDR1": 0xFFE4, "PIDR2": 0xFFE8, "PIDR3": 0xFFEC, "CIDR0": 0xFFF0,
    },
    "GICR": {
        "CTLR": 0x0, "IIDR": 0x4, "TYPER": 0x8, "TYPER_lo": 0x8, "TYPER_hi": 0xC, "WAKER": 0x14, "PROPBASER": 0x70,
        "PIDR2": 0xFFE8, "IGROUPR0": 0x1_0080, "ISENABLER0": 0x1_0100, "ICFGR0": 0x1_0C00, "ICFGR1": 0x1_0C04,
    },
}  # fmt: skip
"""Register offsets in bytes from the frame that notes name without an address (Arm GICv3, objects.md 10)."""

SGIR_SELF_SGI5 = 0x0200_0005
DEFAULT_LIMIT = 16


@dataclass
class Bindings:
    """Interrupts bound so far, by what they belong to: ``pend`` and ``ICFGR`` in a note speak of these."""

    virqs: dict[str, int] = field(default_factory=dict)

    def note(self, call: str, virq: int) -> None:
        match = re.fullmatch(r"(?:virtio_mmio_)?(\w+?)(?:_group)?_bind_(?:(\w+)_)?virq", call)
        if match:
            self.virqs[match[2] or match[1]] = virq

    def of(self, owner: str) -> int:
        if owner in self.virqs:
            return self.virqs[owner]
        if not self.virqs:
            raise ValueError(f"the note speaks of the interrupt of {owner}, but none was bound before")
        return next(reversed(self.virqs.values()))

    def named_in(self, text: str) -> str:
        """Whose interrupt ``text`` speaks of: a doorbell's where it names nothing else. "Send" is what one does."""
        words = re.findall(r"[a-z]+", text)
        return next((word for word in words if word in self.virqs and word not in ("send", "receive")), "doorbell")


@dataclass(frozen=True)
class Finding:
    """One thing a note states, and what is so here."""

    what: str
    expected: str
    got: str

    @property
    def same(self) -> bool:
        return self.expected == self.got


def read_word(monitor: Monitor, address: int, width: int = 4) -> str:
    """A load in the words of the recordings: ``0x52`` or ``ABORT(esr=0x96000010)``."""
    value = monitor.load(address, width)
    return f"ABORT(esr={value.esr:#x})" if isinstance(value, GuestAbort) else f"{value:#x}"


def register_word(monitor: Monitor, name: str) -> str:
    """A system register in the words of the recordings: ``0x8c00`` or ``EXC esr=0x2000000``."""
    value = monitor.system_register(name)
    return f"EXC esr={value.esr:#x}" if isinstance(value, GuestUndefined) else f"{value:#x}"


@dataclass(frozen=True)
class Drain:
    """How the recorder took interrupts until none was left. A level that stays asserted is signalled again after each
    end of interrupt, so it must have given up at some point: after ``limit`` rounds, or when one came again.
    """

    limit: int = 0
    """Rounds; 0 where no list of the scenario tells."""
    once: bool = False
    """It stopped at the first interrupt that it had taken already."""

    @classmethod
    def of(cls, notes: Iterable[str], *, edge: bool) -> Drain:
        """Read off the notes of a scenario; ``edge``: all its interrupts are edge-triggered."""
        lists = [_number_list(text) for note in notes for text in TAKEN.findall(note)]
        storms = [len(taken) for taken in lists if len(set(taken)) < len(taken)]
        return cls(max(storms), False) if storms else cls(0, not edge)

    def take(self, monitor: Monitor, expected: list[int]) -> list[int]:
        """Acknowledge what is signalled, in order."""
        return monitor.acknowledge(self.limit or max(DEFAULT_LIMIT, len(expected) + 1), once=self.once)


def trigger_of(notes: Iterable[str]) -> bool | None:
    """Whether the recorder had made its interrupts edge-triggered, by the first note that tells; None if none does."""
    for note in notes:
        match = TRIGGER_OF.search(note) or TRIGGERS.search(note)
        if match:
            return re.search(r" [23]\b", match[0]) is not None
    return None


def _number_list(text: str) -> list[int]:
    return [int(word, 0) for word in re.findall(r"0x[0-9a-fA-F]+|\d+", text)]


def _act(monitor: Monitor, note: str) -> None:
    if note.startswith("SGIR write"):
        monitor.store(GICD + OFFSETS["GICD"]["SGIR"], SGIR_SELF_SGI5)
    if match := re.match(r"ICC_SGI1R\b.*?SGI(\d+) to aff0 target (\d+)", note):
        monitor.cpu.msr("ICC_SGI1R_EL1", int(match[1]) << 24 | int(match[2]))
    if match := re.match(r"ISPENDR SPI(\d+) write", note):
        monitor.set_pending(int(match[1]))


def _fault(match: re.Match[str], monitor: Monitor) -> Finding:
    text = match[1]
    if address := re.search(r"0x[0-9a-fA-F]{5,}", text):
        where, width = int(address[0], 0), 4
    elif text.startswith("unaligned"):
        where, width = GICD + 5, 4
    else:
        size = re.match(r"(byte|16-bit|64-bit)", text)
        width = {"byte": 1, "16-bit": 2, "64-bit": 8}[size[1]] if size else 4
        name = re.search(r"(GICD|GICR)_(\w+)", text)
        where = ({"GICD": GICD, "GICR": GICR}[name[1]] + OFFSETS[name[1]].get(name[2], 0)) if name else GICD
    value = monitor.load(where, width)
    if isinstance(value, GuestAbort):
        return Finding(text, f"exc={match[3]} esr={match[4]}", f"exc=1 esr={value.esr:#x}")
    expected = "exc=0" if match[3] == "0" else f"exc={match[3]} esr={match[4]}"
    return Finding(text, expected, "exc=0")


def _control(match: re.Match[str], monitor: Monitor) -> Finding:
    monitor.store(GICD, int(match[1], 0))
    return Finding("GICD_CTLR", match[2], read_word(monitor, GICD))


def _at_offset(match: re.Match[str], monitor: Monitor) -> Finding:
    base = GICD if match[1] == "GICD" else GICR
    return Finding(f"{match[1]} {match[2]}", match[4], read_word(monitor, base + int(match[3], 16)))


FAULT = re.compile(rf"(.*): (?:val=({VALUE}) )?exc=(\d) esr=({VALUE})")
CONTROL = re.compile(rf"GICD_CTLR after writing (0x[0-9a-fA-F]+): ({VALUE})")
AT_OFFSET = re.compile(rf"(GICD|GICR) ([\w ]+?) @0x([0-9a-fA-F]+) = ({VALUE})")
NAMED = re.compile(rf"(?:(GICD|GICR|ICC)_)?([A-Z]+\d*(?:_[a-zA-Z]+)?) ({VALUE})")
TRIGGER_OF = re.compile(r"(\w+) ICFGR after bind (\d) pend (\d)")
TRIGGERS = re.compile(r"ICFGR((?: [a-z]+ \d)+)")
PENDING = re.compile(r"\bpend=(\d)")
TAKEN = re.compile(r"irqs[^=:\[]*[=:] *\[([^\]]*)\]")


def observe(monitor: Monitor, note: str, bindings: Bindings, drain: Drain) -> list[Finding]:
    """Do and check what ``note`` says; an empty list when it says nothing that can be checked."""
    return list(_findings(monitor, note, bindings, drain))


def _findings(monitor: Monitor, note: str, bindings: Bindings, drain: Drain) -> Iterator[Finding]:
    _act(monitor, note)
    if match := FAULT.fullmatch(note):
        yield _fault(match, monitor)
        return
    rest = note
    single: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Monitor], Finding]], ...] = (
        (CONTROL, _control),
        (AT_OFFSET, _at_offset),
    )
    for pattern, check in single:
        while match := pattern.search(rest):
            yield check(match, monitor)
            rest = rest[: match.start()] + rest[match.end() :]
    yield from _named_registers(monitor, rest)
    if match := TRIGGER_OF.search(rest):
        spi = bindings.of(match[1])
        yield Finding(f"ICFGR of SPI {spi}", match[2], str(monitor.trigger_field(spi)))
        yield Finding(f"pending SPI {spi}", match[3], str(monitor.is_pending(spi)))
    elif match := TRIGGERS.search(rest):
        for owner, expected in re.findall(r"([a-z]+) (\d)", match[1]):
            spi = bindings.of({"recv": "receive"}.get(owner, owner))
            yield Finding(f"ICFGR of SPI {spi}", expected, str(monitor.trigger_field(spi)))
    for expected in PENDING.findall(rest):
        spi = bindings.of(bindings.named_in(rest))
        yield Finding(f"pending SPI {spi}", expected, str(monitor.is_pending(spi)))
    for text in TAKEN.findall(rest):
        numbers = _number_list(text)
        yield Finding("interrupts taken", str(numbers), str(drain.take(monitor, numbers)))


def _named_registers(monitor: Monitor, text: str) -> Iterator[Finding]:
    frame = ""
    for match in NAMED.finditer(text):
        frame = match[1] or frame
        name, expected = match[2], match[3]
        if frame == "ICC":
            yield Finding(f"ICC_{name}", expected, register_word(monitor, f"ICC_{name}_EL1"))
        elif frame and name in OFFSETS[frame]:
            base = GICD if frame == "GICD" else GICR
            yield Finding(f"{frame}_{name}", expected, read_word(monitor, base + OFFSETS[frame][name]))
