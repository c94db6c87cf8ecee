"""The control socket answers JSON lines, says errors as sentences, and waits for no client."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from gunyah.host.control import LINE_LIMIT, Answer, ControlClient, ControlServer, Request
from gunyah.host.errors import HostError
from gunyah.host.loop import HostLoop

from .terminals import run_until


class Commands:
    """Commands to try: one of each kind."""

    def __init__(self) -> None:
        self.later: list[Answer] = []
        self.gone = 0
        self.watching: list[Request] = []
        self.table = {"add": self.add, "refuse": self.refuse, "later": self.answer_later, "watch": self.watch}

    def add(self, request: Request) -> object:
        return {"sum": request.number("a") + request.number("b"), "named": request.has("name")}

    def refuse(self, request: Request) -> object:
        raise HostError(f"VM {request.text('vm')} is not here")

    def answer_later(self, request: Request) -> object:
        self.later.append(Answer())
        return self.later[-1]

    def watch(self, request: Request) -> object:
        self.watching.append(request)
        request.on_gone(lambda: setattr(self, "gone", self.gone + 1))
        return Answer()


@pytest.fixture
def loop() -> Iterator[HostLoop]:
    loop = HostLoop()
    yield loop
    loop.close()


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def server(loop: HostLoop, commands: Commands, tmp_path: Path) -> Iterator[ControlServer]:
    server = ControlServer(loop, tmp_path / "control", commands.table)
    yield server
    server.close()


@pytest.fixture
def ask(loop: HostLoop, server: ControlServer) -> Iterator[Callable[[Callable[[ControlClient], object]], object]]:
    """Run a conversation on another thread while the loop is served here."""
    with ThreadPoolExecutor(1) as pool:

        def run(conversation: Callable[[ControlClient], object]) -> object:
            def body() -> object:
                with ControlClient(server.path) as client:
                    return conversation(client)

            future: Future[object] = pool.submit(body)
            run_until(loop, future.done)
            return future.result()

        yield run


Ask = Callable[[Callable[[ControlClient], object]], object]


def test_a_command_gets_its_arguments_and_answers(ask: Ask) -> None:
    assert ask(lambda client: client.call("add", a=2, b=40)) == {"sum": 42, "named": False}
    assert ask(lambda client: [client.call("add", a=n, b=n, name="x") for n in range(3)])


def test_a_refusal_is_the_commands_own_sentence(ask: Ask) -> None:
    with pytest.raises(HostError, match=r"^VM 7 is not here$"):
        ask(lambda client: client.call("refuse", vm="7"))


@pytest.mark.parametrize(("arguments", "sentence"), [({"vm": 7}, "vm has to be a string, not 7"), ({}, "not null")])
def test_a_wrong_argument_is_named(ask: Ask, arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(HostError, match=sentence):
        ask(lambda client: client.call("refuse", **arguments))


def test_an_unknown_command_is_refused_with_the_known_ones(ask: Ask) -> None:
    with pytest.raises(HostError, match=r"there is no command 'fly'; known are add, later, refuse, watch"):
        ask(lambda client: client.call("fly"))


def test_a_command_may_answer_later(ask: Ask, loop: HostLoop, commands: Commands) -> None:
    def settle() -> None:
        if commands.later:
            commands.later[0].done([1, 2])
            commands.later[0].fail("only the first counts")
        else:
            loop.call_later(0.001, settle)

    settle()
    assert ask(lambda client: client.call("later")) == [1, 2]


def test_events_come_before_the_answer_and_the_command_hears_that_the_client_left(
    ask: Ask, loop: HostLoop, commands: Commands
) -> None:
    def tick() -> None:
        if commands.watching:
            commands.watching[0].event({"n": 1})
        loop.call_later(0.001, tick)

    tick()
    assert ask(lambda client: next(iter(client.stream("watch")))) == {"n": 1}
    run_until(loop, lambda: commands.gone == 1)
    assert commands.watching[0].event({"n": 2}) is False


def test_a_client_that_does_not_read_loses_events_and_delays_nobody(
    loop: HostLoop, server: ControlServer, commands: Commands
) -> None:
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.connect(str(server.path))
        lazy.sendall(b'{"id": 1, "do": "watch"}\n')
        run_until(loop, lambda: commands.watching)
        request = commands.watching[0]
        sent = 0
        while request.event("x" * 1000):
            sent += 1
        assert 1000 < sent < 10_000
        assert request.event("lost") is False
        lazy.settimeout(60)
        received = b""
        while received.count(b"\n") < sent:
            received += lazy.recv(1 << 20)
            loop.poll(0)
        assert request.event("again")
        while not received.endswith(b"\n") or b"again" not in received:
            received += lazy.recv(1 << 20)
        last = json.loads(received.splitlines()[-1])
        assert (last["event"], last["dropped"]) == ("again", 2)


@pytest.mark.parametrize("line", [b"not json", b"[]", b'{"id": 1}', b'{"do": 3}', b"\xff\xfe"])
def test_what_is_no_request_is_answered_with_the_form(loop: HostLoop, server: ControlServer, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.path))
        client.sendall(line + b"\n")
        client.setblocking(False)
        answer = bytearray()

        def answered() -> bool:
            try:
                answer.extend(client.recv(4096))
            except BlockingIOError:
                return False
            return answer.endswith(b"\n")

        run_until(loop, answered)
        assert "a request is a line" in json.loads(answer)["error"]


def test_a_request_without_end_is_cut_off(loop: HostLoop, server: ControlServer) -> None:
    with socket.socket(socket.AF_UNIX) as client, ThreadPoolExecutor(1) as pool:
        client.connect(str(server.path))

        def flood() -> bytes:
            with contextlib.suppress(OSError):
                client.sendall(b"x" * (LINE_LIMIT + 100_000))
            return client.recv(4096)

        future = pool.submit(flood)
        run_until(loop, future.done)
        assert b"at most" in future.result()


def test_nobody_listening_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"no system answers at .*/control: No such file or directory"):
        ControlClient(tmp_path / "control")


def test_a_system_that_goes_away_is_one_sentence(
    ask: Ask, loop: HostLoop, server: ControlServer, commands: Commands
) -> None:
    def close() -> None:
        if commands.watching:
            server.close()
        else:
            loop.call_later(0.001, close)

    close()
    with pytest.raises(HostError, match="the system went away before it answered 'watch'"):
        ask(lambda client: client.call("watch"))


def test_a_path_that_cannot_be_bound_is_one_sentence(loop: HostLoop, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"the control socket .*/absent/control cannot be made"):
        ControlServer(loop, tmp_path / "absent" / "control", {})
