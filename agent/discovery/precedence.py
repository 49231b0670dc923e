"""[facts_from] and [facts]: what the settings say about facts, once the providers have answered.

A provider that failed might have said something else than the settings do: a default in its place would turn an instance
of prod into one of dev for as long as the metadata service is away. So a fact that such a provider may know is what it was
when that provider last answered in this run. Where it never did, the default is what the settings have for just that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agent.discovery import CHANGING, fact_validation
from agent.model import Attempt, FactValue
from agent.settings.models import Settings

_Key = tuple[Path, str, tuple[str, ...], str, tuple[str, ...]]


class Found:
    """The facts so far, and what was said about those that were not taken."""

    def __init__(self) -> None:
        self.values: dict[str, FactValue] = {}
        self.providers: dict[str, str] = {}
        self.attempts: list[Attempt] = []
        self.failed: dict[str, tuple[str, ...] | None] = {}
        """The facts that a provider which failed can know; None for any."""
        self.noticed: frozenset[str] = frozenset()
        """The facts that the platform was seen to say or to drop, since the boot: no copy of theirs is older."""

    def add(self, label: str, answer: Mapping[str, Any], *, override: bool = False) -> tuple[list[str], list[str]]:
        """What was taken and what was refused."""
        added, refused = [], []
        for key, raw in answer.items():
            name = str(key) if not isinstance(key, int) else "a number"  # a long one has no text
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
        self.values.pop(name, None)
        self.providers.pop(name, None)

    def doubt(self, name: str) -> str:
        """The provider that failed and might have said something else about a fact, or ""."""
        if name in self.noticed:
            return ""
        # cloud-init's copy of what changes is as old as the boot: it settles nothing
        if name in self.values and not (name in CHANGING and self.providers[name] == "cloud-init"):
            return ""
        return next((label for label, gives in self.failed.items() if gives is None or name in gives), "")


class FactMemory:
    """What the facts of the settings were when every provider that can know them had answered: for one run of the daemon."""

    def __init__(self) -> None:
        self._facts: dict[_Key, tuple[FactValue, str]] = {}

    def apply(self, root: Path, settings: Settings, found: Found) -> None:
        """First the rules, which win over what a provider called the fact; then [facts], for what is still unknown."""
        doubts: dict[_Key, str] = {}
        for name, origins in settings.facts_from.items():
            key = _key(root, settings, name)
            doubts[key] = _rule(name, origins, found)
            self._settle(key, doubts[key], found)
        for name, value in settings.facts.items():
            key = _key(root, settings, name)
            if key not in doubts:
                doubts[key] = found.doubt(name)
                self._settle(key, doubts[key], found)
            added, refused = found.add("settings", {name: value})
            if added and doubts[key]:
                outcome = f"{name} is taken from [facts]: {doubts[key]} failed, and might have said something else"
                found.attempts.append(Attempt("settings", outcome, 0.0))
            if refused:
                found.attempts.append(Attempt("settings", f"failed: [facts]: {'; '.join(refused)}", 0.0))
        for key in (key for key, doubt in doubts.items() if not doubt):
            self._facts.pop(key, None)
            if key[1] in found.values:
                self._facts[key] = found.values[key[1]], found.providers[key[1]]

    def _settle(self, key: _Key, doubt: str, found: Found) -> None:
        """While the provider that may know a fact is away, it stays as it was."""
        name, earlier = key[1], self._facts.get(key)
        if doubt and earlier is not None:
            found.add(earlier[1], {name: earlier[0]}, override=True)
            found.attempts.append(Attempt("settings", f"{name} is as it was before: {doubt} failed", 0.0))


def _key(root: Path, settings: Settings, name: str) -> _Key:
    """A fact under one rule and one default: settings that were read anew begin anew."""
    rule = tuple(settings.facts_from.get(name, ()))
    return root, name, rule, repr(settings.facts.get(name)), tuple(settings.discovery.providers)


def _rule(name: str, origins: Iterable[str], found: Found) -> str:
    """Take the fact from the first origin that exists. Returns the provider that failed and might have known better."""
    doubt = ""
    for origin in origins:
        value = _origin(origin, found.values)
        doubt = doubt or found.doubt(_base(origin, found.values))
        if value is None:
            continue
        label = found.providers.get(name, origin) if origin == f"fact:{name}" else origin
        added, refused = found.add(label, {name: value}, override=True)
        if refused:
            found.attempts.append(Attempt(origin, "; ".join(refused), 0.0))
        if added:
            return doubt
    found.attempts.append(Attempt("facts_from", f"{name}: there is no {' and no '.join(origins)}", 0.0))
    return doubt


_TABLES = {"tag": "tags", "userdata": "userdata"}


def _base(origin: str, known: Mapping[str, FactValue]) -> str:
    """The fact that an origin is a part of."""
    kind, _, key = origin.partition(":")
    return _TABLES.get(kind) or (key if key in known else key.partition(".")[0])


def _origin(origin: str, known: Mapping[str, FactValue]) -> Any:
    """What "tag:NAME", "userdata:NAME" or "fact:NAME" stands for; a NAME with dots goes down into tables."""
    kind, _, key = origin.partition(":")
    table: Any = known if kind == "fact" else known.get(_TABLES.get(kind, ""), {})
    if not isinstance(table, Mapping):
        return None
    if key in table:
        return table[key]
    for segment in key.split("."):
        table = table.get(segment) if isinstance(table, Mapping) else None
    return table
