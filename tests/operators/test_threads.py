"""Tasks in several threads: each done once, errors raised when nothing runs any more."""

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch

from operators import threads
from operators.threads import WORTH, each


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def who(tasks: int, **how: float) -> list[str]:
    """Return the threads that did tasks of some milliseconds."""
    names: list[str] = []

    def task(number: int) -> None:
        time.sleep(0.005)
        names.append(threading.current_thread().name)

    each(task, range(tasks), **how)
    return names


def test_each_task_is_done_once_by_the_caller_and_those_beside_it() -> None:
    done: list[int] = []
    each(lambda number: (time.sleep(0.001), done.append(number)), range(50))
    assert sorted(done) == list(range(50))
    names = who(12)
    assert threading.current_thread().name in names
    assert 1 < len(set(names)) <= 3


def test_little_work_one_thread_and_no_task_wake_nobody() -> None:
    here = {threading.current_thread().name}
    assert set(who(4, seconds=WORTH / 2)) == here
    assert len(set(who(4, seconds=WORTH))) > 1
    assert set(who(1)) == here
    assert who(0) == []
    torch.set_num_threads(1)
    assert set(who(4)) == here


@pytest.mark.parametrize("guilty", ["caller", "helper"])
def test_an_error_stops_the_others_and_is_raised_when_they_are_done(guilty: str) -> None:
    caller = threading.current_thread()
    running, failed, begun = [0], [False], [0]

    def task(number: int) -> None:
        running[0] += 1
        begun[0] += 1
        try:
            is_caller = threading.current_thread() is caller
            time.sleep(0.005)
            if is_caller == (guilty == "caller") and not failed[0]:
                failed[0] = True
                raise ArithmeticError(f"task {number}")
            time.sleep(0.02)
        finally:
            running[0] -= 1

    with pytest.raises(ArithmeticError, match="task"):
        each(task, range(1000))
    assert running[0] == 0
    assert begun[0] < 20


def test_an_interrupt_leaves_no_task_running() -> None:
    caller = threading.current_thread()
    running = [0]

    def task(number: int) -> None:
        if threading.current_thread() is caller:
            time.sleep(0.01)
            raise KeyboardInterrupt
        running[0] += 1
        time.sleep(0.03)
        running[0] -= 1

    with pytest.raises(KeyboardInterrupt):
        each(task, range(100))
    assert running[0] == 0


def test_an_interrupt_of_the_waiting_leaves_no_task_running(monkeypatch: pytest.MonkeyPatch) -> None:
    caller, running, waited = threading.current_thread(), [0], []
    wait = threads.wait

    def interrupted(futures: object) -> None:
        if not waited:
            waited.append(1)
            raise KeyboardInterrupt
        wait(futures)

    def task(number: int) -> None:
        running[0] += 1
        time.sleep(0.005 if threading.current_thread() is caller else 0.05)
        running[0] -= 1

    monkeypatch.setattr(threads, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        each(task, range(4))
    assert running[0] == 0


def test_without_another_thread_the_caller_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object, work: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refused)
    assert set(who(5)) == {threading.current_thread().name}


def test_a_failed_call_keeps_nothing() -> None:
    class Large:
        pass

    caller, large = threading.current_thread(), Large()
    gone = weakref.ref(large)

    def task(number: int, held: object = large) -> None:
        if threading.current_thread() is not caller:
            raise ArithmeticError
        time.sleep(0.01)

    gc.disable()
    try:
        with suppress(ArithmeticError):
            each(task, range(50))
        del task, large
        deadline = time.monotonic() + 5
        while gone() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert gone() is None
    finally:
        gc.enable()


def test_callers_share_the_threads_and_tasks_may_have_tasks() -> None:
    def nested(number: int) -> None:
        each(lambda inner: time.sleep(0.001), range(5))

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(each, nested, range(6)) for _ in range(4)]
        for future in futures:
            future.result(timeout=30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    assert len(set(who(6))) > 1
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if len(set(who(6))) > 1 else 1
        finally:
            os._exit(code)
    deadline = time.monotonic() + 30
    while (status := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    if status[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert status == (child, 0)
