"""Alibaba Cloud ECS: https://www.alibabacloud.com/help/en/ecs/user-guide/view-instance-metadata"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from agent.discovery import Context, RawFacts, userdata
from agent.discovery.clouds.ec2 import tags
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.parsers import pick

BASE = "http://100.100.100.200"
SESSION = "/latest/api/token"
META = "/latest/meta-data"

PATHS = {
    "instance_id": "instance-id",
    "region": "region-id",
    "zone": "zone-id",
    "instance_type": "instance/instance-type",
    "image_id": "image-id",
    "account_id": "owner-account-id",
    "private_ipv4": "private-ipv4",
    "hostname": "hostname",
}


class Alibaba:
    """The service resembles EC2's, at another address. Tokens are optional."""

    poll_seconds: ClassVar[float] = 20.0
    poll_timeout_seconds: ClassVar[float] = 0.0
    long_polls: ClassVar[bool] = False

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, BASE) as client:
            authorize(client)
            for name, path in PATHS.items():
                yield {name: client.text(f"{META}/{path}")}
            # An elastic address is under eipv4 only.
            yield {"public_ipv4": client.text(f"{META}/eipv4") or client.text(f"{META}/public-ipv4")}
            yield {"tags": tags(client, f"{META}/tags/instance")}
            yield {"userdata": userdata.parbake_table(client.get("/latest/user-data") or b"")}
            yield notices(client)

    def changing(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, BASE) as client:
            authorize(client)
            yield notices(client)
            yield {"tags": tags(client, f"{META}/tags/instance")}


def authorize(client: MetadataClient) -> None:
    """Send a session token with later requests, if the service has tokens."""
    token = client.token(SESSION, {"X-aliyun-ecs-metadata-token-ttl-seconds": "300"})
    if token:
        client.headers["X-aliyun-ecs-metadata-token"] = token


def notices(client: MetadataClient) -> dict[str, str | None]:
    """Return the notice that a spot instance will be reclaimed. Its path answers 404 until then."""
    end = client.text(f"{META}/instance/spot/termination-time")
    return {"terminating": "spot" if end else None, "terminating_at": end}


def parse_tree(tree: object) -> dict[str, object]:
    """Return the facts of the meta-data tree in cloud-init's instance-data."""
    facts = {name: pick(tree, *path.split("/")) for name, path in PATHS.items()}
    return {
        **facts,
        "public_ipv4": pick(tree, "eipv4") or pick(tree, "public-ipv4"),
        "tags": pick(tree, "tags", "instance"),
    }
