import errno

import pytest

from gunyah.linux.interrupt import Tasklet

from .scripted import Machine

MS = 1_000_000


@pytest.fixture
def machine():
    return Machine()


def test_a_level_interrupt_stays_masked_until_its_thread_is_through(machine):
    interrupts = machine.kernel.services.interrupts
    log = []

    def thread():
        log.append(50 + 32 in machine.cpu.enabled)
        machine.kernel.scheduler.sleep(5 * MS)

    irq = interrupts.map([0, 50, 4])
    machine.do(interrupts.request_threaded_irq, irq, thread, "level")
    machine.cpu.raise_irq(82)
    machine.run(seconds=0.001)
    machine.cpu.raise_irq(82)
    machine.run(seconds=1)
    assert log == [False, False]
    assert 82 in machine.cpu.enabled


def test_an_edge_that_comes_while_the_thread_runs_runs_it_once_more(machine):
    interrupts = machine.kernel.services.interrupts
    log = []

    def thread():
        log.append("run")
        machine.kernel.scheduler.sleep(5 * MS)

    machine.do(interrupts.request_threaded_irq, interrupts.map([0, 50, 1]), thread, "edge")
    machine.cpu.raise_irq(82)
    machine.run(seconds=0.001)
    for _ in range(3):
        machine.cpu.raise_irq(82)
    machine.run(seconds=1)
    assert log == ["run", "run"]


def test_free_waits_for_the_thread_and_nothing_runs_afterwards(machine):
    interrupts = machine.kernel.services.interrupts
    log = []

    def thread():
        log.append("in")
        machine.kernel.scheduler.sleep(5 * MS)
        log.append("out")

    irq = interrupts.map([0, 50, 1])
    machine.do(interrupts.request_threaded_irq, irq, thread, "edge")
    machine.cpu.raise_irq(82)
    machine.run(seconds=0.001)
    machine.do(interrupts.free_irq, irq)
    assert log == ["in", "out"]
    machine.cpu.raise_irq(82)
    machine.run(seconds=0.1)
    assert log == ["in", "out"]
    machine.do(interrupts.free_irq, irq)


def test_an_interrupt_has_one_user_and_must_be_known(machine):
    interrupts = machine.kernel.services.interrupts
    irq = interrupts.map_intid(90)
    assert interrupts.map([0, 58, 1]) == irq
    machine.do(interrupts.request_irq, irq, lambda: None, "first")
    for number, words, code in ((irq, "in use by first", errno.EBUSY), (999, "no interrupt 999", errno.EINVAL)):
        with pytest.raises(OSError, match=words) as failure:
            machine.do(interrupts.request_irq, number, lambda: None, "second")
        assert failure.value.errno == code


def test_a_tasklet_runs_once_after_the_handlers_however_often_it_was_scheduled(machine):
    interrupts = machine.kernel.services.interrupts
    log = []
    tasklet = Tasklet(interrupts, lambda: log.append("tasklet"))

    def hard():
        tasklet.schedule()
        tasklet.schedule()
        log.append("hard")

    machine.do(interrupts.request_irq, interrupts.map_intid(90), hard, "hard")
    machine.cpu.raise_irq(90)
    machine.run(seconds=0.1)
    assert log == ["hard", "tasklet"]
    tasklet.schedule()
    tasklet.kill()
    interrupts.run_tasklets()
    assert log == ["hard", "tasklet"]
