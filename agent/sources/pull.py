"""Sources -> snapshots, with the last good one where a source fails or is not believed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.discovery import engine
from agent.errors import DiscoveryError, SourceError, SourceMissing
from agent.model import Facts, Snapshot, SourceReport, SourceState
from agent.settings import interpolation
from agent.settings.models import Source as SourceSettings
from agent.sources import Source
from agent.state.last_good import LastGood, layers_with_keys

log = logging.getLogger("parbake.sources")


@dataclass(frozen=True, slots=True)
class Pulled:
    """What all sources gave. `snapshots` in overlay order; `fresh` names the sources that answered and were believed,
    `implausible` those that answered and were not."""

    snapshots: tuple[tuple[str, Snapshot], ...]
    reports: tuple[SourceReport, ...]
    fresh: frozenset[str]
    missing: tuple[str, ...] = ()
    implausible: frozenset[str] = frozenset()

    @property
    def stale(self) -> bool:
        return any(report.state == "stale" for report in self.reports)


def layer_names(settings: SourceSettings, facts: Facts, build: Mapping[str, str]) -> tuple[str, ...]:
    """A source's layers with their placeholders filled. Raises DiscoveryError naming a missing fact."""
    spaces: dict[str, Mapping[str, Any]] = {"facts": facts.values, "build": build}
    try:
        return tuple(interpolation.fill(layer, spaces) for layer in settings.layers)
    except DiscoveryError as error:
        raise DiscoveryError(f"layer {error} (asked: {engine.asked(facts)})", hint=error.hint) from None


def pull(
    sources: Iterable[tuple[SourceSettings, Source]],
    facts: Facts,
    build: Mapping[str, str],
    good: LastGood,
    now: Callable[[], str],
    vet: Callable[[SourceSettings, Facts], None] = lambda settings, facts: None,
) -> Pulled:
    """Ask every source once. A source that fails or is not believed gives its last good snapshot, and is stale.

    `vet` raises DiscoveryError for facts that must not enter a source's layers.
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
            snapshot = source.fetch(layers)
            check_plausible(settings, snapshot, good.had.get(name, frozenset()))
        except (SourceError, DiscoveryError) as error:
            last = _fitting(good.snapshots.get(name), layers)
            if isinstance(error, SourceMissing):
                implausible.add(name)
            said = f"{error}; {error.hint}" if error.hint else str(error)
            reports.append(_without(settings, last, good.fetched.get(name), said))
            if last is not None:
                snapshots.append((name, last))
            elif settings.required:
                missing.append(f"{name} ({settings.backend}): {said}")
            continue
        fresh.add(name)
        snapshots.append((name, snapshot))
        reports.append(SourceReport(name, settings.backend, SourceState.OK, snapshot.revision, now()))
    return Pulled(tuple(snapshots), tuple(reports), frozenset(fresh), tuple(missing), frozenset(implausible))


def check_plausible(settings: SourceSettings, snapshot: Snapshot, had: frozenset[str]) -> None:
    """Refuse an answer that would empty a config; `had` are the layers with keys in the last good one. Raises SourceMissing.

    A layer that had keys in the last good run config and has none now is a store that lost its state far more often than
    an operator who removed the last key.
    """
    if settings.allow_empty:
        return
    lost = had - layers_with_keys(snapshot)
    gone = [layer.name for layer in snapshot.layers if layer.name in lost]
    if gone:
        raise SourceMissing(
            f"layer {', '.join(name or '(top)' for name in gone)} had keys and has none now; it is not believed",
            hint=f"if that is meant, set allow_empty = true on [[source]] {settings.name}",
        )
    if settings.required and all(layer.tree is None for layer in snapshot.layers[: len(settings.layers)]):
        names = ", ".join(layer.name or "(top)" for layer in snapshot.layers)
        raise SourceMissing(f"none of its layers exists{_place(settings)}: {names}")


def _place(settings: SourceSettings) -> str:
    """Where the layers are looked for, as far as the backend's options have a place that may be shown."""
    texts = (getattr(settings.options, name, "") for name in ("path", "prefix", "table", "application", "bucket"))
    return next((f" below {place}" for place in texts if isinstance(place, str) and place), "")


def _fitting(last: Snapshot | None, layers: Sequence[str] | None) -> Snapshot | None:
    """The last good snapshot, unless it is of other layers: another environment's config is never used."""
    if last is None:
        return None
    # a source may add layers of its own behind those asked for: services, dynamic secrets
    asked = last.layers if layers is None else last.layers[: len(layers)]
    return last if layers is None or tuple(layer.name for layer in asked) == tuple(layers) else None


def _without(settings: SourceSettings, last: Snapshot | None, fetched: str | None, error: str) -> SourceReport:
    if last is not None:
        return SourceReport(settings.name, settings.backend, SourceState.STALE, last.revision, fetched or None, error)
    state = SourceState.FAILED if settings.required else SourceState.ABSENT
    return SourceReport(settings.name, settings.backend, state, "", None, error)
