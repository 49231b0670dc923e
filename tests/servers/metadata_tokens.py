"""Platforms whose metadata service has tokens."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.servers.metadata_answers import MISSING, Answer, Base, Request, document, refuse, text, walk


class Ec2(Base):
    """`imds`: v2 (tokens required, the default), v1 (no tokens: PUT is 405), both. `tags`: off makes them 404.

    `spot` and `lifecycle` set the values of those paths.
    """

    TOKEN = "AQAEAtoken=="
    VERSIONS = ("latest", "2021-03-23", "2018-09-24", "2016-09-02", "2009-04-04")

    def tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = {
            "ami-id": "ami-0abc",
            "hostname": "ip-10-0-0-5.eu-central-1.compute.internal",
            "instance-id": "i-0123456789abcdef0",
            "instance-type": "m7g.large",
            "ipv6": "2001:db8::5",
            "local-hostname": "ip-10-0-0-5.eu-central-1.compute.internal",
            "local-ipv4": "10.0.0.5",
            "mac": "02:00:00:00:00:05",
            "placement": {"availability-zone": "eu-central-1a", "region": "eu-central-1"},
            "public-ipv4": "198.51.100.7",
        }
        if self.options.get("tags", "on") == "on":
            tree["tags"] = {"instance": {"environment": "prod", "Name": "web-1", "a.b:c": "x y=z"}}
        if self.options.get("spot"):
            tree["spot"] = {"instance-action": json.dumps({"action": self.options["spot"], "time": "2030-01-01T00:00:00Z"})}
        if self.options.get("lifecycle"):
            tree["autoscaling"] = {"target-lifecycle-state": self.options["lifecycle"]}
        return tree

    def dynamic(self) -> dict[str, Any]:
        return {
            "instance-identity": {
                "document": json.dumps(
                    {
                        "accountId": "123456789012",
                        "architecture": "arm64",
                        "availabilityZone": "eu-central-1a",
                        "imageId": "ami-0abc",
                        "instanceId": "i-0123456789abcdef0",
                        "instanceType": "m7g.large",
                        "privateIp": "10.0.0.5",
                        "region": "eu-central-1",
                        "version": "2017-09-30",
                    },
                    indent=2,
                )
            }
        }

    def answer(self, request: Request) -> Answer:
        if "x-forwarded-for" in request.headers:
            return refuse(403, "it passed a proxy")
        mode = self.options.get("imds", "v2")
        if request.path == "/latest/api/token":
            return self.token(request, mode)
        if request.method != "GET":
            return refuse(405, f"method {request.method}")
        offered = request.headers.get("x-aws-ec2-metadata-token")
        if (mode == "v2" or offered is not None) and offered != self.TOKEN:
            return refuse(401, "no valid token")
        return self.get(request)

    def token(self, request: Request, mode: str) -> Answer:
        if mode == "v1":
            return Answer(int(self.options.get("token_status", 405)), b"not allowed")
        if request.method != "PUT":
            return refuse(405, f"method {request.method} for a token")
        seconds = request.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
        if not seconds.isdigit() or not 1 <= int(seconds) <= 21600:
            return refuse(400, "no time to live between 1 and 21600")
        return text(self.TOKEN, **{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": seconds})

    def get(self, request: Request) -> Answer:
        version, _, path = request.path.lstrip("/").partition("/")
        if version not in self.VERSIONS:
            return MISSING
        if path == "user-data":
            return self.userdata_answer()
        return walk({"meta-data": self.tree(), "dynamic": self.dynamic()}, path)


class Alibaba(Ec2):
    """`imds`: both (the default), v1, v2. `spot`: the time at which the instance is reclaimed."""

    TOKEN = "aliyun-token"

    def answer(self, request: Request) -> Answer:
        mode = self.options.get("imds", "both")
        if request.path == "/latest/api/token":
            if mode == "v1":
                return Answer(404, b"not found")
            if request.method != "PUT":
                return refuse(405, f"method {request.method} for a token")
            seconds = request.headers.get("x-aliyun-ecs-metadata-token-ttl-seconds", "")
            good = seconds.isdigit() and 1 <= int(seconds) <= 21600
            return text(self.TOKEN) if good else refuse(400, "no time to live between 1 and 21600")
        if request.method != "GET":
            return refuse(405, f"method {request.method}")
        offered = request.headers.get("x-aliyun-ecs-metadata-token")
        if (mode == "v2" or offered is not None) and offered != self.TOKEN:
            return refuse(403, "no valid token")
        return self.get(request)

    def tree(self) -> dict[str, Any]:
        return {
            "instance-id": "i-bp1abc",
            "region-id": "eu-central-1",
            "zone-id": "eu-central-1a",
            "instance": {
                "instance-type": "ecs.g7.large",
                **({"spot": {"termination-time": self.options["spot"]}} if self.options.get("spot") else {}),
            },
            "image-id": "m-bp1",
            "owner-account-id": "1234567890",
            "private-ipv4": "172.16.0.5",
            "eipv4": "203.0.113.8",
            "hostname": "iZbp1abcZ",
            "tags": {"instance": {"environment": "prod"}},
        }

    def dynamic(self) -> dict[str, Any]:
        return {}


class Akamai(Base):
    TOKEN = "akamai-token"

    def answer(self, request: Request) -> Answer:
        if request.path == "/v1/token":
            if request.method != "PUT":
                return refuse(405, f"method {request.method} for a token")
            seconds = request.headers.get("metadata-token-expiry-seconds", "")
            good = seconds.isdigit() and 1 <= int(seconds) <= 86400
            return text(self.TOKEN) if good else refuse(400, "no Metadata-Token-Expiry-Seconds")
        if request.headers.get("metadata-token") != self.TOKEN:
            return refuse(401, "no valid token")
        return super().answer(request)

    def get(self, request: Request) -> Answer:
        if request.path == "/v1/user-data":
            return text(base64.b64encode(self.userdata.encode()).decode()) if self.userdata else MISSING
        content = {"/v1/instance": self.instance(), "/v1/network": self.network()}.get(request.path)
        if content is None:
            return MISSING
        if request.headers.get("accept") != "application/json":
            return refuse(200, "no Accept: application/json, so it answers with plain text")
        return document(content)

    def instance(self) -> dict[str, Any]:
        return {
            "id": 12345,
            "label": "web-1",
            "region": "us-east",
            "type": "g6-standard-1",
            "host_uuid": "aa",
            "account_euuid": "D9DA7F1E-0000-0000-0000-0242AC110003",
            "image": {"id": "linode/debian12", "label": "Debian 12"},
            "tags": ["environment:prod"],
        }

    def network(self) -> dict[str, Any]:
        return {
            "interfaces": [],
            "ipv4": {"public": ["198.51.100.7/32"], "private": ["192.168.133.5/17"], "shared": []},
            "ipv6": {"slaac": "2001:db8::5/128", "link_local": "fe80::1/128", "ranges": []},
        }
