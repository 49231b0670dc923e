"""`{{ facts.environment }}` and `{{ build.component }}` inside settings: layers, labels, a source's options.

These are lookups, not templates, so that finding a layer's path needs no Jinja2 at boot.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from agent.errors import DiscoveryError

_BRACES = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_NAME = re.compile(r"\s*(facts|build)\.([A-Za-z_][A-Za-z0-9_.-]*)\s*")
T = TypeVar("T")


def problems(text: str) -> Iterator[str]:
    """What is wrong with the placeholders of a setting."""
    for match in _BRACES.finditer(text):
        if not _NAME.fullmatch(match[1]):
            yield f'"{match[0]}" is not a placeholder; expected {{{{ facts.NAME }}}} or {{{{ build.NAME }}}}'
    rest = _BRACES.sub("", text)
    if "{{" in rest or "{%" in rest:
        yield f'"{text}" has an unfinished placeholder; only {{{{ facts.NAME }}}} and {{{{ build.NAME }}}} work here'


def names(text: str) -> frozenset[str]:
    """The facts that a setting names, such as {"environment", "tags.role"}."""
    found = (_NAME.fullmatch(match[1]) for match in _BRACES.finditer(text))
    return frozenset(match[2] for match in found if match and match[1] == "facts")


def names_in(value: Any) -> frozenset[str]:
    """The same for a value of settings: a string, or a list or table with strings in it."""
    if isinstance(value, str):
        return names(value)
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return frozenset(name for item in items for name in names_in(item))


def names_in_options(options: Any) -> frozenset[str]:
    """The same for the options of a plugin."""
    return frozenset(name for field in dataclasses.fields(options) for name in names_in(getattr(options, field.name)))


def value_of(space: Mapping[str, Any], name: str) -> Any:
    """What a dotted name stands for; None where it is absent."""
    found: Any = space
    for segment in name.split("."):
        found = found.get(segment) if isinstance(found, Mapping) else None
    return found


def fill(text: str, spaces: Mapping[str, Mapping[str, Any]]) -> str:
    """`text` with its placeholders replaced.

    Raises DiscoveryError, naming the fact, where one is absent: a path with a hole in it is never used.
    """

    def value(match: re.Match[str]) -> str:
        name = _NAME.fullmatch(match[1])
        if name is None:
            raise DiscoveryError(f'"{match[0]}" in "{text}" is not a placeholder')
        found = value_of(spaces.get(name[1], {}), name[2])
        if not isinstance(found, (str, int)) or found == "":
            raise DiscoveryError(
                f'"{text}" needs {name[1]}.{name[2]}, which is not known on this instance',
                hint="run `parbake facts -v` to see which providers were asked, or set it under [facts]",
            )
        return str(found)

    return _BRACES.sub(value, text)


def fill_options(options: T, spaces: Mapping[str, Mapping[str, Any]]) -> T:
    """A settings dataclass with every placeholder in its strings, lists and tables of strings replaced."""
    changes = {}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        value = getattr(options, field.name)
        filled = _fill_value(value, spaces)
        if filled != value:
            changes[field.name] = filled
    return dataclasses.replace(options, **changes) if changes else options  # type: ignore[type-var]


def _fill_value(value: Any, spaces: Mapping[str, Mapping[str, Any]]) -> Any:
    if isinstance(value, str) and "{{" in value:
        return fill(value, spaces)
    if isinstance(value, tuple):
        return tuple(_fill_value(item, spaces) for item in value)
    if isinstance(value, Mapping):
        return {key: _fill_value(item, spaces) for key, item in value.items()}
    return value
