"""A server of many threads must ask for its memory back: glibc gives each thread a piece of its own and keeps it."""

import contextlib
import ctypes
import sys

_M_ARENA_MAX = -8  # malloc.h


def few_arenas(arenas: int = 2) -> None:
    """Threads share so many arenas; call it early. Otherwise freed pieces of pictures lie scattered over dozens."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, arenas)


def give_back() -> None:
    """Freed memory goes back to the system."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
