"""The file and line of each setting. `tomllib` gives no positions, so the text is scanned for headers and keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_NAME = r"(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')"
_PATH = rf"{_NAME}(?:\s*\.\s*{_NAME})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_PATH})\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(rf"\s*({_PATH})\s*=")


def quoted(key: str) -> str:
    """Return a key as TOML writes it in a path."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'


class SourceFile:
    """A settings file and the line of each setting in it, by path: "template[1].mode", 'keys."db.password".type'."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self._lines: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        table = ""
        for number, line in enumerate(text.splitlines(), 1):
            if match := _HEADER.match(line):
                table = self._record_table(_names(match[2]), number, is_item=match[1] == "[[")
            elif match := _KEY.match(line):
                self._lines.setdefault(".".join([*([table] if table else []), *_names(match[1])]), number)

    def _record_table(self, names: list[str], number: int, *, is_item: bool) -> str:
        """Record a table's header, and return the table's path: [template.x] is in the last [[template]] before it."""
        parent = ""
        for name in names[:-1]:
            parent = f"{parent}.{name}" if parent else name
            self._lines.setdefault(parent, number)
            if parent in self._counts:
                parent = f"{parent}[{self._counts[parent] - 1}]"
        path = f"{parent}.{names[-1]}" if parent else names[-1]
        self._lines.setdefault(path, number)
        if is_item:
            index = self._counts.get(path, 0)
            self._counts[path] = index + 1
            path = f"{path}[{index}]"
            self._lines[path] = number
        return path

    def line(self, path: str) -> int | None:
        """Return the line of a setting, or of the nearest table around it. None if the file has neither."""
        while path and path not in self._lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._lines.get(path)


def _names(path: str) -> list[str]:
    return [quoted(name[1:-1] if name[0] in "\"'" else name) for name in re.findall(_NAME, path)]


@dataclass(frozen=True, slots=True)
class Location:
    """The location of a setting. `str()` gives "FILE:LINE: PATH", or PATH alone if no file is known.

    `keys` holds the locations of a table's keys if several files make up the table.
    """

    path: str
    file: SourceFile | None = None
    keys: Mapping[str, Location] = field(default_factory=dict)

    def key(self, name: str) -> Location:
        """Return the location of a key of this table."""
        return self.keys.get(name) or Location(f"{self.path}.{quoted(name)}", self.file)

    def item(self, index: int) -> Location:
        """Return the location of an item of this list."""
        return Location(f"{self.path}[{index}]", self.file)

    def __str__(self) -> str:
        if self.file is None:
            return self.path
        line = self.file.line(self.path)
        return f"{self.file.path}{f':{line}' if line else ''}: {self.path}"
