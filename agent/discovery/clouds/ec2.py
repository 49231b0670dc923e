"""EC2, by IMDSv2: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from agent.discovery import Context, userdata
from agent.discovery.metadata_client import Service
from agent.discovery.shapes import pick

BASES = ("http://169.254.169.254", "http://[fd00:ec2::254]")
SESSION = "/latest/api/token"
META = "/latest/meta-data"
DOCUMENT = "/latest/dynamic/instance-identity/document"
MOST_TAGS = 100
SESSION_SECONDS = "300"

PATHS = {
    "instance_id": "instance-id",
    "region": "placement/region",
    "zone": "placement/availability-zone",
    "instance_type": "instance-type",
    "image_id": "ami-id",
    "private_ipv4": "local-ipv4",
    "hostname": "local-hostname",
    "public_ipv4": "public-ipv4",
    "ipv6": "ipv6",
}


class Ec2:
    """The identity document gives most facts in one request; the tree of paths gives the rest."""

    # A spot instance has two minutes from the notice; the number of tags makes those dearer.
    poll_seconds: ClassVar[float] = 10.0
    _TAGS_EVERY = 6

    def __init__(self) -> None:
        self._looks = 0

    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, *BASES) as service:
            authorize(service)
            document = parse_document(service.json(DOCUMENT))
            yield document
            for name, path in PATHS.items():
                if not document.get(name):
                    yield {name: service.text(f"{META}/{path}")}
            yield {"tags": tags(service, f"{META}/tags/instance")}
            yield {"userdata": userdata.userdata(service.get("/latest/user-data") or b"")}
            yield notices(service)

    def changing(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, *BASES) as service:
            authorize(service)
            yield notices(service)
            if self._looks % self._TAGS_EVERY == 0:
                yield {"tags": tags(service, f"{META}/tags/instance")}
            self._looks += 1


def authorize(service: Service) -> None:
    """A session token; version 1 only where the service has no tokens at all."""
    token = service.token(SESSION, {"X-aws-ec2-metadata-token-ttl-seconds": SESSION_SECONDS})
    if token:
        service.headers["X-aws-ec2-metadata-token"] = token


def parse_document(document: Mapping[str, Any] | None) -> dict[str, Any]:
    """The facts of an instance identity document."""
    return {
        "instance_id": pick(document, "instanceId"),
        "region": pick(document, "region"),
        "zone": pick(document, "availabilityZone"),
        "instance_type": pick(document, "instanceType"),
        "image_id": pick(document, "imageId"),
        "account_id": pick(document, "accountId"),
        "private_ipv4": pick(document, "privateIp"),
    }


def parse_tree(tree: Any, document: Any) -> dict[str, Any]:
    """The facts of a whole meta-data tree as cloud-init crawls it, and of the identity document."""
    found = {name: pick(tree, *path.split("/")) for name, path in PATHS.items()}
    found["tags"] = pick(tree, "tags", "instance")
    return parse_document(document) | {name: value for name, value in found.items() if value}


def tags(service: Service, path: str) -> dict[str, str] | None:
    """The tags, where the instance may see its own (off by default: 404)."""
    found = {}
    for name in service.lines(path)[:MOST_TAGS]:
        value = service.text(f"{path}/{quote(name, safe='')}")
        if value is not None:
            found[name] = value
    return found or None


def notices(service: Service) -> dict[str, str | None]:
    """Whether the instance is about to go: these paths are 404 until they apply."""
    action = service.json(f"{META}/spot/instance-action")
    rebalance = service.json(f"{META}/events/recommendations/rebalance")
    lifecycle = service.text(f"{META}/autoscaling/target-lifecycle-state")
    terminating = "spot" if action else "lifecycle" if lifecycle == "Terminated" else None
    return {
        "terminating": terminating,
        "terminating_at": pick(action, "time"),
        "lifecycle_state": lifecycle,
        "rebalance": pick(rebalance, "noticeTime"),
    }
