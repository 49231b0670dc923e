"""Exoscale: https://community.exoscale.com/product/compute/instances/how-to/cloud-init/#instance-metadata"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context, userdata
from agent.discovery.metadata_client import Service
from agent.discovery.shapes import pick

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
    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, BASE) as service:
            for name, path in PATHS.items():
                yield {name: service.text(f"{META}/{path}")}
            yield {"userdata": userdata.userdata(service.get("/1.0/user-data") or b"")}


def parse_tree(tree: Any) -> dict[str, Any]:
    """The facts of a whole meta-data tree as cloud-init crawls it."""
    return {name: pick(tree, path) for name, path in PATHS.items()}
