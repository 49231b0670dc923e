"""The filters for IP addresses and networks, with the names and meanings of Ansible's `ansible.utils`. Pure functions.

https://docs.ansible.com/ansible/latest/collections/ansible/utils/docsite/filters_ipaddr.html
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from jinja2.exceptions import FilterArgumentError

from agent.templates.tracked_context import defined

_QUERIES: dict[str, Callable[[Any], Any]] = {
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
_CONDITIONS: dict[str, Callable[[Any], bool]] = {"private": lambda i: i.is_private, "public": lambda i: i.is_global}


def _wrapped(text: str, version: int) -> str:
    address, slash, prefix = text.partition("/")
    return f"[{address}]{slash}{prefix}" if version == 6 else text


def ipaddr(value: Any, query: str | int = "", *, version: int | None = None) -> Any:
    """Return an address, or the part of it that `query` names, or the N-th address of its network.

    False if the value is not an address, or not one of IP `version`. A list gives the list of its results without those.
    """
    value = defined(value)
    if isinstance(value, (list, tuple)):
        results = (ipaddr(item, query, version=version) for item in value)
        return [result for result in results if result is not False]
    try:
        interface = ipaddress.ip_interface(str(value))
    except ValueError:
        return False
    if version is not None and interface.version != version:
        return False
    if query == "" or (isinstance(query, str) and query in _CONDITIONS):
        return str(value) if query == "" or _CONDITIONS[query](interface) else False
    if query == "wrap":
        return _wrapped(str(value), interface.version)
    if isinstance(query, int) or re.fullmatch(r"-?\d+", str(query)):
        return f"{interface.network[int(query)]}/{interface.network.prefixlen}"
    if query not in _QUERIES:
        raise FilterArgumentError(
            f'unknown ipaddr query "{query}"; expected one of: {", ".join((*_QUERIES, *_CONDITIONS, "wrap"))}, or a number'
        )
    return _QUERIES[str(query)](interface)


def ipv4(value: Any, query: str | int = "") -> Any:
    """Return the result of `ipaddr` for IPv4 addresses only."""
    return ipaddr(value, query, version=4)


def ipv6(value: Any, query: str | int = "") -> Any:
    """Return the result of `ipaddr` for IPv6 addresses only."""
    return ipaddr(value, query, version=6)


def ipwrap(value: Any) -> Any:
    """Return an IPv6 address in brackets, as URLs need it, and any other value unchanged. A list gives a list."""
    value = defined(value)
    if isinstance(value, (list, tuple)):
        return [ipwrap(item) for item in value]
    wrapped = ipaddr(value, "wrap")
    return wrapped if wrapped is not False else value
