"""What a hostile native guest does: phrases of a few steps each, drawn from a seed or by Hypothesis.

Numbers stand at fixed places of the guest's list, so that steps can be made before there is a machine, and the same
steps mean the same in every machine: capabilities by type, own pages, pages of others, devices, words of the trade.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from gunyah.abi import smccc
from gunyah.abi.hypercalls import HYPERCALLS, Hypercall
from gunyah.abi.objects import ObjectType
from gunyah.abi.rm import Header, MessageId, MessageType
from gunyah.hypervisor.cspace import CSpace
from gunyah.machine import board
from gunyah.machine.engine import SYSTEM_REGISTERS
from tools.fuzz import native_guest as guest
from tools.fuzz.native_guest import Op, step
from tools.fuzz.native_words import COUNT, LOADS_AND_STORES
from tools.fuzz.vocabulary import ARGUMENTS, DEVICE_ADDRESSES, FUNCTIONS, MEANINGS

__all__ = ["PHRASES", "Draw", "number", "steps", "values"]

T = TypeVar("T")
U64 = (1 << 64) - 1
PAGE = 4096


class Draw(Protocol):
    """Where decisions come from."""

    def pick(self, items: Sequence[T], /) -> T:
        """One of ``items``."""

    def below(self, limit: int, /) -> int:
        """0 .. limit - 1."""


class FromSeed:
    """Decisions of a seeded generator."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.below = self._random.randrange
        self.pick = self._random.choice


# -- the list of numbers -----------------------------------------------------------------------------------------------

SMALL = range(64)
CAPABILITIES = range(64, 160)
OWN = range(160, 192)
FOREIGN = range(192, 224)
DEVICES = range(224, 256)
WORDS = range(256, guest.VALUES_MAX)

_PER_TYPE = 8
_TYPES = tuple(ObjectType)
assert len(_TYPES) * _PER_TYPE <= len(CAPABILITIES)
_OF_TYPE = {
    kind: range(CAPABILITIES.start + _PER_TYPE * at, CAPABILITIES.start + _PER_TYPE * (at + 1))
    for at, kind in enumerate(_TYPES)
}
_SMALL = (
    *(0,) * 16,
    *range(1, 20),
    *(32, 33, 63, 64, 96, 127, 128, 240, 255, 256, 960, 961, 1019, 1020, 0xFFF, PAGE, 0xFFFF, 1 << 16, 1 << 31),
    *((1 << 32) - 1, (1 << 32) - 2, 1 << 32, 1 << 36, 1 << 48, 1 << 63, U64, U64 - 1, U64 - PAGE + 1),
)
_QUESTIONS = ("VM_GET", "VM_LOOKUP", "VM_CONSOLE", "VM_IRQ", "VM_HOST_GET", "VM_SET_STATUS")
_HEADERS = tuple(
    int.from_bytes(Header(MessageType.REQUEST, message, number).pack(), "little")
    for number, message in enumerate(MessageId)
    if message.name.startswith(_QUESTIONS)
)
"""Requests by which RM makes nothing that would stay."""
# Descriptors of stage 1: invalid, table, block and page, read-only, never executed, not accessed, device, reserved.
_DESCRIPTORS = tuple(
    address | low
    for address in (0, 0x4000_0000, 0x4100_0000, 0x8000_0000, 0x8010_0000, 0x8048_0000, 0xA000_0000, 1 << 36, 1 << 47)
    for low in (0x705, 0x707, 0x785, 0x787, 0x305, 0x401, 0x403, 3, 1, 0x7C5, 0x60_0000_0000_0705)
)
_FUNCTIONS = tuple(
    fid for fid in FUNCTIONS if fid not in (smccc.PSCI_SYSTEM_OFF, smccc.PSCI_SYSTEM_RESET, smccc.PSCI_SYSTEM_RESET2_64)
)
_OTHERS = (
    *_FUNCTIONS,
    *_HEADERS,
    *_DESCRIPTORS,
    *(0xC600_8000 + number for number in range(0x6A)),
    *(0x30D0_0800, 0x30D0_0801, 0x30D0_1805, 0x30D0_0802, 1 << 25 | 0x30D0_0800),
    *(0x3C0, 0x3C4, 0x3C5, 0x1F0, 0x10, 0x3D0, 0x1FF, 0x20_03C5, 0x10_03C5, 0x20_0000),
    *(0x8000_0000_0000_0000 >> shift for shift in range(1, 28)),
    *MEANINGS["ipa"][512:],
    *(0x1F << 16 | 1, 0x100_0001, 1 << 40 | 1, 15 << 24 | 1),
)


