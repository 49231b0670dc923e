"""Everything that the daemon watches, each in its own thread that only puts an event in the loop's queue."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping

from agent.convergence.context import Memory, Runtime
from agent.daemon.target_watcher import TargetWatcher
from agent.discovery.watcher import Watcher as PlatformWatcher
from agent.errors import DiscoveryError
from agent.model import Facts, FactValue
from agent.settings.models import Source
from agent.sources.pull import layer_names
from agent.sources.registry import SourceRegistry
from agent.sources.watcher import FactsWatcher, Watcher

Notices = Mapping[str, FactValue | None]


class WatchRegistry:
    """The watchers of the sources, the platform, and the directories of the targets.

    `changed` is called with the cause, `touched` after a change in a target's directory, `noticed` with what the platform
    announced.
    """

    def __init__(self, changed: Callable[[str], None], touched: Callable[[], None], noticed: Callable[[Notices], None]) -> None:
        self._changed, self._touched, self._noticed = changed, touched, noticed
        self._sources: dict[str, Watcher] = {}
        self._facts: FactsWatcher | None = None
        self._kept_notices: Notices = {}
        self._targets: TargetWatcher | None = None
        self._watched: frozenset[tuple[str, int]] = frozenset()

    def watches(self, names: Iterable[str]) -> bool:
        """Return whether each of these sources is watched."""
        return self._sources.keys() >= set(names)

    @property
    def any_source(self) -> bool:
        return bool(self._sources)

    @property
    def notices(self) -> Notices:
        """What the platform has announced since the start of the process."""
        return self._facts.platform.notices if self._facts is not None else self._kept_notices

    def on_converged(self, runtime: Runtime, memory: Memory, sources: SourceRegistry) -> None:
        """Pass on what the last convergence pulled and discovered.

        Every source is watched from the first convergence on, so that one that comes back is seen at once.
        """
        if memory.facts is not None:
            self._watch_platform(runtime, memory.facts)
        pulled = memory.pulled
        snapshots = dict(pulled.snapshots) if pulled else {}
        errors = {report.name: report.error for report in pulled.reports} if pulled else {}
        for settings in runtime.settings.sources:
            source = sources.get(settings.name)
            if source is None:
                continue
            watcher = self._sources.get(settings.name)
            if watcher is None or watcher.source is not source:
                if watcher is not None:
                    watcher.stop()
                watch = runtime.settings.watch
                watcher = Watcher(settings.name, source, settings.poll, self._report_source, watch, stopping=runtime.stop)
                self._sources[settings.name] = watcher
            seen = snapshots.get(settings.name) if pulled and settings.name in pulled.fresh else None
            accepted = pulled is None or settings.name not in pulled.implausible
            watcher.on_converged(
                seen, _layers(settings, runtime, memory.facts), accepted=accepted, error=errors.get(settings.name)
            )

    def _watch_platform(self, runtime: Runtime, facts: Facts) -> None:
        if self._facts is None:
            platform = PlatformWatcher(runtime.settings.discovery, runtime.paths, self._kept_notices)
            self._facts = FactsWatcher(platform, lambda: self._noticed(platform.notices), stopping=runtime.stop)
        self._facts.on_converged(facts)

    def _report_source(self, name: str) -> None:
        self._changed(f"source {name}")

    def watch_targets(self, runtime: Runtime) -> None:
        """Watch the directories of the targets. One may have been made by a convergence, or be named by new settings."""
        targets = frozenset(template.target for template in runtime.settings.templates)
        directories = {str(runtime.paths.host(target).parent) for target in targets}
        watched = frozenset((*((target, 0) for target in targets), *_with_inodes(directories)))
        if watched != self._watched or (self._targets is not None and self._targets.lost):
            if self._targets is not None:
                self._targets.stop()
            self._targets = TargetWatcher(runtime.paths, targets, self._touched)
            self._watched = watched
            self._touched()  # for what was done before there was a watch

    def stop_sources(self) -> None:
        """Stop watching the sources and the platform: other settings may name others."""
        for watcher in self._sources.values():
            watcher.stop()
        self._sources.clear()
        if self._facts is not None:
            self._facts.stop()
            self._kept_notices, self._facts = self.notices, None

    def stop(self) -> None:
        self.stop_sources()
        if self._targets is not None:
            self._targets.stop()


def _with_inodes(directories: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield the directories that exist, each with its inode: one that was made again has to be watched again."""
    for directory in directories:
        with contextlib.suppress(OSError):
            yield directory, os.stat(directory).st_ino


def _layers(settings: Source, runtime: Runtime, facts: Facts | None) -> tuple[str, ...] | None:
    """Return the layers that a source is asked for, or None if a fact for them is missing."""
    try:
        return layer_names(settings, facts, runtime.build) if facts else None
    except DiscoveryError:
        return None
