"""From HVC and SMC to a handler and back: the two encodings of a hypercall (hypercalls.md 1).

For each call of the table a function is made for each encoding, at its first use, that checks reserved arguments,
narrows the others, resolves the capabilities in the table's order, calls the handler and writes the results. They are
written as source and compiled once, as dataclasses are: a hypercall is the hot path of everything, and a loop over the
table's rows would cost more than the call itself. The vCPU that is on the CPU engine has functions of its own, which
read its registers in place and write all results with one store (`LiveRegisters`).

A handler is ``f(hv, vcpu, *inputs)``, capabilities resolved to objects; it returns None for OK, a tuple of the
results after OK, an int for a bare error, or DEFERRED when the answer comes later; it raises HypervisorError to
refuse.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import CALL_NUMBER_MAX, HVC_BASE, HYPERCALLS, Hypercall, Status
from gunyah.hypervisor.errors import HypervisorError

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["DEFERRED", "Dispatcher", "Handler", "LiveRegisters"]

U64 = (1 << 64) - 1
U32 = (1 << 32) - 1

Handler = Callable[..., "tuple[int, ...] | int | Deferred | None"]
Entry = Callable[["Vcpu"], None]


class Deferred(Enum):
    """The type of DEFERRED."""

    DEFERRED = "deferred"


DEFERRED = Deferred.DEFERRED

_INIT_STATE = 1

ANSWERS_MAX = 256
"""Different results of a call whose bytes are kept."""
# X0..X7 with so many results and zeros behind them.
_RESULTS = tuple(struct.Struct(f"={count}Q{64 - 8 * count}x").pack for count in range(9))


class LiveRegisters(NamedTuple):
    """Registers of the vCPU that is on the CPU engine, always at the same place in host memory."""

    x: memoryview
    """X0..X30, uint64_t each."""
    results: memoryview
    """The bytes of X0..X7."""


def _source(call: Hypercall, handler: bool, native: bool, live: bool) -> str:
    """Python source of the entry function of one call in one encoding; ``live``: for the vCPU on the engine."""
    first = 0 if native else 1
    registers = {argument.name: f"x[{first + i}]" for i, argument in enumerate(call.arguments)}
    error = f"& {U32:#x}" if native else f"& {U64:#x}"
    count = len(call.results)
    zeros = "0, " * count
    lines = ["def entry(vcpu):", *(["    x = vcpu.x"] if call.arguments and not live else [])]
    answer = "vcpu.answer_native" if native else "vcpu.answer_smccc"
    refuse = f"{answer}(({{}} {error}, {zeros})); return"
    if native:
        for position, demanded in call.reserved:
            lines.append(f"    if x[{position}] != {demanded:#x}: {refuse.format(int(Error.ARGUMENT_INVALID))}")
    lines += [
        f"    if {registers[bits.argument]} & {bits.mask:#x}: {refuse.format(int(bits.error))}"
        for bits in call.reserved_bits
        if bits.early
    ]
    if call.status is Status.UNIMPLEMENTED or not handler:
        results = "".join(f"{value:#x}, " for value in call.unimplemented_results) or zeros
        lines.append(f"    {answer}(({int(Error.UNIMPLEMENTED)} {error}, {results}))")
        return "\n".join(lines)
    lines.append("    try:")
    resolved: dict[str, str] = {}
    configured: list[str] = []
    homes = {argument.name: argument.cspace for argument in call.arguments}
    for i, capability in enumerate(call.capabilities):
        if capability.when:
            continue
        name = f"o{i}"
        home = resolved[homes[capability.argument]] if homes[capability.argument] else "vcpu.cspace"
        register = registers[capability.argument]
        kind = "None" if capability.type is None else f"T_{capability.type.name}"
        if capability.configure:
            lookup = f"lookup_generic({register}, {kind})"
            configured.append(name)
        elif capability.active:
            lookup = f"lookup({register}, {kind}, {int(capability.rights):#x})"
        else:
            lookup = f"lookup_any_state({register}, {kind}, {int(capability.rights):#x})"
        lines.append(f"        {name} = {home}.{lookup}")
        resolved[capability.argument] = name
    lines += [
        f"        if {registers[bits.argument]} & {bits.mask:#x}: {refuse.format(int(bits.error))}"
        for bits in call.reserved_bits
        if not bits.early
    ]
    lines += [f"        if {name}.state != {_INIT_STATE}: {name}.require_init()" for name in configured]
    inputs = ["hv", "vcpu"]
    for i, argument in enumerate(call.arguments):
        if argument.kind in ("res0", "res1"):
            continue
        if argument.name in resolved:
            inputs.append(resolved[argument.name])
        elif live and call.masks[i] == U64:
            inputs.append(registers[argument.name])
        else:
            # Even 64 bits are cut out: the registers of a Python VM are Python's numbers, which have no end.
            inputs.append(f"{registers[argument.name]} & {call.masks[i]:#x}")
    lines.append(f"        result = handler({', '.join(inputs)})")
    lines.append("    except HypervisorError as failure:")
    lines.append("        vcpu.last_failure = failure")
    lines.append("        results = failure.results")
    lines.append(f"        {answer}((failure.code {error}, *results, *ZEROS[{count} - len(results)]))")
    lines.append("        return")
    if live:
        lines.append("    data = packed(result)")
        lines.append("    if data is None: pack(vcpu, result)")
        lines.append("    else: registers[:] = data")
        return "\n".join(lines)
    ok = "" if not call.has_error else "0, "
    whole = f"({ok}*result,)" if call.has_error else "result"
    lines.append(f"    if result.__class__ is tuple: {answer}({whole})")
    lines.append(f"    elif result is None: {answer}(({ok}{zeros}))")
    lines.append(f"    elif result is DEFERRED: vcpu.complete = {answer}")
    lines.append(f"    else: {answer}((result {error}, {zeros}))")
    return "\n".join(lines)


def _packing(call: Hypercall, registers: memoryview) -> dict[str, Any]:
    """What turns a handler's result into the bytes of X0..X7: most calls answer one of few, whose bytes are kept."""
    packed: dict[object, bytes] = {}

    def pack(vcpu: Vcpu, result: tuple[int, ...] | int | Deferred | None) -> None:
        if result is DEFERRED:
            vcpu.complete = vcpu.answer_native
            return
        zeros = (0,) * len(call.results)
        if isinstance(result, tuple):
            results = (0, *result) if call.has_error else result
        elif result is None:
            results = (0, *zeros) if call.has_error else zeros
        else:
            assert isinstance(result, int)
            results = (result & U32, *zeros)
        registers[:] = data = _RESULTS[len(results)](*results)
        if len(packed) < ANSWERS_MAX:
            packed[result] = data

    return {"packed": packed.get, "pack": pack, "registers": registers}


