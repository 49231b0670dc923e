"""A lane that a bug has ended, parbake's or a third party's, begins again after a while; the other lanes go on meanwhile."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from agent.shipping.pipeline import Lane
from agent.shipping.shutdown import Stop

log = logging.getLogger("parbake")
_FIRST_WAIT_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 300.0
_SOUND_SECONDS = 600.0
"""A lane that has lived as long is waited for as after its first crash."""


class Guarded:
    """`lane` is the first one, `again` makes the next; without it a crash is the lane's end. `pipe`: whether it writes to
    one, whose end is that of the command. `crash` is the first, for the exit code."""

    def __init__(
        self,
        lane: Lane,
        stop: Stop,
        again: Callable[[], Lane] | None,
        *,
        pipe: bool = False,
        first_wait_seconds: float = _FIRST_WAIT_SECONDS,
    ) -> None:
        self.progress = lane.progress
        self._lane: Lane | None = lane
        self._stop, self._again, self._pipe = stop, again, pipe
        self._first_wait_seconds = first_wait_seconds
        self.crash: BaseException | None = None
        self.left_behind = False

    def run(self) -> None:
        """Return at the end of the lane, and leave in `crash` and `left_behind` how it was. Never raises."""
        crashes = 0
        while True:
            began = time.monotonic()
            try:
                self.left_behind = not self._next().run()
                return
            except BaseException as error:  # noqa: BLE001 - whatever it is, other sinks are not to blame; the exit code says it
                self.left_behind = True
                if self._pipe and isinstance(error, BrokenPipeError):
                    self.crash = error
                    self._stop.set(0)
                    return
                if self._stop.over:  # then sinks are closed under those who still use them
                    return
                crashes = 1 if time.monotonic() - began > _SOUND_SECONDS else crashes + 1
                seconds = min(_LONGEST_WAIT_SECONDS, self._first_wait_seconds * 2 ** min(crashes - 1, 10))
                self._tell(error, seconds)
            if self._again is None or self._stop.is_set or self._stop.wait(seconds):
                return

    def _next(self) -> Lane:
        lane, self._lane = self._lane, None
        if lane is None:
            assert self._again is not None
            lane = self._again()
        return lane

    def _tell(self, error: BaseException, seconds: float) -> None:
        """Where it was, without an exception's own text, which may quote an entry."""
        frames = traceback.extract_tb(error.__traceback__)
        place = ", ".join(f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in frames[-3:])
        text = f"a bug in parbake or in the sink: {type(error).__name__} at {place}"
        self.progress.state, self.progress.error = "failing", text
        then = f"it begins again in {seconds:.0f} s" if self._again is not None and not self._stop.is_set else "it ends"
        log.error("sink %s: %s; %s; its %s entries wait in their place", self.progress.sink, text, then, self.progress.reader)
        if self.crash is None:
            traceback.clear_frames(error.__traceback__)  # or a batch would be held for as long as the shipper runs
            self.crash = error
