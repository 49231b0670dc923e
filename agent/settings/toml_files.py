"""Read the TOML files of the settings: every table and item as it is written, with its location."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.paths import Paths
from agent.settings.models import FREE_TABLES, ITEMS, RUN_TIME_TABLES, TABLES
from agent.settings.schema import Problems, closest, kind_of
from agent.settings.source_lines import Location, SourceFile

_ALL_TABLES = (*TABLES, *ITEMS, *FREE_TABLES)
_DEFAULT_NAME_KEYS = {"source": "backend", "sink": "type", "template": "target"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of a file, and its location."""

    value: Any
    location: Location


@dataclass
class RawSettings:
    """The content of all files, unchecked: tables by name and key, items by table and item name.

    `files` are the files by path, `table_files` the last file of each table.
    """

    tables: dict[str, dict[str, Entry]] = field(default_factory=dict)
    items: dict[str, dict[str, Entry]] = field(default_factory=dict)
    files: dict[str, SourceFile] = field(default_factory=dict)
    table_files: dict[str, SourceFile] = field(default_factory=dict)

    def values(self, table: str) -> dict[str, Any]:
        """Return a table as plain values. {} if no file has it."""
        return {key: entry.value for key, entry in self.tables.get(table, {}).items()}

    def location(self, table: str) -> Location:
        """Return the location of a table: each of its keys in its file, the table itself in the last of these files."""
        keys = {key: entry.location for key, entry in self.tables.get(table, {}).items()}
        return Location(table, self.table_files.get(table), keys)

    def item_location(self, table: str, name: str) -> Location:
        """Return the location of an item of [[source]], [[sink]] or [[template]]."""
        return self.items[table][name].location


def read_files(paths: Paths, main: Path, problems: Problems) -> RawSettings:
    """Read all files in the order of their precedence; a later file's key or item replaces an earlier one's.

    `main` is /etc/parbake/parbake.toml, or the file of `--config`. A file that cannot be read is added to `problems`.
    """
    raw = RawSettings()
    if not main.is_file():
        problems.add(Location(str(main)), "no such file; it holds [component] and the rest of the build config")
    baked = [*_toml_files(paths.vendor_directory), *([main] if main.is_file() else []), *_toml_files(paths.baked_directory)]
    for path in baked:
        _read_file(path, raw, problems, is_run_time=False)
    for path in _toml_files(paths.runtime_directory):
        _read_file(path, raw, problems, is_run_time=True)
    return raw


def _toml_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.toml")) if directory.is_dir() else []


def _read_file(path: Path, raw: RawSettings, problems: Problems, *, is_run_time: bool) -> None:
    try:
        text = path.read_text("utf-8")
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.add(Location(str(path)), f"not valid TOML: {error}")
        return
    except (OSError, UnicodeDecodeError) as error:
        problems.add(Location(str(path)), f"cannot be read: {error}")
        return
    file = raw.files[str(path)] = SourceFile(str(path), text)
    for name, value in document.items():
        location = Location(name, file)
        if name not in _ALL_TABLES:
            problems.add(location, f'unknown table "{name}"{closest(name, _ALL_TABLES)}')
        elif is_run_time and name not in RUN_TIME_TABLES:
            problems.add(
                location,
                f"[{name}] is build config, which does not change on an instance; "
                f"only {', '.join(RUN_TIME_TABLES)} may be set here",
            )
        elif name in ITEMS:
            _read_items(name, value, location, raw, problems)
        elif not isinstance(value, dict):
            problems.add(location, f"expected a table, found {kind_of(value)}")
        else:
            raw.table_files[name] = file
            raw.tables.setdefault(name, {}).update({key: Entry(item, location.key(key)) for key, item in value.items()})


def _read_items(table: str, value: Any, location: Location, raw: RawSettings, problems: Problems) -> None:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        problems.add(location, f"expected [[{table}]], a list of tables, found {kind_of(value)}")
        return
    items: dict[str, Entry] = {}
    for index, item in enumerate(value):
        name, entry = _item_name(table, item), Entry(item, location.item(index))
        if name in items:
            problems.add(
                entry.location, f'a second [[{table}]] with the name "{name}" in this file; give each a different `name`'
            )
        items[name] = entry
    raw.items.setdefault(table, {}).update(items)


def _item_name(table: str, item: Mapping[str, Any]) -> str:
    """Return the name of an item: its `name`, else its backend, its type, or the file name of its target."""
    name = str(item.get("name") or item.get(_DEFAULT_NAME_KEYS[table]) or "")
    return name.rsplit("/", 1)[-1] if table == "template" else name
