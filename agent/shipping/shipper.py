"""Runs all pipelines: waits for the daemon, starts a thread per pipeline, and drains them at the stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from agent.errors import SettingsError
from agent.paths import Paths
from agent.settings.models import Settings
from agent.settings.models import Sink as SinkSettings
from agent.shipping import OpenSink, feedback_loops, ship_directory
from agent.shipping.daemon_view import Masking, PlaceholderValues
from agent.shipping.pipeline_factory import PipelineFactory, ShipOptions
from agent.shipping.shutdown import Stop
from agent.shipping.status_file import StatusFile
from agent.shipping.supervisor import Supervisor

__all__ = ["ShipOptions", "Shipper"]

log = logging.getLogger("parbake")
_GRACE_SECONDS = 1.0
_DAEMON_POLL_SECONDS = 0.25


class Shipper:
    """Builds and runs the pipelines of the settings."""

    def __init__(self, settings: Settings, paths: Paths, options: ShipOptions, stop: Stop) -> None:
        self._settings, self._paths, self._options, self._stop = settings, paths, options, stop
        self._values = PlaceholderValues(settings, paths)
        self._masking = Masking(settings, paths)
        self._sinks: list[OpenSink] = []
        self._close_errors: list[BaseException] = []
        self._hanging: list[str] = []

    def run(self) -> tuple[str, ...]:
        """Ship until the stop, or once. Return the names of the sinks for which entries were left behind.

        Raises SettingsError if the settings cannot work, BusyError and StateError for the shipper's directory, and after
        all pipelines have ended the first exception of a pipeline that crashed.
        """
        problems = list(feedback_loops.problems(self._settings, self._paths))
        if problems:
            raise SettingsError(
                "the settings would ship logs in a loop",
                problems,
                hint="let the sink write outside the files that [ship] files matches",
            )
        if not self._await_daemon():
            log.warning("stopped before the texts to mask were known: nothing is shipped now, everything after the next start")
            return ()
        with ship_directory.hold(self._paths.ship, write=self._options.moves_checkpoints) as loop_marker:
            supervisors = self._supervisors(loop_marker)
            self._run_all(supervisors)
        crashes = (*(supervisor.crash for supervisor in supervisors), *self._close_errors)
        if crash := next(filter(None, crashes), None):
            raise crash
        behind = (supervisor.status.sink for supervisor in supervisors if supervisor.left_behind)
        return tuple(dict.fromkeys((*behind, *self._hanging)))

    def _supervisors(self, loop_marker: str) -> Sequence[Supervisor]:
        factory = PipelineFactory(
            settings=self._settings,
            paths=self._paths,
            options=self._options,
            stop=self._stop,
            values=self._values,
            masking=self._masking,
            sink_files=feedback_loops.SinkFiles(self._settings, self._paths, self._values.current),
            loop_marker=loop_marker,
            read_lock=threading.Lock(),
            opened=self._sinks,
        )
        return [supervisor for sink in self._chosen_sinks() for supervisor in factory.supervisors(sink)]

    def _chosen_sinks(self) -> Sequence[SinkSettings]:
        name = self._options.sink_name
        chosen = [sink for sink in self._settings.sinks if name in ("", sink.name)]
        if name and not chosen:
            names = ", ".join(sink.name for sink in self._settings.sinks) or "none"
            raise SettingsError(f'there is no [[sink]] with the name "{name}"', [], hint=f"configured: {names}")
        return chosen

    def _run_all(self, supervisors: Sequence[Supervisor]) -> None:
        """Run each pipeline in a thread until all have ended, and write the status meanwhile."""
        status = StatusFile(
            self._paths.ship / "status.json",
            [supervisor.status for supervisor in supervisors],
            draining=lambda: self._stop.urgent or self._stop.is_set,
        )
        if self._options.moves_checkpoints:
            status.start()
        threads = [
            threading.Thread(target=supervisor.run, name=supervisor.status.sink, daemon=True) for supervisor in supervisors
        ]
        for thread in threads:
            thread.start()
        self._join(threads)
        self._close_sinks()
        if self._options.moves_checkpoints:
            status.end()

    def _join(self, threads: Sequence[threading.Thread]) -> None:
        """Wait for the threads, until one second after the stop's deadline. Threads that still run count as hanging."""
        for thread in threads:
            while thread.is_alive() and not self._stop.expired:
                thread.join(0.5)
        ends = time.monotonic() + _GRACE_SECONDS
        for thread in threads:
            thread.join(max(0.0, ends - time.monotonic()))
            if thread.is_alive():
                self._hanging.append(thread.name)

    def _close_sinks(self) -> None:
        for sink in self._sinks:
            try:
                sink.close()
            except BaseException as error:  # noqa: BLE001 - a third party's sink may raise anything; raised once all are closed
                self._close_errors.append(error)

    def _await_daemon(self) -> bool:
        """Hold all lines until the daemon has written what to mask and has archived another instance's checkpoints.

        The wait ends after [ship] mask_wait: the logs of an instance whose daemon does not start are needed most.
        Return False if a stop comes first. The lines then wait for the next start, because mask_wait has not passed.
        """
        left_seconds = 0.0 if self._options.ends else self._settings.ship.mask_wait
        while left_seconds > 0 and not (self._masking.ready and self._checkpoints_are_own):
            if self._stop.wait(min(_DAEMON_POLL_SECONDS, left_seconds)):
                return False
            left_seconds -= _DAEMON_POLL_SECONDS
        if not self._masking.ready:
            log.warning(
                "%s does not exist, so only patterns are masked: parbake has not converged since this boot",
                self._paths.run / "mask",
            )
        return True

    @property
    def _checkpoints_are_own(self) -> bool:
        """Whether the checkpoints belong to this instance, and not to one whose disk was captured as an image.

        Below a root no daemon runs, and no image was captured.
        """
        if not self._paths.is_host or self._values.ready:
            return True
        return all(path.name == "status.json" for path in self._paths.ship.glob("*.json"))
