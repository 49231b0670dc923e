"""Pull all sources once, and fall back to the last good snapshot of a source that fails or gives an implausible answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.discovery import engine
from agent.errors import DiscoveryError, SourceError, SourceMissing, SourceUnreachable
from agent.model import Facts, Snapshot, SourceReport, SourceState
from agent.settings import interpolation
from agent.settings.models import Source as SourceSettings
from agent.sources import Source, containment
from agent.state.last_good import LastGood, layers_with_keys


@dataclass(frozen=True, slots=True)
class Pulled:
    """The snapshots and reports of all sources.

    `snapshots` are (source name, snapshot) in overlay order. `fresh` names the sources whose answer was accepted,
    `implausible` those whose answer was not. `missing` has a line for each required source without any snapshot.
    """

    snapshots: tuple[tuple[str, Snapshot], ...]
    reports: tuple[SourceReport, ...]
    fresh: frozenset[str]
    missing: tuple[str, ...] = ()
    implausible: frozenset[str] = frozenset()

    @property
    def stale(self) -> bool:
        return any(report.state == SourceState.STALE for report in self.reports)


def layer_names(settings: SourceSettings, facts: Facts, build: Mapping[str, str]) -> tuple[str, ...]:
    """Return a source's layers with their placeholders filled. Raises DiscoveryError naming a missing fact."""
    spaces: dict[str, Mapping[str, Any]] = {"facts": facts.values, "build": build}
    try:
        return tuple(interpolation.fill(layer, spaces) for layer in settings.layers)
    except DiscoveryError as error:
        raise DiscoveryError(f"layer {error} (asked: {engine.providers_summary(facts)})", hint=error.hint) from None


def pull(
    sources: Iterable[tuple[SourceSettings, Source[object]]],
    facts: Facts,
    build: Mapping[str, str],
    good: LastGood,
    now: Callable[[], str],
    vet: Callable[[SourceSettings, Facts], None] = lambda settings, facts: None,
    *,
    stopping: threading.Event | None = None,
) -> Pulled:
    """Fetch every source once.

    A source that fails, or whose answer is implausible, gives its last good snapshot and is stale. `now` returns the time
    in ISO 8601. `vet` raises DiscoveryError for facts that must not enter a source's layers. Once `stopping` is set no
    further source is asked, and the remaining ones count as unreachable.
    """
    snapshots: list[tuple[str, Snapshot]] = []
    reports: list[SourceReport] = []
    fresh: set[str] = set()
    missing: list[str] = []
    implausible: set[str] = set()
    for settings, source in sources:
        name = settings.name
        layers: tuple[str, ...] | None = None
        try:
            vet(settings, facts)
            layers = layer_names(settings, facts, build)
            if stopping is not None and stopping.is_set():
                raise SourceUnreachable("stopped before it was asked")
            snapshot = containment.fetch(source, name, layers)
            check_plausible(settings, snapshot, good.had.get(name, frozenset()))
        except (SourceError, DiscoveryError) as error:
            last = matching_layers(good.snapshots.get(name), layers)
            if isinstance(error, SourceMissing):
                implausible.add(name)
            reason = f"{error}; {error.hint}" if error.hint else str(error)
            reports.append(fallback_report(settings, last, good.fetched.get(name), reason))
            if last is not None:
                snapshots.append((name, last))
            elif settings.required:
                missing.append(f"{name} ({settings.backend}): {reason}")
            continue
        fresh.add(name)
        snapshots.append((name, snapshot))
        reports.append(SourceReport(name, settings.backend, SourceState.OK, snapshot.revision, now()))
    return Pulled(tuple(snapshots), tuple(reports), frozenset(fresh), tuple(missing), frozenset(implausible))


def check_plausible(settings: SourceSettings, snapshot: Snapshot, had: frozenset[str]) -> None:
    """Refuse an answer that would empty a config. Raises SourceMissing.

    `had` are the layers that have keys in the last good snapshot. If such a layer has no keys now, a store has far more
    often lost its state than an operator removed the last key.
    """
    if settings.allow_empty:
        return
    emptied = had - layers_with_keys(snapshot)
    names = [layer.name or "(top)" for layer in snapshot.layers if layer.name in emptied]
    if names:
        raise SourceMissing(
            f"layer {', '.join(names)} had keys and has none now; the answer is not accepted",
            hint=f"if that is meant, set allow_empty = true on [[source]] {settings.name}",
        )
    if settings.required and all(layer.tree is None for layer in snapshot.layers[: len(settings.layers)]):
        names = [layer.name or "(top)" for layer in snapshot.layers]
        raise SourceMissing(f"none of its layers exists{path_hint(settings)}: {', '.join(names)}")


def path_hint(settings: SourceSettings) -> str:
    """Return " below PATH" for a message, from the option of the backend that says where its layers are, or ""."""
    options = (getattr(settings.options, name, "") for name in ("path", "prefix", "table", "application", "bucket"))
    return next((f" below {value}" for value in options if isinstance(value, str) and value), "")


def matching_layers(last: Snapshot | None, layers: Sequence[str] | None) -> Snapshot | None:
    """Return the last good snapshot if it is of these layers: another environment's config is never used.

    `layers` is None if they are unknown, because a fact is missing.
    """
    if last is None or layers is None:
        return last
    # A source may add layers behind those that were asked for, such as services.
    names = tuple(layer.name for layer in last.layers[: len(layers)])
    return last if names == tuple(layers) else None


def fallback_report(settings: SourceSettings, last: Snapshot | None, fetched: str | None, error: str) -> SourceReport:
    """Return the report of a source that failed. `last` is the snapshot that is used instead, of the time `fetched`."""
    if last is not None:
        return SourceReport(settings.name, settings.backend, SourceState.STALE, last.revision, fetched or None, error)
    state = SourceState.FAILED if settings.required else SourceState.ABSENT
    return SourceReport(settings.name, settings.backend, state, "", None, error)
