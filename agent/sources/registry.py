"""Holds the open sources. Each is opened once, and again only after a fact in its options has changed."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from agent.discovery import fact_validation
from agent.errors import DiscoveryError, SettingsError, SourceError
from agent.model import Facts, Snapshot
from agent.paths import Paths
from agent.settings import interpolation
from agent.settings.models import Source as SourceSettings
from agent.sources import Source, SourceContext, containment, new_source
from agent.sources.throttle import throttle


class SourceRegistry:
    """Opens the configured sources and hands the one stop event to each of them."""

    def __init__(self, paths: Paths, stop: threading.Event) -> None:
        self._paths = paths
        self._stop = stop
        self._opened: dict[str, tuple[object, Source[object]]] = {}
        self._broken: set[str] = set()

    @property
    def has_broken(self) -> bool:
        """Whether the constructor of a source failed, so that nothing watches it: opening it again may help."""
        return bool(self._broken)

    def get(self, name: str) -> Source[object] | None:
        """Return an open source, or None."""
        opened = self._opened.get(name)
        return opened[1] if opened else None

    def open(self, settings: SourceSettings, facts: Facts, build: Mapping[str, str]) -> Source[object]:
        """Return the source with the placeholders of its options filled.

        If a fact in its options is missing or invalid, each fetch of the returned source raises DiscoveryError. If the
        constructor has a bug, each fetch raises SourceUnreachable. Raises SettingsError for a backend that cannot be
        imported.
        """
        self._broken.discard(settings.name)
        try:
            options = _filled_options(settings, facts, build)
        except DiscoveryError as error:
            return _UnopenedSource(error)
        previous = self._opened.get(settings.name)
        if previous is not None:
            if previous[0] == options:
                return previous[1]
            del self._opened[settings.name]
            containment.close(previous[1], settings.name)
        context = SourceContext(settings.name, self._paths, settings.timeout, poll_seconds=settings.poll, stopping=self._stop)
        try:
            source = throttle(new_source(settings.backend, options, context), options, context)
        except SettingsError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a third party's constructor
            self._broken.add(settings.name)
            return _UnopenedSource(containment.unexpected(settings.name, error))
        self._opened[settings.name] = (options, source)
        return source

    def close(self) -> None:
        """Close every source. The next `open` opens them again."""
        for name, (_, source) in self._opened.items():
            containment.close(source, name)
        self._opened.clear()
        self._broken.clear()


class _UnopenedSource:
    """A source that could not be opened: each fetch fails with the reason."""

    options_class: ClassVar[type[object]] = object

    def __init__(self, error: DiscoveryError | SourceError) -> None:
        self._error = error

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        raise self._error.with_traceback(None)

    def close(self) -> None:
        return None


def check_facts_of_source(settings: SourceSettings, facts: Facts) -> None:
    """Raise DiscoveryError for a fact that would lead a source to another path. Its value may come from outside."""
    for name in {*interpolation.names_in(settings.layers), *interpolation.names_in_options(settings.options)}:
        value = interpolation.value_of(facts.values, name)
        if isinstance(value, (str, int)):
            fact_validation.check_segment(name, str(value))


def _filled_options(settings: SourceSettings, facts: Facts, build: Mapping[str, str]) -> object:
    """Fill the placeholders of a source's options. Raises DiscoveryError for a missing or an invalid fact."""
    namespaces: dict[str, Mapping[str, Any]] = {"facts": facts.values, "build": build}
    try:
        for name in sorted(interpolation.names_in_options(settings.options)):
            value = interpolation.value_of(facts.values, name)
            if isinstance(value, (str, int)):
                fact_validation.check_segment(name, str(value))
        return interpolation.fill_options(settings.options, namespaces)
    except ValueError as error:
        raise _invalid_fact(settings, facts, error) from None


def _invalid_fact(settings: SourceSettings, facts: Facts, error: ValueError) -> DiscoveryError:
    """Return the error for options that were valid when the settings were loaded, so that a fact made them invalid."""
    options = {field.name: getattr(settings.options, field.name) for field in dataclasses.fields(settings.options)}
    facts_by_option = {option: names for option, value in options.items() if (names := sorted(interpolation.names_in(value)))}
    names = sorted({name for names in facts_by_option.values() for name in names})
    values = " and ".join(f'facts.{name} = "{interpolation.value_of(facts.values, name)}"' for name in names)
    return DiscoveryError(
        f"{', '.join(facts_by_option) or 'options'} of source {settings.name}{' with ' + values if values else ''}: {error}",
        hint="see `parbake facts -v` for where the fact comes from; [facts_from] can take it from elsewhere",
    )
