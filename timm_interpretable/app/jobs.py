"""Computations that several callers may wait for: nothing is computed twice at once, and nothing for nobody

Gradio's queue limits events, each with a function of its own. Here one event needs several computations, fast and slow
ones, and events of different pages share them.
"""

import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic

import torch

from timm_interpretable.app.cache import Cache, V

Tick = Callable[[int, int], None]
"""What a computation calls with the number of steps that are done, and of all; it raises `Cancelled`."""


class Cancelled(Exception):  # noqa: N818  not an error
    """Nobody waits any longer."""


class Job(Generic[V]):
    """A computation for which several may wait, and which ends when none of them does."""

    def __init__(self) -> None:
        self.future: Future[V] = Future()
        self.waiting = 0
        self.started = self.cancelled = False
        self.fraction = 0.0

    def tick(self, done: int, steps: int) -> None:
        """Called by the computation as often as it can.

        Raises:
            Cancelled: it should stop here.
        """
        self.fraction = min(done, steps) / max(steps, 1)
        if self.cancelled:
            raise Cancelled


class JobQueue:
    """Results from the cache, from a job that others already wait for, or from a new job in one of the lanes."""

    def __init__(self, cache: Cache[Any], **lanes: int) -> None:
        self.cache = cache
        self._running: dict[Hashable, Job[Any]] = {}
        self._lock = threading.Lock()
        self._lanes = {
            # one thread per computation: pictures are small, and several people share the processors
            name: ThreadPoolExecutor(workers, f"{name}-lane", initializer=torch.set_num_threads, initargs=(1,))
            for name, workers in lanes.items()
        }

    @contextmanager
    def job(self, key: Hashable, compute: Callable[[Tick], Any], lane: str) -> Iterator[Job[Any]]:
        """The job of that key for as long as the caller waits for it."""
        job = self._join(key, compute, lane)
        try:
            yield job
        finally:
            self._leave(key, job)

    def result(self, key: Hashable, compute: Callable[[Tick], Any], lane: str) -> Any:
        """Wait for the result of that key."""
        with self.job(key, compute, lane) as job:
            return job.future.result()

    def busy(self) -> int:
        """Computations that run or wait."""
        return len(self._running)

    def close(self) -> None:
        for lane in self._lanes.values():
            lane.shutdown(wait=False, cancel_futures=True)

    def _join(self, key: Hashable, compute: Callable[[Tick], Any], lane: str) -> Job[Any]:
        with self._lock:
            value = self.cache.get(key)
            if value is not None:
                known: Job[Any] = Job()
                known.future.set_result(value)
                return known
            job = self._running.get(key)
            if job is None:
                job = self._running[key] = Job()
                self._lanes[lane].submit(self._run, key, job, compute)
            job.waiting += 1
            return job

    def _leave(self, key: Hashable, job: Job[Any]) -> None:
        with self._lock:
            job.waiting -= 1
            if job.waiting <= 0 and not job.future.done():
                job.cancelled = True
                self._forget(key, job)  # the next caller starts anew

    def _run(self, key: Hashable, job: Job[Any], compute: Callable[[Tick], Any]) -> None:
        try:
            job.started = True
            job.tick(0, 1)
            value = compute(job.tick)
        except BaseException as error:
            with self._lock:
                self._forget(key, job)
            job.future.set_exception(error)
        else:
            with self._lock:
                self.cache.put(key, value)
                self._forget(key, job)
            job.future.set_result(value)

    def _forget(self, key: Hashable, job: Job[Any]) -> None:
        if self._running.get(key) is job:
            del self._running[key]
