"""Platforms whose metadata service requires a header."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any

from tests.servers.metadata_answers import MISSING, Answer, Base, Request, document, refuse, walk


class Gce(Base):
    """`change()` changes the attribute `environment`, and answers the requests that wait for a change.

    `patience`: none answers at once, as an intermediate service without long polls does. `restless`: on makes all answers
    different.
    """

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
        if self.options.get("restless") == "on":
            self.change(environment=f"e{self.version}")
        if request.query.get("wait_for_change") != "true" or self.options.get("patience") == "none":
            return
        seconds = min(30.0, float(request.query.get("timeout_sec", "30")))
        last = request.query.get("last_etag", "")
        with self.changed:
            before = self.version
            if last in ("", f"{before:016x}"):
                self.changed.wait_for(lambda: self.version != before, seconds)


class Azure(Base):
    """`events`: the EventType that is scheduled, such as Preempt."""

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


class Oracle(Base):
    """`version`: v1 removes version 2."""

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
