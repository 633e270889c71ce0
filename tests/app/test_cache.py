"""Bounds of bytes and time; nothing computed twice at once; nothing computed for nobody."""

import threading
import time
from dataclasses import dataclass

import pytest

from timm_interpretable.app.cache import Cancelled, Desk, Kept


@dataclass(frozen=True)
class Value:
    name: str
    nbytes: int = 10


def test_the_least_recently_used_go_first():
    kept = Kept(30, 100)
    for name in "abc":
        kept.put(name, Value(name))
    assert kept.get("a") == Value("a")  # used again
    kept.put("d", Value("d"))
    assert [name for name in "abcd" if kept.get(name)] == ["a", "c", "d"]
    assert kept.nbytes == 30
    kept.put("big", Value("big", 31))  # would not fit alone
    assert kept.nbytes == 0
    assert kept.get("big") is None


def test_values_grow_old():
    kept = Kept(100, 0.05)
    kept.put("a", Value("a"))
    kept.put("b", Value("b"))
    assert kept.get("a")
    time.sleep(0.06)
    assert kept.get("a") is None
    kept.sweep()
    assert (len(kept), kept.nbytes) == (0, 0)


def test_replacing_and_dropping_count_bytes():
    kept = Kept(100, 10)
    kept.put("a", Value("a", 40))
    kept.put("a", Value("a", 20))
    assert kept.nbytes == 20
    kept.drop("a")
    kept.drop("a")
    assert kept.nbytes == 0


@pytest.fixture
def desk():
    desk = Desk(Kept(1000, 100), fast=2, slow=1)
    yield desk
    desk.close()


def test_many_who_ask_at_once_get_one_computation(desk):
    calls, gate = [], threading.Event()

    def compute(tick):
        calls.append(1)
        gate.wait(5)
        return Value("result")

    results = []

    def ask():
        with desk.asking("key", compute, "fast") as job:
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
    with desk.asking("key", lambda tick: pytest.fail("computed again"), "fast") as job:
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


def test_a_computation_ends_when_the_last_one_leaves(desk):
    started, ended = threading.Event(), threading.Event()
    with desk.asking("key", endless(started, ended), "slow"):
        with desk.asking("key", endless(started, ended), "slow") as second:
            assert started.wait(5)
        assert not ended.wait(0.1)  # the first still waits
        assert second.fraction < 1
    assert ended.wait(5)
    with pytest.raises(Cancelled):
        second.future.result(5)
    with desk.asking("other", lambda tick: Value("free"), "slow") as job:  # the only place of the lane is free
        assert job.future.result(5) == Value("free")
    assert desk.busy() == 0


def test_who_asks_after_a_cancellation_starts_anew(desk):
    started, ended = threading.Event(), threading.Event()
    with desk.asking("key", endless(started, ended), "fast"):
        started.wait(5)
    with desk.asking("key", lambda tick: Value("new"), "fast") as job:
        assert job.future.result(5) == Value("new")


def test_what_waits_for_a_lane_is_never_started_for_nobody(desk):
    started, ended = threading.Event(), threading.Event()
    with desk.asking("long", endless(started, ended), "slow"):
        started.wait(5)
        with desk.asking("queued", lambda tick: pytest.fail("started"), "slow") as queued:
            assert not queued.started
    with pytest.raises(Cancelled):
        queued.future.result(5)


def test_errors_reach_who_asks_and_are_not_kept(desk):
    def broken(tick):
        raise ZeroDivisionError

    for _ in range(2):
        with desk.asking("key", broken, "fast") as job, pytest.raises(ZeroDivisionError):
            job.future.result(5)
    with desk.asking("key", lambda tick: Value("well"), "fast") as job:
        assert job.future.result(5) == Value("well")
