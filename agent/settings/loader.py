"""TOML files -> one frozen `Settings`, or one SettingsError with every problem of every file."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.errors import SettingsError
from agent.keypath import segments
from agent.paths import Paths
from agent.settings import interpolation, plugins, schema, source_lines, template_order, validation
from agent.settings.models import Component, Discovery, Key, Log, Settings, Ship, Sink, Source, State, Template, Units, Watch
from agent.settings.schema import Problems

TABLES: dict[str, type] = {
    "component": Component,
    "discovery": Discovery,
    "units": Units,
    "watch": Watch,
    "ship": Ship,
    "state": State,
    "log": Log,
}
LISTS: dict[str, type] = {"source": Source, "sink": Sink, "template": Template}
FREE = ("facts", "facts_from", "keys")
_UNKNOWN = re.compile(r'unknown key "([^"]+)"')
AT_RUN_TIME = ("facts", "source", "sink", "log")


@dataclass(frozen=True, slots=True)
class Families:
    """The plugin tables, name -> "module:Class", that settings may choose from. Injected, so that imports go one way."""

    backends: Mapping[str, str] = field(default_factory=dict)
    sinks: Mapping[str, str] = field(default_factory=dict)
    providers: Mapping[str, str] = field(default_factory=dict)
    clouds: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Found:
    """What the files said so far, raw, each entry with the place it stands at."""

    tables: dict[str, dict[str, tuple[Any, str]]] = field(default_factory=dict)
    lists: dict[str, dict[str, tuple[dict[str, Any], str]]] = field(default_factory=dict)
    lines: dict[str, source_lines.Lines] = field(default_factory=dict)
    main_there: bool = True


def load(paths: Paths, families: Families, config: Path | None = None) -> Settings:
    """The settings of the image below `paths`, with `config` in place of /etc/parbake/parbake.toml where given.

    A later file's key overrides an earlier one's; a later [[source]], [[sink]] or [[template]] of the same name replaces
    the earlier. Raises SettingsError with every problem found.
    """
    problems = Problems()
    found = _Found()
    main = config or paths.main_file
    if not main.is_file():
        found.main_there = False
        problems.add(str(main), "no such file; it holds [component] and the rest of the build config")
    for path in _toml_files(paths.vendor_directory):
        _take_file(path, found, problems, run_time=False)
    if main.is_file():
        _take_file(main, found, problems, run_time=False)
    for path in _toml_files(paths.baked_directory):
        _take_file(path, found, problems, run_time=False)
    for path in _toml_files(paths.runtime_directory):
        _take_file(path, found, problems, run_time=True)
    settings = _build(found, families, problems)
    validation.check(settings, paths, families.providers, families.clouds, problems)
    if problems.found:
        count = len(problems.found)
        raise SettingsError(
            f"the settings are invalid: {count} problem{'s' if count != 1 else ''}",
            [_exact(text, found.lines) for text in problems.found],
            hint="nothing was changed; docs/reference/settings.md lists every table and key",
        )
    return settings


def _exact(text: str, lines: Mapping[str, source_lines.Lines]) -> str:
    """A finding inside a table, moved from the table's line to its own key's."""
    for path, numbered in lines.items():
        if text.startswith(f"{path}:"):
            where, _, what = text.removeprefix(f"{path}:").lstrip("0123456789: ").partition(": ")
            unknown = _UNKNOWN.match(what)
            place = numbered.at(f"{where}.{unknown[1]}" if unknown else where)
            return f"{place.rsplit(': ', 1)[0]}: {where}: {what}"
    return text


def _toml_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.toml")) if directory.is_dir() else []


def _take_file(path: Path, found: _Found, problems: Problems, *, run_time: bool) -> None:
    try:
        text = path.read_text("utf-8")
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.add(str(path), f"not valid TOML: {error}")
        return
    except (OSError, UnicodeDecodeError) as error:
        problems.add(str(path), f"cannot be read: {error}")
        return
    lines = found.lines[str(path)] = source_lines.Lines(str(path), text)
    for name, value in document.items():
        if name not in {*TABLES, *LISTS, *FREE}:
            problems.add(lines.at(name), f'unknown table "{name}"{schema.closest(name, {*TABLES, *LISTS, *FREE})}')
        elif run_time and name not in AT_RUN_TIME:
            allowed = ", ".join(AT_RUN_TIME)
            problems.add(
                lines.at(name),
                f"[{name}] is build config, which does not change on an instance; only {allowed} may be set here",
            )
        elif name in LISTS:
            _take_list(name, value, lines, found, problems)
        elif not isinstance(value, dict):
            problems.add(lines.at(name), f"expected a table, found {schema.kind_of(value)}")
        else:
            table = found.tables.setdefault(name, {})
            table.update({key: (item, lines.at(f"{name}.{source_lines.quoted(key)}")) for key, item in value.items()})


def _take_list(name: str, value: Any, lines: source_lines.Lines, found: _Found, problems: Problems) -> None:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        problems.add(lines.at(name), f"expected [[{name}]], a list of tables, found {schema.kind_of(value)}")
        return
    here: set[str] = set()
    for index, item in enumerate(value):
        where = lines.at(f"{name}[{index}]")
        label = _label(name, item)
        if label in here:
            problems.add(where, f'a second [[{name}]] called "{label}"; give each a `name` of its own')
        here.add(label)
        found.lists.setdefault(name, {})[label] = (item, where)


def _label(name: str, item: Mapping[str, Any]) -> str:
    kind = {"source": "backend", "sink": "type", "template": "target"}[name]
    label = item.get("name") or item.get(kind) or ""
    return str(label).rsplit("/", 1)[-1] if name == "template" else str(label)


def _build(found: _Found, families: Families, problems: Problems) -> Settings:
    """What could be read; the tables that could not are left at their defaults, so that the rest is checked too."""
    values: dict[str, Any] = {name: _table(name, cls, found, problems) for name, cls in TABLES.items()}
    if "component" not in found.tables and found.main_there:
        problems.add("[component]", 'is missing; it needs at least name = "..."')
    values["component"] = values["component"] or Component(name="unnamed")
    values["keys"] = _keys(found, problems)
    values["facts"] = _facts(found, problems)
    values["facts_from"] = _facts_from(found, problems)
    values["templates"] = tuple(
        dataclasses.replace(template, name=label)
        for label, item, where in _items("template", found)
        if (template := schema.read(Template, item, where, problems))
    )
    values["templates"] = template_order.ordered(values["templates"], problems)
    values["sources"] = tuple(_plugged("source", Source, "backend", families.backends, found, problems))
    values["sinks"] = tuple(_plugged("sink", Sink, "type", families.sinks, found, problems))
    values["files"] = tuple(found.lines)
    return Settings(**{name: value for name, value in values.items() if value is not None})


def _items(name: str, found: _Found) -> Iterable[tuple[str, dict[str, Any], str]]:
    return [(label, item, where) for label, (item, where) in found.lists.get(name, {}).items()]


def _table(name: str, cls: type, found: _Found, problems: Problems) -> Any:
    raw = found.tables.get(name, {})
    if name == "component" and not raw:
        return None
    lines = {key: where for key, (_, where) in raw.items()}
    attempt = Problems()
    value = schema.read(cls, {key: item for key, (item, _) in raw.items()}, name, attempt)
    for text in attempt.found:
        place, _, what = text.partition(": ")
        key = next((k for k in lines if place == f"{name}.{k}" or place.startswith((f"{name}.{k}.", f"{name}.{k}["))), None)
        key = key or next((k for k in lines if what.startswith(f'unknown key "{k}"')), None)
        where = lines[key] if key else f"{next(iter(lines.values())).split(': ')[0]}: {place}" if lines else place
        problems.add(where, what)
    return value


def _keys(found: _Found, problems: Problems) -> dict[tuple[str, ...], Key]:
    keys = {}
    for name, (table, where) in found.tables.get("keys", {}).items():
        if isinstance(table, dict) and "type" not in table and any(isinstance(v, dict) for v in table.values()):
            problems.add(where, f'a key is declared with its whole path in quotes, as [keys."{name}.NAME"]')
            continue
        key = schema.read(Key, table, where, problems)
        if key is not None:
            keys[segments(name)] = key
    return keys


def _facts(found: _Found, problems: Problems) -> dict[str, Any]:
    facts = {}
    for name, (value, where) in found.tables.get("facts", {}).items():
        if isinstance(value, (str, int, dict)) and not isinstance(value, bool):
            facts[name] = str(value) if isinstance(value, int) else value
        else:
            problems.add(where, f"expected a string or a table, found {schema.kind_of(value)}")
    return facts


def _facts_from(found: _Found, problems: Problems) -> dict[str, tuple[str, ...]]:
    result = {}
    for name, (value, where) in found.tables.get("facts_from", {}).items():
        value = [value] if isinstance(value, str) else value
        origins = schema.convert(tuple[str, ...], value, where, problems) or ()
        for origin in origins:
            kind, _, key = (origin or "").partition(":")
            if kind not in ("tag", "userdata", "fact") or not key:
                problems.add(where, f'found "{origin}", expected "tag:NAME", "userdata:NAME" or "fact:NAME"')
        result[name] = origins
    return result


def _plugged(name: str, cls: Any, kind: str, table: Mapping[str, str], found: _Found, problems: Problems) -> Iterable[Any]:
    """[[source]] and [[sink]]: the keys of every plugin, and those of the one that is named."""
    common = schema.toml_keys(cls)
    for label, item, where in _items(name, found):
        general = schema.read(cls, {k: v for k, v in item.items() if k in common}, where, problems)
        if not isinstance(item.get(kind), str):
            continue
        try:
            plugin = plugins.load(table, item[kind], kind)
        except SettingsError as error:
            problems.add(f"{where}.{kind}", str(error))
            continue
        if not dataclasses.is_dataclass(getattr(plugin, "options_class", None)):
            problems.add(f"{where}.{kind}", f'"{item[kind]}" is no {kind}: it has no options_class; see CONTRIBUTING.md')
            continue
        rest = {k: v for k, v in item.items() if k not in common}
        options = schema.read(plugin.options_class, rest, where, problems, extra=common)
        if general is None or options is None:
            continue
        for text in _strings(rest):
            for problem in interpolation.problems(text):
                problems.add(where, problem)
        yield dataclasses.replace(general, name=label, options=options)


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