def values(space: CSpace, own: int, size: int, foreign: Sequence[int]) -> list[int]:
    """The list for a guest with the capabilities of ``space`` and ``size`` bytes at IPA ``own``."""
    held: dict[ObjectType, list[int]] = {}
    for capability in space.capabilities_held:
        held.setdefault(capability.object.type, []).append(capability.id)
    everything = [capid for ids in held.values() for capid in ids] or [0]
    chosen = [0] * guest.VALUES_MAX
    places: tuple[int, ...] = (
        guest.DATA,
        guest.DATA + 0xFF8,
        guest.DATA + PAGE,
        guest.DATA + 0x3FF0,
        guest.SCRATCH + 0x800,
    )
    places += (guest.CONTROL, guest.TABLES, guest.STEPS, 0x208, 0x1800, 0, guest.DATA + 1, guest.DATA + 7, -8, -PAGE)
    mine = [own + place for place in places] + [own + size - 8, own + size, own + size // 2]
    for window, items in (
        (SMALL, _SMALL),
        (OWN, mine),
        (FOREIGN, foreign or [0]),
        (DEVICES, DEVICE_ADDRESSES),
        (WORDS, _OTHERS),
    ):
        for at in window:
            chosen[at] = items[(at - window.start) % len(items)]
    for kind, window in _OF_TYPE.items():
        ids = held.get(kind) or everything
        for at in window:
            chosen[at] = ids[(at - window.start) % len(ids)]
    for at in range(CAPABILITIES.start + _PER_TYPE * len(_TYPES), CAPABILITIES.stop):
        chosen[at] = everything[at % len(everything)]
    return [value & U64 for value in chosen]


# -- numbers into registers --------------------------------------------------------------------------------------------


def _signed(value: int) -> int:
    value &= U64
    return value - (1 << 64) if value >> 63 else value


def _fits(value: int) -> bool:
    return -(1 << 31) <= value < 1 << 31


def number(register: int, value: int) -> bytes:
    """X[register] = value: one step for 32 bits that are rotated, else two or three."""
    value &= U64
    if _fits(_signed(value)):
        return step(Op.NUMBER, register, 0, value)
    zeros = (value & -value).bit_length() - 1
    if value >> zeros < 1 << 31:
        return step(Op.NUMBER, register, 64 - zeros, value >> zeros)
    # The upper half, and what is missing: negative upper halves bring ones into the lower one.
    upper = value >> 32
    for guess in (upper, upper - 1, upper + 1):
        rest = _missing(value, guess)
        if _fits(rest):
            return step(Op.NUMBER, register, 32, guess) + step(Op.MOVE, register, register, rest)
    rest = _missing(value, upper)
    more = step(Op.MOVE, register, register, rest // 2) + step(Op.MOVE, register, register, rest - rest // 2)
    return step(Op.NUMBER, register, 32, upper) + more


def _missing(value: int, upper: int) -> int:
    return _signed(value - (upper << 32 | (0xFFFF_FFFF if upper >> 31 & 1 else 0)))


def _listed(register: int, window: Sequence[int], draw: Draw) -> bytes:
    return step(Op.LIST, register, draw.pick(window))


def _near(register: int, window: Sequence[int], draw: Draw) -> bytes:
    """A number of the list, often with a small offset."""
    return step(Op.LIST, register | draw.pick((0, 0, 0x80)), draw.pick(window), draw.below(256))


def _anywhere(draw: Draw) -> Sequence[int]:
    return draw.pick((OWN, OWN, FOREIGN, FOREIGN, DEVICES, DEVICES, SMALL, WORDS))


# -- phrases -----------------------------------------------------------------------------------------------------------

_CALLS = tuple(call for call in HYPERCALLS.values() if call.dispatched and call.name != "vcpu_poweroff")
_OUT = range(0x70, 0x80)
_CONDUITS = (0x70, 0x73)
"""HVC #0 and SMC #0."""
_LOADS = range(len(LOADS_AND_STORES))
_SYSTEM = range(len(LOADS_AND_STORES), COUNT)


def _at(name: str, read: bool) -> int:
    """Where in the list of words MRS or MSR of a register is."""
    order = list(SYSTEM_REGISTERS)
    return len(LOADS_AND_STORES) + 3 * order.index(name) + (0 if read else 1)


_TIMERS = tuple((_at(f"CNT{kind}_TVAL_EL0", False), _at(f"CNT{kind}_CTL_EL0", False)) for kind in "VP")
_DEBUG = len(LOADS_AND_STORES) + 3 * len(SYSTEM_REGISTERS) + 1
"""MSR of DBGBVR0_EL1; two words further are DBGBCR0_EL1, DBGWVR0_EL1, DBGWCR0_EL1, then the next four."""
_UNMASK = 0xD503_4FFF
_WFI = 0x78


def _argument(draw: Draw, call: Hypercall, at: int) -> bytes:
    argument = call.arguments[at]
    mode = draw.below(16)
    if argument.kind == "capid":
        kind = next((cap.type for cap in call.capabilities if cap.argument == argument.name), None)
        window = _OF_TYPE[kind] if kind is not None and mode < 13 else CAPABILITIES if mode < 15 else SMALL
        return _listed(at, window, draw)
    if argument.kind == "res0":
        return number(at, 0 if mode else 1)
    if argument.kind == "res1":
        return number(at, U64 if mode else 0)
    if argument.meaning == "va" and mode < 15:
        return _near(at, OWN if mode < 8 else FOREIGN if mode < 12 else DEVICES, draw)
    if mode == 15:
        return _near(at, _anywhere(draw), draw)
    name = argument.name
    table = ARGUMENTS.get(f"{call.name}.{name}") or ARGUMENTS.get(name) or MEANINGS.get(argument.meaning)
    return number(at, draw.pick(table or MEANINGS[""]))


def hypercall(draw: Draw) -> bytes:
    """A call with arguments of the right kinds, and again with one or two of them changed."""
    call = draw.pick(_CALLS)
    count = len(call.arguments)
    parts = [_argument(draw, call, at) for at in range(count)]
    parts.append(step(Op.CALL, call.number))
    if count:
        for _ in range(draw.below(4)):
            parts.append(_argument(draw, call, draw.below(count)))
            parts.append(step(Op.CALL, call.number))
    return b"".join(parts)


def any_call(draw: Draw) -> bytes:
    """Any number with anything in the registers, in either encoding."""
    bytes_ = [draw.below(256) for _ in range(8)]
    words = [sum(byte << 8 * at for at, byte in enumerate(four)) for four in (bytes_[:4], bytes_[4:])]
    parts = [step(Op.QUAD, 0, 0, words[0]), step(Op.QUAD, 1, 0, words[1])]
    if draw.below(3):
        parts.append(step(Op.CALL, draw.below(0x70)))
    else:
        parts += [number(0, 0xC600_8000 + draw.below(0x6A)), step(Op.CALL, draw.pick((0x70, 0x71, 0x73)))]
    return b"".join(parts)


def function(draw: Draw) -> bytes:
    """A function of the SMC calling convention: PSCI, TRNG, PV time, or none at all."""
    fid = draw.pick(_FUNCTIONS)
    first = number(1, draw.pick((0, 1, 2, 0x1_0000, fid))) if draw.below(2) else _near(1, _anywhere(draw), draw)
    second = _near(2, draw.pick((OWN, _anywhere(draw))), draw)
    parts = [number(0, fid), first, second, _near(3, SMALL, draw)]
    return b"".join([*parts, step(Op.CALL, draw.pick(_CONDUITS if draw.below(8) else _OUT))])


def access(draw: Draw) -> bytes:
    """A load or store of any form, at X1."""
    parts = [_near(1, _anywhere(draw), draw)]
    for _ in range(1 + draw.below(4)):
        target = draw.pick((0, 0, 2, 7, 30, 31))
        parts.append(step(Op.WORD, 0x80, draw.pick(_LOADS), 1 << 5 | target))
        if draw.below(3) == 0:
            parts.append(step(Op.MOVE, 1, 1, draw.pick((1, 4, 8, 64, PAGE, -PAGE, -8, 0x1_0000, 0x20_0000))))
    return b"".join(parts)


def system(draw: Draw) -> bytes:
    """System registers, maintenance, hints, exceptions."""
    parts = [_near(0, _anywhere(draw), draw)]
    for _ in range(1 + draw.below(3)):
        flip = draw.pick((0, 0, 0x80))
        parts.append(step(Op.WORD, flip, draw.pick(_SYSTEM), draw.pick((0, 0, draw.below(1024)))))
    return b"".join(parts)


def anything(draw: Draw) -> bytes:
    """Any instruction."""
    return step(Op.RAW, 0, 0, draw.below(1 << 32))


def bytes_(draw: Draw) -> bytes:
    """Any step."""
    return draw.below(1 << 64).to_bytes(8, "little")


_STATES = (0, 0x3C0, 0x10, 0x30, 0x1D0, 0x20_0000, 0x20_0005, 0x20_0210, 5, 4, 0x3C5, 0x10_0000, 0x10_03C5, 0x3C4)
"""SPSR for steps elsewhere: both execution states and levels, masks, single step, an illegal state."""


def jump(draw: Draw) -> bytes:
    """Execution elsewhere, at EL1 or EL0."""
    parts = [_near(2, _anywhere(draw), draw)]
    if draw.below(2):
        parts.append(step(Op.JUMP, 2))
    else:
        parts.append(step(Op.DROP, 2, 0, draw.pick((*_STATES, draw.below(1 << 32)))))
    return b"".join(parts)


def translation(draw: Draw) -> bytes:
    """A word of the stage-1 tables, the MMU on or off, and something that goes through it."""
    parts = []
    for _ in range(draw.below(3)):
        parts.append(number(3, draw.pick(_DESCRIPTORS) + (draw.below(64) << 12)))
        parts.append(step(Op.TABLE, 3, draw.below(0x800), draw.below(2)))
    parts.append(step(Op.REGIME, 0, 0, draw.pick((0, 1, 1, 5, 0x1005, 0x1007, 9))))
    parts.append(draw.pick((access, hypercall))(draw))
    if draw.below(2):
        parts.append(step(Op.REGIME))
    return b"".join(parts)


def interrupts(draw: Draw) -> bytes:
    """A timer, and the mask open, or a wait."""
    value, control = draw.pick(_TIMERS)
    parts = [number(0, draw.pick((0, 1, 100, 10_000, -1))), step(Op.WORD, 0, value)]
    parts += [number(0, draw.pick((1, 1, 1, 0, 3))), step(Op.WORD, 0, control)]
    parts.append(step(Op.CALL, _WFI) if draw.below(2) else step(Op.RAW, 0, 0, _UNMASK))
    return b"".join(parts)


# Offsets in the distributor, and in a redistributor's second frame (GIC architecture 12.9, 12.11): what a word is of.
_BANKS = (0x80, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380, 0x400, 0x420, 0xC00, 0xC04, 0xD00, 0xE00)
_DISTRIBUTOR = (0, 4, 8, 0x40, 0x48, 0xF00, 0x6100, 0x6108, 0x7E00, 0xFFE8)
_GIC_WORDS = (0, 1, 2, 0x12, 0x37, 0x50, 0xFFFF_FFFF, 0x0800_0000, 0x4800_FFFF, 0x8080_8080, 0x0040_80C0, 0xAAAA_AAAA)
_STR_W0, _LDR_W0, _STR_X0 = 0xB900_0020, 0xB940_0020, 0xF900_0020
_CPU_INTERFACE = (
    "PMR",
    "BPR1",
    "CTLR",
    "IGRPEN1",
    "IGRPEN0",
    "EOIR1",
    "DIR",
    "SGI1R",
    "IAR1",
    "HPPIR1",
    "RPR",
    "AP1R0",
)


def gic(draw: Draw) -> bytes:
    """Registers of the distributor, of a redistributor and of the CPU interface, SGIs, and then whatever is pending."""
    parts = []
    for _ in range(1 + draw.below(4)):
        kind = draw.below(4)
        if kind == 3:
            name = f"ICC_{draw.pick(_CPU_INTERFACE)}_EL1"
            value = draw.pick((0, 1, 0xF0, 0x80, 27, 32, 5 << 24 | 1, 1 << 40, 1023, draw.below(1 << 32)))
            parts += [number(0, value), step(Op.WORD, 0, _at(name, name.startswith(("ICC_IAR", "ICC_HPP", "ICC_RPR"))))]
            continue
        base = board.GICD.base if kind < 2 else board.GICR.base + draw.below(3) * 0x1_0000
        offset = draw.pick(_DISTRIBUTOR) if kind == 1 else draw.pick(_BANKS) + 4 * draw.below(4)
        parts += [number(1, base + offset), number(0, draw.pick((*_GIC_WORDS, 1 << draw.below(32))))]
        parts.append(step(Op.RAW, 0, 0, draw.pick((_STR_W0, _STR_W0, _STR_W0, _LDR_W0, _STR_X0))))
    if draw.below(2):
        parts.append(step(Op.RAW, 0, 0, _UNMASK))
    return b"".join(parts)


_NEAR_THE_END = (0, 1, 0xFFFF_FFF0, 0xFFFF_FFFF, U64 - 15, 1 << 63)
_EVENT_TYPES = (0x11, 0x11, 0x8000_0011, 0x4000_0011, 0xFC00_0011, 0, 0x1E, 0xFFFF_FFFF)
_SETS = (0x8000_003F, 0x8000_003F, 1, 0x8000_0000, 0xFFFF_FFFF, 0)
# op1, CRn, CRm, op2: PMCR, the sets and their clears, PMSWINC, PMSELR, PMCCNTR, PMXEVTYPER, PMXEVCNTR, PMUSERENR...
_MONITORS: tuple[tuple[tuple[int, int, int, int], tuple[int, ...]], ...] = (
    *(((3, 9, 12, 0), values_) for values_ in ((0x41, 1, 0x49), (1, 7, 0, 0x7F))),
    *(((3, 9, 12, op2), _SETS) for op2 in (1, 1, 2, 3, 4)),
    ((3, 9, 12, 5), (*range(7), 31)),
    ((3, 9, 13, 0), _NEAR_THE_END),
    ((3, 9, 13, 1), _EVENT_TYPES),
    ((3, 9, 13, 2), _NEAR_THE_END),
    ((3, 9, 14, 0), (0, 1, 0xF)),
    *(((op1, 9, 14, op2), _SETS) for op1, op2 in ((0, 1), (0, 2), (3, 3))),
    *(((3, 14, 8, op2), _NEAR_THE_END) for op2 in range(7)),
    *(((3, 14, 12, op2), _EVENT_TYPES) for op2 in range(7)),
    ((3, 14, 15, 7), _EVENT_TYPES),
)


def monitors(draw: Draw) -> bytes:
    """Performance monitors: events chosen, counters set near their end, started, read."""
    parts = []
    for _ in range(3 + draw.below(10)):
        (op1, crn, crm, op2), numbers = draw.pick(_MONITORS)
        word = 0xD518_0000 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5 | (1 << 21 if draw.below(5) == 0 else 0)
        parts += [number(0, draw.pick(numbers)), step(Op.RAW, 0, 0, word)]
    if draw.below(3) == 0:
        parts.append(step(Op.RAW, 0, 0, _UNMASK))
    return b"".join(parts)


def debug(draw: Draw) -> bytes:
    """A break- or watchpoint on something near, single steps, and code that runs with debug exceptions open."""
    value = _DEBUG + 8 * draw.below(8) + 4 * draw.below(2)
    parts = [_near(0, draw.pick((OWN, FOREIGN)), draw), step(Op.WORD, 0, value)]
    parts += [number(0, draw.pick((0x1E5, 0x1E7, 0x1FF, 0x1FF9, 0x3F, 0))), step(Op.WORD, 0, value + 2)]
    parts += [number(0, draw.pick((0x8000, 0xA000, 0xA001, 0xE001, 1))), step(Op.WORD, 0, _at("MDSCR_EL1", False))]
    parts += [_listed(2, OWN, draw), _listed(1, OWN, draw), step(Op.DROP, 2, 0, draw.pick(_STATES))]
    return b"".join(parts)


def _receive(draw: Draw, queues: Sequence[int]) -> bytes:
    """A message into the own buffer, or over what is another's."""
    where = draw.pick((OWN[:4], OWN[:4], OWN, FOREIGN, FOREIGN, DEVICES))
    parts = [_listed(0, queues, draw), _near(1, where, draw), number(2, draw.pick((240, 240, 12, 8, 0)))]
    return b"".join([*parts, number(3, 0), step(Op.CALL, 0x1C)])


def message(draw: Draw) -> bytes:
    """A packet out of the own buffer or another's page to whom a queue leads; what is there then, taken."""
    queues, at = _OF_TYPE[ObjectType.MSGQUEUE], draw.pick((0, 0, 0, 0xFF0, 0x3FF0))
    if draw.below(3) == 0:
        return _receive(draw, queues)
    parts = [number(4, draw.pick(_HEADERS)), step(Op.POKE, 4, at), _near(5, _anywhere(draw), draw)]
    parts += [step(Op.POKE, 5, at + 8), _listed(0, queues, draw), number(1, draw.pick((8, 8, 8, 12, 16, 24, 240, 241)))]
    own = step(Op.LIST, 2, OWN.start) + step(Op.MOVE, 2, 2, at)
    parts += [own if draw.below(4) else _near(2, FOREIGN, draw), number(3, draw.below(2)), number(4, 0)]
    parts.append(step(Op.CALL, 0x1B))
    if draw.below(2):
        parts += [number(register, 0) for register in range(4)]
        parts += [step(Op.CALL, 0x3B), _receive(draw, queues)]
    return b"".join(parts)


def results(draw: Draw) -> bytes:
    """What a call left, taken for the next one."""
    return step(Op.MOVE, draw.below(8), draw.below(8), draw.pick((0, 0, 0, 1, -1, PAGE)))


PHRASES: Mapping[Callable[[Draw], bytes], int] = {
    hypercall: 40,
    any_call: 8,
    function: 5,
    access: 12,
    system: 12,
    anything: 3,
    bytes_: 3,
    jump: 3,
    translation: 4,
    interrupts: 3,
    gic: 9,
    debug: 2,
    monitors: 2,
    message: 8,
    results: 3,
}
"""With their weights."""
CALLS: Mapping[Callable[[Draw], bytes], int] = {hypercall: 40, any_call: 8, function: 3, message: 8, results: 6}
"""Those that are nothing but calls."""


def _weighted(phrases: Mapping[Callable[[Draw], bytes], int]) -> tuple[Callable[[Draw], bytes], ...]:
    return tuple(phrase for phrase, weight in phrases.items() for _ in range(weight))


_ALL, _ONLY_CALLS = _weighted(PHRASES), _weighted(CALLS)


def steps(seed: int, count: int, *, calls: bool = False) -> Iterator[bytes]:
    """``count`` steps of a seed, or nothing but ``calls``."""
    draw = FromSeed(seed)
    choice = _ONLY_CALLS if calls else _ALL
    left = count
    while left > 0:
        phrase = draw.pick(choice)(draw)
        for at in range(0, min(len(phrase), left * guest.STEP), guest.STEP):
            yield phrase[at : at + guest.STEP]
        left -= len(phrase) // guest.STEP
