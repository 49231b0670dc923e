"""EC2, by IMDSv2: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from agent.discovery import Context, RawFacts, userdata
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.parsers import pick

BASES = ("http://169.254.169.254", "http://[fd00:ec2::254]")
SESSION = "/latest/api/token"
META = "/latest/meta-data"
DOCUMENT = "/latest/dynamic/instance-identity/document"
MAX_TAGS = 100
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
    """The identity document has most facts in one request. The tree of paths has the others."""

    # A spot instance ends two minutes after its notice. Tags cost one request each, so they are read less often.
    poll_seconds: ClassVar[float] = 10.0
    poll_timeout_seconds: ClassVar[float] = 0.0
    long_polls: ClassVar[bool] = False
    _POLLS_PER_TAG_READ = 6

    def __init__(self) -> None:
        self._polls = 0

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, *BASES) as client:
            authorize(client)
            document = parse_document(client.json(DOCUMENT))
            yield document
            for name, path in PATHS.items():
                if not document.get(name):
                    yield {name: client.text(f"{META}/{path}")}
            yield {"tags": tags(client, f"{META}/tags/instance")}
            yield {"userdata": userdata.parbake_table(client.get("/latest/user-data") or b"")}
            yield notices(client)

    def changing(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, *BASES) as client:
            authorize(client)
            yield notices(client)
            if self._polls % self._POLLS_PER_TAG_READ == 0:
                yield {"tags": tags(client, f"{META}/tags/instance")}
            self._polls += 1


def authorize(client: MetadataClient) -> None:
    """Send a session token with later requests. Version 1 is used only if the service has no tokens."""
    token = client.token(SESSION, {"X-aws-ec2-metadata-token-ttl-seconds": SESSION_SECONDS})
    if token:
        client.headers["X-aws-ec2-metadata-token"] = token


def parse_document(document: Mapping[str, Any] | None) -> dict[str, object]:
    """Return the facts of an instance identity document."""
    return {
        "instance_id": pick(document, "instanceId"),
        "region": pick(document, "region"),
        "zone": pick(document, "availabilityZone"),
        "instance_type": pick(document, "instanceType"),
        "image_id": pick(document, "imageId"),
        "account_id": pick(document, "accountId"),
        "private_ipv4": pick(document, "privateIp"),
    }


def parse_tree(tree: object, document: Mapping[str, Any] | None) -> dict[str, object]:
    """Return the facts of the meta-data tree in cloud-init's instance-data, and of the identity document."""
    facts = {name: pick(tree, *path.split("/")) for name, path in PATHS.items()}
    facts["tags"] = pick(tree, "tags", "instance")
    return parse_document(document) | {name: value for name, value in facts.items() if value}


def tags(client: MetadataClient, path: str) -> dict[str, str] | None:
    """Return the tags, or None if the instance has no access to them. Access is off by default, and answers 404 then."""
    values = {}
    for name in client.lines(path)[:MAX_TAGS]:
        value = client.text(f"{path}/{quote(name, safe='')}")
        if value is not None:
            values[name] = value
    return values or None


def notices(client: MetadataClient) -> dict[str, str | None]:
    """Return the notices of termination. Their paths are 404 until they apply."""
    action = client.json(f"{META}/spot/instance-action")
    rebalance = client.json(f"{META}/events/recommendations/rebalance")
    lifecycle = client.text(f"{META}/autoscaling/target-lifecycle-state")
    terminating = "spot" if action else "lifecycle" if lifecycle == "Terminated" else None
    return {
        "terminating": terminating,
        "terminating_at": pick(action, "time"),
        "lifecycle_state": lifecycle,
        "rebalance": pick(rebalance, "noticeTime"),
    }
