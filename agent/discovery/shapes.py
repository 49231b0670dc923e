"""Reading documents whose shape nobody vouches for: what is not there, or is something else, is None."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.discovery import userdata
from agent.errors import DiscoveryError


def pick(value: Any, *path: str | int) -> Any:
    """What stands at `path` (keys of mappings, indices of lists), or None."""
    for step in path:
        if isinstance(step, str) and isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(step, int) and isinstance(value, list) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return None
    return value


def items(value: Any, *path: str | int) -> list[Mapping[str, Any]]:
    """The mappings in the list at `path`."""
    found = pick(value, *path)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def first(values: Iterable[Any]) -> Any:
    """The first that is not empty, or None."""
    return next((value for value in values if value), None)


def last_part(value: Any, separator: str = "/") -> str | None:
    """The end of a path: "n2-standard-2" of "projects/1/machineTypes/n2-standard-2"."""
    return value.rsplit(separator, 1)[-1] or None if isinstance(value, str) else None


def region_of(zone: Any) -> str | None:
    """A zone less its last dash: "europe-west1" of "europe-west1-b"."""
    return value if isinstance(zone, str) and (value := zone.rpartition("-")[0]) else None


def address(value: Any) -> str | None:
    """An address without its prefix length."""
    return value.partition("/")[0] or None if isinstance(value, str) else None


def tags_of(value: Any) -> dict[str, Any] | None:
    """Tags as a table. Of a list, "NAME=VALUE" and "NAME:VALUE" are split, and a bare NAME gets "true"."""
    if isinstance(value, Mapping):
        return dict(value) or None
    if not isinstance(value, list):
        return None
    found = {}
    for tag in value:
        if not isinstance(tag, str) or not tag:
            continue
        cut = min((tag.find(mark) for mark in "=:" if tag.find(mark) > 0), default=-1)
        name, text = (tag[:cut], tag[cut + 1 :]) if cut > 0 else (tag, "true")
        found[name] = text
    return found or None


def userdata_of(value: Any, *, base64: bool = False) -> Mapping[str, Any] | None:
    """The `parbake` mapping of user-data that stands inside a document, or None."""
    if not isinstance(value, str):
        return None
    try:
        return userdata.userdata(userdata.unbase64(value, "user-data") if base64 else value.encode())
    except (DiscoveryError, UnicodeEncodeError):
        return None
