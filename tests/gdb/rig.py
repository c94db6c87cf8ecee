"""A native VM with two vCPUs under a gdb stub, all in this process, and a small remote serial protocol client."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from gunyah.host.gdb.protocol import frame
from gunyah.host.gdb.server import HOST, GdbServer
from gunyah.host.loop import HostLoop
from gunyah.hypervisor.native_executor import NativeExecutor
from gunyah.hypervisor.vcpu import Vcpu
from gunyah.native import NativePrimary
from gunyah.system import System

GDB = shutil.which("gdb-multiarch")
GUEST = Path(__file__).with_name("guest.elf")
PRIMARY = 3
ROOT = 255
SECONDS = 60.0


def symbols(path: Path = GUEST) -> dict[str, int]:
    """Addresses by name, from an ELF file's symbol table."""
    data = path.read_bytes()
    offset, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, offset + 64 * n) for n in range(count)]
    found = {}
    for section in sections:
        if section[1] != 2:
            continue
        names = sections[section[6]][4]
        for at in range(section[4], section[4] + section[5], 24):
            name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", data, at)
            end = data.index(b"\0", names + name)
            found[data[names + name : end].decode()] = value
    return found


AT = symbols()


def converse(
    system: System,
    loop: HostLoop,
    server: GdbServer,
    commands: Sequence[str],
    *,
    image: Path | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> str:
    """What gdb prints for commands, while the machine runs; ``meanwhile`` is called again and again."""
    assert GDB is not None
    lines = ["set pagination off", "set confirm off", *commands]
    arguments = [word for line in lines for word in ("-ex", line)]
    command = [GDB, "-nx", "-batch", *arguments, *([str(image)] if image is not None else [])]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as gdb:
        loop.call_later(SECONDS, gdb.kill)

        def again() -> None:
            # A machine that sleeps is woken to see whether gdb has ended.
            if gdb.poll() is None:
                meanwhile()
                loop.call_later(0.1, again)

        again()
        system.run(until=lambda: gdb.poll() is not None)
        if gdb.poll() is None:
            server.close()
        output, _ = gdb.communicate(timeout=SECONDS)
    return output


class Machine:
    """A system with the guest as its primary VM, held before its first instruction, and a stub."""

    def __init__(self, *, kernel: Path = GUEST, vcpus: int = 2, wait: bool = True, clock: str = "virtual") -> None:
        self.loop = HostLoop()
        self.primary = NativePrimary(kernel=kernel)
        self.system = System(self.primary, clock=clock, seed=1, vcpus=vcpus, memory=64 << 20, host=self.loop)
        self.system.start()
        self.hv = self.system.hypervisor
        self.server = GdbServer(self.loop, self.hv, 0)
        if wait:
            self.server.wait_for_gdb()

    def run(self, until: Callable[[], bool]) -> bool:
        """Run until something holds; host events are looked for even when a guest is busy."""
        return self.system.run(until=until)

    def vcpu(self, index: int = 0, vmid: int = PRIMARY) -> Vcpu:
        """One vCPU."""
        return next(v for v in self.hv.vcpus.values() if v.vmid == vmid and v.vic_index == index)

    def executor(self, index: int = 0) -> NativeExecutor:
        """What runs one native vCPU."""
        executor = self.vcpu(index).executor
        assert isinstance(executor, NativeExecutor)
        return executor

    def close(self) -> None:
        """Power off."""
        self.server.close(linger=0.0)
        self.system.close()
        self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Debugged(Protocol):
    """A system with a stub."""

    system: System
    server: GdbServer


class Client:
    """Talks to the stub of a machine, and runs the machine while it waits."""

    def __init__(self, machine: Debugged, *, features: str = "multiprocess+;swbreak+;hwbreak+") -> None:
        self.machine = machine
        self.socket = socket.create_connection((HOST, machine.server.port))
        self.socket.setblocking(False)
        self.received = bytearray()
        self.ended = False
        machine.system.run(lambda: machine.server.connected)
        self.ask(f"qSupported:{features}")
        self.ask("QStartNoAckMode")
        self.received.clear()

    def send(self, content: str | bytes) -> None:
        """One packet, no waiting."""
        self.socket.sendall(frame(content.encode() if isinstance(content, str) else content))

    def _take(self) -> bool:
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data == b"":
            self.ended = True
        self.received += data or b""
        return self._packet(keep=True) is not None or self.ended

    def _packet(self, *, keep: bool = False) -> bytes | None:
        start = min((at for at in (self.received.find(b"$"), self.received.find(b"%")) if at >= 0), default=-1)
        end = self.received.find(b"#", start)
        if start < 0 or end < 0 or len(self.received) < end + 3:
            return None
        content = bytes(self.received[start + 1 : end])
        assert int(self.received[end + 1 : end + 3], 16) == sum(content) & 0xFF
        if not keep:
            del self.received[: end + 3]
        return content

    def answer(self) -> bytes:
        """The next packet; the machine runs until it is there."""
        self._take()
        if self._packet(keep=True) is None:
            self.machine.system.run(self._take)
            if self._packet(keep=True) is None and self.machine.system.stopped is not None:
                self.machine.server.close(linger=0.0)
                self._take()
        content = self._packet()
        assert content is not None, "the stub has closed the connection"
        return content

    def ask(self, content: str | bytes) -> str:
        """A packet and its answer."""
        self.send(content)
        return self.answer().decode("latin-1")

    # -- what tests ask for --------------------------------------------------------------------------------------------

    def register(self, number: int) -> int:
        """A register of the current thread."""
        return int.from_bytes(bytes.fromhex(self.ask(f"p{number:x}")), "little")

    def set_register(self, number: int, value: int, size: int = 8) -> str:
        """Write a register of the current thread."""
        return self.ask(f"P{number:x}={value.to_bytes(size, 'little').hex()}")

    def read(self, address: int, size: int) -> bytes:
        """Memory of the current thread's VM."""
        return bytes.fromhex(self.ask(f"m{address:x},{size:x}"))

    @property
    def pc(self) -> int:
        """PC of the current thread."""
        return self.register(PC)

    def go(self) -> str:
        """Continue the primary VM; the stop reply."""
        return self.ask("vCont;c:p3.-1")

    def step(self, thread: str = "p3.1") -> str:
        """Step one thread with the others still; the stop reply."""
        return self.ask(f"vCont;s:{thread}")

    def jump(self, name: str) -> None:
        """Let the current thread go on at a symbol."""
        assert self.set_register(PC, AT[name]) == "OK"


SP, PC, CPSR, V0 = 31, 32, 33, 34
