"""drivers/tty: tty drivers, ports with flip buffers, open terminals, and the files that processes hold.

A driver registers devices; each has a port. The first open activates the port and makes a Tty with its line
discipline; the last close, or a hang-up, shuts the port down. What a driver receives goes through the port's flip
buffer (64 KiB) into the line discipline; when that has less than 128 bytes of room the driver is asked to throttle,
and unthrottled when a reader has made room.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from gunyah.guest.wait import Mutex, WaitQueue
from gunyah.linux.errno import error
from gunyah.linux.kobject import Attribute, KObject
from gunyah.linux.n_tty import LineDiscipline
from gunyah.linux.termios import IXON, Termios

if TYPE_CHECKING:
    from gunyah.guest.tasks import Task
    from gunyah.linux.services import Services
    from gunyah.linux.tty_file import TtyFile

__all__ = ["FLIP_BUFFER_SIZE", "Tty", "TtyCore", "TtyDriver", "TtyPort"]

FLIP_BUFFER_SIZE = 65_536
_UNTHROTTLE_FILL = 128
_CLOSING_WAIT_NS = 30_000_000_000
_DYNAMIC_MAJORS = range(511, 383, -1)


class TtyPort:
    """struct tty_port. ``overruns`` counts received bytes for which the flip buffer had no room."""

    def __init__(self, services: Services) -> None:
        self.lock = Mutex(services.scheduler)
        self.count = 0
        self.tty: Tty | None = None
        self.flip = bytearray()
        self.overruns = 0

    def insert_flip_string(self, data: bytes) -> int:
        """tty_insert_flip_string: bytes taken."""
        room = FLIP_BUFFER_SIZE - len(self.flip)
        taken = min(room, len(data))
        self.flip += data if taken == len(data) else data[:taken]
        self.overruns += len(data) - taken
        return taken

    def flip_buffer_push(self) -> None:
        """tty_flip_buffer_push: hand the buffer to the line discipline; without an open tty its contents are void."""
        tty = self.tty
        if tty is None:
            self.flip.clear()
        elif self.flip:
            tty.receive(self.flip)

    def tty_wakeup(self) -> None:
        """tty_port_tty_wakeup: the driver has room again."""
        if self.tty is not None:
            self.tty.wakeup()


class TtyDriver(ABC):
    """struct tty_driver and its operations; subclasses are drivers. ``ports`` maps indices of registered devices."""

    driver_name = ""
    name = ""
    num = 1

    def __init__(self) -> None:
        self.ports: dict[int, TtyPort] = {}
        self.major = 0

    def activate(self, port: TtyPort, tty: Tty) -> None:
        """First open; may block; raises OSError to refuse."""

    def shutdown(self, port: TtyPort) -> None:
        """Last close or hang-up; may block; must not fail."""

    @abstractmethod
    def write(self, port: TtyPort, data: bytes) -> int:
        """Take bytes for output, without blocking; how many."""

    @abstractmethod
    def write_room(self, port: TtyPort) -> int:
        """Bytes that ``write`` would take now."""

    def chars_in_buffer(self, port: TtyPort) -> int:
        """Bytes taken and not yet sent."""
        return 0

    def flush_buffer(self, port: TtyPort) -> None:
        """Forget bytes not yet sent."""

    def throttle(self, port: TtyPort) -> None:
        """The reader is slow: stop the flow of input if possible."""

    def unthrottle(self, port: TtyPort) -> None:
        """The reader has caught up."""


class Tty:
    """struct tty_struct: one terminal while it is open."""

    def __init__(self, core: TtyCore, driver: TtyDriver, index: int, port: TtyPort, termios: Termios) -> None:
        scheduler = core.services.scheduler
        self.core = core
        self.driver = driver
        self.index = index
        self.port = port
        self.name = f"{driver.name}{index}"
        self.termios = termios
        self.stopped = False
        self.throttled = False
        self.hung_up = False
        self.files: set[TtyFile] = set()
        self.read_wait = WaitQueue(scheduler)
        self.write_wait = WaitQueue(scheduler)
        self.write_lock = Mutex(scheduler)
        self.readers: set[Task] = set()
        self.on_signal: Callable[[str], None] | None = None
        self.winsize = (0, 0)
        self.ldisc = LineDiscipline(self, termios)

    # -- towards the driver --------------------------------------------------------------------------------------------

    def output(self, data: bytes) -> int:
        """Bytes the driver took."""
        return self.driver.write(self.port, data)

    def output_room(self) -> int:
        """Bytes the driver takes now."""
        return self.driver.write_room(self.port)

    def start(self) -> None:
        """Output goes on after a stop."""
        self.stopped = False
        self.wakeup()

    def signal(self, name: str) -> None:
        """A signal character came: blocked readers get EINTR, and whoever asked for signals is told."""
        for task in self.readers:
            task.interrupt()
        if self.on_signal is not None:
            self.on_signal(name)

    # -- from the driver -----------------------------------------------------------------------------------------------

    def receive(self, flip: bytearray, *, tell: bool = True) -> None:
        """Move what fits from the flip buffer to the line discipline; throttle when that has little room left."""
        ldisc = self.ldisc
        taken = ldisc.receive(flip)
        if taken:
            del flip[:taken]
            if ldisc.readable:
                if self.read_wait:
                    self.read_wait.wake_all()
                if tell:
                    self._tell_files()
        if not self.throttled and (flip or ldisc.nearly_full):
            self.throttled = True
            self.driver.throttle(self.port)

    def consumed(self) -> None:
        """A reader took bytes: refill from the flip buffer, and unthrottle once that is empty and little is left."""
        flip = self.port.flip
        if flip and self.port.tty is self:
            # The caller is reading: told now, it would read on before it has dealt with what it just got.
            self.receive(flip, tell=False)
        if self.throttled and not flip and self.ldisc.available <= _UNTHROTTLE_FILL:
            self.throttled = False
            self.driver.unthrottle(self.port)

    def wakeup(self) -> None:
        """tty_wakeup: writers may go on."""
        self.ldisc.flush_echo()
        if self.write_wait:
            self.write_wait.wake_all()
        self._tell_files()

    def _tell_files(self) -> None:
        for file in tuple(self.files):
            if file.on_ready is not None:
                file.on_ready()

    # -- settings ------------------------------------------------------------------------------------------------------

    def set_termios(self, termios: Termios) -> None:
        """New settings for all who have the terminal open."""
        self.termios = termios.copy()
        self.ldisc.set_termios(self.termios)
        if self.stopped and not termios.iflag & IXON:
            self.start()
        self.consumed()
        self.read_wait.wake_all()
        self._tell_files()

    def flush_input(self) -> None:
        """TCIFLUSH."""
        self.port.flip.clear()
        self.ldisc.flush()
        self.consumed()

    def flush_output(self) -> None:
        """TCOFLUSH."""
        self.driver.flush_buffer(self.port)
        self.wakeup()

    def hangup(self) -> None:
        """tty_vhangup, in a task: all files of this terminal read end-of-file and fail to write; the port is shut
        down.
        """
        if self.hung_up:
            return
        self.hung_up = True
        self.ldisc.flush()
        self.driver.flush_buffer(self.port)
        self._tell_files()
        self.core.drop(self)


class TtyCore:
    """The tty layer of one kernel: drivers, devices, open terminals. /sys/class/tty and the names under /dev come
    from here.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self._drivers: list[TtyDriver] = []
        self._devices: dict[str, tuple[TtyDriver, int]] = {}
        self._termios: dict[str, Termios] = {}
        self._class = services.sysfs.root.ensure("class/tty")
        self.on_devices: list[Callable[[], None]] = []
        """Called when a device has come or gone."""

    @property
    def names(self) -> list[str]:
        """Names of all devices."""
        return sorted(self._devices)

    # -- drivers and devices -------------------------------------------------------------------------------------------

    def register_driver(self, driver: TtyDriver) -> None:
        """tty_register_driver: gives it a dynamic major number. Raises OSError EBUSY."""
        if any(other.driver_name == driver.driver_name for other in self._drivers):
            raise error(errno.EBUSY, f"tty driver {driver.driver_name} is registered already")
        used = {other.major for other in self._drivers}
        driver.major = next(major for major in _DYNAMIC_MAJORS if major not in used)
        self._drivers.append(driver)

    def unregister_driver(self, driver: TtyDriver) -> None:
        """tty_unregister_driver: its devices go first."""
        for index in list(driver.ports):
            self.unregister_device(driver, index)
        if driver in self._drivers:
            self._drivers.remove(driver)

    def register_device(self, driver: TtyDriver, index: int, port: TtyPort, *attributes: Attribute) -> str:
        """tty_port_register_device_attr: the device's name. Raises OSError EINVAL, EBUSY."""
        name = f"{driver.name}{index}"
        if not 0 <= index < driver.num:
            raise error(errno.EINVAL, f"{name}: the driver has {driver.num} devices")
        if name in self._devices:
            raise error(errno.EBUSY, f"{name} is registered already")
        directory = KObject(name, self.services.sysfs.root.ensure("devices/virtual/tty"))
        directory.add_file(Attribute("dev", lambda: f"{driver.major}:{index}\n"))
        for attribute in attributes:
            directory.add_file(attribute)
        self._class.add_link(name, directory)
        driver.ports[index] = port
        self._devices[name] = (driver, index)
        self._tell()
        return name

    def unregister_device(self, driver: TtyDriver, index: int) -> None:
        """tty_unregister_device: hang up who has it open, then it is gone."""
        name = f"{driver.name}{index}"
        if self._devices.pop(name, None) is None:
            return
        port = driver.ports[index]
        if port.tty is not None:
            port.tty.hangup()
        del driver.ports[index]
        self._class.remove_entry(name)
        self.services.sysfs.root.ensure("devices/virtual/tty").remove_entry(name)
        self._termios.pop(name, None)
        self._tell()

    def _tell(self) -> None:
        for listener in self.on_devices:
            listener()

    # -- open and close ------------------------------------------------------------------------------------------------

    def open(self, name: str) -> Tty:
        """tty_open, in a task: the terminal, made and its port activated by the first opener. Raises OSError ENXIO,
        EIO, the driver's.
        """
        port = self._port(name)
        with port.lock:
            if self._port(name) is not port:
                raise error(errno.ENXIO, f"{name} has gone")
            driver, index = self._devices[name]
            tty = port.tty
            if tty is None:
                tty = Tty(self, driver, index, port, self._termios.get(name, Termios()).copy())
                port.tty = tty
                port.flip.clear()
                try:
                    driver.activate(port, tty)
                except BaseException:
                    port.tty = None
                    raise
                if tty.hung_up:
                    raise error(errno.EIO, f"{name} was hung up while it was opened")
            port.count += 1
            return tty

    def _port(self, name: str) -> TtyPort:
        device = self._devices.get(name)
        if device is None:
            raise error(errno.ENXIO, f"there is no terminal {name}; there are: {', '.join(self.names) or 'none'}")
        return device[0].ports[device[1]]

    def close(self, tty: Tty) -> None:
        """tty_release, in a task: the last close waits for output (30 s at most) and shuts the port down."""
        port = tty.port
        with port.lock:
            if port.tty is not tty:
                return
            port.count -= 1
            if port.count:
                return
            self.wait_until_sent(tty, _CLOSING_WAIT_NS)
            if port.tty is tty:
                self._termios[tty.name] = tty.termios
                self._shutdown(tty)

    def wait_until_sent(self, tty: Tty, timeout_ns: int | None = None) -> bool:
        """tty_wait_until_sent (tcdrain); True if all output is out."""
        driver, port = tty.driver, tty.port
        return tty.write_wait.wait_for(lambda: tty.hung_up or not driver.chars_in_buffer(port), timeout_ns)

    def drop(self, tty: Tty) -> None:
        """A hang-up: the port is free for a new open, its old files refer to nothing."""
        if tty.port.tty is tty:
            self._shutdown(tty)

    @staticmethod
    def _shutdown(tty: Tty) -> None:
        port = tty.port
        port.tty = None
        port.count = 0
        port.flip.clear()
        tty.hung_up = True
        tty.read_wait.wake_all()
        tty.write_wait.wake_all()
        tty.driver.shutdown(port)
