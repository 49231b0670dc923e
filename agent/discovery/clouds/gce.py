"""Google Compute Engine: https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from agent.discovery import Context, RawFacts, parsers, userdata
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.parsers import address, first, last_part, pick, region_of, tags_of
from agent.errors import DiscoveryError

# The name metadata.google.internal would need a resolver.
BASE = "http://169.254.169.254"
FLAVOR = {"Metadata-Flavor": "Google"}
INSTANCE = "/computeMetadata/v1/instance/?recursive=true"
PROJECT = "/computeMetadata/v1/project/project-id"
_REPLY_SECONDS = 5.0
"""How much longer than its `timeout_sec` a long poll may take."""
_PLATFORM_ATTRIBUTES = (
    "ssh-keys",
    "sshKeys",
    "user-data",
    "startup-script",
    "shutdown-script",
    "windows-",
    "sysprep-",
    "vendor-data",
)


class Gce:
    """From the second poll on, the service answers only when something has changed."""

    poll_seconds: ClassVar[float] = 1.0
    poll_timeout_seconds: ClassVar[float] = 0.0

    def __init__(self) -> None:
        self._etag = ""

    @property
    def long_polls(self) -> bool:
        return bool(self._etag)

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, BASE, headers=FLAVOR) as client:
            yield self._instance(client, INSTANCE)
            yield {"account_id": client.text(PROJECT)}

    def changing(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, BASE, headers=FLAVOR) as client:
            if not self._etag:
                yield self._instance(client, INSTANCE)
                return
            seconds = max(1, int(context.deadline - time.monotonic()))
            context.deadline += _REPLY_SECONDS
            query = f"&wait_for_change=true&timeout_sec={seconds}&last_etag={quote(self._etag)}"
            yield self._instance(client, INSTANCE + query, long_poll=True)

    def _instance(self, client: MetadataClient, path: str, *, long_poll: bool = False) -> dict[str, object]:
        reply = client.request("GET", path, {}, long_poll=long_poll)
        if reply.status != 200 or reply.headers.get("metadata-flavor") != "Google":
            raise DiscoveryError(f"{BASE} answered {reply.status}, and not as Google's metadata service does")
        self._etag = reply.headers.get("etag", "")
        return parse(parsers.json_table(reply.body, BASE))


def parse(instance: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of `instance/?recursive=true`. It has no labels: attributes and network tags serve as tags."""
    zone = last_part(instance.get("zone"))
    interface = pick(instance, "networkInterfaces", 0)
    attributes = instance.get("attributes")
    attributes = attributes if isinstance(attributes, Mapping) else {}
    is_base64 = attributes.get("user-data-encoding") == "base64"
    return {
        # An integer beyond 2^53, which a parser that only has doubles would round.
        "instance_id": instance.get("id"),
        "region": region_of(zone),
        "zone": zone,
        "instance_type": last_part(instance.get("machineType")),
        "hostname": instance.get("hostname"),
        "private_ipv4": pick(interface, "ip"),
        "public_ipv4": first(pick(access, "externalIp") for access in pick(interface, "accessConfigs") or []),
        "ipv6": address(first([pick(interface, "ipv6", 0), pick(interface, "ipv6s", 0)])),
        "image_id": last_part(instance.get("image")),
        "terminating": _terminating(instance),
        "tags": {**(tags_of(instance.get("tags")) or {}), **user_attributes(attributes)},
        "userdata": userdata.parbake_table_in(attributes.get("user-data"), base64=is_base64),
    }


def _terminating(instance: Mapping[str, Any]) -> str | None:
    if instance.get("preempted") == "TRUE":
        return "preempted"
    return "maintenance" if instance.get("maintenanceEvent") == "TERMINATE_ON_HOST_MAINTENANCE" else None


def user_attributes(attributes: object) -> dict[str, object]:
    """Return the attributes that a user has set, without those that the platform's own programs read."""
    table = attributes if isinstance(attributes, Mapping) else {}
    return {name: value for name, value in table.items() if not str(name).startswith(_PLATFORM_ATTRIBUTES)}
