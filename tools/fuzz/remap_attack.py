"""A native guest whose memory is mapped, taken and changed under it: what it can reach is what stage 2 says, at once.

Between two programs of the guest, extents come and go in a window of its address space, with all rights, over one
another, and their bytes change. Then it loads, stores and jumps there, with its own translation on and off, and the
hypervisor reads and writes buffers for it; every outcome is compared with a small model. Nothing that was cached of an
earlier state, translations, code or devices, may show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gunyah.abi.memory import (
    Access,
    MapMemtype,
    MappingAttributes,
    MemextentAttributes,
    MemextentMemtype,
    MemextentType,
)
from gunyah.hypervisor import memextent_mapping
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.ledger import ledger_of
from gunyah.hypervisor.memextent import MemExtent
from gunyah.hypervisor.stage2 import Stage2Fault
from tools.fuzz.attack import SECOND
from tools.fuzz.choices import RECORD, Choices, records
from tools.fuzz.native_attack import NativePrimaryAttack
from tools.fuzz.native_guest import Field, Op, step
from tools.fuzz.native_steps import number

__all__ = ["RemapAttack"]

PAGE = 4096
WINDOW = 0x5000_0000
WINDOW_PAGES = 24
MEMORY = 0x6400_0000
"""PA of the extents' memory, free in the root partition."""
SIZES = (1, 1, 2, 3, 1, 5, 1, 2)
"""Pages of each extent."""
RIGHTS = (Access.R, Access.RW, Access.R | Access.X, Access.RWX, Access.RWX, Access(0))
SENTINEL = 0x0DEA_DBEE
PROBES = 3
LOAD_X0, STORE_X7 = 0xF940_0020, 0xF900_0427
"""LDR X0, [X1] and STR X7, [X1, #8]."""
_RET = 0xD65F_03C0


def _code(tag: int) -> bytes:
    """MOVZ X0, #tag; RET."""
    return (0xD280_0000 | (tag & 0xFFFF) << 5).to_bytes(4, "little") + _RET.to_bytes(4, "little")


@dataclass
class Model:
    """What is where: ``mapped`` by window page, (PA, rights); ``memory`` by PA of a page, (tag, the word behind it)."""

    mapped: dict[int, tuple[int, Access]] = field(default_factory=dict)
    memory: dict[int, tuple[int, int]] = field(default_factory=dict)


