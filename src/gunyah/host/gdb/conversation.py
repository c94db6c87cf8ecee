"""One gdb's conversation: packets in, answers out. What they do to the machine is in ``target``.

gdb has the VM that it found when it connected, and those that it attaches to; the others run on. (It reads the target
description only of inferiors that it has attached to, so it cannot be given all of them at once.) In all-stop mode,
its default, one stop is reported for each resumption, and a stop that gdb does not expect waits for its next one. In
non-stop mode every stop is a notification, and each vCPU stops alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from gunyah.host.gdb import documents
from gunyah.host.gdb.breakpoints import NoMore, Watch
from gunyah.host.gdb.memory import PAGE, Unmapped
from gunyah.host.gdb.protocol import (
    ALL,
    ANY,
    PACKET_SIZE,
    Malformed,
    Thread,
    binary,
    frame,
    from_hex,
    number,
    pair,
    thread_selector,
    unescape,
)
from gunyah.host.gdb.registers import GENERAL, REGISTERS, RegisterRefused, read_register, write_register
from gunyah.host.gdb.target import NotThere, Step, Stop, Target, Why, first_vcpu, is_python, thread_of

if TYPE_CHECKING:
    from gunyah.hypervisor.hypervisor import Hypervisor
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["Conversation"]

_OK: Final = b"OK"
_UNSUPPORTED: Final = b""
_MALFORMED: Final = b"E01"
_NOT_THERE: Final = b"E03"
_UNMAPPED: Final = b"E14"
_NO_ANSWER: Final = None

_SIGINT, _SIGTRAP, _SIGSEGV = 2, 5, 11
_SIGNALS: Final = {Why.ASKED: 0, Why.INTERRUPT: _SIGINT, Why.FAULT: _SIGSEGV}
_ENDS: Final = {"reset": "W03", "fault": "X06"}
"""How a process ends when the machine has stopped: the exit status of ``gunyah run``, or SIGABRT."""
_LONGEST_READ: Final = PACKET_SIZE // 2
_LONGEST_WATCH: Final = PAGE

Answer = bytes | None


class Refused(Exception):
    """A request that cannot be done; gdb shows the sentence."""


class Conversation:
    """Takes packets with ``packet`` and gives answers to ``send`` (framed bytes)."""

    def __init__(self, hv: Hypervisor, send: Callable[[bytes], object]) -> None:
        self.target = Target(hv, self._stop)
        self.acknowledging = True
        self.over = False
        """gdb has detached or killed: the connection may go."""
        self._send = send
        self._hv = hv
        self._non_stop = False
        self._waiting = False
        """All-stop: gdb has resumed somebody and waits for a stop."""
        self._stops: deque[Stop] = deque()
        self._notified = False
        """Non-stop: the first of ``_stops`` is on its way, and not acknowledged yet."""
        self._attached: set[int] = set()
        # gdb 13.1 fails on more than one stopped vCPU while it connects in non-stop mode: the others are told later.
        self._later: deque[Stop] = deque()
        self._known: set[int] = set()
        self._current = Thread(ANY, ANY)
        self._documents: dict[str, bytes] = {}
        self._named: tuple[tuple[bytes, Callable[[bytes], Answer]], ...] = (
            (b"qSupported", self._supported),
            (b"QStartNoAckMode", self._no_acknowledgements),
            (b"QNonStop:", self._set_non_stop),
            (b"qXfer:", self._transfer),
            (b"qAttached", lambda _: b"1"),
            (b"qfThreadInfo", lambda _: b"m" + b",".join(str(thread_of(v)).encode() for v in list(self._threads()))),
            (b"qsThreadInfo", lambda _: b"l"),
            (b"qThreadExtraInfo,", self._extra),
            (b"qRcmd,", self._monitor),
            # qCRC begins with the same letters.
            (b"qC", lambda text: _UNSUPPORTED if text else f"QC{self._here()}".encode()),
            (b"vCont?", lambda _: b"vCont;c;C;s;S;t;r"),
            (b"vCont;", self._resume),
            (b"vCtrlC", self._control_c),
            (b"vAttach;", self._attach),
            (b"vKill;", lambda text: self._kill(number(text))),
            (b"vStopped", lambda _: self._acknowledge_stop()),
        )
        self._lettered: dict[int, Callable[[bytes], Answer]] = {
            ord("?"): lambda _: self._why_stopped(),
            ord("!"): lambda _: _OK,
            ord("g"): lambda _: self._read_registers(),
            ord("G"): self._write_registers,
            ord("p"): self._read_register,
            ord("P"): self._write_register,
            ord("m"): lambda text: self._read_memory(text).hex().encode(),
            ord("x"): lambda text: b"b" + binary(self._read_memory(text)),
            ord("M"): self._write_memory_hex,
            ord("X"): self._write_memory_binary,
            ord("Z"): lambda text: self._breakpoint(text, True),
            ord("z"): lambda text: self._breakpoint(text, False),
            ord("H"): self._select,
            ord("T"): self._alive,
            ord("c"): lambda _: self._resume(b"c"),
            ord("s"): lambda _: self._resume(f"s:{self._here()}".encode()),
            ord("D"): self._detach,
            ord("k"): lambda _: self._kill(self._here().pid),
        }
        # gdb takes the VM that it finds first for stopped.
        first = first_vcpu(hv)
        if first is not None:
            self._current = thread_of(first)
            self._attached.add(first.vmid)
            self.target.hold(self.target.vm(first.vmid))
        self._known = set(self.target.vms())

    # -- packets -------------------------------------------------------------------------------------------------------

    def packet(self, content: bytes) -> None:
        """Do what a packet (still escaped) asks and send the answer."""
        answer = self._answer(content)
        if answer is not _NO_ANSWER:
            self._send(frame(answer))
        if self._non_stop:
            self._report()

    def _answer(self, content: bytes) -> Answer:
        for name, method in self._named:
            if content.startswith(name):
                return self._guarded(method, content[len(name) :])
        method_of_letter = self._lettered.get(content[0]) if content else None
        if method_of_letter is None:
            return _UNSUPPORTED
        return self._guarded(method_of_letter, content[1:])

    def _guarded(self, method: Callable[[bytes], Answer], text: bytes) -> Answer:
        try:
            return method(text)
        except Malformed:
            return _MALFORMED
        except Unmapped:
            return _UNMAPPED
        except NotThere:
            return _NOT_THERE
        except (Refused, NoMore, RegisterRefused) as refusal:
            return b"E." + binary(str(refusal).encode())
        except Exception as error:
            # A mistake of ours is gdb's problem, never the machine's.
            self._hv.remark(None, f"gdb: {text[:60]!r} failed: {type(error).__name__}: {error}")
            return _MALFORMED

    # -- threads -------------------------------------------------------------------------------------------------------

    def _threads(self) -> Iterator[Vcpu]:
        """Everybody whom gdb has for a thread."""
        for vmid, vcpus in self.target.vms().items():
            if vmid in self._attached:
                yield from vcpus

    def _matching(self, selector: Thread) -> list[Vcpu]:
        return [
            vcpu
            for vcpu in self._threads()
            if selector.pid in (ALL, ANY, vcpu.vmid) and selector.tid in (ALL, ANY, vcpu.vic_index + 1)
        ]

    def _pick(self, selector: Thread) -> Vcpu:
        """One vCPU for a selector, the current one if it fits; raises NotThere."""
        matching = self._matching(selector)
        for vcpu in matching:
            if thread_of(vcpu) == self._current:
                return vcpu
        if not matching:
            raise NotThere(f"nobody is {selector}")
        return matching[0]

    def _vcpu(self) -> Vcpu:
        """The vCPU that memory and registers are asked of."""
        return self._pick(self._current)

    def _here(self) -> Thread:
        return thread_of(self._vcpu())

    def _select(self, text: bytes) -> Answer:
        if text[:1] not in (b"g", b"c"):
            raise Malformed("neither Hg nor Hc")
        selector = thread_selector(text[1:])
        picked = self._pick(selector)
        if text[:1] == b"g":
            self._current = thread_of(picked)
        return _OK

    def _alive(self, text: bytes) -> Answer:
        self.target.vcpu(thread_selector(text))
        return _OK

    def _extra(self, text: bytes) -> Answer:
        return documents.vcpu_words(self.target.vcpu(thread_selector(text))).encode().hex().encode()

    # -- what we can ---------------------------------------------------------------------------------------------------

    def _supported(self, text: bytes) -> Answer:
        return (
            f"PacketSize={PACKET_SIZE:x};QStartNoAckMode+;QNonStop+;multiprocess+;vContSupported+;swbreak+;hwbreak+;"
            "qXfer:features:read+;qXfer:threads:read+;qXfer:osdata:read+;binary-upload+"
        ).encode()

    def _no_acknowledgements(self, text: bytes) -> Answer:
        self.acknowledging = False
        return _OK

    def _set_non_stop(self, text: bytes) -> Answer:
        if text not in (b"0", b"1"):
            raise Malformed(f"non-stop {text[:8]!r}")
        self._non_stop = text == b"1"
        self.target.whole_vms = not self._non_stop
        return _OK

    def _transfer(self, text: bytes) -> Answer:
        kind, _, rest = text.partition(b":read:")
        annex, _, window = rest.rpartition(b":")
        offset, length = pair(window)
        key = f"{kind.decode('ascii', 'replace')}:{annex.decode('ascii', 'replace')}"
        if offset == 0 or key not in self._documents:
            document = documents.document(key, self.target, list(self._threads()) if kind == b"threads" else [])
            if document is None:
                return b"E00" if kind in (b"features", b"osdata") else _UNSUPPORTED
            self._documents[key] = document.encode()
        document_bytes = self._documents[key]
        part = document_bytes[offset : offset + min(length, _LONGEST_READ)]
        last = offset + len(part) >= len(document_bytes)
        return (b"l" if last else b"m") + binary(part)

    def _monitor(self, text: bytes) -> Answer:
        command = from_hex(text).decode("utf-8", "replace").strip()
        return documents.monitor(command, self.target).encode().hex().encode()

    # -- registers and memory ------------------------------------------------------------------------------------------

    def _read_registers(self) -> bytes:
        vcpu = self._vcpu()
        return b"".join(self._register_hex(vcpu, n) for n in range(GENERAL))

    def _register_hex(self, vcpu: Vcpu, n: int) -> bytes:
        value = read_register(vcpu, n)
        return b"xx" * REGISTERS[n].size if value is None else value.hex().encode()

    def _write_registers(self, text: bytes) -> Answer:
        vcpu, at = self._vcpu(), 0
        for n in range(GENERAL):
            digits = text[at : at + 2 * REGISTERS[n].size]
            at += len(digits)
            if digits and b"x" not in digits and digits != self._register_hex(vcpu, n):
                write_register(vcpu, n, from_hex(digits))
        return _OK

    def _read_register(self, text: bytes) -> Answer:
        return self._register_hex(self._vcpu(), number(text) if number(text) < len(REGISTERS) else _no_register())

    def _write_register(self, text: bytes) -> Answer:
        n, _, digits = text.partition(b"=")
        write_register(self._vcpu(), number(n), from_hex(digits))
        return _OK

    def _read_memory(self, text: bytes) -> bytes:
        address, size = pair(text)
        return self.target.memory.read(self._vcpu(), address, min(size, _LONGEST_READ))

    def _write_memory(self, where: bytes, data: bytes) -> Answer:
        address, size = pair(where)
        if size != len(data):
            raise Malformed(f"{len(data)} bytes where {size} were announced")
        self.target.memory.write(self._vcpu(), address, data)
        return _OK

    def _write_memory_hex(self, text: bytes) -> Answer:
        where, _, data = text.partition(b":")
        return self._write_memory(where, from_hex(data))

    def _write_memory_binary(self, text: bytes) -> Answer:
        where, _, data = text.partition(b":")
        return self._write_memory(where, unescape(data))

    # -- breakpoints ---------------------------------------------------------------------------------------------------

    def _breakpoint(self, text: bytes, insert: bool) -> Answer:
        kind, _, rest = text.partition(b",")
        address, size = pair(rest.partition(b";")[0])
        if kind not in (b"0", b"1", b"2", b"3", b"4"):
            return _UNSUPPORTED
        vcpu = self._vcpu()
        if insert and is_python(vcpu):
            raise Refused(f"VM {vcpu.vmid} is a Python program: it has no instructions or loads to stop at")
        breakpoints, vmid = self.target.breakpoints, vcpu.vmid
        if kind in (b"2", b"3", b"4"):
            watch = self._watch(vcpu, kind, address, size, insert)
            if insert:
                self.target.watch(watch)
            else:
                self.target.unwatch(watch)
            return _OK
        if address % 4 or size != 4:
            raise Refused(f"{size} bytes at {address:#x} are no A64 instruction")
        if kind == b"1":
            if insert:
                self.target.connect()
                breakpoints.insert_hardware(vmid, address)
            else:
                breakpoints.remove_hardware(vmid, address)
        elif insert:
            self.target.connect()
            breakpoints.insert(vmid, address, self.target.memory.physical(vcpu, address))
        else:
            breakpoints.remove(vmid, address)
        return _OK

    def _watch(self, vcpu: Vcpu, kind: bytes, address: int, size: int, insert: bool) -> Watch:
        if not 0 < size <= _LONGEST_WATCH or address + size > 1 << 64:
            raise Refused(f"{size} bytes cannot be watched, 1 to {_LONGEST_WATCH} can")
        pieces = []
        at = address
        while insert and at < address + size:
            count = min(address + size - at, PAGE - at % PAGE)
            pieces.append((self.target.memory.physical(vcpu, at), count))
            at += count
        return Watch(vcpu.vmid, address, size, kind in (b"3", b"4"), kind in (b"2", b"4"), tuple(pieces))

    # -- run control ---------------------------------------------------------------------------------------------------

    def _resume(self, text: bytes) -> Answer:
        """``vCont;ACTION[:THREAD];...``: each vCPU does the first action that names it."""
        chosen: dict[int, tuple[Vcpu, bytes]] = {}
        for action in text.split(b";"):
            what, _, selector = action.partition(b":")
            if what[:1] not in (b"c", b"C", b"s", b"S", b"t", b"r"):
                raise Malformed(f"action {what[:20]!r}")
            for vcpu in self._matching(thread_selector(selector) if selector else Thread(ALL, ALL)):
                chosen.setdefault(vcpu.serial, (vcpu, what))
        for vcpu, what in chosen.values():
            if what[:1] in b"sSr" and is_python(vcpu):
                raise Refused(f"VM {vcpu.vmid} is a Python program and has no instructions to step")
        steps = {
            serial: (Step(*pair(what[1:])) if what[:1] == b"r" else Step()) if what[:1] in b"sSr" else None
            for serial, (_, what) in chosen.items()
        }
        if self._hv.stopped is not None:
            raise NotThere("the machine has stopped")
        # gdb takes these for running already.
        named = {thread_of(vcpu) for vcpu, _ in chosen.values()}
        self._later = deque(stop for stop in self._later if stop.thread not in named)
        for serial, (vcpu, what) in chosen.items():
            if what == b"t":
                self._halt(vcpu)
            elif not any(stop.thread == thread_of(vcpu) for stop in self._stops):
                # Who has a stop that gdb does not know of yet stays where it is.
                self.target.resume(vcpu, steps[serial])
        if self._non_stop:
            return _OK
        resumed = [vcpu for vcpu, what in chosen.values() if what != b"t"]
        if resumed and not any(thread_of(vcpu) == self._current for vcpu in resumed):
            self._current = thread_of(resumed[0])
        self._waiting = True
        self._report()
        return _NO_ANSWER

    def _halt(self, vcpu: Vcpu) -> None:
        if not self.target.held(vcpu):
            self.target.hold([vcpu])
            self._stops.append(Stop(thread_of(vcpu), Why.ASKED))

    def _control_c(self, text: bytes) -> Answer:
        self.interrupt()
        return _OK

    def interrupt(self) -> None:
        """Ctrl-C: stop the VM that was resumed last."""
        if not self._non_stop and not self._waiting:
            return
        try:
            vcpu = self._vcpu()
        except NotThere:
            return
        if self._non_stop:
            for each in self._matching(Thread(vcpu.vmid, ALL)):
                self._halt(each)
            self._report()
            return
        self.target.hold(self.target.vm(vcpu.vmid))
        self._stop(Stop(thread_of(vcpu), Why.INTERRUPT))

    def _attach(self, text: bytes) -> Answer:
        vmid = number(text)
        vcpus = self.target.vm(vmid)
        self._attached.add(vmid)
        self._known.add(vmid)
        self.target.hold(vcpus)
        self._current = thread_of(vcpus[0])
        if self._non_stop:
            self._stops += [Stop(thread_of(vcpu), Why.ASKED) for vcpu in vcpus]
            return _OK
        return self._stop_reply(Stop(self._current, Why.ASKED))

    def _detach(self, text: bytes) -> Answer:
        if text.startswith(b";"):
            vmid = number(text[1:])
            self.target.release(vmid)
            self._attached.discard(vmid)
            self._stops = deque(stop for stop in self._stops if stop.thread.pid != vmid)
        else:
            self.target.close()
            self.over = True
        return _OK

    def _kill(self, vmid: int) -> Answer:
        self.target.kill(vmid)
        self._known.discard(vmid)
        self._stops = deque(stop for stop in self._stops if stop.thread.pid != vmid)
        return _OK

    # -- stops ---------------------------------------------------------------------------------------------------------

    def _stop(self, stop: Stop) -> None:
        """Something has stopped: tell gdb when it wants to know."""
        if stop.thread.pid not in self._attached:
            return
        self._stops.append(stop)
        self._report()

    def _report(self) -> None:
        if not self._stops:
            return
        if self._non_stop:
            if not self._notified:
                self._notified = True
                self._send(frame(b"Stop:" + self._stop_reply(self._stops[0]), notification=True))
        elif self._waiting:
            self._waiting = False
            stop = self._stops.popleft()
            if stop.why is not Why.GONE:
                self._current = stop.thread
            self._send(frame(self._stop_reply(stop)))

    def _acknowledge_stop(self) -> Answer:
        if self._notified and self._stops:
            self._stops.popleft()
        if self._stops:
            return self._stop_reply(self._stops[0])
        self._notified = False
        return _OK

    def _why_stopped(self) -> Answer:
        if self._non_stop:
            self._later = deque(Stop(thread_of(v), Why.ASKED) for v in self._threads() if self.target.held(v))
            self._stops = deque([self._later.popleft()] if self._later else [])
            self._notified = bool(self._stops)
            return self._stop_reply(self._stops[0]) if self._stops else _OK
        try:
            return self._stop_reply(Stop(self._here(), Why.STEP))
        except NotThere:
            return b"W00"

    def _stop_reply(self, stop: Stop) -> bytes:
        if stop.why is Why.GONE:
            return f"{_ENDS.get(self._hv.stopped or '', 'W00')};process:{stop.thread.pid:x}".encode()
        words = f"T{_SIGNALS.get(stop.why, _SIGTRAP):02x}thread:{stop.thread};"
        if stop.why in (Why.SOFTWARE, Why.HARDWARE):
            words += f"{stop.why.value}:;"
        elif stop.why in (Why.WRITE, Why.READ, Why.ACCESS):
            words += f"{stop.why.value}:{stop.address:x};"
        return words.encode()

    def look(self) -> None:
        """Now and then: VMs that have ended, vCPUs that were stopped for good."""
        self.target.look()
        self._stops += self._later
        self._later.clear()
        self._report()
        there = set(self.target.vms())
        for vmid in sorted(self._known - there):
            self._stop(Stop(Thread(vmid, 1), Why.GONE))
        self._known = there

    def close(self) -> None:
        """The machine has stopped or gdb is gone."""
        if self._hv.stopped is not None:
            vmid = self._current.pid
            if self._waiting or self._non_stop:
                self._stops.clear()
                self._notified = False
                self._stop(Stop(Thread(vmid, 1), Why.GONE))
        self.target.close()


def _no_register() -> int:
    raise Malformed("there is no such register")
