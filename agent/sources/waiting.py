"""Waits that end early when parbake stops."""

from __future__ import annotations

import threading
import time

_SLICE_SECONDS = 0.5


def wait_for_any(seconds: float, first: threading.Event, *others: threading.Event) -> bool:
    """Wait up to `seconds` for one of the events, and return whether one is set.

    `first` ends the wait at once, another event within half a second: threads cannot wait for two events at a time.
    """
    deadline = time.monotonic() + seconds
    while not (first.is_set() or any(event.is_set() for event in others)):
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        first.wait(min(left, _SLICE_SECONDS))
    return True
