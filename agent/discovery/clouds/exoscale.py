"""Exoscale: https://community.exoscale.com/product/compute/instances/how-to/cloud-init/#instance-metadata"""

from __future__ import annotations

from collections.abc import Iterator

from agent.discovery import Context, RawFacts, userdata
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.parsers import pick

BASE = "http://169.254.169.254"
META = "/1.0/meta-data"

PATHS = {
    "instance_id": "instance-id",
    "zone": "availability-zone",
    "instance_type": "service-offering",
    "hostname": "local-hostname",
    "private_ipv4": "local-ipv4",
    "public_ipv4": "public-ipv4",
}


class Exoscale:
    """Each fact is one path."""

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, BASE) as client:
            for name, path in PATHS.items():
                yield {name: client.text(f"{META}/{path}")}
            yield {"userdata": userdata.parbake_table(client.get("/1.0/user-data") or b"")}


def parse_tree(tree: object) -> dict[str, object]:
    """Return the facts of the meta-data tree in cloud-init's instance-data."""
    return {name: pick(tree, path) for name, path in PATHS.items()}
