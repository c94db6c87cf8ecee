import pytest
from greenlet import GreenletExit

from gunyah.guest.gic import Gic
from gunyah.guest.tasks import Interrupted, Scheduler, TaskFailed
from gunyah.guest.wait import Completion, Mutex, Semaphore, WaitQueue, Work, WorkQueue

from .fake_cpu import FakeCpu

MS = 1_000_000


@pytest.fixture
def cpu():
    return FakeCpu()


@pytest.fixture
def gic(cpu):
    return Gic(cpu)


@pytest.fixture
def scheduler(cpu, gic):
    scheduler = Scheduler(cpu)
    gic.start()
    scheduler.timers.start(gic)
    return scheduler


def test_tasks_run_in_the_order_they_became_runnable(scheduler):
    log = []

    def worker(name):
        for step in range(2):
            log.append((name, step))
            scheduler.yield_()

    scheduler.spawn(worker, "a")
    scheduler.spawn(worker, "b")
    scheduler.run()
    assert log == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_sleeping_tasks_wake_in_the_order_of_their_deadlines_and_not_early(scheduler, cpu):
    log = []

    def sleeper(ms):
        scheduler.sleep(ms * MS)
        log.append((ms, cpu.now))

    for ms in (30, 10, 20):
        scheduler.spawn(sleeper, ms)
    scheduler.run()
    assert log == [(ms, 1000 + ms * 62_500) for ms in (10, 20, 30)]


def test_join_returns_the_result_or_raises_what_ended_the_task(scheduler):
    def bad():
        raise OSError("broken")

    def main():
        assert scheduler.spawn(lambda: 42).join() == 42
        failing = scheduler.spawn(bad)
        with pytest.raises(TaskFailed, match="broken"):
            failing.join()
        return "done"

    task = scheduler.spawn(main)
    scheduler.run()
    assert task.result == "done"


def test_an_error_that_nobody_waits_for_reaches_the_handler_or_ends_the_program(scheduler):
    def bad():
        raise ValueError("oops")

    scheduler.spawn(bad, name="bad")
    with pytest.raises(ValueError, match="oops"):
        scheduler.run()
    seen = []
    scheduler.on_error = seen.append
    scheduler.spawn(bad, name="bad")
    scheduler.run()
    assert [task.name for task in seen] == ["bad"]


def test_a_wait_ends_by_wake_by_time_out_and_by_signal(scheduler, cpu):
    queue = WaitQueue(scheduler)
    log = []

    def waiter():
        log.append(queue.wait(5 * MS))
        log.append(queue.wait(5 * MS))
        try:
            queue.wait(interruptible=True)
        except Interrupted:
            log.append("signal")

    task = scheduler.spawn(waiter)

    def other():
        scheduler.sleep(MS)
        assert queue.wake()
        scheduler.sleep(10 * MS)
        task.interrupt()

    scheduler.spawn(other)
    scheduler.run()
    assert log == [True, False, "signal"]
    assert not queue


def test_a_completion_lets_as_many_waiters_pass_as_it_was_completed(scheduler):
    done = Completion(scheduler)
    passed = []

    def waiter(name):
        if done.wait(MS):
            passed.append(name)

    for name in "abc":
        scheduler.spawn(waiter, name)
    scheduler.spawn(lambda: (done.complete(), done.complete()))
    scheduler.run()
    assert passed == ["a", "b"]


def test_a_mutex_is_handed_over_in_order_and_a_semaphore_counts(scheduler):
    mutex = Mutex(scheduler)
    semaphore = Semaphore(scheduler, 2)
    log = []
    inside = [0, 0]

    def worker(name):
        with mutex:
            scheduler.sleep(MS)
            log.append(name)
        assert semaphore.down()
        inside[0] += 1
        inside[1] = max(inside)
        scheduler.sleep(10 * MS)
        inside[0] -= 1
        semaphore.up()

    for name in "abcd":
        scheduler.spawn(worker, name)
    scheduler.run()
    assert log == list("abcd")
    assert inside == [0, 2]


def test_a_mutex_refuses_to_be_taken_twice_or_released_by_another(scheduler):
    mutex = Mutex(scheduler)

    def owner():
        mutex.lock()
        with pytest.raises(RuntimeError, match="already holds"):
            mutex.lock()
        assert scheduler.spawn(thief).join() == "refused"
        mutex.unlock()

    def thief():
        assert not mutex.lock(MS)
        with pytest.raises(RuntimeError):
            mutex.unlock()
        return "refused"

    scheduler.spawn(owner)
    scheduler.run()


