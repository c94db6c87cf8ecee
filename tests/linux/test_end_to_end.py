"""The driver stack on the whole system: hypervisor, Resource Manager, and this kernel as the primary VM."""

import random

import pytest

from gunyah.abi.profile import PROFILES
from gunyah.linux.kernel import Kernel
from gunyah.primary import ProgramPrimary
from gunyah.system import System

SECOND = 1_000_000_000


class Linux:
    """A system whose primary VM is a kernel that the test can ask to do things."""

    def __init__(self, profile, bootargs="console=ttynull"):
        self.kernel = Kernel(PROFILES[profile])
        self.system = System(
            ProgramPrimary(self.kernel.main, bootargs=bootargs), profile=profile, clock="virtual", seed=1
        )

    def __enter__(self):
        self.system.start()
        assert self.system.run(lambda: self.kernel.booted, 10), self.system.last_words()
        return self

    def __exit__(self, *_):
        self.system.close()

    def do(self, function, *arguments, seconds=60):
        submission = self.kernel.submit(function, *arguments)
        assert self.system.run(lambda: submission.done, seconds), self.kernel.log.text() + self.system.last_words()
        return submission.result()

    def pair(self):
        def opener():
            files = self.kernel.open_tty("ttyGH0"), self.kernel.open_tty("ttyGH1")
            for file in files:
                file.set_raw()
            return files

        return self.do(opener)


@pytest.fixture(params=sorted(PROFILES))
def linux(request):
    with Linux(request.param) as linux:
        yield linux


def test_the_kernel_finds_its_hypervisor_and_its_resource_manager(linux):
    kernel = linux.kernel
    assert kernel.sysfs.read("/sys/hypervisor/type") == b"gunyah\n"
    assert kernel.sysfs.read("/sys/hypervisor/gunyah/variant") == b"81\n"
    assert kernel.sysfs.read("/sys/hypervisor/gunyah/features") == b"cspace message-queue \n"
    assert kernel.tty_names() == ["ttyGH0", "ttyGH1"]
    assert kernel.sysfs.read("/sys/class/tty/ttyGH1/vmid") == b"3\n"
    assert not kernel.oopses


def test_random_bytes_pass_both_ways_at_once_complete_and_in_order(linux):
    ends = linux.pair()
    size = 60_000
    data = [random.Random(seed).randbytes(size) for seed in (1, 2)]
    got = [bytearray(), bytearray()]

    def reader(number):
        while len(got[number]) < size:
            got[number] += ends[1 - number].read(4096)

    tasks = []
    for number in (0, 1):
        tasks.append(linux.kernel.submit(ends[number].write, data[number]))
        tasks.append(linux.kernel.submit(reader, number))
    assert linux.system.run(lambda: all(task.done for task in tasks), 120)
    assert [bytes(piece) for piece in got] == data


def test_a_slow_reader_holds_its_own_writer_only(linux):
    gh0, gh1 = linux.pair()
    data = random.Random(3).randbytes(40_000)
    writer = linux.kernel.submit(gh0.write, data)
    linux.system.run(lambda: writer.done, 5)
    assert not writer.done
    assert linux.do(gh1.write, b"still possible") == 14
    assert linux.do(gh0.read, 100) == b"still possible"

    def slow():
        got = b""
        while len(got) < len(data):
            got += gh1.read(700)
            linux.kernel.scheduler.sleep(1_000_000)
        return got

    assert linux.do(slow) == data
    assert writer.done


def test_a_cooked_terminal_gives_lines_and_echoes(linux):
    def main():
        gh0, gh1 = linux.kernel.open_tty("ttyGH0"), linux.kernel.open_tty("ttyGH1")
        gh0.set_raw()
        gh0.write(b"helo\x7flo\rmore")
        return gh1.read(100), gh0.read(100)

    line, echo = linux.do(main)
    assert line == b"hello\n"
    assert echo.startswith(b"helo\b \blo\r\n")


def test_unbind_and_bind_of_the_rm_device_works_and_leaks_nothing(linux):
    kernel = linux.kernel
    name = kernel.resource_managers[0].dev.name.encode()

    def cycle():
        kernel.sysfs.write("/sys/bus/platform/drivers/gh_rsc_mgr/unbind", name)
        assert kernel.tty_names() == []
        kernel.sysfs.write("/sys/bus/platform/drivers/gh_rsc_mgr/bind", name)

    free = kernel.services.heap.free_bytes
    for _ in range(3):
        linux.do(cycle)
    assert kernel.services.heap.free_bytes == free
    gh0, gh1 = linux.pair()
    linux.do(gh0.write, b"after")
    assert linux.do(gh1.read, 10) == b"after"
    assert not kernel.oopses


def test_unknown_requests_come_back_as_errors(linux):
    with pytest.raises(OSError, match="RM answered UNIMPLEMENTED"):
        linux.do(linux.kernel.resource_managers[0].call, 0x5600_7777)


def test_a_request_of_many_packets_is_answered(linux):
    with pytest.raises(OSError, match="RM answered"):
        linux.do(linux.kernel.resource_managers[0].call, 0x5600_0024, bytes(10_000))


def test_the_kernel_log_appears_on_the_console_terminal():
    with Linux("2023", "console=ttyGH0") as linux:

        def main():
            gh1 = linux.kernel.open_tty("ttyGH1")
            gh1.set_raw()
            linux.kernel.log.notice("a line of the log")
            return gh1.read(200)

        assert linux.do(main).endswith(b"a line of the log\n")


def test_time_outs_pass_in_the_machines_time_not_in_ours(linux):
    def main():
        start = linux.kernel.uptime_ns()
        gh0 = linux.kernel.open_tty("ttyGH0")
        gh0.set_raw()
        assert gh0.read(1, 60 * SECOND) == b""
        return linux.kernel.uptime_ns() - start

    assert 60 * SECOND <= linux.do(main, seconds=100) < 61 * SECOND


def test_power_off_leaves_the_drivers_and_ends_the_machine(linux):
    linux.kernel.post(lambda: linux.kernel.spawn(linux.kernel.power_off))
    linux.system.run(lambda: linux.system.stopped is not None, 20)
    assert linux.system.stopped is not None
    assert linux.kernel.resource_managers == []


def test_the_same_seed_gives_the_same_run():
    def run():
        with Linux("v4") as linux:
            gh0, gh1 = linux.pair()
            linux.do(gh0.write, b"x" * 3000)
            linux.do(gh1.read, 4096)
            return linux.kernel.uptime_ns(), linux.system.clock.ticks()

    assert run() == run()


def test_many_concurrent_calls_are_all_answered(linux):
    rm = linux.kernel.resource_managers[0]
    calls = [linux.kernel.submit(rm.call, 0x5600_0024) for _ in range(40)]
    assert linux.system.run(lambda: all(call.done for call in calls), 60)
    assert {call.result()[:2] for call in calls} == {b"\x03\x00"}
    assert rm.dropped == 0


def test_a_machine_that_is_closed_while_processes_hold_terminals_unwinds_quietly(capfd):
    with Linux("2023") as linux:
        kernel = linux.kernel

        def holder():
            with kernel.open_tty("ttyGH1") as gh1, kernel.open_tty("ttyGH0") as gh0:
                gh0.set_raw()
                kernel.spawn(gh0.write, bytes(100_000))
                gh1.read(10)
                kernel.scheduler.sleep(1000 * SECOND)

        kernel.submit(holder)
        linux.system.run(timeout=1)
        assert kernel.scheduler.tasks
    assert not kernel.scheduler.tasks
    assert capfd.readouterr() == ("", "")
