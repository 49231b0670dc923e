"""Build the records of the settings from the raw tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.keypath import KeyPath, segments
from agent.settings import plugin_tables, schema, template_order
from agent.settings.models import TABLES, Component, Key, Settings, Sink, Source, Template
from agent.settings.schema import Problems
from agent.settings.source_lines import Location
from agent.settings.toml_files import RawSettings

_FACT_ORIGINS = ("tag", "userdata", "fact")


def build(raw: RawSettings, main: Path, backends: Mapping[str, str], sinks: Mapping[str, str], problems: Problems) -> Settings:
    """Return the settings that could be read. A table with a problem keeps its defaults, so that the rest is checked too.

    `main` is the file that should hold [component]; `backends` and `sinks` map a name to "module:Class".
    """
    values: dict[str, Any] = {
        name: schema.read(cls, raw.values(name), raw.location(name), problems)
        for name, cls in TABLES.items()
        if name != "component" or name in raw.tables
    }
    if "component" not in raw.tables and str(main) in raw.files:
        problems.add(Location("component", raw.files[str(main)]), 'is missing; it needs at least name = "..."')
    values["component"] = values.get("component") or Component(name="unnamed")
    values["keys"] = _keys(raw, problems)
    values["facts"] = _facts(raw, problems)
    values["facts_from"] = _facts_from(raw, problems)
    values["templates"] = template_order.ordered(_templates(raw, problems), raw, problems)
    values["sources"] = tuple(plugin_tables.read("source", Source, "backend", backends, raw, problems))
    values["sinks"] = tuple(plugin_tables.read("sink", Sink, "type", sinks, raw, problems))
    values["files"] = tuple(raw.files)
    return Settings(**{name: value for name, value in values.items() if value is not None})


def _templates(raw: RawSettings, problems: Problems) -> tuple[Template, ...]:
    return tuple(
        dataclasses.replace(template, name=name)
        for name, entry in raw.items.get("template", {}).items()
        if (template := schema.read(Template, entry.value, entry.location, problems))
    )


def _keys(raw: RawSettings, problems: Problems) -> dict[KeyPath, Key]:
    keys = {}
    for name, entry in raw.tables.get("keys", {}).items():
        table = entry.value
        if isinstance(table, dict) and "type" not in table and any(isinstance(value, dict) for value in table.values()):
            problems.add(entry.location, f'a key is declared with its whole path in quotes, as [keys."{name}.NAME"]')
            continue
        key = schema.read(Key, table, entry.location, problems)
        if key is not None:
            keys[segments(name)] = key
    return keys


def _facts(raw: RawSettings, problems: Problems) -> dict[str, Any]:
    facts = {}
    for name, entry in raw.tables.get("facts", {}).items():
        value = entry.value
        if isinstance(value, (str, int, dict)) and not isinstance(value, bool):
            facts[name] = str(value) if isinstance(value, int) else value
        else:
            problems.add(entry.location, f"expected a string or a table, found {schema.kind_of(value)}")
    return facts


def _facts_from(raw: RawSettings, problems: Problems) -> dict[str, tuple[str, ...]]:
    facts_from = {}
    for name, entry in raw.tables.get("facts_from", {}).items():
        value = [entry.value] if isinstance(entry.value, str) else entry.value
        origins = schema.convert(tuple[str, ...], value, entry.location, problems) or ()
        for origin in origins:
            kind, _, key = (origin or "").partition(":")
            if kind not in _FACT_ORIGINS or not key:
                problems.add(entry.location, f'found "{origin}", expected "tag:NAME", "userdata:NAME" or "fact:NAME"')
        facts_from[name] = origins
    return facts_from
