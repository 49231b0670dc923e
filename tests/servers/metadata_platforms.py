"""What each platform's metadata service answers, written from the platforms' documentation."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

USERDATA = "#cloud-config\nparbake:\n  environment: prod\n  role: web\n"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str = ""
    port: int = 0


@dataclass
class Answer:
    """`violation`: why a real service would refuse the request, or not understand it."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    violation: str = ""
    delay_seconds: float = 0.0


class State(Protocol):
    def answer(self, request: Request) -> Answer: ...


def text(value: object, **headers: str) -> Answer:
    return Answer(200, str(value).encode(), {"Content-Type": "text/plain", **headers})


def document(value: object, **headers: str) -> Answer:
    return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


def refuse(status: int, why: str) -> Answer:
    return Answer(status, b"refused", {}, why)


MISSING = Answer(404, b"not found")


def walk(tree: Mapping[str, Any], path: str) -> Answer:
    """A path in a tree of EC2's kind: a leaf is its text, a directory the listing of its entries."""
    node: Any = tree
    for part in [p for p in path.split("/") if p]:
        if not isinstance(node, Mapping) or part not in node:
            return MISSING
        node = node[part]
    if isinstance(node, Mapping):
        return text("\n".join(name + ("/" if isinstance(item, Mapping) else "") for name, item in node.items()))
    return text(node)


class Base:
    """A service that takes GET alone. `options`: userdata, and whatever a platform names."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.userdata: str = options.get("userdata", USERDATA)

    def answer(self, request: Request) -> Answer:
        if request.method != "GET":
            return refuse(405, f"method {request.method}")
        return self.get(request)

    def get(self, request: Request) -> Answer:
        raise NotImplementedError

    def userdata_answer(self) -> Answer:
        return text(self.userdata) if self.userdata else MISSING


class Ec2(Base):
    """`imds`: v2 (tokens required, the default), v1 (no tokens: PUT is 405), both. `tags`: off makes them 404.

    `spot` and `lifecycle` set what those paths say.
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
    """`imds`: both (the default), v1, v2."""

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
            "instance": {"instance-type": "ecs.g7.large"},
            "image-id": "m-bp1",
            "owner-account-id": "1234567890",
            "private-ipv4": "172.16.0.5",
            "eipv4": "203.0.113.8",
            "hostname": "iZbp1abcZ",
            "tags": {"instance": {"environment": "prod"}},
        }

    def dynamic(self) -> dict[str, Any]:
        return {}


