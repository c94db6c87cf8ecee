"""The native fuzzing guest from outside: its places in memory, its steps as bytes, and the hand on its switch.

The guest (src/gunyah/vmm/guests/fuzz.S) does what steps of 8 bytes say. It writes nothing down that a reader must
believe: hostile steps may write over all of it, so everything here is read as a claim and bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import IntEnum

from gunyah.abi.hypercalls import HYPERCALLS
from gunyah.hypervisor.native_executor import NativeExecutor
from gunyah.hypervisor.vcpu import Block, Vcpu
from gunyah.machine.memory import PhysicalMemory
from gunyah.vmm.guests import guest_image
from gunyah.vmm.images import Image

__all__ = ["DATA", "STEP", "STEPS_MAX", "Field", "NativeGuest", "Op", "describe", "image", "step"]

U64 = (1 << 64) - 1
STEP = 8
"""Bytes of a step."""
STEPS_MAX = 16384
"""Steps that are loaded at once."""
SIZE = 0x4_0000
"""Bytes of memory from the first instruction on that the guest uses."""

SCRATCH, CONTROL, VALUES, WORDS, TABLES, DATA, STEPS = 0x2000, 0x3000, 0x4000, 0x6000, 0x8000, 0xC000, 0x1_0000
FILE = CONTROL + 0x100
FACTOR = 0x9E37_79B9_7F4A_7C15
VALUES_MAX = 1024
REGISTERS = 31
OTHER_WAYS = 0x70
"""From this number on, CALL makes no native hypercall."""

_ASLEEP = int(Block.WFI | Block.SUSPENDED)


class Field(IntEnum):
    """uint64_t of the control area."""

    POSITION = 0x00
    COUNT = 0x08
    LAPS = 0x10
    DONE = 0x18
    EXCEPTIONS = 0x20
    INTERRUPTS = 0x28
    LAST_ESR = 0x30
    LAST_FAR = 0x38
    LAST_ELR = 0x40
    CALLS = 0x48
    MARK = 0x50
    SEEN = 0x58
    VALUES_MASK = 0x60
    WORDS_MASK = 0x68
    REGIME = 0x70
    IDLE = 0x78
    STARTS = 0x80


class Op(IntEnum):
    """What a step does; see the guest's source for A, B and C."""

    LIST = 0
    NUMBER = 1
    QUAD = 2
    MOVE = 3
    CALL = 4
    WORD = 5
    RAW = 6
    JUMP = 7
    DROP = 8
    TABLE = 9
    REGIME = 10
    POKE = 11
    REWIND = 12


_STEP = struct.Struct("<BBHI")


def step(op: Op, a: int = 0, b: int = 0, c: int = 0) -> bytes:
    """One step; numbers are cut to their fields."""
    return _STEP.pack(op, a & 0xFF, b & 0xFFFF, c & 0xFFFF_FFFF)


_TEXTS = {
    Op.LIST: "X{a5} = values[{b}]{near}",
    Op.NUMBER: "X{a5} = {c:#x} rotated by {b}",
    Op.QUAD: "X{a4}.. = values of {c:#x}",
    Op.MOVE: "X{a5} = X{b5} + {c:#x}",
    Op.CALL: "call {a7:#x} ({name})",
    Op.WORD: "word {b}{fields}",
    Op.RAW: "instruction {c:#010x}",
    Op.JUMP: "jump to X{a5}",
    Op.DROP: "EL0 at X{a5}, SPSR {c:#x}",
    Op.TABLE: "table word {b} = X{a5}",
    Op.REGIME: "SCTLR {c:#x}",
    Op.POKE: "data at {b:#x} = X{a5}",
    Op.REWIND: "back to the first step",
}
_ALIASES = {13: Op.CALL, 14: Op.WORD, 15: Op.QUAD}


def describe(data: bytes) -> str:
    """A step in words."""
    op, a, b, c = _STEP.unpack(data.ljust(STEP, bytes(1))[:STEP])
    kind = _ALIASES.get(op & 15) or Op(op & 15)
    number = a & 127
    call = HYPERCALLS.get(number)
    return _TEXTS[kind].format(
        a5=a & 31,
        a4=4 * (a & 7),
        a7=number,
        b=b,
        b5=b & 31,
        c=c,
        name=call.name if call is not None else "none" if number < OTHER_WAYS else "another way out",
        near=f", {c & 0xFF:#x} behind" if a & 0x80 else "",
        fields=f" with {c & 0x3FF:#x}" if a & 0x80 else "",
    )


def image() -> Image:
    """The guest with all the memory it uses."""
    plain = guest_image("fuzz")
    (segment,) = plain.segments
    return replace(plain, segments=(replace(segment, size=SIZE),))


