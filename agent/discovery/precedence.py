"""[facts_from] and [facts]: the rules and defaults of the settings, applied after the providers have answered.

A provider that failed might have given another value than the settings do. A default would then turn an instance of
prod into one of dev for as long as the metadata service is unavailable. So a fact that such a provider can give keeps the value
that it had when that provider last answered in this run. If the provider never answered in this run, the default is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from agent.discovery import CHANGING_FACTS, ProviderName, RawFacts, fact_validation
from agent.model import Attempt, FactValue
from agent.settings.models import Settings


class OriginKind(StrEnum):
    """The kinds of origins in [facts_from], as in "tag:NAME"."""

    TAG = "tag"
    USERDATA = "userdata"
    FACT = "fact"


_ORIGIN_TABLES: dict[str, str] = {OriginKind.TAG: "tags", OriginKind.USERDATA: "userdata"}


class FactCollector:
    """The facts so far, where they come from, and the attempts to get them."""

    def __init__(self) -> None:
        self.values: dict[str, FactValue] = {}
        self.providers: dict[str, str] = {}
        self.attempts: list[Attempt] = []
        self.failed: dict[str, frozenset[str] | None] = {}
        """The facts that each failed provider can give, None for any fact."""
        self.noticed: frozenset[str] = frozenset()
        """The facts whose change or removal the watcher has seen since the boot. No provider has a newer value."""

    def add(self, label: str, facts: RawFacts, *, override: bool = False) -> tuple[list[str], list[str]]:
        """Add valid facts that are new, or all valid facts with `override`.

        Returns the names of the facts that were added, and one message for each that was refused.
        """
        added, refused = [], []
        for key, raw in facts.items():
            name = str(key) if not isinstance(key, int) else "a number"  # Python refuses to print a very long one
            try:
                value = fact_validation.validate(name, raw)
            except fact_validation.FactRejected as error:
                refused.append(f"refused {name[:64]!a}: {error}")
                continue
            if value is not None and (override or name not in self.values):
                self.values[name] = value
                self.providers[name] = label
                added.append(name)
        return added, refused

    def forget(self, name: str) -> None:
        """Remove a fact."""
        self.values.pop(name, None)
        self.providers.pop(name, None)

    def uncertain_provider(self, name: str) -> str:
        """Return the failed provider that might have given another value for a fact, or ""."""
        if name in self.noticed:
            return ""
        # cloud-init's copy of a changing fact dates from the boot, so it does not settle the value.
        if name in self.values and not (name in CHANGING_FACTS and self.providers[name] == ProviderName.CLOUD_INIT):
            return ""
        return next((label for label, gives in self.failed.items() if gives is None or name in gives), "")


class _Rule(NamedTuple):
    """The key of a remembered fact. If any of these parts changes, the remembered value no longer applies."""

    root: Path
    name: str
    origins: tuple[str, ...]
    default: str
    providers: tuple[str, ...]


class FactMemory:
    """The facts of [facts_from] and [facts] as of the last time when every provider that can give them had answered.

    One memory serves one run of the daemon.
    """

    def __init__(self) -> None:
        self._facts: dict[_Rule, tuple[FactValue, str]] = {}

    def apply(self, root: Path, settings: Settings, collector: FactCollector) -> None:
        """Apply [facts_from], which overrides the providers, then [facts] for facts that are still unknown."""
        uncertain: dict[_Rule, str] = {}
        for name, origins in settings.facts_from.items():
            rule = _rule(root, settings, name)
            uncertain[rule] = _apply_origins(name, origins, collector)
            self._restore_if_uncertain(rule, uncertain[rule], collector)
        for name, value in settings.facts.items():
            rule = _rule(root, settings, name)
            if rule not in uncertain:
                uncertain[rule] = collector.uncertain_provider(name)
                self._restore_if_uncertain(rule, uncertain[rule], collector)
            _apply_default(name, value, uncertain[rule], collector)
        for rule in (rule for rule, provider in uncertain.items() if not provider):
            self._facts.pop(rule, None)
            if rule.name in collector.values:
                self._facts[rule] = collector.values[rule.name], collector.providers[rule.name]

    def _restore_if_uncertain(self, rule: _Rule, failed_provider: str, collector: FactCollector) -> None:
        if failed_provider and rule in self._facts:
            value, label = self._facts[rule]
            collector.add(label, {rule.name: value}, override=True)
            outcome = f"{rule.name} keeps its earlier value: {failed_provider} failed"
            collector.attempts.append(Attempt(ProviderName.SETTINGS, outcome, 0.0))


def _rule(root: Path, settings: Settings, name: str) -> _Rule:
    origins = tuple(settings.facts_from.get(name, ()))
    return _Rule(root, name, origins, repr(settings.facts.get(name)), tuple(settings.discovery.providers))


def _apply_default(name: str, value: object, failed_provider: str, collector: FactCollector) -> None:
    added, refused = collector.add(ProviderName.SETTINGS, {name: value})
    if added and failed_provider:
        outcome = f"{name} is taken from [facts]: {failed_provider} failed, and might have given another value"
        collector.attempts.append(Attempt(ProviderName.SETTINGS, outcome, 0.0))
    if refused:
        collector.attempts.append(Attempt(ProviderName.SETTINGS, f"failed: [facts]: {'; '.join(refused)}", 0.0))


def _apply_origins(name: str, origins: Iterable[str], collector: FactCollector) -> str:
    """Take a fact from the first origin that exists.

    Returns the failed provider that might have given this origin or an earlier one another value, or "".
    """
    failed_provider = ""
    for origin in origins:
        value = _origin_value(origin, collector.values)
        failed_provider = failed_provider or collector.uncertain_provider(_origin_fact(origin, collector.values))
        if value is None:
            continue
        label = collector.providers.get(name, origin) if origin == f"{OriginKind.FACT}:{name}" else origin
        added, refused = collector.add(label, {name: value}, override=True)
        if refused:
            collector.attempts.append(Attempt(origin, "; ".join(refused), 0.0))
        if added:
            return failed_provider
    outcome = f"{name}: there is no {' and no '.join(origins)}"
    collector.attempts.append(Attempt(ProviderName.FACTS_FROM, outcome, 0.0))
    return failed_provider


def _origin_fact(origin: str, values: Mapping[str, FactValue]) -> str:
    """Return the name of the fact that an origin names, or is part of."""
    kind, _, key = origin.partition(":")
    return _ORIGIN_TABLES.get(kind) or (key if key in values else key.partition(".")[0])


def _origin_value(origin: str, values: Mapping[str, FactValue]) -> object:
    """Return the value of "tag:NAME", "userdata:NAME" or "fact:NAME", or None. Dots in NAME lead into tables."""
    kind, _, key = origin.partition(":")
    table: object = values if kind == OriginKind.FACT else values.get(_ORIGIN_TABLES.get(kind, ""))
    if isinstance(table, Mapping) and key in table:
        return table[key]
    value = table
    for segment in key.split("."):
        value = value.get(segment) if isinstance(value, Mapping) else None
    return value