class Gce(Base):
    """`change()` changes the attribute `environment`, and lets those go that wait for a change."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self.version = 1
        self.environment = "prod"
        self.preempted = "FALSE"
        self.changed = threading.Condition()

    def change(self, environment: str = "", preempted: str = "") -> None:
        with self.changed:
            self.version += 1
            self.environment = environment or self.environment
            self.preempted = preempted or self.preempted
            self.changed.notify_all()

    def instance(self) -> dict[str, Any]:
        return {
            "attributes": {
                "environment": self.environment,
                "ssh-keys": "root:ssh-ed25519 AAAA root",
                "startup-script": "#!/bin/sh\ntrue\n",
                **({"user-data": self.userdata} if self.userdata else {}),
            },
            "hostname": "web-1.c.project-1.internal",
            "id": 9007199254740993123,
            "image": "projects/debian-cloud/global/images/debian-12-bookworm-v20240110",
            "machineType": "projects/42/machineTypes/n2-standard-2",
            "networkInterfaces": [
                {
                    "accessConfigs": [{"externalIp": "198.51.100.7", "type": "ONE_TO_ONE_NAT"}],
                    "ip": "10.128.0.5",
                    "ipv6": ["2001:db8::5"],
                    "mac": "42:01:0a:80:00:05",
                }
            ],
            "maintenanceEvent": "NONE",
            "preempted": self.preempted,
            "tags": ["http-server"],
            "zone": "projects/42/zones/europe-west1-b",
        }

    def get(self, request: Request) -> Answer:
        flavor = {"Metadata-Flavor": "Google"}
        if not request.path.startswith("/computeMetadata/v1/"):
            return MISSING
        if request.headers.get("metadata-flavor") != "Google":
            return refuse(403, "no Metadata-Flavor: Google")
        if "x-forwarded-for" in request.headers:
            return refuse(403, "it passed a proxy")
        self.wait(request)
        headers = {**flavor, "ETag": f"{self.version:016x}"}
        path = request.path.removeprefix("/computeMetadata/v1/")
        if path == "instance/" and request.query.get("recursive", "").lower() == "true":
            return document(self.instance(), **headers)
        instance = self.instance()
        interface = instance["networkInterfaces"][0]
        tree: dict[str, Any] = {
            "instance": {
                **{name: instance[name] for name in ("attributes", "hostname", "id", "image", "zone", "preempted")},
                "machine-type": instance["machineType"],
                "maintenance-event": "NONE",
                "tags": json.dumps(instance["tags"]),
                "network-interfaces": {"0": {"ip": interface["ip"]}},
            },
            "project": {"project-id": "project-1", "numeric-project-id": "42", "attributes": {}},
        }
        if request.query.get("recursive", "").lower() == "true":
            node: Any = tree
            for part in [p for p in path.split("/") if p]:
                node = node.get(part, {})
            return document(node, **headers)
        answer = walk(tree, path)
        return Answer(answer.status, answer.body, {**answer.headers, **headers})

    def wait(self, request: Request) -> None:
        if request.query.get("wait_for_change") != "true":
            return
        seconds = min(30.0, float(request.query.get("timeout_sec", "30")))
        last = request.query.get("last_etag", "")
        with self.changed:
            before = self.version
            if last in ("", f"{before:016x}"):
                self.changed.wait_for(lambda: self.version != before, seconds)


class Azure(Base):
    """`events`: an EventType that is scheduled, such as Preempt."""

    VERSIONS = ("2019-06-01", "2021-02-01", "2021-08-01", "2023-07-01")

    def get(self, request: Request) -> Answer:
        if request.headers.get("metadata") != "true":
            return refuse(400, "no Metadata: true")
        if "x-forwarded-for" in request.headers:
            return refuse(400, "it passed a proxy")
        version = request.query.get("api-version", "")
        if request.path == "/metadata/scheduledevents":
            return self.events() if version == "2020-07-01" else refuse(400, f"api-version {version!r}")
        if request.path != "/metadata/instance":
            return MISSING
        if version not in self.VERSIONS:
            return refuse(400, f"api-version {version!r}")
        return document(self.instance())

    def events(self) -> Answer:
        kind = self.options.get("events")
        event = {"EventId": "1", "EventType": kind, "ResourceType": "VirtualMachine", "Resources": ["web_1"]}
        return document({"DocumentIncarnation": 1, "Events": [event] if kind else []})

    def instance(self) -> dict[str, Any]:
        address = {"privateIpAddress": "10.1.0.5", "publicIpAddress": "198.51.100.7"}
        return {
            "compute": {
                "location": "westeurope",
                "name": "web_1",
                "osProfile": {"computerName": "web-1", "adminUsername": "x"},
                "resourceGroupName": "rg",
                "storageProfile": {
                    "imageReference": {
                        "id": "",
                        "publisher": "Debian",
                        "offer": "debian-12",
                        "sku": "12",
                        "version": "latest",
                    }
                },
                "subscriptionId": "8d10da13-8125-4ba9-a717-bf7490507b3d",
                "tags": "environment:prod;odd:a;b",
                "tagsList": [{"name": "environment", "value": "prod"}, {"name": "odd", "value": "a;b"}],
                "userData": base64.b64encode(self.userdata.encode()).decode(),
                "vmId": "13f56399-bd52-4150-9748-7190aae1ff21",
                "vmSize": "Standard_D2s_v5",
                "zone": "1",
            },
            "network": {
                "interface": [
                    {
                        "ipv4": {"ipAddress": [address], "subnet": [{"address": "10.1.0.0", "prefix": "24"}]},
                        "ipv6": {"ipAddress": [{"privateIpAddress": "2001:db8::5"}]},
                        "macAddress": "000D3A00FA89",
                    }
                ]
            },
        }


class OpenStack(Base):
    """`ec2`: off takes the imitation of EC2's tree away."""

    VERSIONS = ("2012-08-10", "2015-10-15", "2016-06-30", "2018-08-27", "latest")

    def get(self, request: Request) -> Answer:
        top, _, rest = request.path.strip("/").partition("/")
        if top == "openstack":
            return self.native(rest)
        if top in ("latest", "2009-04-04") and self.options.get("ec2", "on") == "on":
            return self.userdata_answer() if rest == "user-data" else walk({"meta-data": self.tree()}, rest)
        return MISSING

    def native(self, path: str) -> Answer:
        version, _, name = path.partition("/")
        if not version:
            return text("\n".join(self.VERSIONS))
        if version not in self.VERSIONS:
            return MISSING
        if name == "user_data":
            return self.userdata_answer()
        found = {"meta_data.json": self.meta(), "network_data.json": self.network(), "vendor_data.json": {}}
        return document(found[name]) if name in found else MISSING

    def meta(self) -> dict[str, Any]:
        return {
            "availability_zone": "nova",
            "devices": [],
            "hostname": "web-1.novalocal",
            "launch_index": 0,
            "meta": {"environment": "prod"},
            "name": "web-1",
            "project_id": "f7ac731cc11f40efbc03a9f9e1d1d21f",
            "uuid": "83679162-1378-4288-a2d4-70e13ec132aa",
        }

    def network(self) -> dict[str, Any]:
        link = {"id": "tap0", "type": "bridge", "ethernet_mac_address": "fa:16:3e:00:00:05", "mtu": 1500, "vif_id": "v"}
        return {
            "links": [link],
            "networks": [
                {"id": "n0", "link": "tap0", "type": "ipv4_dhcp", "network_id": "a"},
                {"id": "n1", "link": "tap0", "type": "ipv6", "ip_address": "2001:db8::5/64", "network_id": "b"},
            ],
            "services": [],
        }

    def tree(self) -> dict[str, Any]:
        return {
            "ami-id": "ami-00000001",
            "hostname": "web-1.novalocal",
            "instance-id": "i-00000001",
            "instance-type": "m1.small",
            "local-ipv4": "10.2.0.5",
            "public-ipv4": "198.51.100.7",
        }


