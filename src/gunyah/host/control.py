"""The control socket of a running system: requests and answers as JSON lines.

A client sends ``{"id": 1, "do": "ps", ...}`` and gets ``{"id": 1, "result": ...}`` or ``{"id": 1, "error": "a
sentence"}``. A command that goes on (a trace) sends any number of ``{"id": 1, "event": ...}`` before that. Commands
run on the machine's thread between slices; one that needs guest code to run answers later, through ``Answer``. A
client that does not read is not waited for: its events are dropped and counted, and one whose answers pile up as well
is disconnected.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from gunyah.host.errors import HostError, reason
from gunyah.host.loop import HostLoop
from gunyah.host.outbox import Outbox

__all__ = ["Answer", "Command", "ControlClient", "ControlServer", "Request"]

LINE_LIMIT: Final = 1 << 20
"""Bytes of one request."""
EVENT_LIMIT: Final = 1 << 20
"""Unsent bytes from which on events are dropped."""
UNSENT_LIMIT: Final = 1 << 26
"""Unsent bytes at which a client is disconnected."""
CONNECTIONS: Final = 32


class Answer:
    """What a command returns when its answer comes later: call ``done`` or ``fail`` once."""

    def __init__(self) -> None:
        self._respond: Callable[[dict[str, object]], None] | None = None
        self._outcome: dict[str, object] | None = None

    def done(self, result: object = None) -> None:
        """The command has succeeded."""
        self._settle({"result": result})

    def fail(self, sentence: str) -> None:
        """The command was refused."""
        self._settle({"error": sentence})

    def _settle(self, outcome: dict[str, object]) -> None:
        if self._outcome is None:
            self._outcome = outcome
            if self._respond is not None:
                self._respond(outcome)

    def _then(self, respond: Callable[[dict[str, object]], None]) -> None:
        self._respond = respond
        if self._outcome is not None:
            respond(self._outcome)


class Request:
    """One request of a client."""

    def __init__(self, connection: _Connection, number: object, arguments: Mapping[str, object]) -> None:
        self._connection = connection
        self._number = number
        self._arguments = arguments

    def text(self, name: str) -> str:
        """A string argument; raises HostError when it is missing or something else."""
        value = self._arguments.get(name)
        if not isinstance(value, str):
            raise HostError(f"{name} has to be a string, not {json.dumps(value)}")
        return value

    def number(self, name: str) -> int:
        """An integer argument; raises HostError when it is missing or something else."""
        value = self._arguments.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise HostError(f"{name} has to be an integer, not {json.dumps(value)}")
        return value

    def table(self, name: str) -> dict[str, str]:
        """An object of strings; empty when it is missing. Raises HostError when it is something else."""
        value = self._arguments.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise HostError(f"{name} has to be an object of strings, not {json.dumps(value)}")
        return value

    def has(self, name: str) -> bool:
        """True if the argument was given (null is not)."""
        return self._arguments.get(name) is not None

    def event(self, content: object) -> bool:
        """Send an event; False when the client is gone or too slow and the event was dropped."""
        return self._connection.event({"id": self._number, "event": content})

    def on_gone(self, callback: Callable[[], object]) -> None:
        """Call ``callback()`` when the client disconnects."""
        self._connection.on_gone.append(callback)


Command = Callable[[Request], object]


class _Connection:
    def __init__(self, server: ControlServer, sock: socket.socket) -> None:
        self._server = server
        self._loop = server.loop
        self._socket = sock
        self._received = bytearray()
        self._outbox = Outbox(self._loop, sock, UNSENT_LIMIT, self.close)
        self._dropped = 0
        self.on_gone: list[Callable[[], object]] = []
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def alive(self) -> bool:
        return self._socket.fileno() >= 0

    def _readable(self) -> None:
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._received += data
        while self.alive:
            line, newline, rest = self._received.partition(b"\n")
            if not newline:
                if len(self._received) > LINE_LIMIT:
                    self._send({"error": f"a request has at most {LINE_LIMIT} bytes"})
                    self.close()
                return
            self._received = rest
            self._request(bytes(line))

    def _request(self, line: bytes) -> None:
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("do"), str):
            self._send({"error": 'a request is a line {"id": number, "do": "command", ...} in JSON'})
            return
        number, name = request.get("id"), request["do"]
        command = self._server.commands.get(name)

        def respond(outcome: dict[str, object]) -> None:
            self._send({"id": number, **outcome})

        if command is None:
            known = ", ".join(sorted(self._server.commands))
            respond({"error": f"there is no command {name!r}; known are {known}"})
            return
        try:
            result = command(Request(self, number, request))
        except HostError as error:
            respond({"error": str(error)})
            return
        if isinstance(result, Answer):
            result._then(respond)
        else:
            respond({"result": result})

    def event(self, content: dict[str, object]) -> bool:
        if not self.alive:
            return False
        if len(self._outbox) > EVENT_LIMIT:
            self._dropped += 1
            return False
        if self._dropped:
            content["dropped"], self._dropped = self._dropped, 0
        self._send(content)
        return True

    def _send(self, content: dict[str, object]) -> None:
        if self.alive:
            self._outbox.send(json.dumps(content, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        if not self.alive:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._server.forget(self)
        for callback in self.on_gone:
            callback()


class ControlServer:
    """Listens at ``path`` with ``commands`` (name to function); raises HostError when that is not possible."""

    def __init__(self, loop: HostLoop, path: Path, commands: Mapping[str, Command]) -> None:
        self.loop = loop
        self.path = path
        self.commands = commands
        self._connections: list[_Connection] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(str(path))
            self._socket.listen(8)
        except OSError as error:
            self._socket.close()
            raise HostError(f"the control socket {path} cannot be made: {reason(error)}") from error
        self._socket.setblocking(False)
        loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return  # The client has given up meanwhile, or we are out of descriptors: it will see its connection fail.
        if len(self._connections) >= CONNECTIONS:
            sock.close()
            return
        self._connections.append(_Connection(self, sock))

    def forget(self, connection: _Connection) -> None:
        """A connection has closed."""
        self._connections.remove(connection)

    def close(self) -> None:
        """Disconnect everybody and remove the socket."""
        if self._socket.fileno() < 0:
            return
        self.loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for connection in list(self._connections):
            connection.close()
        self.path.unlink(missing_ok=True)


class ControlClient:
    """A client that waits for its answers; a context manager. Raises HostError when nobody listens at ``path``."""

    def __init__(self, path: str | Path, timeout: float | None = 30.0) -> None:
        self._number = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise HostError(f"no system answers at {path}: {reason(error)}") from error
        self._lines = self._socket.makefile("r", encoding="utf-8")

    def call(self, command: str, **arguments: object) -> object:
        """Run ``command``; its result. Raises HostError with the system's own sentence when it refuses."""
        for _ in self.stream(command, **arguments):
            pass
        return self.result

    def stream(self, command: str, **arguments: object) -> Iterator[object]:
        """Run ``command`` and yield its events as they come; afterwards ``result`` is what it answered."""
        self._number += 1
        self.result: object = None
        request = json.dumps({"id": self._number, "do": command, **arguments}) + "\n"
        try:
            self._socket.sendall(request.encode())
            while line := self._lines.readline():
                message = json.loads(line)
                if "error" in message:
                    raise HostError(str(message["error"]))
                if "result" in message:
                    self.result = message["result"]
                    return
                yield message["event"]
        except TimeoutError as error:
            raise HostError(f"the system did not answer {command!r} within {self._socket.gettimeout()} s") from error
        except OSError as error:
            raise HostError(f"the connection to the system broke: {reason(error)}") from error
        raise HostError(f"the system went away before it answered {command!r}")

    def wait_without_limit(self) -> None:
        """Streams may be silent for long."""
        self._socket.settimeout(None)

    def close(self) -> None:
        """Disconnect."""
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
