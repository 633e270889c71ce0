"""Results in memory, within a bound of bytes and of time, and nothing computed twice at once."""

import contextvars
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

import torch


class Sized(Protocol):
    """What can be kept."""

    @property
    def nbytes(self) -> int: ...


V = TypeVar("V", bound=Sized)


class Kept(Generic[V]):
    """The most recently used values, of `max_bytes` together, each for `seconds` after its last use."""

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self.max_bytes, self.seconds = max_bytes, seconds
        self._values: OrderedDict[Hashable, tuple[V, int, float]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def nbytes(self) -> int:
        return self._bytes

    def get(self, key: Hashable) -> V | None:
        with self._lock:
            found = self._values.pop(key, None)
            if found is None:
                return None
            value, size, used = found
            if time.monotonic() - used > self.seconds:
                self._bytes -= size
                return None
            self._values[key] = (value, size, time.monotonic())
            return value

    def put(self, key: Hashable, value: V) -> None:
        size = value.nbytes
        self.drop(key)
        with self._lock:
            self._values[key] = (value, size, time.monotonic())
            self._bytes += size
            while self._bytes > self.max_bytes and self._values:
                self._bytes -= self._values.popitem(last=False)[1][1]

    def drop(self, key: Hashable) -> None:
        with self._lock:
            found = self._values.pop(key, None)
            self._bytes -= found[1] if found else 0

    def sweep(self) -> None:
        """Forget what is too old; least recently used stand first."""
        with self._lock:
            limit = time.monotonic() - self.seconds
            while self._values and next(iter(self._values.values()))[2] < limit:
                self._bytes -= self._values.popitem(last=False)[1][1]


class Cancelled(Exception):  # noqa: N818  not an error
    """Nobody waits any longer."""


class Job(Generic[V]):
    """A computation for which several may wait, and which ends when none of them does."""

    def __init__(self) -> None:
        self.future: Future[V] = Future()
        self.waiting = 0
        self.started = False
        self._steps = (0, 1)
        self._cancelled = threading.Event()

    def tick(self, done: int, steps: int) -> None:
        """Called by the computation as often as it can.

        Raises:
            Cancelled: it should stop here.
        """
        self._steps = (min(done, steps), max(steps, 1))
        if self._cancelled.is_set():
            raise Cancelled

    @property
    def fraction(self) -> float:
        done, steps = self._steps
        return done / steps

    def cancel(self) -> None:
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()


Tick = Callable[[int, int], None]


class Desk:
    """Where computations are asked for: from what is kept, with whoever already waits, or started in a lane."""

    def __init__(self, kept: Kept[Any], **lanes: int) -> None:
        self.kept = kept
        self._running: dict[Hashable, Job[Any]] = {}
        self._lock = threading.Lock()
        self._lanes = {
            # one thread per computation: pictures are small, and several people share the processors
            name: ThreadPoolExecutor(workers, f"{name}-lane", initializer=torch.set_num_threads, initargs=(1,))
            for name, workers in lanes.items()
        }

    @contextmanager
    def asking(self, key: Hashable, compute: Callable[[Tick], Any], lane: str) -> Iterator[Job[Any]]:
        """The job of that key while somebody waits for it."""
        job = self._ask(key, compute, lane)
        try:
            yield job
        finally:
            self._leave(key, job)

    def busy(self) -> int:
        """Computations that run or wait."""
        return len(self._running)

    def close(self) -> None:
        for lane in self._lanes.values():
            lane.shutdown(wait=False, cancel_futures=True)

    def _ask(self, key: Hashable, compute: Callable[[Tick], Any], lane: str) -> Job[Any]:
        with self._lock:
            value = self.kept.get(key)
            if value is not None:
                known: Job[Any] = Job()
                known.future.set_result(value)
                return known
            job = self._running.get(key)
            if job is None:
                job = self._running[key] = Job()
                # the context carries whose request it is, which ZeroGPU asks for
                self._lanes[lane].submit(contextvars.copy_context().run, self._run, key, job, compute)
            job.waiting += 1
            return job

    def _leave(self, key: Hashable, job: Job[Any]) -> None:
        with self._lock:
            job.waiting -= 1
            if job.waiting <= 0 and not job.future.done():
                job.cancel()
                if self._running.get(key) is job:  # who asks from now on starts anew
                    del self._running[key]

    def _run(self, key: Hashable, job: Job[Any], compute: Callable[[Tick], Any]) -> None:
        try:
            job.started = True
            job.tick(0, 1)
            value = compute(job.tick)
        except BaseException as error:
            self._finish(key, job)
            job.future.set_exception(error)
        else:
            self._finish(key, job, value)
            job.future.set_result(value)

    def _finish(self, key: Hashable, job: Job[Any], value: Any = None) -> None:
        with self._lock:
            if value is not None:
                self.kept.put(key, value)
            if self._running.get(key) is job:
                del self._running[key]
