"""How far a run is: a bar in a terminal, elsewhere a line every ten seconds"""

import sys
import time
from types import TracebackType

from tqdm import tqdm

__all__ = ["Progress"]

_REDRAWN, _LINE = 0.5, 10.0  # seconds between two pictures of the bar, and between two lines


class Progress:
    """A bar that also moves within a unit of work.

    Args:
        total: steps of the whole run.
        shown: False for all but one of the processes that share a run.
    """

    def __init__(self, total: int, shown: bool = True) -> None:
        self.shown, self.what = shown, ""
        self.bar = tqdm(total=total, unit="step", disable=None if shown else True, smoothing=0.05)
        self.done, self.total, self.last = 0, total, time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def begin(self, what: str) -> None:
        """What is worked at from now on."""
        self.what = what
        self.within("")

    def within(self, part: str) -> None:
        """What part of it is worked at; shown at most twice a second, and elsewhere every ten seconds."""
        text, now = f"{self.what}: {part}" if part else self.what, time.monotonic()
        self.bar.set_postfix_str(text, refresh=False)
        if not self.shown or now - self.last < (_LINE if self.bar.disable else _REDRAWN):
            return
        self.last = now
        if self.bar.disable:
            print(f"{self.done} of {self.total} steps; {text}", file=sys.stderr, flush=True)
        else:
            self.bar.refresh()

    def advance(self, steps: int, part: str = "") -> None:
        """So many steps are done."""
        self.done += steps
        self.bar.update(steps)
        self.within(part)

    def passes(self, done: int, total: int) -> None:
        """For `Context.tick`: passes of a method of many passes."""
        self.within(f"pass {done + 1} of {total}")

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self.shown:
            self.bar.write(line, file=sys.stderr)
