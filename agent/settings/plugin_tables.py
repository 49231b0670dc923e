"""Read [[source]] and [[sink]]: the keys that every item has, and the options of the plug-in that the item names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from agent.errors import SettingsError
from agent.settings import interpolation, plugins, schema
from agent.settings.schema import Problems
from agent.settings.source_lines import Location
from agent.settings.toml_files import RawSettings


def read(table: str, cls: Any, kind: str, family: Mapping[str, str], raw: RawSettings, problems: Problems) -> Iterator[Any]:
    """Yield a `cls`, with its `options`, for each item of [[`table`]] that is valid.

    `kind` is the key that names the plug-in ("backend" or "type"), `family` maps the plug-in's name to "module:Class".
    """
    common = schema.toml_keys(cls)
    for name, entry in raw.items.get(table, {}).items():
        item, location = entry.value, entry.location
        general = schema.read(cls, {key: value for key, value in item.items() if key in common}, location, problems)
        if not isinstance(item.get(kind), str):
            continue
        options_class = _options_class(item[kind], kind, family, location.key(kind), problems)
        if options_class is None:
            continue
        given = {key: value for key, value in item.items() if key not in common}
        options = schema.read(options_class, given, location, problems, extra=common)
        if general is None or options is None:
            continue
        for key, value in given.items():
            for text in _strings(value):
                for problem in interpolation.problems(text):
                    problems.add(location.key(key), problem)
        yield dataclasses.replace(general, name=name, options=options)


def _options_class(name: str, kind: str, family: Mapping[str, str], location: Location, problems: Problems) -> type[Any] | None:
    try:
        plugin = plugins.load(family, name, kind)
    except SettingsError as error:
        problems.add(location, str(error))
        return None
    options_class: type[Any] | None = getattr(plugin, "options_class", None)
    if not isinstance(options_class, type) or not dataclasses.is_dataclass(options_class):
        problems.add(location, f'"{name}" is not a {kind}: it has no dataclass as its options_class; see CONTRIBUTING.md')
        return None
    return options_class


def _strings(value: Any) -> Iterator[str]:
    """Yield every string in a value of TOML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
