"""A vCPU without a hypervisor: registers, a little RAM, a virtual timer and interrupts, for tests of the guest runtime
alone."""

from __future__ import annotations

from collections.abc import Callable

from gunyah.guest.cpu import GuestAbort, GuestUndefined

GICD, GICR = 0x0800_0000, 0x080A_0000
RAM_BASE, RAM_SIZE = 0x4000_0000, 0x10_0000


class FakeCpu:
    """Time stands still except in wfi, which jumps to the timer's deadline. ``on_hvc`` plays the hypervisor."""

    def __init__(self, ram_size: int = RAM_SIZE) -> None:
        self.x: list[int] = [0] * 31
        self.ram = bytearray(ram_size)
        self.registers: dict[str, int] = {"MPIDR_EL1": 0x8000_0000, "CNTV_CTL_EL0": 0, "CNTV_CVAL_EL0": 0}
        self.stores: list[tuple[int, int, int]] = []
        self.frames: dict[int, int] = {}
        self.enabled: set[int] = set()
        self.pending: list[int] = []
        self.active: list[int] = []
        self.on_hvc: Callable[[int], None] = lambda imm: None
        self.on_idle: list[Callable[[], None]] = []
        self.vector: Callable[[], None] | None = None
        self.now = 1000
        self.wfis = 0
        self._masked = True

    # -- interrupts ----------------------------------------------------------------------------------------------------

    @property
    def irq_masked(self) -> bool:
        return self._masked

    @irq_masked.setter
    def irq_masked(self, value: bool) -> None:
        self._masked = value
        self.take()

    def raise_irq(self, intid: int) -> None:
        if intid not in self.pending:
            self.pending.append(intid)

    def _timer_due(self) -> bool:
        control = self.registers["CNTV_CTL_EL0"]
        return bool(control & 1 and not control & 2 and self.registers["CNTV_CVAL_EL0"] <= self.now)

    def _next(self) -> int:
        if self._timer_due() and 27 in self.enabled and 27 not in self.active:
            return 27
        for intid in self.pending:
            if intid in self.enabled and intid not in self.active:
                return intid
        return 1023

    def take(self) -> None:
        while not self._masked and self.vector is not None and self._next() != 1023:
            self._masked = True
            self.vector()
            self._masked = False

    def set_vector(self, handler: Callable[[], None]) -> None:
        self.vector = handler

    def wfi(self) -> None:
        self.wfis += 1
        if self._next() == 1023:
            self.idle()
        self.take()

    def idle(self) -> None:
        """Nothing is pending: play what the test has prepared, else jump to the timer."""
        if self.on_idle:
            self.on_idle.pop(0)()
        elif self.registers["CNTV_CTL_EL0"] & 1:
            self.now = max(self.now, self.registers["CNTV_CVAL_EL0"])
        else:
            raise AssertionError("the vCPU sleeps for ever")

    def nudge(self) -> None:
        self.on_idle.append(lambda: None)

    # -- the rest ------------------------------------------------------------------------------------------------------

    def hvc(self, imm: int = 0) -> None:
        self.on_hvc(imm)
        self.take()

    def smc(self, imm: int = 0) -> None:
        self.hvc(imm)

    def ticks(self) -> int:
        return self.now

    def mrs(self, register: str) -> int:
        if register == "ICC_IAR1_EL1":
            intid = self._next()
            if intid != 1023:
                self.active.append(intid)
                if intid in self.pending:
                    self.pending.remove(intid)
            return intid
        if register not in self.registers:
            raise GuestUndefined(f"no system register {register}")
        return self.registers[register]

    def msr(self, register: str, value: int) -> None:
        if register == "ICC_EOIR1_EL1":
            self.active.remove(value)
            return
        self.registers[register] = value
        self.take()

    def load(self, address: int, width: int) -> int:
        if address == GICR + 8:
            return 1 << 4
        return self.frames.get(address, 0)

    def store(self, address: int, value: int, width: int) -> None:
        self.stores.append((address, value, width))
        for base, first in ((GICD, 32), (GICR + 0x1_0000, 0)):
            offset = address - base
            for bank, add in ((0x100, True), (0x180, False)):
                if bank <= offset < bank + 0x80 and (base == GICD) == (offset - bank >= 4 or base == GICD):
                    if base == GICD and offset == bank:
                        continue
                    intids = {8 * (offset - bank) + bit for bit in range(32) if value >> bit & 1}
                    assert all(intid >= first for intid in intids)
                    self.enabled = self.enabled | intids if add else self.enabled - intids
                    self.take()
                    return
        self.frames[address] = value

    def _span(self, address: int, size: int) -> int:
        offset = address - RAM_BASE
        if offset < 0 or offset + size > len(self.ram):
            raise GuestAbort(0x9600_0010, address, f"{size} bytes at {address:#x} are not RAM")
        return offset

    def read(self, address: int, size: int) -> bytes:
        offset = self._span(address, size)
        return bytes(self.ram[offset : offset + size])

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        offset = self._span(address, len(data))
        self.ram[offset : offset + len(data)] = data
