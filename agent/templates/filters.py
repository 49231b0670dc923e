"""The filters of templates beyond Jinja2's own, with Ansible's names and meanings. Pure functions.

https://docs.ansible.com/ansible/latest/collections/ansible/builtin/#filter-plugins
"""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import FilterArgumentError, UndefinedError

from agent.formats import toml_writer
from agent.templates.ip_filters import ipaddr, ipv4, ipv6, ipwrap
from agent.templates.tracked_context import MissingLenient, defined, plain

_HASHES = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")


def to_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, with its keys sorted."""
    return json.dumps(plain(defined(value)), ensure_ascii=False, sort_keys=True, indent=indent)


def to_nice_json(value: Any, indent: int = 4) -> str:
    """Return a value as JSON in several lines."""
    return to_json(value, indent)


def from_json(value: str) -> Any:
    """Return the value of a JSON text.

    This is Python's decoder and not `strict_json`, as in Ansible: a template may read NaN, and the last of two equal keys.
    """
    return json.loads(defined(value))


def to_yaml(value: Any, default_flow_style: bool = False, indent: int = 2) -> str:
    """Return a value as YAML, with its keys sorted."""
    import yaml

    dumped: str = yaml.safe_dump(
        plain(defined(value)), sort_keys=True, allow_unicode=True, default_flow_style=default_flow_style, indent=indent
    )
    return dumped


def from_yaml(value: str) -> Any:
    """Return the value of a YAML text.

    This is PyYAML's safe loader and not `strict_yaml`, as in Ansible: a template may read dates, and the last of two equal
    keys.
    """
    import yaml

    return yaml.safe_load(defined(value))


def to_toml(value: Any) -> str:
    """Return a table as TOML 1.0."""
    return toml_writer.dumps(plain(defined(value)))


def b64encode(value: str | bytes, encoding: str = "utf-8") -> str:
    """Return a text, in `encoding`, or bytes as base64."""
    return base64.b64encode(_bytes(value, encoding)).decode("ascii")


def b64decode(value: str, encoding: str = "utf-8") -> str:
    """Return the text of base64. Blanks and line ends in it are ignored."""
    return base64.b64decode("".join(str(value).split()), validate=True).decode(encoding, "surrogateescape")


def hash_(value: str | bytes, algorithm: str = "sha1") -> str:
    """Return the hexadecimal digest of a text or bytes."""
    if algorithm not in _HASHES:
        raise FilterArgumentError(f'unknown hash "{algorithm}"; expected one of: {", ".join(_HASHES)}')
    return hashlib.new(algorithm, _bytes(value, "utf-8"), usedforsecurity=False).hexdigest()


def quote(value: Any) -> str:
    """Return a value quoted for a POSIX shell."""
    return shlex.quote(str(defined(value)))


def regex_replace(
    value: Any, pattern: str = "", replacement: str = "", ignorecase: bool = False, multiline: bool = False, count: int = 0
) -> str:
    """Return a text with every match of `pattern` replaced, or the first `count` of them."""
    flags = (re.IGNORECASE if ignorecase else 0) | (re.MULTILINE if multiline else 0)
    return re.sub(pattern, replacement, str(defined(value)), count=count, flags=flags)


def regex_search(value: Any, pattern: str, *groups: str, ignorecase: bool = False, multiline: bool = False) -> Any:
    """Return the first match of `pattern`, "" without a match, or a list of groups such as "\\1" and "\\g<name>"."""
    flags = (re.IGNORECASE if ignorecase else 0) | (re.MULTILINE if multiline else 0)
    match = re.search(pattern, str(defined(value)), flags)
    if match is None:
        return ""
    if not groups:
        return match.group()
    return [match.group(int(g[1:]) if g[1:].isdigit() else g.removeprefix("\\g<").removesuffix(">")) for g in groups]


def combine(*tables: Any, recursive: bool = False) -> dict[str, Any]:
    """Return tables, or lists of tables, overlaid in order. With `recursive`, nested tables are overlaid too."""
    result: dict[str, Any] = {}
    for table in tables:
        overlay = plain(defined(table))
        if isinstance(overlay, list):
            overlay = combine(*overlay, recursive=recursive)
        for key, item in overlay.items():
            both_tables = isinstance(item, dict) and isinstance(result.get(key), dict)
            result[key] = combine(result[key], item, recursive=True) if recursive and both_tables else item
    return result


def dict2items(value: Any, key_name: str = "key", value_name: str = "value") -> list[dict[str, Any]]:
    """Return a table as a list of {key, value} tables."""
    return [{key_name: key, value_name: item} for key, item in plain(defined(value)).items()]


def items2dict(value: Iterable[Mapping[str, Any]], key_name: str = "key", value_name: str = "value") -> dict[str, Any]:
    """Return a list of {key, value} tables as one table."""
    return {item[key_name]: item[value_name] for item in plain(value)}


def bool_(value: Any) -> bool:
    """Return whether a value is true, or is a text such as "yes"."""
    if isinstance(value, str):
        return value.strip().lower() in ("true", "yes", "on", "1", "y", "t")
    return bool(defined(value))


def mandatory(value: Any, msg: str | None = None) -> Any:
    """Return a value. Raises UndefinedError with `msg`, or with the key's name, if it is absent."""
    if isinstance(value, Undefined):
        if msg is None or isinstance(value, MissingLenient):
            return defined(value)
        raise UndefinedError(msg)
    return value


def basename(value: Any) -> str:
    """Return the last part of a path."""
    return posixpath.basename(str(defined(value)))


def dirname(value: Any) -> str:
    """Return a path without its last part."""
    return posixpath.dirname(str(defined(value)))


def to_datetime(value: str, format: str = "%Y-%m-%d %H:%M:%S") -> datetime:
    """Parse a time in `format`."""
    return datetime.strptime(defined(value), format)


def _bytes(value: str | bytes, encoding: str) -> bytes:
    value = defined(value)
    return value if isinstance(value, bytes) else str(value).encode(encoding, "surrogateescape")


FILTERS: dict[str, Callable[..., Any]] = {
    "tojson": to_json,
    "to_json": to_json,
    "to_nice_json": to_nice_json,
    "from_json": from_json,
    "to_yaml": to_yaml,
    "to_nice_yaml": to_yaml,
    "from_yaml": from_yaml,
    "to_toml": to_toml,
    "b64encode": b64encode,
    "b64decode": b64decode,
    "hash": hash_,
    "quote": quote,
    "regex_replace": regex_replace,
    "regex_search": regex_search,
    "combine": combine,
    "dict2items": dict2items,
    "items2dict": items2dict,
    "bool": bool_,
    "mandatory": mandatory,
    "basename": basename,
    "dirname": dirname,
    "to_datetime": to_datetime,
    "ipaddr": ipaddr,
    "ipv4": ipv4,
    "ipv6": ipv6,
    "ipwrap": ipwrap,
}
