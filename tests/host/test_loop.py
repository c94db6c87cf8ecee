"""The host loop serves descriptors, timers and posted callbacks between slices, and never waits longer than it may."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from gunyah.host.loop import HostLoop


@pytest.fixture
def loop() -> Iterator[HostLoop]:
    loop = HostLoop()
    yield loop
    loop.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_nothing_ready_returns_at_once(loop: HostLoop) -> None:
    assert loop.poll(0) is False


def test_reader_is_called_while_there_is_input(loop: HostLoop, pipe: tuple[int, int]) -> None:
    got: list[bytes] = []
    loop.add_reader(pipe[0], lambda: got.append(os.read(pipe[0], 1)))
    assert not loop.poll(0)
    os.write(pipe[1], b"ab")
    assert loop.poll(None)
    assert loop.poll(0)
    assert got == [b"a", b"b"]
    assert not loop.poll(0)


def test_reader_and_writer_of_one_descriptor_come_and_go_separately(loop: HostLoop, pipe: tuple[int, int]) -> None:
    calls: list[str] = []
    loop.add_writer(pipe[1], lambda: calls.append("writer"))
    loop.add_reader(pipe[1], lambda: calls.append("reader"))
    loop.poll(0)
    loop.remove_writer(pipe[1])
    loop.poll(0)
    loop.remove_reader(pipe[1])
    loop.remove_reader(pipe[1])
    loop.poll(0)
    assert calls == ["writer"]


def test_a_callback_may_stop_watching_its_own_descriptor(loop: HostLoop, pipe: tuple[int, int]) -> None:
    loop.add_writer(pipe[1], lambda: loop.remove_writer(pipe[1]))
    assert loop.poll(0)
    assert not loop.poll(0)


def test_timers_run_in_the_order_of_their_deadlines_and_end_a_wait(loop: HostLoop) -> None:
    calls: list[str] = []
    loop.call_later(0.002, lambda: calls.append("late"))
    loop.call_later(0.001, lambda: calls.append("early"))
    loop.call_later(0.0015, lambda: calls.append("never")).cancel()
    while len(calls) < 2:
        loop.poll(None)
    assert calls == ["early", "late"]


def test_a_timer_that_starts_another_does_not_run_it_in_the_same_round(loop: HostLoop) -> None:
    calls: list[int] = []

    def again() -> None:
        calls.append(len(calls))
        loop.call_later(0, again)

    loop.call_later(0, again)
    loop.poll(0)
    assert calls == [0]


def test_post_from_another_thread_ends_a_wait_for_ever(loop: HostLoop) -> None:
    calls: list[str] = []
    thread = threading.Thread(target=lambda: loop.post(lambda: calls.append("posted")))
    thread.start()
    while not calls:
        loop.poll(None)
    thread.join()
    assert calls == ["posted"]


def test_a_callback_that_posts_itself_does_not_hold_the_machine_up(loop: HostLoop) -> None:
    calls: list[int] = []

    def again() -> None:
        calls.append(1)
        loop.post(again)

    loop.post(again)
    loop.poll(0)
    assert 1 <= len(calls) <= 2


def test_more_posts_than_the_wake_pipe_holds_all_arrive(loop: HostLoop) -> None:
    calls: list[int] = []
    for number in range(70_000):
        loop.post(lambda number=number: calls.append(number))  # type: ignore[misc]
    while loop.poll(0):
        pass
    assert calls == list(range(70_000))