class OneDocument(Base):
    """A service that says all in one JSON document at `PATH`."""

    PATH = ""

    def get(self, request: Request) -> Answer:
        return document(self.content()) if request.path == self.PATH else MISSING

    def content(self) -> dict[str, Any]:
        raise NotImplementedError


class DigitalOcean(OneDocument):
    PATH = "/metadata/v1.json"

    def content(self) -> dict[str, Any]:
        anchor = {"ip_address": "10.17.0.9", "netmask": "255.255.0.0", "gateway": "10.17.0.1"}
        public = {
            "ipv4": {"ip_address": "198.51.100.7", "netmask": "255.255.240.0", "gateway": "198.51.100.1"},
            "ipv6": {"ip_address": "2001:db8::5", "cidr": 64, "gateway": "2001:db8::1"},
            "anchor_ipv4": anchor,
            "mac": "9a:00:00:00:00:05",
            "type": "public",
        }
        private = {"ipv4": {"ip_address": "10.132.0.5"}, "mac": "9a:00:00:00:00:06", "type": "private"}
        return {
            "droplet_id": 2756294,
            "hostname": "web-1",
            "region": "nyc3",
            "user_data": self.userdata,
            "public_keys": [],
            "interfaces": {"public": [public], "private": [private]},
            "dns": {"nameservers": ["192.0.2.53"]},
            "tags": ["environment:prod", "edge"],
        }


