"""Alibaba Cloud ECS: https://www.alibabacloud.com/help/en/ecs/user-guide/view-instance-metadata"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from agent.discovery import Context, userdata
from agent.discovery.clouds.ec2 import tags
from agent.discovery.metadata_client import Service
from agent.discovery.shapes import pick

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
    poll_seconds: ClassVar[float] = 20.0

    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, BASE) as service:
            authorize(service)
            for name, path in PATHS.items():
                yield {name: service.text(f"{META}/{path}")}
            # An elastic address stands under eipv4 alone.
            yield {"public_ipv4": service.text(f"{META}/eipv4") or service.text(f"{META}/public-ipv4")}
            yield {"tags": tags(service, f"{META}/tags/instance")}
            yield {"userdata": userdata.userdata(service.get("/latest/user-data") or b"")}
            yield notices(service)

    def changing(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, BASE) as service:
            authorize(service)
            yield notices(service)
            yield {"tags": tags(service, f"{META}/tags/instance")}


def authorize(service: Service) -> None:
    """A session token, where the service has them."""
    token = service.token(SESSION, {"X-aliyun-ecs-metadata-token-ttl-seconds": "300"})
    if token:
        service.headers["X-aliyun-ecs-metadata-token"] = token


def notices(service: Service) -> dict[str, str | None]:
    """When a spot instance is to be taken back: 404 until that is so."""
    at = service.text(f"{META}/instance/spot/termination-time")
    return {"terminating": "spot" if at else None, "terminating_at": at}


def parse_tree(tree: Any) -> dict[str, Any]:
    """The facts of a whole meta-data tree as cloud-init crawls it."""
    found = {name: pick(tree, *path.split("/")) for name, path in PATHS.items()}
    return {
        **found,
        "public_ipv4": pick(tree, "eipv4") or pick(tree, "public-ipv4"),
        "tags": pick(tree, "tags", "instance"),
    }
