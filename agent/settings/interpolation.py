"""`{{ facts.environment }}` and `{{ build.component }}` inside settings: layers, labels, a source's options.

A placeholder is a lookup and not a template, so that the path of a layer needs no Jinja2 at boot.
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
    """Yield a message for each placeholder in `text` that is not valid."""
    for match in _BRACES.finditer(text):
        if not _NAME.fullmatch(match[1]):
            yield f'"{match[0]}" is not a placeholder; expected {{{{ facts.NAME }}}} or {{{{ build.NAME }}}}'
    rest = _BRACES.sub("", text)
    if "{{" in rest or "{%" in rest:
        yield f'"{text}" has an unfinished placeholder; only {{{{ facts.NAME }}}} and {{{{ build.NAME }}}} are supported here'


def names(text: str) -> frozenset[str]:
    """Return the facts that a text names, such as {"environment", "tags.role"}."""
    matches = (_NAME.fullmatch(match[1]) for match in _BRACES.finditer(text))
    return frozenset(match[2] for match in matches if match and match[1] == "facts")


def names_in(value: Any) -> frozenset[str]:
    """Return the facts that a value of the settings names: a string, or a list or table with strings in it."""
    if isinstance(value, str):
        return names(value)
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return frozenset(name for item in items for name in names_in(item))


def names_in_options(options: Any) -> frozenset[str]:
    """Return the facts that the options of a plug-in name."""
    return frozenset(name for field in dataclasses.fields(options) for name in names_in(getattr(options, field.name)))


def value_of(namespace: Mapping[str, Any], name: str) -> Any:
    """Return the value of a dotted name. None if it is absent."""
    value: Any = namespace
    for segment in name.split("."):
        value = value.get(segment) if isinstance(value, Mapping) else None
    return value


def fill(text: str, namespaces: Mapping[str, Mapping[str, Any]]) -> str:
    """Return `text` with its placeholders replaced. `namespaces` holds `facts` and `build`.

    Raises DiscoveryError, with the name of the fact, if one is absent: an incomplete path is never used.
    """

    def replacement(match: re.Match[str]) -> str:
        name = _NAME.fullmatch(match[1])
        if name is None:
            raise DiscoveryError(f'"{match[0]}" in "{text}" is not a placeholder')
        value = value_of(namespaces.get(name[1], {}), name[2])
        if not isinstance(value, (str, int)) or value == "":
            raise DiscoveryError(
                f'"{text}" needs {name[1]}.{name[2]}, which is not known on this instance',
                hint="run `parbake facts -v` to see which providers were asked, or set it under [facts]",
            )
        return str(value)

    return _BRACES.sub(replacement, text)


def fill_options(options: T, namespaces: Mapping[str, Mapping[str, Any]]) -> T:
    """Return a plug-in's options with every placeholder in their strings, lists and tables replaced.

    Raises DiscoveryError as `fill` does, and ValueError if the options are not valid with the values filled in.
    """
    changes = {}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        value = getattr(options, field.name)
        filled = _fill_value(value, namespaces)
        if filled != value:
            changes[field.name] = filled
    return dataclasses.replace(options, **changes) if changes else options  # type: ignore[type-var]


def _fill_value(value: Any, namespaces: Mapping[str, Mapping[str, Any]]) -> Any:
    if isinstance(value, str) and "{{" in value:
        return fill(value, namespaces)
    if isinstance(value, tuple):
        return tuple(_fill_value(item, namespaces) for item in value)
    if isinstance(value, Mapping):
        return {key: _fill_value(item, namespaces) for key, item in value.items()}
    return value
