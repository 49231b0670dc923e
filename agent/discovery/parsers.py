"""Parses documents from outside, and picks values out of tables whose shape is not guaranteed.

Documents are bounded, and each library's errors become DiscoveryError here. A value that is absent or has another type is None.
A key that occurs twice is not an error: the document belongs to a platform or to cloud-init, which take the last one.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from agent.errors import DiscoveryError
from agent.formats import strict_json

T = TypeVar("T")


def text(raw: bytes, name: str) -> str:
    """Return `raw` as UTF-8. `name` is the document's name in the error. Raises DiscoveryError."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise DiscoveryError(f"{name} is not UTF-8 text") from None


def json_value(raw: bytes, name: str) -> Any:
    """Parse a JSON document. Of duplicate keys the last one counts. Raises DiscoveryError, also for a body that was cut off."""
    try:
        return strict_json.parse(text(raw, name), unique_keys=False)
    except ValueError as error:
        raise DiscoveryError(f"{name} is not valid JSON: {error}") from None


def json_table(raw: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object. Raises DiscoveryError."""
    value = json_value(raw, name)
    if not isinstance(value, dict):
        raise DiscoveryError(f"{name} is not a JSON object")
    return value


def toml_table(raw: bytes, name: str) -> dict[str, Any]:
    """Parse a TOML document. Raises DiscoveryError."""
    import tomllib  # here, as YAML below, because few instances have such a document

    try:
        return tomllib.loads(text(raw, name))
    except (ValueError, RecursionError) as error:
        raise DiscoveryError(f"{name} is not valid TOML: {error}") from None


def yaml_value(raw: bytes, name: str) -> Any:
    """Parse a YAML document without aliases. Of duplicate keys the last one counts. Raises DiscoveryError."""
    from agent.formats import strict_yaml

    try:
        return strict_yaml.load(text(raw, name), aliases=False, unique_keys=False)
    except ValueError as error:
        raise DiscoveryError(f"{name} is not valid YAML: {error}") from None


def yaml_table(raw: bytes, name: str) -> dict[str, Any]:
    """Parse a YAML mapping without aliases, {} for an empty document. Raises DiscoveryError."""
    value = yaml_value(raw, name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DiscoveryError(f"{name} is not a mapping")
    return value


def base64_bytes(body: str | bytes, name: str) -> bytes:
    """Decode base64. Raises DiscoveryError."""
    try:
        return binascii.a2b_base64(body)
    except ValueError:
        raise DiscoveryError(f"{name} is not valid base64") from None


def pick(value: object, *path: str | int) -> Any:
    """Return the value at `path` (keys of mappings, indices of lists), or None."""
    for step in path:
        if isinstance(step, str) and isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(step, int) and isinstance(value, list) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return None
    return value


def items(value: object, *path: str | int) -> list[Mapping[str, Any]]:
    """Return the mappings in the list at `path`."""
    listed = pick(value, *path)
    return [item for item in listed if isinstance(item, Mapping)] if isinstance(listed, list) else []


def first(values: Iterable[T]) -> T | None:
    """Return the first value that is not empty, or None."""
    return next((value for value in values if value), None)


def last_part(value: object, separator: str = "/") -> str | None:
    """Return the end of a path: "n2-standard-2" of "projects/1/machineTypes/n2-standard-2"."""
    return value.rsplit(separator, 1)[-1] or None if isinstance(value, str) else None


def region_of(zone: object) -> str | None:
    """Return a zone without its last dash: "europe-west1" of "europe-west1-b"."""
    return region if isinstance(zone, str) and (region := zone.rpartition("-")[0]) else None


def address(value: object) -> str | None:
    """Return an address without its prefix length."""
    return value.partition("/")[0] or None if isinstance(value, str) else None


def tags_of(value: object) -> dict[str, Any] | None:
    """Return tags as a table. In a list, "NAME=VALUE" and "NAME:VALUE" are split, and a bare NAME gets "true"."""
    if isinstance(value, Mapping):
        return dict(value) or None
    if not isinstance(value, list):
        return None
    tags = {}
    for tag in value:
        if not isinstance(tag, str) or not tag:
            continue
        end = min((tag.find(separator) for separator in "=:" if tag.find(separator) > 0), default=-1)
        name, content = (tag[:end], tag[end + 1 :]) if end > 0 else (tag, "true")
        tags[name] = content
    return tags or None