class Vultr(OneDocument):
    PATH = "/v1.json"

    def content(self) -> dict[str, Any]:
        return {
            "hostname": "web-1",
            "instanceid": "42506325",
            "instance-v2-id": "cb676a46-66fd-4dfb-b839-443f2e6c0b60",
            "interfaces": [
                {
                    "ipv4": {"address": "198.51.100.7", "gateway": "198.51.100.1", "netmask": "255.255.254.0"},
                    "ipv6": {"address": "2001:db8::5", "prefix": "64"},
                    "mac": "56:00:00:00:00:05",
                    "network-type": "public",
                },
                {
                    "ipv4": {"address": "10.7.96.3", "gateway": "", "netmask": "255.255.240.0"},
                    "mac": "5a:00:00:00:00:05",
                    "network-type": "private",
                },
            ],
            "public-keys": [],
            "region": {"regioncode": "EWR", "countrycode": "US"},
            "tags": ["environment=prod"],
            "user-data": self.userdata,
            "vendor-data": "",
        }


class UpCloud(OneDocument):
    PATH = "/metadata/v1.json"

    def content(self) -> dict[str, Any]:
        def face(index: int, kind: str, address: str, family: str = "IPv4") -> dict[str, Any]:
            return {
                "index": index,
                "type": kind,
                "ip_addresses": [{"address": address, "family": family, "dhcp": True}],
            }

        return {
            "cloud_name": "upcloud",
            "hostname": "web-1",
            "instance_id": "00322b68-0096-4042-9406-faad61922128",
            "network": {
                "interfaces": [
                    face(1, "utility", "10.5.4.5"),
                    face(2, "public", "198.51.100.7"),
                    face(3, "public", "2001:db8::5", "IPv6"),
                    face(4, "private", "172.16.0.5"),
                ]
            },
            "platform": "servers",
            "region": "fi-hel1",
            "tags": ["environment=prod"],
            "user_data": self.userdata,
            "vendor_data": "",
        }


class Hetzner(Base):
    """`userdata` empty: 204, as there."""

    def get(self, request: Request) -> Answer:
        if request.path == "/hetzner/v1/metadata":
            return text(
                "availability-zone: fsn1-dc14\nhostname: web-1\ninstance-id: 42\nlocal-ipv4: ''\n"
                "network-config:\n  config:\n  - mac_address: 96:00:00:00:00:05\n    name: eth0\n    subnets:\n"
                "    - ipv4: true\n      type: dhcp\n    - address: 2001:db8::5/64\n      gateway: fe80::1\n"
                "      ipv6: true\n      type: static\n    type: physical\n  version: 1\n"
                "public-ipv4: 198.51.100.7\nregion: eu-central\npublic-keys: []\nvendor_data: ''\n"
            )
        if request.path == "/hetzner/v1/metadata/instance-id":
            return text("42")
        if request.path == "/hetzner/v1/metadata/private-networks":
            return text("- ip: 10.3.0.5\n  alias_ips: []\n  interface_num: 1\n  network_id: 1\n")
        if request.path == "/hetzner/v1/userdata":
            return text(self.userdata) if self.userdata else Answer(204)
        return MISSING


class Oracle(Base):
    """`version`: v1 takes the second version away."""

    def get(self, request: Request) -> Answer:
        version = request.path.split("/")[2] if request.path.startswith("/opc/") else ""
        if version not in ("v1", "v2") or (version == "v2" and self.options.get("version") == "v1"):
            return MISSING
        if version == "v2" and request.headers.get("authorization") != "Bearer Oracle":
            return refuse(403, "no Authorization: Bearer Oracle")
        if request.path == f"/opc/{version}/instance/":
            return document(self.instance())
        if request.path == f"/opc/{version}/vnics/":
            return document(
                [
                    {
                        "macAddr": "02:00:17:00:00:05",
                        "privateIp": "10.4.0.5",
                        "ipv6Addresses": ["2001:db8::5"],
                        "vlanTag": 1,
                    }
                ]
            )
        return MISSING

    def instance(self) -> dict[str, Any]:
        return {
            "availabilityDomain": "EMIr:PHX-AD-1",
            "canonicalRegionName": "us-phoenix-1",
            "compartmentId": "ocid1.tenancy.oc1..exampleuniqueID",
            "definedTags": {"ops": {"team": "edge"}},
            "displayName": "my-instance",
            "freeformTags": {"environment": "prod"},
            "hostname": "web-1",
            "id": "ocid1.instance.oc1.phx.exampleuniqueID",
            "image": "ocid1.image.oc1.phx.exampleuniqueID",
            "ociAdName": "phx-ad-3",
            "metadata": {"user_data": base64.b64encode(self.userdata.encode()).decode()},
            "region": "phx",
            "shape": "VM.Standard.E4.Flex",
            "tenantId": "ocid1.tenancy.oc1..exampleuniqueID",
        }


