"""The terminals of a Linux VM as pseudo-terminals: for every tty device a link in the run directory.

While somebody has the pseudo-terminal open, a task of the VM has the tty open, raw, and bytes are copied both ways with
bounded buffers. The user's last close closes the tty once all he wrote is out; a new open opens it again. When the tty
is hung up in the VM so is the pseudo-terminal, and a fresh one stands under the same name if the device is still there.

A user who opens two terminals and then writes to the first must find his bytes at the second: so before input is passed
on, every terminal is looked at for a new opener, and input waits until their ttys are open.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gunyah.guest.wait import WaitQueue
from gunyah.host.errors import reason
from gunyah.host.loop import HostLoop
from gunyah.host.pty import Pty, PtyListener
from gunyah.host.rundir import RunDirectory

if TYPE_CHECKING:
    from gunyah.linux.kernel import Kernel
    from gunyah.linux.tty_file import TtyFile

__all__ = ["TtyBridge", "TtyBridges"]

INPUT_LIMIT: Final = 16 * 1024
PIECE: Final = 16 * 1024
CLOSING_WAIT_NS: Final = 30_000_000_000
"""How long a tty that its user has closed is kept open for what he wrote (closing_wait of a serial port)."""


class _Visit:
    """One opening of a tty on behalf of the user. Its methods run inside the VM unless they say otherwise."""

    def __init__(self, bridge: TtyBridge) -> None:
        self.bridge = bridge
        self.input = bytearray()
        self.file: TtyFile | None = None
        self.ended = False
        self.closing = False
        self._starved = False
        self._over = WaitQueue(bridge.hub.kernel.scheduler)

    def run(self) -> None:
        """The task: open, copy until the user has closed or the tty is hung up, close."""
        bridge = self.bridge
        try:
            file = bridge.hub.kernel.open_tty(bridge.name)
        except OSError as error:
            sentence = reason(error)
            bridge.hub.opened()
            bridge.hub.loop.post(lambda: bridge.refused(sentence))
            return
        file.set_raw()
        self.file = file
        file.on_ready = self.pump
        bridge.hub.opened()
        self.pump()
        while not file.hung_up:
            self._over.wait_for(lambda: self.ended or file.hung_up)
            self._over.wait_for(lambda: not self.ended or not self.input or file.hung_up, CLOSING_WAIT_NS)
            if self.ended:  # Otherwise a new opener came while the last bytes of the old one went out.
                break
        self.closing = True
        hung_up = file.hung_up
        file.close()
        bridge.hub.loop.post(lambda: bridge.over(self, hung_up))

    def pump(self) -> None:
        """Copy what can be copied now."""
        file = self.file
        if file is None or file.closed:
            return
        if file.hung_up:
            self._over.wake_all()
            return
        if self.input and not self.bridge.hub.opening:
            self._to_tty(file)
        self._from_tty(file)

    def _to_tty(self, file: TtyFile) -> None:
        pending = self.input
        while pending and (taken := file.write_nowait(bytes(pending[:PIECE]))):
            del pending[:taken]
        if self._starved and len(pending) <= INPUT_LIMIT // 2:
            self._starved = False
            self.bridge.hub.loop.post(self.bridge.resume)
        if not pending and self.ended:
            self._over.wake_all()

    def _from_tty(self, file: TtyFile) -> None:
        bridge = self.bridge
        while True:
            pty = bridge.pty
            room = pty.room if pty is not None else PIECE
            if not room:
                assert pty is not None
                pty.want_room()
                return
            data = file.read_nowait(min(room, PIECE))
            if not data:
                return
            if pty is not None:
                pty.send(data)

    def end(self) -> None:
        """The user has closed."""
        self.ended = True
        self._over.wake_all()

    def go_on(self) -> None:
        """A new user has come before the tty was closed."""
        self.ended = False
        self._over.wake_all()

    def room(self) -> int:
        """On the host's side: bytes of input that are taken now."""
        room = INPUT_LIMIT - len(self.input)
        self._starved = room <= 0
        return room