class RemapAttack(NativePrimaryAttack):
    """Acts are records: a change or two, and what the guest tries then."""

    unit = RECORD

    def __init__(self, acts: Iterable[bytes], *, seed: int = 1) -> None:
        super().__init__(acts, seed=seed)
        self._model = Model()
        self._tags = 0
        self._extents: list[MemExtent] = []
        addrspace = self._vcpu.addrspace
        assert addrspace is not None
        self._addrspace = addrspace
        pa = MEMORY
        for pages in SIZES:
            extent = MemExtent(self.hv.root_partition)
            attributes = MemextentAttributes(Access.RWX, MemextentMemtype.ANY, MemextentType.BASIC)
            extent.configure(pa, pages * PAGE, attributes.pack())
            extent.activate()
            self._extents.append(extent)
            for page in range(pa, pa + pages * PAGE, PAGE):
                self._fill(page)
            pa += pages * PAGE

    @staticmethod
    def stream(seed: int, count: int) -> Iterator[bytes]:
        """An eighth of ``count`` acts of a seed: each is a program of the guest's."""
        return records(seed, count // 8)

    # -- changes -------------------------------------------------------------------------------------------------------

    def _fill(self, pa: int) -> None:
        """Other code in a page, as a device or another VM would write it."""
        self._tags += 1
        self._model.memory[pa] = (self._tags & 0xFFFF, 0)
        self.hv.memory.write(pa, _code(self._tags) + bytes(8))

    def _change(self, choices: Choices, page: int) -> None:
        """Something with an extent, at ``page`` of the window if it has no place yet."""
        extent = choices.pick(self._extents)
        kind = choices.byte() % 8
        rights = Access(choices.pick(RIGHTS))
        held = [slot.pieces[0].pa + slot.pieces[0].delta for slot in extent.slots if slot.addrspace is not None]
        vbase = choices.pick(held) if held and kind > 3 else WINDOW + PAGE * page
        pages = [(vbase + offset, extent.base + offset) for offset in range(0, extent.size, PAGE)]
        mapped = self._model.mapped
        try:
            if kind < 3:
                attributes = MappingAttributes(rights, rights, MapMemtype.NORMAL_WB)
                extent.map(self._addrspace, vbase, attributes)
                mapped.update({ipa: (pa, rights) for ipa, pa in pages})
            elif kind == 3:
                self._fill(extent.base + PAGE * (choices.byte() % (extent.size // PAGE)))
            elif kind < 6:
                memextent_mapping.unmap(extent, self._addrspace, vbase)
                for ipa, pa in pages:
                    if mapped.get(ipa, (None,))[0] == pa:
                        del mapped[ipa]
            elif kind == 6:
                memextent_mapping.update(extent, self._addrspace, vbase, rights, rights)
                mapped.update({ipa: (pa, rights) for ipa, pa in pages})
            else:
                memextent_mapping.unmap_all(extent)
                ours = range(extent.base, extent.base + extent.size)
                for ipa in [ipa for ipa, (pa, _) in mapped.items() if pa in ours]:
                    del mapped[ipa]
        except HypervisorError:
            # Not mapped there, or no slot left: then nothing changed.
            return

    # -- what the guest tries ------------------------------------------------------------------------------------------

    def _probe(self, choices: Choices, page: int) -> None:
        ipa = WINDOW + PAGE * (page % WINDOW_PAGES)
        pa, rights = self._model.mapped.get(ipa, (0, Access(0)))
        tag, word = self._model.memory.get(pa, (0, 0))
        kind = choices.byte() % 5
        expected: bytes | int | None = None
        found: bytes | int | None = None
        if kind == 0:
            expected = int.from_bytes(_code(tag), "little") if rights & Access.R else SENTINEL
            found = self._try(ipa, step(Op.RAW, 0, 0, LOAD_X0))
        elif kind == 1:
            self._tags += 1
            self._try(ipa, number(7, self._tags) + step(Op.RAW, 0, 0, STORE_X7))
            if rights & Access.W:
                self._model.memory[pa] = (tag, self._tags)
        elif kind == 2:
            expected = tag if rights & Access.X else SENTINEL
            found = self._try(ipa, step(Op.JUMP, 1))
        elif kind == 3:
            expected = _code(tag) + word.to_bytes(8, "little") if rights & Access.R else None
            found = self._buffer_in(ipa)
        else:
            self._tags += 1
            expected = bool(rights & Access.W)
            found = self._buffer_out(ipa + 8, self._tags.to_bytes(8, "little"))
            if expected:
                self._model.memory[pa] = (tag, self._tags)
        if found != expected:
            what = ("load", "store", "jump", "buffer read", "buffer write")[kind]
            where = f"{pa:#x} with {rights.name or 'no rights'}" if pa else "nothing"
            self.findings.append(f"{what} at {ipa:#x}, where {where} is mapped: {found!r} instead of {expected!r}")

    def _regime(self, draw: int) -> None:
        """Its own translation on or off, now and then: that flushes what the guest has cached."""
        if draw < 32:
            self.guest.load(step(Op.REGIME, 0, 0, draw & 1))
            self.guest.wake()
            self._wait(SECOND // 100)

    def _try(self, ipa: int, steps: bytes) -> int:
        """X0 after steps with the address in X1; it keeps a number that nobody else uses when they end in an abort."""
        hostile = self.guest
        hostile.load(number(0, SENTINEL) + number(1, ipa) + steps)
        hostile.wake()
        if not self._wait(SECOND // 100) or hostile.get(Field.IDLE) != 1:
            self.findings.append(f"the guest did not come back from {ipa:#x}")
        return hostile.x[0]

    def _buffer_in(self, ipa: int) -> bytes | None:
        if not self._on_the_engine():
            return None
        try:
            return self._vcpu.copy_in(ipa, 16)
        except Stage2Fault:
            return None

    def _buffer_out(self, ipa: int, data: bytes) -> bool:
        if not self._on_the_engine():
            return False
        try:
            self._vcpu.copy_out(ipa, data)
        except Stage2Fault:
            return False
        return True

    def _on_the_engine(self) -> bool:
        """As in a hypercall, the guest's registers are those that the engine has."""
        native = self.hv.native_cpu
        if native is None or native.current is not self._vcpu.executor:
            self.findings.append("the guest is not on the engine")
            return False
        return True

    def _run(self) -> None:
        if self.before is not None and self._extents and not self.performed:
            self.before = ledger_of(self.hv)
        while (record := self.next_act()) is not None and not self.findings:
            choices = Choices(record)
            self._regime(choices.byte())
            touched = choices.byte() % WINDOW_PAGES
            for _ in range(1 + choices.byte() % 2):
                # What is cached of the earlier state must not show in the later one.
                self._probe(choices, touched)
                self._change(choices, touched)
                self._probe(choices, touched)
            for _ in range(PROBES):
                self._probe(choices, choices.byte())
            for pa, (tag, word) in self._model.memory.items():
                if self.hv.memory.read(pa, 16) != _code(tag) + word.to_bytes(8, "little"):
                    self.findings.append(f"the page {pa:#x} is not as its last writer left it")
        self.done = True

    @property
    def calls(self) -> int:
        return self.performed

    def bury(self) -> None:
        """Take the extents out of the guest and give their memory back."""
        for extent in self._extents:
            memextent_mapping.unmap_all(extent)
        super().bury()
