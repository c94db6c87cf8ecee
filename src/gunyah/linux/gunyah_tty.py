"""drivers/tty/gunyah_tty.c: ttyGH terminals and the ttyGH console over RM's console service (linux-drivers.md 14).

ttyGH0 is the own console (VMID 0, "self"), ttyGH1 the loop-back port with the own VMID. Each port has a FIFO of 1024
bytes that a work item empties by console writes, one at a time. Flow control: bytes written to one end come in at the
other, so while one port's reader is slow (throttled) the other port's FIFO is left as it is and its writers wait; at
most one write is on its way, for which there is room. RM's console is opened by the first and closed by the last user;
the self end stays open until the driver goes.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from gunyah.abi.rm import HEADER_SIZE, ConsoleWrite, NotificationId, PayloadError
from gunyah.linux.auxiliary import AuxiliaryDriver
from gunyah.linux.errno import error, name_of
from gunyah.linux.kobject import Attribute
from gunyah.linux.printk import WARNING
from gunyah.linux.rsc_mgr import RscMgr
from gunyah.linux.rsc_mgr_rpc import VMID_SELF, RscMgrRpc
from gunyah.linux.tty import Tty, TtyDriver, TtyPort
from gunyah.linux.workqueue import Work

if TYPE_CHECKING:
    from gunyah.linux.device import Device
    from gunyah.linux.kernel import Kernel

__all__ = ["CONSOLE_HEAD", "FIFO_SIZE", "GunyahTtyDriver", "GunyahTtyPort", "GunyahTty"]

FIFO_SIZE = 1024
MAX_PORTS = 16
CONSOLE_HEAD = 4
"""Bytes before the characters in a console write: u16 VMID, u16 count."""
_RETRY_NS = 1_000_000_000


class GunyahTtyPort(TtyPort):
    """struct gh_tty_port. ``lost`` counts bytes whose console write failed."""

    def __init__(self, driver: GunyahTty, index: int, vmid: int) -> None:
        super().__init__(driver.kernel.services)
        self.index = index
        self.vmid = vmid
        self.fifo = bytearray()
        self.work = Work(lambda: driver.drain(self))
        self.queue = driver.kernel.services.workqueues.alloc_ordered(f"ttyGH{index}")
        self.peer: GunyahTtyPort | None = None
        self.throttled = False
        self.open = False
        self.sending = 0
        self.warned = False
        self.lost = 0


class GunyahTty(TtyDriver):
    """The tty driver and printk console of one RM connection."""

    driver_name = "gh"
    name = "ttyGH"
    num = MAX_PORTS

    def __init__(self, kernel: Kernel, rm: RscMgr, message_size: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.rpc = RscMgrRpc(kernel.services, rm, kernel.profile)
        self.chunk = message_size - HEADER_SIZE - CONSOLE_HEAD
        self.table: dict[int, GunyahTtyPort] = {}
        self.index = 0
        self._gone = False

    # -- ports ---------------------------------------------------------------------------------------------------------

    def add_port(self, vmid: int) -> GunyahTtyPort:
        """A new terminal for VM ``vmid``'s console, under the first free index. Raises OSError ENOSPC, EBUSY."""
        index = next((index for index in range(MAX_PORTS) if index not in self.table), None)
        if index is None:
            raise error(errno.ENOSPC, f"all {MAX_PORTS} ttyGH ports are in use")
        port = GunyahTtyPort(self, index, vmid)
        text = "self" if vmid == VMID_SELF else str(vmid)
        self.kernel.tty.register_device(self, index, port, Attribute("vmid", lambda: text + "\n"))
        self.table[index] = port
        return port

    def add_loopback(self, vmid: int) -> GunyahTtyPort:
        """The port for the own VMID: what is written to it comes in at port 0 and the other way round."""
        port, first = self.add_port(vmid), self.table[self.index]
        port.peer, first.peer = first, port
        return port

    def remove_ports(self) -> None:
        """Hang up and take away all ports; nothing is drained any more when this returns."""
        self._gone = True
        for index, port in list(self.table.items()):
            self.kernel.tty.unregister_device(self, index)
            port.fifo.clear()
            port.queue.cancel(port.work)
            self.kernel.services.workqueues.destroy(port.queue)
            self._close(port)
            del self.table[index]

    def _open(self, port: GunyahTtyPort) -> None:
        if not port.open:
            self.rpc.console_open(port.vmid)
            port.open = True

    def _close(self, port: GunyahTtyPort) -> None:
        if not port.open:
            return
        port.open = False
        try:
            self.rpc.console_close(port.vmid)
        except OSError as failure:
            self._warn(f"failed to close port {port.index}: {name_of(failure)}")

    def _warn(self, text: str) -> None:
        self.kernel.log.ratelimited("gh_rsc_mgr_console", WARNING, lambda: f"gh_rsc_mgr_console: {text}")

    # -- tty operations ------------------------------------------------------------------------------------------------

    @staticmethod
    def _port(port: TtyPort) -> GunyahTtyPort:
        assert isinstance(port, GunyahTtyPort)
        return port

    def activate(self, port: TtyPort, tty: Tty) -> None:
        """First open: open RM's console. Raises OSError."""
        gh_port = self._port(port)
        try:
            self._open(gh_port)
        except OSError as failure:
            self.kernel.log.err(f"gh_rsc_mgr_console: failed to open console {gh_port.index}: {name_of(failure)}")
            raise

    def shutdown(self, port: TtyPort) -> None:
        """Last close or hang-up; the self end stays open, as printk may use it."""
        gh_port = self._port(port)
        if gh_port.vmid != VMID_SELF:
            gh_port.fifo.clear()
        self.unthrottle(gh_port)
        if gh_port.vmid != VMID_SELF and not self._gone:
            self._close(gh_port)

    def write(self, port: TtyPort, data: bytes) -> int:
        """Into the FIFO; the work item sends it."""
        gh_port = self._port(port)
        fifo = gh_port.fifo
        taken = min(FIFO_SIZE - len(fifo), len(data))
        if taken:
            fifo += data if taken == len(data) else data[:taken]
            if not gh_port.work.pending:
                gh_port.queue.schedule(gh_port.work)
        return taken

    def write_room(self, port: TtyPort) -> int:
        """Free bytes of the FIFO."""
        return FIFO_SIZE - len(self._port(port).fifo)

    def chars_in_buffer(self, port: TtyPort) -> int:
        """Bytes in the FIFO and in the write that is on its way."""
        gh_port = self._port(port)
        return len(gh_port.fifo) + gh_port.sending

    def flush_buffer(self, port: TtyPort) -> None:
        """Forget the FIFO."""
        self._port(port).fifo.clear()

    def throttle(self, port: TtyPort) -> None:
        """This port's reader is slow: the other end's FIFO stays full."""
        self._port(port).throttled = True

    def unthrottle(self, port: TtyPort) -> None:
        """This port's reader has caught up: the other end may send again."""
        gh_port = self._port(port)
        if gh_port.throttled:
            gh_port.throttled = False
            peer = gh_port.peer
            if peer is not None and peer.fifo:
                peer.queue.schedule(peer.work)

    def drain(self, port: GunyahTtyPort) -> None:
        """The work item: send the FIFO in pieces of one console write while the other end takes them."""
        fifo, peer = port.fifo, port.peer
        while fifo and not self._gone and not (peer is not None and peer.throttled):
            chunk = bytes(fifo[: self.chunk])
            del fifo[: len(chunk)]
            port.sending = len(chunk)
            try:
                self.rpc.console_write(port.vmid, chunk)
                port.warned = False
            except OSError as failure:
                self._write_failed(port, len(chunk), failure)
                return
            finally:
                port.sending = 0
                port.tty_wakeup()

    def _write_failed(self, port: GunyahTtyPort, count: int, failure: OSError) -> None:
        """Whether RM saw the bytes is unknown, so they are not repeated; what follows is tried again a little later."""
        port.lost += count
        if not port.warned:
            port.warned = True
            self._warn(f"failed to send characters to VM {port.vmid}: {name_of(failure)}")
        if port.fifo and not self._gone:
            self.kernel.services.scheduler.timers.after(_RETRY_NS, lambda: self._schedule(port))

    def _schedule(self, port: GunyahTtyPort) -> None:
        if not self._gone:
            port.queue.schedule(port.work)

    # -- notifications -------------------------------------------------------------------------------------------------

    def notify(self, message_id: int, payload: bytes) -> None:
        """CONSOLE_CHARS from RM: bytes for the port with that VMID. A malformed one is dropped with a warning."""
        if message_id != NotificationId.VM_CONSOLE_CHARS:
            return
        try:
            chars = ConsoleWrite.unpack(payload)
        except PayloadError as refused:
            self._warn(f"malformed console notification: {refused}")
            return
        for port in self.table.values():
            if port.vmid == chars.vmid:
                taken = port.insert_flip_string(chars.data)
                port.flip_buffer_push()
                if taken < len(chars.data):
                    self._warn(f"ttyGH{port.index}: {len(chars.data) - taken} characters came without room for them")
                return
        self._warn(f"{len(chars.data)} characters for VM {chars.vmid}, which has no port")


