"""What the machine itself knows: its name, the addresses its routes would use, and its machine id."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import ClassVar

from agent.discovery import Context
from agent.discovery.identity import machine_id

# RFC 1918, RFC 6598, and the ranges for documentation and benchmarks (RFC 5737, RFC 2544), which are routed nowhere.
_PRIVATE = re.compile(
    r"(10|192\.168|172\.(1[6-9]|2\d|3[01])|100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])"
    r"|192\.0\.2|198\.51\.100|203\.0\.113|198\.1[89])\."
)


class Host:
    """The last to be asked.

    The machine id serves as instance_id only where no platform was recognised: a cloud's instance whose metadata
    service is down has an id that we do not know, and another one in its place would be wrong.
    """

    gives: ClassVar[tuple[str, ...]] = ("hostname", "private_ipv4", "public_ipv4", "ipv6", "instance_id")

    def discover(self, context: Context) -> Mapping[str, str]:
        paths, found = context.paths, {}
        if name := _hostname(context):
            found["hostname"] = name
        if paths.is_host:
            found.update(addresses())
        if not {"platform", "instance_id"} & set(context.known) and (identity := machine_id(paths)):
            found["instance_id"] = identity
        return found


def _hostname(context: Context) -> str:
    if context.paths.is_host:
        return os.uname().nodename
    try:
        return context.paths.host("/etc/hostname").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def addresses() -> dict[str, str]:
    """The addresses that the routing table would send from. Connecting a datagram socket sends nothing."""
    found = {}
    # Addresses for documentation (RFC 5737, RFC 3849): no network has a route of its own to them.
    four = _source(socket.AF_INET, "192.0.2.1")
    if four and not four.startswith(("127.", "169.254.", "0.")):
        found["private_ipv4" if _PRIVATE.match(four) else "public_ipv4"] = four
    six = _source(socket.AF_INET6, "2001:db8::1")
    if six and six != "::1" and not six.startswith(("fe8", "fe9", "fea", "feb")):
        found["ipv6"] = six
    return found


def _source(family: socket.AddressFamily, destination: str) -> str:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as unsent:
            unsent.connect((destination, 9))
            return str(unsent.getsockname()[0])
    except OSError:
        return ""