class Scaleway(Base):
    """User-data needs a source port below 1024."""

    def get(self, request: Request) -> Answer:
        if request.path == "/conf" and request.query.get("format") == "json":
            return document(self.conf())
        if request.path == "/user_data/cloud-init":
            return self.userdata_answer() if 0 < request.port < 1024 else refuse(403, "source port of 1024 or more")
        return MISSING

    def conf(self) -> dict[str, Any]:
        return {
            "id": "e91f0d72-1234-4cb1-b3d0-2b05ef97d8e6",
            "name": "web-1",
            "commercial_type": "DEV1-S",
            "hostname": "web-1",
            "organization": "org-1",
            "project": "project-1",
            "tags": ["environment=prod", "edge"],
            "private_ip": "10.70.0.5",
            "public_ip": {"id": "1", "address": "198.51.100.7", "dynamic": False},
            "ipv6": {"address": "2001:db8::5", "netmask": "64", "gateway": "2001:db8::1"},
            "location": {"zone_id": "fr-par-1", "platform_id": "14"},
            "ssh_public_keys": [],
        }


class Exoscale(Base):
    def get(self, request: Request) -> Answer:
        version, _, path = request.path.lstrip("/").partition("/")
        if version not in ("1.0", "latest"):
            return MISSING
        if path == "user-data":
            return self.userdata_answer()
        tree = {
            "availability-zone": "ch-gva-2",
            "instance-id": "f2e3a8a5-5a1e-4f4e-a30f-9ea5c1b7a4a5",
            "local-hostname": "web-1",
            "local-ipv4": "10.6.0.5",
            "public-ipv4": "198.51.100.7",
            "service-offering": "Small",
        }
        return walk({"meta-data": tree}, path)


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
        found = {"/v1/instance": self.instance(), "/v1/network": self.network()}.get(request.path)
        if found is None:
            return MISSING
        if request.headers.get("accept") != "application/json":
            return refuse(200, "no Accept: application/json, so it answers with plain text")
        return document(found)

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


class Lxd(Base):
    def get(self, request: Request) -> Answer:
        config = {"user.environment": "prod", "cloud-init.user-data": self.userdata}
        if request.path == "/1.0":
            return document({"api_version": "1.0", "instance_type": "container", "location": "node1", "state": "Started"})
        if request.path == "/1.0/meta-data":
            return text("#cloud-config\ninstance-id: 1b2f\nlocal-hostname: web-1\n")
        if request.path == "/1.0/config":
            return document([f"/1.0/config/{name}" for name in config])
        name = request.path.removeprefix("/1.0/config/")
        return text(config[name]) if name in config else MISSING


PLATFORMS: dict[str, Callable[[dict[str, Any]], State]] = {
    "akamai": Akamai,
    "alibaba": Alibaba,
    "azure": Azure,
    "digitalocean": DigitalOcean,
    "ec2": Ec2,
    "exoscale": Exoscale,
    "gce": Gce,
    "hetzner": Hetzner,
    "lxd": Lxd,
    "openstack": OpenStack,
    "oracle": Oracle,
    "scaleway": Scaleway,
    "upcloud": UpCloud,
    "vultr": Vultr,
}
