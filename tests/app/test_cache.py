"""Bounds of bytes and time; nothing computed twice at once; nothing computed for nobody."""

import threading
import time
from dataclasses import dataclass

import pytest

from timm_interpretable.app.cache import Cache
from timm_interpretable.app.jobs import Cancelled, JobQueue


@dataclass(frozen=True)
class Value:
    name: str
    nbytes: int = 10


def test_the_least_recently_used_go_first():
    cache = Cache(30, 100)
    for name in "abc":
        cache.put(name, Value(name))
    assert cache.get("a") == Value("a")  # used again
    cache.put("d", Value("d"))
    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]
    assert cache.nbytes == 30
    cache.put("big", Value("big", 31))  # would not fit alone, and takes no one else's place
    assert cache.get("big") is None
    assert cache.nbytes == 30
    assert "d" in cache


def test_values_grow_old():
    cache = Cache(100, 0.05)
    cache.put("a", Value("a"))
    cache.put("b", Value("b"))
    assert cache.get("a")
    time.sleep(0.06)
    assert cache.get("a") is None
    cache.sweep()
    assert (len(cache), cache.nbytes) == (0, 0)


def test_replacing_and_dropping_count_bytes():
    cache = Cache(100, 10)
    cache.put("a", Value("a", 40))
    cache.put("a", Value("a", 20))
    assert cache.nbytes == 20
    cache.drop("a")
    cache.drop("a")
    assert cache.nbytes == 0


@pytest.fixture
def queue():
    queue = JobQueue(Cache(1000, 100), fast=2, slow=1)
    yield queue
    queue.close()


def test_many_who_ask_at_once_get_one_computation(queue):
    calls, gate = [], threading.Event()

    def compute(tick):
        calls.append(1)
        gate.wait(5)
        return Value("result")

    results = []

    def ask():
        with queue.job("key", compute, "fast") as job:
            results.append(job.future.result(5))

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    gate.set()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert results == [Value("result")] * 32
    with queue.job("key", lambda tick: pytest.fail("computed again"), "fast") as job:
        assert job.future.result() == Value("result")


def endless(started: threading.Event, ended: threading.Event):
    def compute(tick):
        try:
            for i in range(10_000):
                started.set()
                tick(i, 10_000)
                time.sleep(0.005)
        finally:
            ended.set()

    return compute


def test_a_computation_ends_when_the_last_one_leaves(queue):
    started, ended = threading.Event(), threading.Event()
    with queue.job("key", endless(started, ended), "slow"):
        with queue.job("key", endless(started, ended), "slow") as second:
            assert started.wait(5)
        assert not ended.wait(0.1)  # the first still waits
        assert second.fraction < 1
    assert ended.wait(5)
    with pytest.raises(Cancelled):
        second.future.result(5)
    with queue.job("other", lambda tick: Value("free"), "slow") as job:  # the only place of the lane is free
        assert job.future.result(5) == Value("free")
    assert queue.busy() == 0


def test_who_comes_after_a_cancellation_starts_anew(queue):
    started, ended = threading.Event(), threading.Event()
    with queue.job("key", endless(started, ended), "fast"):
        started.wait(5)
    with queue.job("key", lambda tick: Value("new"), "fast") as job:
        assert job.future.result(5) == Value("new")


def test_what_waits_for_a_lane_is_never_started_for_nobody(queue):
    started, ended = threading.Event(), threading.Event()
    with queue.job("long", endless(started, ended), "slow"):
        started.wait(5)
        with queue.job("queued", lambda tick: pytest.fail("started"), "slow") as queued:
            assert not queued.started
    with pytest.raises(Cancelled):
        queued.future.result(5)


def test_errors_reach_who_asks_and_are_not_kept(queue):
    def broken(tick):
        raise ZeroDivisionError

    for _ in range(2):
        with queue.job("key", broken, "fast") as job, pytest.raises(ZeroDivisionError):
            job.future.result(5)
    with queue.job("key", lambda tick: Value("well"), "fast") as job:
        assert job.future.result(5) == Value("well")
