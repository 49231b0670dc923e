"""Facts of the machine itself: its name, the addresses that its routes use, and its machine id."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import ClassVar

from agent.discovery import Context
from agent.discovery.identity import machine_id

# RFC 1918, RFC 6598, and the ranges for documentation and benchmarks (RFC 5737, RFC 2544), which are not routed.
_PRIVATE = re.compile(
    r"(10|192\.168|172\.(1[6-9]|2\d|3[01])|100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])"
    r"|192\.0\.2|198\.51\.100|203\.0\.113|198\.1[89])\."
)


class Host:
    """The last provider of the default order.

    The machine id serves as instance_id only if no platform was recognised. If the metadata service of a recognised
    platform is unavailable, the instance id is unknown, and the machine id would be a wrong value.
    """

    gives: ClassVar[tuple[str, ...]] = ("hostname", "private_ipv4", "public_ipv4", "ipv6", "instance_id")

    def discover(self, context: Context) -> Mapping[str, str]:
        """Return the facts. Below --root the addresses and the running host name are not the image's, and are left out."""
        paths, facts = context.paths, {}
        if name := _hostname(context):
            facts["hostname"] = name
        if paths.is_host:
            facts.update(addresses())
        if not {"platform", "instance_id"} & set(context.known) and (identity := machine_id(paths)):
            facts["instance_id"] = identity
        return facts


def _hostname(context: Context) -> str:
    if context.paths.is_host:
        return os.uname().nodename
    try:
        return context.paths.host("/etc/hostname").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def addresses() -> dict[str, str]:
    """Return the addresses that the routing table would send from. Connecting a datagram socket sends nothing."""
    facts = {}
    # Addresses for documentation (RFC 5737, RFC 3849): no network has a special route to them.
    ipv4 = _source_address(socket.AF_INET, "192.0.2.1")
    if ipv4 and not ipv4.startswith(("127.", "169.254.", "0.")):
        facts["private_ipv4" if _PRIVATE.match(ipv4) else "public_ipv4"] = ipv4
    ipv6 = _source_address(socket.AF_INET6, "2001:db8::1")
    if ipv6 and ipv6 != "::1" and not ipv6.startswith(("fe8", "fe9", "fea", "feb")):
        facts["ipv6"] = ipv6
    return facts


def _source_address(family: socket.AddressFamily, destination: str) -> str:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as unsent:
            unsent.connect((destination, 9))
            return str(unsent.getsockname()[0])
    except OSError:
        return ""