class NativeGuest:
    """One guest, whose first instruction is at PA ``base`` and which runs as ``vcpu()`` with it at IPA ``entry``."""

    def __init__(self, memory: PhysicalMemory, base: int, entry: int, vcpu: Callable[[], Vcpu | None]) -> None:
        self._memory = memory
        self.base = base
        self.entry = entry
        self.vcpu = vcpu
        (segment,) = guest_image("fuzz").segments
        self._code = segment.data
        self._values = self._words = b""
        self._mark = 0
        self.rescues = 0
        """How often it was switched off and on again."""
        self.done = self.calls = self.exceptions = self.interrupts = 0
        """Since the start, whatever the guest makes of its counters."""
        self._count = self._laps = self._place = 0
        self._rescued = -1

    # -- its memory ----------------------------------------------------------------------------------------------------

    def get(self, field: Field) -> int:
        """A word of the control area."""
        return self._memory.read_u64(self.base + CONTROL + field)

    def set(self, field: Field, value: int) -> None:
        """Write a word of the control area."""
        self._memory.write_u64(self.base + CONTROL + field, value & U64)

    @property
    def x(self) -> tuple[int, ...]:
        """Its file: X0..X30 as the last step left them."""
        return struct.unpack(f"<{REGISTERS}Q", self._memory.read(self.base + FILE, 8 * REGISTERS))

    def set_x(self, number: int, value: int) -> None:
        """Write a register of the file."""
        self._memory.write_u64(self.base + FILE + 8 * number, value & U64)

    def data(self, offset: int, size: int) -> bytes:
        """Bytes of the data area."""
        return self._memory.read(self.base + DATA + offset, size)

    def put(self, offset: int, data: bytes) -> None:
        """Write to the data area."""
        self._memory.write(self.base + DATA + offset, data)

    # -- before a run --------------------------------------------------------------------------------------------------

    def equip(self, values: Sequence[int], words: bytes, secret: int) -> None:
        """Give it the lists to choose from, and the canaries' word to look out for."""
        chosen = list(values)[:VALUES_MAX]
        chosen += [0] * (VALUES_MAX - len(chosen))
        self._values = struct.pack(f"<{VALUES_MAX}Q", *(value & U64 for value in chosen))
        self._words = words
        self._mark = secret * FACTOR & U64
        self.stamp()

    def stamp(self) -> None:
        """Put code and lists back as they were."""
        memory, base = self._memory, self.base
        memory.write(base, self._code)
        memory.write(base + VALUES, self._values)
        memory.write(base + WORDS, self._words)
        self.set(Field.VALUES_MASK, VALUES_MAX - 1)
        self.set(Field.WORDS_MASK, len(self._words) // 4 - 1)
        self.set(Field.MARK, self._mark)

    def load(self, steps: bytes, laps: int = 0) -> None:
        """Have it do ``steps`` (at most STEPS_MAX) when it runs; REWIND goes back ``laps`` times."""
        assert len(steps) <= STEPS_MAX * STEP
        memory = self._memory
        memory.write(self.base + STEPS, steps)
        for field, value in ((Field.LAPS, laps), (Field.POSITION, 0), (Field.COUNT, len(steps) // STEP)):
            self.set(field, value)
        self._count, self._laps, self._place = len(steps) // STEP, laps, 0
        self._rescued = -1
        self._again()

    def _again(self) -> None:
        for field in (Field.DONE, Field.CALLS, Field.EXCEPTIONS, Field.INTERRUPTS, Field.IDLE, Field.SEEN):
            self.set(field, 0)
        self.set(Field.MARK, self._mark)

    def collect(self, most: int) -> None:
        """Add what it has counted since ``load``, as far as it can be true of ``most`` steps."""
        self.done += most
        self.calls += min(self.get(Field.CALLS), most)
        self.exceptions += min(self.get(Field.EXCEPTIONS), 2 * most)
        self.interrupts += min(self.get(Field.INTERRUPTS), 2 * most)

    def take_over(self, other: NativeGuest) -> None:
        """Go on with the sums of the guest that was there before."""
        self.done, self.calls, self.rescues = other.done, other.calls, other.rescues
        self.exceptions, self.interrupts = other.exceptions, other.interrupts

    # -- its switch ----------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """It says that no step is left, or that it has seen a canary."""
        state = self.get(Field.IDLE)
        # It may have said so just before it got the steps that it has now.
        return state == 2 or (state == 1 and self.get(Field.POSITION) >= self.get(Field.COUNT))

    @property
    def on_its_way(self) -> bool:
        """It has not changed its own place, or the number of its steps: such a guest may go round and round."""
        position = self.get(Field.POSITION)
        if self.get(Field.COUNT) != self._count or (position < self._place and not self._laps):
            return False
        self._place = min(position, self._count)
        return True

    @property
    def at_the_end(self) -> bool:
        """It has no step left to do."""
        return self._place >= self._count

    def wake(self) -> None:
        """Let it come out of a WFI or a suspend that nothing would end."""
        vcpu = self.vcpu()
        if vcpu is not None:
            vcpu.wake()

    def rescue(self) -> bool:
        """Switch it off and on again, its code and lists restored, at the step after the one that it was at; False when
        there is nothing to switch.
        """
        vcpu = self.vcpu()
        if vcpu is None or vcpu.killed or vcpu.powered_off or not isinstance(vcpu.executor, NativeExecutor):
            return False
        self.rescues += 1
        self.stamp()
        # What it was doing when it was last seen on its way is behind it now.
        place = self.get(Field.POSITION) if self.on_its_way else self._place + 1
        self._place = min(place if self._laps else max(place, self._rescued + 1), self._count)
        self._rescued = self._place
        laps = self.get(Field.LAPS)
        self._laps = laps if laps <= self._laps else 0
        for field, value in ((Field.POSITION, self._place), (Field.COUNT, self._count), (Field.LAPS, self._laps)):
            self.set(field, value)
        vcpu.suspend_resume = None
        vcpu.executor.power_on(self.entry, 0)
        vcpu.unblock(_ASLEEP)
        return True
