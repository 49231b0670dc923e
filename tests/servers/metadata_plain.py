"""Platforms whose metadata service needs neither a token nor a header."""

from __future__ import annotations

from typing import Any

from tests.servers.metadata_answers import MISSING, Answer, Base, Request, document, refuse, text, walk


class OpenStack(Base):
    """`ec2`: off removes the imitation of EC2's tree."""

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
        documents = {"meta_data.json": self.meta(), "network_data.json": self.network(), "vendor_data.json": {}}
        return document(documents[name]) if name in documents else MISSING

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
    """A service with one JSON document at `PATH`."""

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
        def interface(index: int, kind: str, address: str, family: str = "IPv4") -> dict[str, Any]:
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
                    interface(1, "utility", "10.5.4.5"),
                    interface(2, "public", "198.51.100.7"),
                    interface(3, "public", "2001:db8::5", "IPv6"),
                    interface(4, "private", "172.16.0.5"),
                ]
            },
            "platform": "servers",
            "region": "fi-hel1",
            "tags": ["environment=prod"],
            "user_data": self.userdata,
            "vendor_data": "",
        }


class Hetzner(Base):
    """Answers 204 if `userdata` is empty, as the platform does."""

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
