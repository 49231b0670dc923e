"""The filters that templates have beyond Jinja2's own, with Ansible's names and meanings. Pure functions."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
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
from agent.templates.tracked_context import MissingLenient, plain

_HASHES = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")


def to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(plain(_defined(value)), ensure_ascii=False, sort_keys=True, indent=indent)


def to_nice_json(value: Any, indent: int = 4) -> str:
    return to_json(value, indent)


def from_json(value: str) -> Any:
    return json.loads(_defined(value))


def to_yaml(value: Any, default_flow_style: bool = False, indent: int = 2) -> str:
    import yaml

    dumped: str = yaml.safe_dump(
        plain(_defined(value)), sort_keys=True, allow_unicode=True, default_flow_style=default_flow_style, indent=indent
    )
    return dumped


def from_yaml(value: str) -> Any:
    import yaml

    return yaml.safe_load(_defined(value))


def to_toml(value: Any) -> str:
    return toml_writer.dumps(plain(_defined(value)))


def b64encode(value: str | bytes, encoding: str = "utf-8") -> str:
    return base64.b64encode(_bytes(value, encoding)).decode("ascii")


def b64decode(value: str, encoding: str = "utf-8") -> str:
    return base64.b64decode("".join(str(value).split()), validate=True).decode(encoding, "surrogateescape")


def hash_(value: str | bytes, algorithm: str = "sha1") -> str:
    if algorithm not in _HASHES:
        raise FilterArgumentError(f'hash "{algorithm}" is not known; known: {", ".join(_HASHES)}')
    return hashlib.new(algorithm, _bytes(value, "utf-8"), usedforsecurity=False).hexdigest()


def quote(value: Any) -> str:
    return shlex.quote(str(_defined(value)))


def regex_replace(
    value: Any, pattern: str = "", replacement: str = "", ignorecase: bool = False, multiline: bool = False, count: int = 0
) -> str:
    flags = (re.IGNORECASE if ignorecase else 0) | (re.MULTILINE if multiline else 0)
    return re.sub(pattern, replacement, str(_defined(value)), count=count, flags=flags)


def regex_search(value: Any, pattern: str, *groups: str, ignorecase: bool = False, multiline: bool = False) -> Any:
    flags = (re.IGNORECASE if ignorecase else 0) | (re.MULTILINE if multiline else 0)
    match = re.search(pattern, str(_defined(value)), flags)
    if match is None:
        return ""
    if not groups:
        return match.group()
    return [match.group(int(g[1:]) if g[1:].isdigit() else g.removeprefix("\\g<").removesuffix(">")) for g in groups]


def combine(*tables: Any, recursive: bool = False) -> dict[str, Any]:
    """Tables, or lists of them, overlaid in order."""
    result: dict[str, Any] = {}
    for table in tables:
        found = plain(_defined(table))
        for key, item in combine(*found, recursive=recursive).items() if isinstance(found, list) else found.items():
            deeper = recursive and isinstance(item, dict) and isinstance(result.get(key), dict)
            result[key] = combine(result[key], item, recursive=True) if deeper else item
    return result


def dict2items(value: Any, key_name: str = "key", value_name: str = "value") -> list[dict[str, Any]]:
    return [{key_name: key, value_name: item} for key, item in plain(_defined(value)).items()]


def items2dict(value: Iterable[Mapping[str, Any]], key_name: str = "key", value_name: str = "value") -> dict[str, Any]:
    return {item[key_name]: item[value_name] for item in plain(value)}


def bool_(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in ("true", "yes", "on", "1", "y", "t")
    return bool(_defined(value))


def mandatory(value: Any, msg: str | None = None) -> Any:
    if isinstance(value, Undefined):
        if msg is None or isinstance(value, MissingLenient):
            return str(value)  # fails with the key's name
        raise UndefinedError(msg)
    return value


def basename(value: Any) -> str:
    return posixpath.basename(str(_defined(value)))


def dirname(value: Any) -> str:
    return posixpath.dirname(str(_defined(value)))


def to_datetime(value: str, format: str = "%Y-%m-%d %H:%M:%S") -> datetime:
    return datetime.strptime(_defined(value), format)


_NETWORK: dict[str, Callable[[Any], Any]] = {
    "address": lambda i: str(i.ip),
    "network": lambda i: str(i.network.network_address),
    "netmask": lambda i: str(i.network.netmask),
    "prefix": lambda i: i.network.prefixlen,
    "broadcast": lambda i: str(i.network.broadcast_address),
    "subnet": lambda i: str(i.network),
    "cidr": lambda i: i.with_prefixlen,
    "host": lambda i: i.with_prefixlen,
    "version": lambda i: i.version,
    "size": lambda i: i.network.num_addresses,
    "bool": lambda i: True,
    "revdns": lambda i: i.ip.reverse_pointer + ".",
    "ipv4": lambda i: str(i.ip) if i.version == 4 else False,
    "ipv6": lambda i: str(i.ip) if i.version == 6 else False,
}
_AS_GIVEN: dict[str, Callable[[Any], bool]] = {"private": lambda i: i.is_private, "public": lambda i: i.is_global}


def _wrapped(text: str, version: int) -> str:
    address, slash, prefix = text.partition("/")
    return f"[{address}]{slash}{prefix}" if version == 6 else text


def ipaddr(value: Any, query: str | int = "", *, version: int | None = None) -> Any:
    """The address, or the part of it that `query` asks for; False where the value is no address. A list is filtered."""
    value = _defined(value)
    if isinstance(value, (list, tuple)):
        return [found for found in (ipaddr(item, query, version=version) for item in value) if found is not False]
    try:
        interface = ipaddress.ip_interface(str(value))
    except ValueError:
        return False
    if version is not None and interface.version != version:
        return False
    if query == "" or (isinstance(query, str) and query in _AS_GIVEN):
        return str(value) if query == "" or _AS_GIVEN[query](interface) else False
    if query == "wrap":
        return _wrapped(str(value), interface.version)
    if isinstance(query, int) or re.fullmatch(r"-?\d+", str(query)):
        return f"{interface.network[int(query)]}/{interface.network.prefixlen}"
    if query not in _NETWORK:
        raise FilterArgumentError(
            f'ipaddr query "{query}" is not known; known: {", ".join((*_NETWORK, *_AS_GIVEN, "wrap"))}, or a number'
        )
    return _NETWORK[str(query)](interface)


def ipv4(value: Any, query: str | int = "") -> Any:
    return ipaddr(value, query, version=4)


def ipv6(value: Any, query: str | int = "") -> Any:
    return ipaddr(value, query, version=6)


def ipwrap(value: Any) -> Any:
    value = _defined(value)
    if isinstance(value, (list, tuple)):
        return [ipwrap(item) for item in value]
    wrapped = ipaddr(value, "wrap")
    return wrapped if wrapped is not False else value


def _bytes(value: str | bytes, encoding: str) -> bytes:
    value = _defined(value)
    return value if isinstance(value, bytes) else str(value).encode(encoding, "surrogateescape")


def _defined(value: Any) -> Any:
    """Fails with the key's name where it is absent."""
    return str(value) if isinstance(value, Undefined) else value


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
