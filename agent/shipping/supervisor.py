"""Restarts a pipeline that ended with an exception, a bug of parbake or of a third party's sink. Other pipelines go on."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from agent.net.backoff import Backoff
from agent.shipping.pipeline import Pipeline
from agent.shipping.shutdown import Stop
from agent.status.shipper import SinkState

log = logging.getLogger("parbake")
_FIRST_WAIT_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 300.0
_STABLE_SECONDS = 600.0
"""After a run of this length the next restart waits as after the first crash."""


class Supervisor:
    """Runs `pipeline`, and after a crash the pipelines that `restart_factory` returns.

    `restart_factory`: None if a crash ends the pipeline for good.
    `is_pipe`: whether the sink writes to a pipe. If its reader has gone, the whole command ends.
    `crash`: the first exception, for the exit code.
    `left_behind`: whether entries are left for the next start.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        stop: Stop,
        restart_factory: Callable[[], Pipeline] | None,
        *,
        is_pipe: bool = False,
        first_wait_seconds: float = _FIRST_WAIT_SECONDS,
    ) -> None:
        self.status = pipeline.status
        self._next: Pipeline | None = pipeline
        self._stop, self._restart_factory, self._is_pipe = stop, restart_factory, is_pipe
        self._backoff = Backoff(first_wait_seconds, _LONGEST_WAIT_SECONDS, low=1.0)
        self.crash: BaseException | None = None
        self.left_behind = False

    def run(self) -> None:
        """Return when the pipeline has ended for good; `crash` and `left_behind` hold the result. Never raises."""
        while True:
            began = time.monotonic()
            try:
                self.left_behind = not self._take_next().run()
                return
            except BaseException as error:  # noqa: BLE001 - no exception may end other pipelines; the exit code reports it
                self.left_behind = True
                if self._is_pipe and isinstance(error, BrokenPipeError):
                    self.crash = error
                    self._stop.set(0)
                    return
                if self._stop.expired:  # sinks are closed then while pipelines still use them
                    return
                if time.monotonic() - began > _STABLE_SECONDS:
                    self._backoff.reset()
                seconds = self._backoff.next_seconds()
                self._report(error, seconds)
            if self._restart_factory is None or self._stop.is_set or self._stop.wait(seconds):
                return

    def _take_next(self) -> Pipeline:
        pipeline, self._next = self._next, None
        if pipeline is None:
            assert self._restart_factory is not None
            pipeline = self._restart_factory()
        return pipeline

    def _report(self, error: BaseException, seconds: float) -> None:
        """Log the type and the location of the exception. Its text may quote an entry and is left out."""
        frames = traceback.extract_tb(error.__traceback__)
        location = ", ".join(f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in frames[-3:])
        message = f"a bug in parbake or in the sink: {type(error).__name__} at {location}"
        self.status.state, self.status.error = SinkState.FAILING, message
        restarts = self._restart_factory is not None and not self._stop.is_set
        then = f"it restarts in {seconds:.0f} s" if restarts else "it ends"
        log.error("sink %s: %s; %s; its %s entries are kept", self.status.sink, message, then, self.status.reader)
        if self.crash is None:
            traceback.clear_frames(error.__traceback__)  # frames hold the batch, and the crash is kept until the end
            self.crash = error
