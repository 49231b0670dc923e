"""All that the daemon waits for, each in a thread of its own that only puts a word in the loop's queue."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping

from agent.convergence import drift
from agent.convergence.context import World
from agent.discovery.watcher import Watcher as PlatformWatcher
from agent.errors import DiscoveryError
from agent.model import FactValue
from agent.settings.models import Source
from agent.sources.pull import layer_names
from agent.sources.watcher import FactsWatcher, Watcher


class Watchers:
    """The sources, the platform, and the places of the targets. `changed` is called with the cause, `touched` when somebody
    wrote in a target's place, `noticed` with what the platform said."""

    def __init__(
        self,
        changed: Callable[[str], None],
        touched: Callable[[], None],
        noticed: Callable[[Mapping[str, FactValue | None]], None],
    ) -> None:
        self._changed, self._touched, self._noticed = changed, touched, noticed
        self._sources: dict[str, Watcher] = {}
        self._facts: FactsWatcher | None = None
        self._told: Mapping[str, FactValue | None] = {}
        self._targets: drift.Watch | None = None
        self._watched: frozenset[tuple[str, int]] = frozenset()

    def watch_all(self, names: Iterable[str]) -> bool:
        """Whether each of these sources is watched."""
        return self._sources.keys() >= set(names)

    @property
    def any_source(self) -> bool:
        return bool(self._sources)

    @property
    def notices(self) -> Mapping[str, FactValue | None]:
        """What the platform has told since the start, also before the settings were read anew."""
        return self._facts.platform.notices if self._facts is not None else self._told

    def saw(self, world: World) -> None:
        """What was pulled and found out last. Every source is watched from the first convergence on, so that one that comes
        back is seen at once."""
        if world.facts is not None:
            if self._facts is None:
                platform = PlatformWatcher(world.settings.discovery, world.paths, self._told)
                self._facts = FactsWatcher(platform, lambda: self._noticed(platform.notices))
            self._facts.on_converged(world.facts)
        pulled = dict(world.pulled.snapshots) if world.pulled else {}
        fresh = world.pulled.fresh if world.pulled else frozenset()
        implausible = world.pulled.implausible if world.pulled else frozenset()
        errors = {report.name: report.error for report in world.pulled.reports} if world.pulled else {}
        for settings in world.settings.sources:
            opened = world.sources.get(settings.name)
            if opened is None:
                continue
            watcher = self._sources.get(settings.name)
            if watcher is None or watcher.source is not opened[1]:
                if watcher is not None:
                    watcher.stop()
                told = lambda name: self._changed(f"source {name}")  # noqa: E731 - one line, and the same for all
                watcher = Watcher(settings.name, opened[1], settings.poll, told, world.settings.watch)
                self._sources[settings.name] = watcher
            seen = pulled.get(settings.name) if settings.name in fresh else None
            believed = settings.name not in implausible
            watcher.on_converged(seen, _layers(settings, world), accepted=believed, error=errors.get(settings.name))

    def watch_targets(self, world: World) -> None:
        """A target's place may have come into being with a convergence, and a target with other settings."""
        targets = frozenset(template.target for template in world.settings.templates)
        paths = {str(world.paths.host(target).parent) for target in targets}
        watched = frozenset((*((target, 0) for target in targets), *_there(paths)))
        if watched != self._watched or (self._targets is not None and self._targets.lost):
            if self._targets is not None:
                self._targets.stop()
            self._targets = drift.Watch(world.paths, targets, self._touched)
            self._watched = watched
            self._touched()  # of what was done before there was a watch

    def stop_sources(self) -> None:
        """Sources and facts, which other settings may have otherwise."""
        for watcher in self._sources.values():
            watcher.stop()
        self._sources.clear()
        if self._facts is not None:
            self._facts.stop()
            self._told, self._facts = self.notices, None

    def stop(self) -> None:
        self.stop_sources()
        if self._targets is not None:
            self._targets.stop()


def _there(paths: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Those directories that exist, each with its inode: one that was made anew is watched anew."""
    for place in paths:
        with contextlib.suppress(OSError):
            yield place, os.stat(place).st_ino


def _layers(settings: Source, world: World) -> tuple[str, ...] | None:
    """What a source is asked for; None where a fact for it is not known."""
    try:
        return layer_names(settings, world.facts, world.build) if world.facts else None
    except DiscoveryError:
        return None