def _compile(
    hv: Hypervisor, call: Hypercall, handler: Handler | None, native: bool, live: LiveRegisters | None = None
) -> Entry:
    from gunyah.abi.objects import ObjectType

    namespace: dict[str, Any] = {
        "hv": hv,
        "handler": handler,
        "HypervisorError": HypervisorError,
        "DEFERRED": DEFERRED,
        "ZEROS": [(0,) * n for n in range(9)],
    }
    namespace.update({f"T_{kind.name}": kind for kind in ObjectType})
    encoding = "hvc" if native else "smccc"
    if live is not None:
        encoding = "live"
        namespace.update(_packing(call, live.results), x=live.x)
    code = compile(_source(call, handler is not None, native, live is not None), f"<{encoding} {call.name}>", "exec")
    exec(code, namespace)
    entry: Entry = namespace["entry"]
    return entry


def _undefined_native(vcpu: Vcpu) -> None:
    vcpu.answer_native((U64,))


class Dispatcher:
    """The table bound to one hypervisor. ``native[N]`` and ``smccc[function id]`` take the calling vCPU."""

    def __init__(self, hv: Hypervisor, handlers: Mapping[str, Handler]) -> None:
        self._hv = hv
        self._handlers = handlers
        self.calls: tuple[Hypercall, ...] = tuple(HYPERCALLS[n] for n in range(CALL_NUMBER_MAX + 1))
        known = {call.name for call in self.calls}
        unknown = sorted(set(handlers) - known)
        if unknown:
            raise ValueError(f"handlers for calls that are not in the table: {', '.join(unknown)}")
        self.native: list[Entry] = []
        self.smccc: dict[int, Entry] = {}
        self.missing: list[str] = []
        for call in self.calls:
            handler = handlers.get(call.name)
            if call.dispatched:
                if call.status is Status.PROVIDED and handler is None:
                    self.missing.append(call.name)
                self.native.append(self._lazy(call, handler, True))
                self.smccc[call.smccc] = self._lazy(call, handler, False)
            else:
                self.native.append(_undefined_native)

    def _lazy(self, call: Hypercall, handler: Handler | None, native: bool) -> Entry:
        """Compile on the first use: a run calls a few dozen of the two hundred functions."""

        def first(vcpu: Vcpu) -> None:
            entry = _compile(self._hv, call, handler, native)
            if native:
                self.native[call.number] = entry
            else:
                self.smccc[call.smccc] = entry
            entry(vcpu)

        return first

    def live(self, registers: LiveRegisters) -> list[Entry]:
        """As ``native``, for the vCPU on the engine: X9 to X17 are what the call leaves there already."""
        entries: list[Entry] = []

        def lazy(call: Hypercall) -> Entry:
            def first(vcpu: Vcpu) -> None:
                entry = entries[call.number] = _compile(self._hv, call, self._handlers.get(call.name), True, registers)
                entry(vcpu)

            return first

        entries += [lazy(call) if call.dispatched else _undefined_native for call in self.calls]
        return entries

    def hvc(self, vcpu: Vcpu, imm: int) -> None:
        """HVC #imm by ``vcpu``: arguments and results in its registers (hypercalls.md 1.1)."""
        number = imm - HVC_BASE
        if 0 <= number <= CALL_NUMBER_MAX:
            if self._hv.instruments:
                self._hv.watch_call(vcpu, self.calls[number], 0, self.native, number)
            else:
                self.native[number](vcpu)
        elif imm == 0:
            self.function(vcpu)
        else:
            vcpu.x[0] = U64

    def smc(self, vcpu: Vcpu, imm: int) -> None:
        """SMC #imm by ``vcpu``: as HVC #0 when the immediate is 0, else X0 = -1 (hypercalls.md 1.5)."""
        if imm == 0:
            self.function(vcpu)
        else:
            vcpu.x[0] = U64

    def function(self, vcpu: Vcpu) -> None:
        """An SMCCC function: W0 names it; bit 16, the SVE hint, does not matter (hypercalls.md 1.2)."""
        fid = vcpu.x[0] & 0xFFFE_FFFF
        entry = self.smccc.get(fid)
        if entry is None:
            self._hv.services.call(vcpu, fid)
        elif self._hv.instruments:
            self._hv.watch_call(vcpu, self.calls[fid & 0x3FFF], 1, self.smccc, fid)
        else:
            entry(vcpu)