class TtyBridge(PtyListener):
    """One tty device and its pseudo-terminal. Its methods run on the host's side, between slices."""

    def __init__(self, hub: TtyBridges, name: str) -> None:
        self.hub = hub
        self.name = name
        self.pty: Pty | None = None
        self._visit: _Visit | None = None
        self._next: _Visit | None = None
        self._pump_posted = False
        self._make()

    def _make(self) -> None:
        hub = self.hub
        self.pty = Pty(hub.loop, hub.directory, hub.prefix + self.name, self)

    @property
    def port(self) -> str:
        """Name of the device with the prefix of its VM."""
        return self.hub.prefix + self.name

    @property
    def vmid(self) -> int:
        """VMID of the VM that has the device."""
        return self.hub.vmid

    @property
    def vm(self) -> str:
        """Name of the VM that has the device."""
        return self.hub.vm

    @property
    def path(self) -> Path | None:
        """The link that users open; None while the terminal is hung up."""
        return self.pty.link if self.pty is not None else None

    @property
    def busy(self) -> bool:
        """The tty is open, or being opened, on behalf of a user."""
        return self._visit is not None

    @property
    def held(self) -> int:
        """Bytes of the user's that wait for room in the VM."""
        return len(self._visit.input) if self._visit is not None else 0

    # -- what the pseudo-terminal tells --------------------------------------------------------------------------------

    def on_open(self) -> None:
        """Open the tty, or go on with the opening whose last bytes are still on their way."""
        visit = self._visit
        if visit is not None and not visit.closing:
            self.hub.post(visit.go_on)
        elif visit is None:
            self._start(_Visit(self))
        else:
            self._next = _Visit(self)
            self.hub.opening += 1

    def _start(self, visit: _Visit, counted: bool = False) -> None:
        self._visit = visit
        hub = self.hub
        if not counted:
            hub.opening += 1
        hub.post(lambda: hub.kernel.scheduler.spawn(visit.run, name=f"pty {self.name}"))

    def on_close(self) -> None:
        """The tty closes when all input is out."""
        visit = self._next or self._visit
        if visit is not None:
            self.hub.post(visit.end)

    def input_room(self) -> int:
        """As much as the visit's buffer takes."""
        visit = self._next or self._visit
        return visit.room() if visit is not None else 0

    def on_input(self, data: bytes) -> None:
        """Keep it for the tty, behind the opening of any terminal that was opened before it was written."""
        visit = self._next or self._visit
        assert visit is not None
        visit.input += data
        self.hub.look()
        self.request_pump()

    def on_room(self) -> None:
        """The user has read: more can come."""
        self.request_pump()

    def resume(self) -> None:
        """The visit has room for input again."""
        if self.pty is not None:
            self.pty.resume()

    def request_pump(self) -> None:
        """Copy inside the VM soon; requests until then are one."""
        if not self._pump_posted:
            self._pump_posted = True
            self.hub.post(self._pump)

    def _pump(self) -> None:
        self._pump_posted = False
        if self._visit is not None:
            self._visit.pump()

    # -- what the visit tells ----------------------------------------------------------------------------------------

    def over(self, visit: _Visit, hung_up: bool) -> None:
        """The tty is closed; open it again for a user who came meanwhile, and hang him up if it was hung up."""
        self._visit = None
        following, self._next = self._next, None
        if hung_up:
            if following is not None:
                self.hub.opened()
            self._hang_up()
        elif following is not None:
            self._start(following, counted=True)
        elif self.pty is not None and self.pty.is_open:
            self._start(_Visit(self))

    def refused(self, sentence: str) -> None:
        """The tty could not be opened: the user's open fails late, as a hang-up."""
        self.hub.remark(f"{self.port} could not be opened: {sentence}")
        self._visit = None
        self._hang_up()

    def _hang_up(self) -> None:
        if self.pty is not None:
            self.pty.close()
            self.pty = None
        if self.name in self.hub.kernel.tty.names and not self.hub.closed:
            self._make()

    def close(self) -> None:
        """The device has gone: hang up."""
        if self.pty is not None:
            self.pty.close()
            self.pty = None
        if self._visit is not None:
            self.hub.post(self._visit.end)


class TtyBridges:
    """All tty devices of one kernel, as they come and go; ``prefix`` goes before their names in the run directory.

    ``post`` runs a function inside the VM and wakes the VM for it.
    """

    def __init__(
        self,
        loop: HostLoop,
        directory: RunDirectory,
        kernel: Kernel,
        post: Callable[[Callable[[], object]], object],
        *,
        vmid: int,
        vm: str,
        prefix: str = "",
    ) -> None:
        self.loop = loop
        self.directory = directory
        self.kernel = kernel
        self.post = post
        self.vmid = vmid
        self.vm = vm
        self.prefix = prefix
        self.opening = 0
        self.closed = False
        self.remarks: list[str] = []
        self._bridges: dict[str, TtyBridge] = {}
        self._listener = lambda: loop.post(self.sync)
        kernel.tty.on_devices.append(self._listener)
        self.sync()

    @property
    def bridges(self) -> list[TtyBridge]:
        """The terminals, by name."""
        return [self._bridges[name] for name in sorted(self._bridges)]

    @property
    def busy(self) -> bool:
        """Some tty is open, or being opened, on behalf of a user."""
        return any(bridge.busy for bridge in self._bridges.values())

    def remark(self, sentence: str) -> None:
        """Keep something for a person who looks; the oldest go."""
        self.remarks = [*self.remarks[-31:], sentence]

    def sync(self) -> None:
        """Make and remove terminals so that they are those of the kernel; raises HostError when one cannot be made."""
        if self.closed:
            return
        names = set(self.kernel.tty.names)
        for name in set(self._bridges) - names:
            self._bridges.pop(name).close()
        for name in sorted(names - set(self._bridges)):
            self._bridges[name] = TtyBridge(self, name)

    def look(self) -> None:
        """Notice everybody who has opened a terminal by now."""
        for bridge in self._bridges.values():
            if bridge.pty is not None:
                bridge.pty.look()

    def opened(self) -> None:
        """An opening has ended, one way or the other; held input goes on after the last."""
        self.opening -= 1
        if not self.opening:
            for bridge in self._bridges.values():
                bridge.request_pump()

    def close(self) -> None:
        """Hang everybody up."""
        if self.closed:
            return
        self.closed = True
        self.kernel.tty.on_devices.remove(self._listener)
        for bridge in self._bridges.values():
            bridge.close()
        self._bridges.clear()
