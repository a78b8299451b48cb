from __future__ import annotations

import threading
import time

import pytest

from corepress.runtime.lanes import Lane


def test_calls_run_in_order_and_are_all_done_at_the_end() -> None:
    seen: list[int] = []
    with Lane("test") as lane:
        for number in range(50):
            lane.submit(lambda number=number: seen.append(number))
    assert seen == list(range(50))


def test_an_error_reaches_the_submitting_thread_and_stops_the_lane() -> None:
    seen: list[int] = []
    failing = Lane("test", depth=1)

    def submit_all() -> None:
        with failing:
            failing.submit(lambda: 1 / 0)
            for number in range(1000):
                failing.submit(lambda number=number: seen.append(number))

    with pytest.raises(ZeroDivisionError):
        submit_all()
    assert seen == []


def test_an_error_of_the_last_call_is_raised_at_the_end() -> None:
    with pytest.raises(ZeroDivisionError), Lane("test") as lane:
        lane.submit(lambda: 1 / 0)


def test_leaving_by_an_exception_drops_what_waits() -> None:
    started, release = threading.Event(), threading.Event()
    seen: list[str] = []

    def slow() -> None:
        started.set()
        release.wait(5)
        seen.append("slow")

    def abandon() -> None:
        with Lane("test") as lane:
            lane.submit(slow)
            lane.submit(lambda: seen.append("never"))
            started.wait(5)
            threading.Timer(0.05, release.set).start()
            raise KeyError("abandoned")

    with pytest.raises(KeyError):
        abandon()
    assert seen == ["slow"]


def test_no_more_calls_wait_than_its_depth() -> None:
    waiting = 0
    most = 0
    lock = threading.Lock()

    def done() -> None:
        nonlocal waiting
        time.sleep(0.002)
        with lock:
            waiting -= 1

    with Lane("test", depth=2) as lane:
        for _ in range(20):
            with lock:
                waiting += 1
                most = max(most, waiting)
            lane.submit(done)
    assert most <= 2 + 2  # one more runs, one more is being submitted
