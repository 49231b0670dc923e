"""All lanes together: built from the settings, run each in a thread, drained at the end."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from agent.errors import BusyError, SettingsError, StateError
from agent.paths import Paths
from agent.settings import plugins
from agent.settings.models import Journal, Settings
from agent.settings.models import Sink as SinkSettings
from agent.shipping import Batch, Reader, Sink, SinkContext, feedback_loops
from agent.shipping.checkpoint import Checkpoint
from agent.shipping.daemon_view import Labels, Masking, PlaceholderValues
from agent.shipping.dead_letter import DeadLetters
from agent.shipping.delivery import Delivery
from agent.shipping.dry_run import DryRun
from agent.shipping.lazy_sink import LazySink
from agent.shipping.pipeline import Lane
from agent.shipping.readers.files import FilesReader
from agent.shipping.readers.journal import JournalReader
from agent.shipping.scrubbing import clean, own_lines
from agent.shipping.shutdown import Stop
from agent.shipping.sinks import SINKS
from agent.shipping.status_file import Progress, StatusFile
from agent.shipping.supervisor import Guarded

log = logging.getLogger("parbake")
_MARK_BYTES = 12
_GRACE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ShipOptions:
    """What the command line asks for. `since_us` reads from there, and leaves the checkpoints alone."""

    once: bool = False
    since_us: int | None = None
    only: str = ""
    dry_run: IO[str] | None = None

    @property
    def keeps(self) -> bool:
        """Whether checkpoints are moved."""
        return self.since_us is None and self.dry_run is None


class Shipper:
    """Builds and runs the lanes. Raises SettingsError for settings that cannot work."""

    def __init__(self, settings: Settings, paths: Paths, wishes: ShipOptions, stop: Stop) -> None:
        self._settings, self._paths, self._wishes, self._stop = settings, paths, wishes, stop
        self._spaces = PlaceholderValues(settings, paths)
        self._masking = Masking(settings, paths)
        self._written = feedback_loops.Written(settings, paths, self._spaces.current)
        self._turn = threading.Lock()
        self._mark = ""
        self._sinks: list[Sink] = []
        self._crash: list[BaseException] = []
        self._behind: list[str] = []

    def run(self) -> tuple[str, ...]:
        """Ship until the stop (or once). The names of the sinks that something was left behind for."""
        found = list(feedback_loops.problems(self._settings, self._paths))
        if found:
            raise SettingsError("the settings would ship logs in circles", found, hint="ship to another place")
        if not self._await_daemon():
            log.warning("stopped before the daemon has said what to mask: nothing is shipped, and all of it at the next start")
            return ()
        with self._directory():
            lanes = [lane for sink in self._chosen() for lane in self._lanes(sink)]
            status = StatusFile(
                self._paths.ship / "status.json",
                [lane.progress for lane in lanes],
                draining=lambda: self._stop.urgent or self._stop.is_set,
            )
            if self._wishes.keeps:
                status.start()
            threads = [threading.Thread(target=lane.run, name=lane.progress.sink, daemon=True) for lane in lanes]
            for thread in threads:
                thread.start()
            self._await(threads)
            self._close()
            if self._wishes.keeps:
                status.end()
        for crash in (*(lane.crash for lane in lanes), *self._crash):
            if crash is not None:
                raise crash
        return tuple(dict.fromkeys((*(lane.progress.sink for lane in lanes if lane.left_behind), *self._behind)))

    def _await(self, threads: Sequence[threading.Thread]) -> None:
        for thread in threads:
            while thread.is_alive() and not self._stop.over:
                thread.join(0.5)
        ends = time.monotonic() + _GRACE_SECONDS
        for thread in threads:
            thread.join(max(0.0, ends - time.monotonic()))
            if thread.is_alive():
                self._behind.append(thread.name)

    def _close(self) -> None:
        for sink in self._sinks:
            try:
                sink.close()
            except BaseException as error:  # noqa: BLE001 - a third party's may fail in any way; raised once all are closed
                self._crash.append(error)

    def _chosen(self) -> Sequence[SinkSettings]:
        only = self._wishes.only
        chosen = [sink for sink in self._settings.sinks if only in ("", sink.name)]
        if only and not chosen:
            names = ", ".join(sink.name for sink in self._settings.sinks) or "none"
            raise SettingsError(f'there is no [[sink]] called "{only}"', [], hint=f"configured: {names}")
        return chosen

    def _lanes(self, sink: SinkSettings) -> Iterator[Guarded]:
        journal, files = self._settings.ship.journal, self._settings.ship.files
        labels = partial(self._labels, Labels(sink.name, sink.labels, self._spaces))
        if journal:
            yield self._lane(sink, labels, "journal", journal if isinstance(journal, Journal) else Journal())
        if files:
            yield self._lane(sink, labels, "files", None)

    def _lane(self, sink: SinkSettings, labels: Callable[[], Mapping[str, str]], kind: str, journal: Journal | None) -> Guarded:
        progress = Progress(sink.name, sink.type, kind, self._mask)
        directory = self._paths.ship
        checkpoint = Checkpoint(directory, sink.name, kind)
        plugin: Any = DryRun if self._wishes.dry_run else plugins.load(SINKS, sink.type, "type")
        made = self._sink(sink, plugin)
        self._sinks.append(made)
        patience = self._settings.ship.drain if self._wishes.once else float("inf")
        letters = DeadLetters(directory / "dead-letter", sink.name, mask=self._mask)
        delivery = Delivery(made, letters, progress, self._stop, patience_seconds=patience)
        keeps = checkpoint if self._wishes.keeps else None
        once = self._wishes.once or self._wishes.dry_run is not None
        tidy = self._clean if journal is not None else self._clean_lines

        def lane() -> Lane:
            position = checkpoint.load() if self._wishes.since_us is None else None
            reader = self._reader(sink, journal, position, plugin.wants_ids)
            return Lane(reader, delivery, keeps, progress, sink, tidy, labels, self._turn, self._stop, once)

        def again() -> Lane:
            made.close()  # what it was in the middle of is not to be trusted; the next batch makes it anew
            return lane()

        pipe = sink.type == "stdout" or self._wishes.dry_run is not None
        return Guarded(lane(), self._stop, None if once else again, pipe=pipe)

    def _reader(self, sink: SinkSettings, journal: Journal | None, position: Any, wants_ids: bool) -> Reader:
        ship, since_us = self._settings.ship, self._wishes.since_us
        if journal is not None:
            return JournalReader(
                journal,
                self._paths,
                fields=sink.fields,
                position=position,
                since_us=since_us,
                line_max=ship.line_max,
                wants_ids=wants_ids,
            )
        return FilesReader(
            ship.files,
            self._paths,
            position=position,
            since_us=since_us,
            line_max=ship.line_max,
            wants_ids=wants_ids,
            ending=lambda: self._ending,
        )

    def _sink(self, sink: SinkSettings, plugin: Any) -> Sink:
        if self._wishes.dry_run is not None:
            return DryRun(sink.name, self._wishes.dry_run)
        context = SinkContext(sink.name, self._paths, self._stop, self._mark)
        return LazySink(plugin, sink.options, context, self._spaces.current)

    @property
    def _ending(self) -> bool:
        return self._wishes.once or self._wishes.dry_run is not None or self._stop.is_set

    def _mask(self, text: str) -> str:
        return self._masking.current().mask(text)

    def _labels(self, labels: Labels) -> Mapping[str, str]:
        masker = self._masking.current()
        return {name: masker.mask(value) for name, value in labels.current().items()}

    def _clean(self, batch: Batch) -> Batch:
        return clean(batch, self._masking.current(), self._settings.ship.line_max, self._mark)

    def _clean_lines(self, batch: Batch) -> Batch:
        mine = own_lines(os.getpid())
        return clean(self._written.left_out(batch), self._masking.current(), self._settings.ship.line_max, self._mark, mine)

    def _await_daemon(self) -> bool:
        """Hold the lines until the daemon has said what to mask, and has set aside what another instance left, checkpoints
        among it; but not for ever: the logs of an instance whose daemon does not come up are those that are wanted most.
        False where a stop came first: then they stay, as nobody has waited as long as the settings ask."""
        left = 0.0 if self._wishes.once or self._wishes.dry_run else self._settings.ship.mask_wait
        while left > 0 and not (self._masking.known and self._ours):
            if self._stop.wait(min(0.25, left)):
                return False
            left -= 0.25
        if not self._masking.known:
            log.warning(
                "%s does not exist, so that only patterns are masked: parbake has not converged since this boot",
                self._paths.run / "mask",
            )
        return True

    @property
    def _ours(self) -> bool:
        """Whether the checkpoints are this instance's. Below a root no daemon says so, and nobody has captured an image."""
        if not self._paths.is_host or self._spaces.known:
            return True
        return all(path.name == "status.json" for path in self._paths.ship.glob("*.json"))

    @contextmanager
    def _directory(self) -> Iterator[None]:
        """ship/, held against a second shipper where checkpoints are moved. Raises BusyError, StateError."""
        directory = self._paths.ship
        lock: int | None = None
        try:
            if self._wishes.keeps:
                directory.mkdir(parents=True, exist_ok=True)
                lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._mark = _mark(directory, write=self._wishes.keeps)
            yield
        except BlockingIOError:
            raise BusyError("another `parbake ship` is running", hint="stop parbake-ship.service, or add --since") from None
        except PermissionError as error:
            raise StateError(f"{error.filename} cannot be used: {error.strerror}", hint="run as parbake-ship") from None
        finally:
            if lock is not None:
                os.close(lock)


def _mark(directory: Path, *, write: bool) -> str:
    """A word of this instance's own that is in nobody's logs unless a receiver wrote it there."""
    path = directory / "mark"
    try:
        if text := path.read_text("ascii").strip():
            return text
    except (OSError, UnicodeDecodeError):
        pass
    mark = f"parbake-{secrets.token_hex(_MARK_BYTES)}"
    if write:
        path.write_text(mark + "\n", "ascii")
    return mark


def notify(state: str) -> None:
    """Tell systemd, where it started us."""
    if os.environ.get("NOTIFY_SOCKET"):
        from systemd import daemon

        daemon.notify(state)
    sys.stdout.flush()