class GunyahConsole:
    """struct console over port 0: output goes through the FIFO, what doesn't fit is lost."""

    name = "ttyGH"

    def __init__(self, driver: GunyahTty) -> None:
        self._driver = driver
        self.index = driver.index

    def setup(self) -> None:
        """Open RM's console if no terminal has. Raises OSError."""
        self._driver._open(self._driver.table[self.index])

    def write(self, data: bytes) -> None:
        """Allowed anywhere."""
        self._driver.write(self._driver.table[self.index], data)

    def exit(self) -> None:
        """The port closes with the driver; until then its terminal may be in use."""


class GunyahTtyDriver(AuxiliaryDriver):
    """The auxiliary driver for gunyah_rsc_mgr.console."""

    name = "gunyah_tty"
    id_table = ("gunyah_rsc_mgr.console",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def probe(self, dev: Device) -> None:
        """Driver, ports, console; without the own VMID there is no loop-back port. Raises OSError."""
        kernel = self._kernel
        rm = dev.parent.drvdata if dev.parent is not None else None
        if not isinstance(rm, RscMgr):
            raise error(errno.ENODEV, f"{dev.name}: there is no Resource Manager connection")
        driver = GunyahTty(kernel, rm, rm.message_size)
        kernel.tty.register_driver(driver)
        dev.on_release(lambda: kernel.tty.unregister_driver(driver))
        driver.add_port(VMID_SELF)
        dev.on_release(driver.remove_ports)
        rm.notifier_register(driver.notify)
        dev.on_release(lambda: rm.notifier_unregister(driver.notify))
        console = GunyahConsole(driver)
        kernel.log.register_console(console)
        dev.on_release(lambda: kernel.log.unregister_console(console))
        try:
            driver.add_loopback(driver.rpc.get_vmid())
        except OSError as failure:
            kernel.log.warning(
                f"gh_rsc_mgr_console: Failed to get this VM's VMID: {name_of(failure)}. Not creating loop-back console"
            )
        dev.drvdata = driver
