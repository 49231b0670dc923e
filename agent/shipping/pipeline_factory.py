"""Builds the pipelines of a sink: one for the journal and one for the log files, each under a supervisor."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from agent.paths import Paths
from agent.settings.models import Journal, Settings
from agent.settings.models import Sink as SinkSettings
from agent.shipping import Batch, OpenSink, Reader, ReaderKind, Sink, SinkContext, feedback_loops
from agent.shipping.checkpoint import Checkpoint
from agent.shipping.daemon_view import Labels, Masking, PlaceholderValues
from agent.shipping.dead_letter import DeadLetters
from agent.shipping.delivery import Delivery
from agent.shipping.dry_run import DryRun
from agent.shipping.lazy_sink import LazySink
from agent.shipping.pipeline import Pipeline
from agent.shipping.readers.files import FilesReader
from agent.shipping.readers.journal import JournalReader
from agent.shipping.scrubbing import own_lines, scrub
from agent.shipping.shutdown import Stop
from agent.shipping.sinks import load_sink
from agent.shipping.status_file import PipelineStatus
from agent.shipping.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class ShipOptions:
    """The options of the command line.

    `once`: ship the entries that exist and end.
    `since_us`: read from this time, in microseconds since 1970, and leave the checkpoints alone.
    `sink_name`: only this sink; "" for all.
    `dry_run`: where to print what would be sent; None to send.
    """

    once: bool = False
    since_us: int | None = None
    sink_name: str = ""
    dry_run: IO[str] | None = None

    @property
    def moves_checkpoints(self) -> bool:
        return self.since_us is None and self.dry_run is None

    @property
    def ends(self) -> bool:
        """Whether shipping ends at the end of the streams."""
        return self.once or self.dry_run is not None


@dataclass(frozen=True, slots=True)
class PipelineFactory:
    """Builds pipelines from what all of them share. Raises SettingsError for a sink that cannot be loaded.

    `opened`: every sink that was built, for the caller to close.
    """

    settings: Settings
    paths: Paths
    options: ShipOptions
    stop: Stop
    values: PlaceholderValues
    masking: Masking
    sink_files: feedback_loops.SinkFiles
    loop_marker: str
    read_lock: threading.Lock
    opened: list[OpenSink]

    def supervisors(self, sink: SinkSettings) -> Iterator[Supervisor]:
        """Build the pipelines of one sink."""
        kind = load_sink(sink.type)
        wants_ids = kind.wants_ids and self.options.dry_run is None
        labels = partial(self._labels, Labels(sink.name, sink.labels, self.values))
        if journal := self.settings.ship.journal:
            options = journal if isinstance(journal, Journal) else Journal()
            reader = partial(self._journal_reader, options, sink, wants_ids)
            yield self._supervisor(sink, kind, ReaderKind.JOURNAL, reader, labels, self._scrub)
        if self.settings.ship.files:
            reader = partial(self._files_reader, wants_ids)
            yield self._supervisor(sink, kind, ReaderKind.FILES, reader, labels, self._scrub_lines)

    def _supervisor(
        self,
        sink: SinkSettings,
        kind: type[Sink[object]],
        reader_kind: ReaderKind,
        new_reader: Callable[[Mapping[str, Any] | None], Reader],
        labels: Callable[[], Mapping[str, str]],
        scrub_batch: Callable[[Batch], Batch],
    ) -> Supervisor:
        options, directory = self.options, self.paths.ship
        status = PipelineStatus(sink.name, sink.type, reader_kind, self._mask)
        checkpoint = Checkpoint(directory, sink.name, reader_kind)
        opened = self._sink(sink, kind)
        self.opened.append(opened)
        patience = self.settings.ship.drain if options.once else float("inf")
        letters = DeadLetters(directory / "dead-letter", sink.name, mask=self._mask)
        delivery = Delivery(opened, letters, status, self.stop, patience_seconds=patience)

        def new_pipeline() -> Pipeline:
            return Pipeline(
                reader=new_reader(checkpoint.load() if options.since_us is None else None),
                delivery=delivery,
                checkpoint=checkpoint if options.moves_checkpoints else None,
                status=status,
                settings=sink,
                scrub=scrub_batch,
                labels=labels,
                read_lock=self.read_lock,
                stop=self.stop,
                once=options.ends,
            )

        def restart() -> Pipeline:
            opened.close()  # the crash may have left it in an inconsistent state; the next batch opens it again
            return new_pipeline()

        is_pipe = sink.type == "stdout" or options.dry_run is not None
        return Supervisor(new_pipeline(), self.stop, None if options.ends else restart, is_pipe=is_pipe)

    def _sink(self, sink: SinkSettings, kind: type[Sink[object]]) -> OpenSink:
        if self.options.dry_run is not None:
            return DryRun(sink.name, self.options.dry_run)
        context = SinkContext(sink.name, self.paths, self.stop, self.loop_marker)
        return LazySink(kind, sink.options, context, self.values.current)

    def _journal_reader(
        self, journal: Journal, sink: SinkSettings, wants_ids: bool, position: Mapping[str, Any] | None
    ) -> Reader:
        return JournalReader(
            journal,
            self.paths,
            fields=sink.fields,
            position=position,
            since_us=self.options.since_us,
            line_max=self.settings.ship.line_max,
            wants_ids=wants_ids,
        )

    def _files_reader(self, wants_ids: bool, position: Mapping[str, Any] | None) -> Reader:
        return FilesReader(
            self.settings.ship.files,
            self.paths,
            position=position,
            since_us=self.options.since_us,
            line_max=self.settings.ship.line_max,
            wants_ids=wants_ids,
            ending=lambda: self.options.ends or self.stop.is_set,
        )

    def _mask(self, text: str) -> str:
        return self.masking.current().mask(text)

    def _labels(self, labels: Labels) -> Mapping[str, str]:
        masker = self.masking.current()
        return {name: masker.mask(value) for name, value in labels.current().items()}

    def _scrub(self, batch: Batch) -> Batch:
        return scrub(batch, self.masking.current(), self.settings.ship.line_max, self.loop_marker)

    def _scrub_lines(self, batch: Batch) -> Batch:
        own = own_lines(os.getpid())
        batch = self.sink_files.without_own_lines(batch)
        return scrub(batch, self.masking.current(), self.settings.ship.line_max, self.loop_marker, own)