def test_work_is_queued_once_runs_in_order_and_can_be_cancelled(scheduler):
    log = []
    queue = WorkQueue(scheduler, "events")
    works = [Work(lambda n=n: (scheduler.sleep(MS), log.append(n))) for n in range(3)]

    def main():
        assert queue.schedule(works[0])
        assert not queue.schedule(works[0])
        queue.schedule(works[1])
        queue.schedule(works[2])
        assert queue.cancel(works[2])
        queue.flush()
        assert log == [0, 1]
        queue.schedule(works[1])
        scheduler.yield_()
        assert works[1].running
        assert not queue.cancel(works[1])
        assert log == [0, 1, 1]
        queue.stop()

    scheduler.spawn(main)
    scheduler.run()


def test_an_interrupt_handler_wakes_a_task_and_leaves_the_interrupted_registers_alone(scheduler, gic, cpu):
    event = Completion(scheduler)
    served = []

    def handler():
        cpu.x[0:4] = [7, 7, 7, 7]
        served.append(cpu.irq_masked)
        event.complete()

    def hypervisor(imm):
        cpu.x[0:2] = [0, imm]
        cpu.raise_irq(40)

    def main():
        gic.enable(40, handler)
        cpu.on_hvc = hypervisor
        cpu.hvc(0x6012)
        assert cpu.x[0:2] == [0, 0x6012]
        assert event.wait(MS)

    scheduler.spawn(main)
    scheduler.run()
    assert served == [True]


def test_enable_sets_group_priority_trigger_route_and_enable_bit(gic, cpu):
    gic.start()
    gic.enable(35, lambda: None, edge=True)
    gicd = 0x0800_0000
    assert (gicd + 0x84, 1 << 3, 4) in cpu.stores
    assert (gicd + 0x400 + 35, 0xA0, 1) in cpu.stores
    assert (gicd + 0xC08, 2 << 6, 4) in cpu.stores
    assert (gicd + 0x6000 + 8 * 35, 0, 8) in cpu.stores
    assert cpu.stores[-1] == (gicd + 0x104, 1 << 3, 4)
    gic.disable(35)
    assert 35 not in cpu.enabled
    with pytest.raises(ValueError, match="1020"):
        gic.enable(1020, lambda: None)


def test_an_interrupt_without_a_handler_is_counted_and_masked(gic, cpu):
    gic.start()
    cpu.enabled.add(50)
    cpu.raise_irq(50)
    cpu.take()
    assert gic.unexpected == 1
    assert 50 not in cpu.enabled


def test_functions_posted_from_outside_run_although_tasks_keep_the_vcpu_busy(scheduler, cpu):
    log = []

    def busy():
        while not log:
            scheduler.yield_()

    def stop():
        log.append("posted")

    scheduler.spawn(busy)
    scheduler.spawn(busy)
    scheduler.post(stop)
    scheduler.run()
    assert log == ["posted"]


def test_blocking_outside_a_task_is_refused(scheduler):
    with pytest.raises(RuntimeError, match="no task"):
        scheduler.block()


def test_ending_the_vcpu_ends_the_program_from_whatever_task_runs(scheduler):
    def victim():
        raise GreenletExit

    scheduler.spawn(victim)
    with pytest.raises(GreenletExit):
        scheduler.run()


def test_many_cancelled_timers_cost_no_memory_and_no_interrupts(scheduler, cpu):
    def main():
        for _ in range(1000):
            scheduler.timers.after(1000 * MS, lambda: None).cancel()
        assert len(scheduler.timers._heap) < 200
        scheduler.sleep(MS)

    scheduler.spawn(main)
    scheduler.run()
    assert cpu.wfis <= 3


def test_ending_the_vcpu_unwinds_every_task_and_blocking_there_does_not_hang(scheduler, cpu):
    log = []

    def sleeper():
        try:
            scheduler.sleep(1000 * MS)
        finally:
            log.append("unwound")
            scheduler.sleep(MS)

    def end():
        raise GreenletExit

    for _ in range(3):
        scheduler.spawn(sleeper)
    cpu.on_idle.append(end)
    with pytest.raises(GreenletExit):
        scheduler.run()
    assert log == ["unwound"] * 3
    assert not scheduler.tasks
