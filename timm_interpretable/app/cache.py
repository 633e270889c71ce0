"""Values in memory, within a bound of bytes and of time

Gradio's `gr.Cache` has no bound of time and counts a model's evidence as the few bytes of its outermost object.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What can be kept."""

    @property
    def nbytes(self) -> int: ...


V = TypeVar("V", bound=Sized)


class Cache(Generic[V]):
    """The most recently used values, of `max_bytes` together, each for `seconds` after its last use."""

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self.max_bytes, self.seconds = max_bytes, seconds
        self._values: OrderedDict[Hashable, tuple[V, int, float]] = OrderedDict()  # those used last are at the end
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    @property
    def nbytes(self) -> int:
        return self._bytes

    def get(self, key: Hashable) -> V | None:
        with self._lock:
            value, size, used = self._values.pop(key, (None, 0, 0.0))
            if value is None or time.monotonic() - used > self.seconds:
                self._bytes -= size
                return None
            self._values[key] = (value, size, time.monotonic())
            return value

    def put(self, key: Hashable, value: V) -> None:
        """Keep a value in the place of the earlier one; one that is larger than everything together is not kept."""
        size = value.nbytes
        self.drop(key)
        if size > self.max_bytes:
            return
        with self._lock:
            self._values[key] = (value, size, time.monotonic())
            self._bytes += size
            while self._bytes > self.max_bytes:
                self._bytes -= self._values.popitem(last=False)[1][1]

    def drop(self, key: Hashable) -> None:
        with self._lock:
            found = self._values.pop(key, None)
            self._bytes -= found[1] if found else 0

    def sweep(self) -> None:
        """Forget what is too old."""
        with self._lock:
            limit = time.monotonic() - self.seconds
            while self._values and next(iter(self._values.values()))[2] < limit:
                self._bytes -= self._values.popitem(last=False)[1][1]
