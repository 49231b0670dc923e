"""What the loop of the daemon waits for."""

from __future__ import annotations

from enum import StrEnum


class Event(StrEnum):
    """A word in the queue of the loop. STOP outranks CHANGED, which outranks TOUCHED."""

    NONE = "none"
    """Nothing happened within a tick."""
    STOP = "stop"
    RELOAD = "reload"
    """SIGHUP: read the settings again, then converge."""
    CHANGED = "changed"
    """A source, a fact or another parbake changed something."""
    TOUCHED = "touched"
    """A target's directory changed."""
