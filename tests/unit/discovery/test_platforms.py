"""Every platform against its emulator, which is strict about methods, paths, headers, tokens and versions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.servers.metadata import Metadata
from tests.servers.metadata_platforms import PLATFORMS
from tests.unit.discovery.machines import FIRMWARE, ask, attempts_text, machine, write

PARBAKE = {"environment": "prod", "role": "web"}
PUBLIC = "198.51.100.7"
SIX = "2001:db8::5"

EXPECTED: dict[str, dict[str, Any]] = {
    "akamai": {
        "instance_id": "12345",
        "region": "us-east",
        "instance_type": "g6-standard-1",
        "hostname": "web-1",
        "private_ipv4": "192.168.133.5",
        "public_ipv4": PUBLIC,
        "ipv6": SIX,
        "image_id": "linode/debian12",
        "account_id": "D9DA7F1E-0000-0000-0000-0242AC110003",
        "tags": {"environment": "prod"},
    },
    "alibaba": {
        "instance_id": "i-bp1abc",
        "region": "eu-central-1",
        "zone": "eu-central-1a",
        "instance_type": "ecs.g7.large",
        "hostname": "iZbp1abcZ",
        "private_ipv4": "172.16.0.5",
        "public_ipv4": "203.0.113.8",
        "image_id": "m-bp1",
        "account_id": "1234567890",
        "tags": {"environment": "prod"},
    },
    "azure": {
        "instance_id": "13f56399-bd52-4150-9748-7190aae1ff21",
        "region": "westeurope",
        "zone": "1",
        "instance_type": "Standard_D2s_v5",
        "hostname": "web-1",
        "private_ipv4": "10.1.0.5",
        "public_ipv4": PUBLIC,
        "ipv6": SIX,
        "image_id": "Debian:debian-12:12:latest",
        "account_id": "8d10da13-8125-4ba9-a717-bf7490507b3d",
        "tags": {"environment": "prod", "odd": "a;b"},
    },
    "digitalocean": {
        "instance_id": "2756294",
        "region": "nyc3",
        "hostname": "web-1",
        "private_ipv4": "10.132.0.5",
        "public_ipv4": PUBLIC,
        "ipv6": SIX,
        "tags": {"environment": "prod", "edge": "true"},
    },
    "ec2": {
        "instance_id": "i-0123456789abcdef0",
        "region": "eu-central-1",
        "zone": "eu-central-1a",
        "instance_type": "m7g.large",
        "hostname": "ip-10-0-0-5.eu-central-1.compute.internal",
        "private_ipv4": "10.0.0.5",
        "public_ipv4": PUBLIC,
        "ipv6": SIX,
        "image_id": "ami-0abc",
        "account_id": "123456789012",
        "tags": {"environment": "prod", "Name": "web-1", "a.b:c": "x y=z"},
    },
    "exoscale": {
        "instance_id": "f2e3a8a5-5a1e-4f4e-a30f-9ea5c1b7a4a5",
        "zone": "ch-gva-2",
        "instance_type": "Small",
        "hostname": "web-1",
        "private_ipv4": "10.6.0.5",
        "public_ipv4": PUBLIC,
    },
    "gce": {
        "instance_id": "9007199254740993123",
        "region": "europe-west1",
        "zone": "europe-west1-b",
        "instance_type": "n2-standard-2",
        "hostname": "web-1.c.project-1.internal",
        "private_ipv4": "10.128.0.5",
        "public_ipv4": PUBLIC,
        "ipv6": SIX,
        "image_id": "debian-12-bookworm-v20240110",
        "account_id": "project-1",
        "tags": {"environment": "prod", "http-server": "true"},
    },
    "hetzner": {
        "instance_id": "42",
        "region": "eu-central",
        "zone": "fsn1-dc14",
        "hostname": "web-1",
        "private_ipv4": "10.3.0.5",
        "public_ipv4": PUBLIC,
        "ipv6": SIX,
    },
    "lxd": {
        "instance_id": "1b2f",
        "zone": "node1",
        "instance_type": "container",
        "hostname": "web-1",
        "tags": {"environment": "prod"},
    },
    "openstack": {
        "instance_id": "83679162-1378-4288-a2d4-70e13ec132aa",
        "zone": "nova",
        "instance_type": "m1.small",
        "hostname": "web-1.novalocal",
        "private_ipv4": "10.2.0.5",
        "public_ipv4": PUBLIC,
        "ipv6": SIX,
        "image_id": "ami-00000001",
        "account_id": "f7ac731cc11f40efbc03a9f9e1d1d21f",
        "tags": {"environment": "prod"},
    },
    "oracle": {
        "instance_id": "ocid1.instance.oc1.phx.exampleuniqueID",
        "region": "us-phoenix-1",
        "zone": "EMIr:PHX-AD-1",
        "instance_type": "VM.Standard.E4.Flex",
        "hostname": "web-1",
        "private_ipv4": "10.4.0.5",
        "ipv6": SIX,
        "image_id": "ocid1.image.oc1.phx.exampleuniqueID",
        "account_id": "ocid1.tenancy.oc1..exampleuniqueID",
        "tags": {"environment": "prod", "ops.team": "edge"},
    },
    "scaleway": {
        "instance_id": "e91f0d72-1234-4cb1-b3d0-2b05ef97d8e6",
        "region": "fr-par",
        "zone": "fr-par-1",
        "instance_type": "DEV1-S",
        "hostname": "web-1",
        "private_ipv4": "10.70.0.5",
        "public_ipv4": PUBLIC,
        "ipv6": SIX,
        "account_id": "project-1",
        "tags": {"environment": "prod", "edge": "true"},
    },
    "upcloud": {
        "instance_id": "00322b68-0096-4042-9406-faad61922128",
        "region": "fi-hel1",
        "hostname": "web-1",
        "private_ipv4": "172.16.0.5",
        "public_ipv4": PUBLIC,
        "ipv6": SIX,
        "tags": {"environment": "prod"},
    },
    "vultr": {
        "instance_id": "cb676a46-66fd-4dfb-b839-443f2e6c0b60",
        "region": "EWR",
        "hostname": "web-1",
        "private_ipv4": "10.7.96.3",
        "public_ipv4": PUBLIC,
        "ipv6": SIX,
        "tags": {"environment": "prod"},
    },
}
NETWORKED = sorted(set(EXPECTED) - {"lxd"})


def test_every_platform_is_tried() -> None:
    """Every platform has an expectation here, and every platform with firmware is tried."""
    assert set(EXPECTED) == set(PLATFORMS)
    assert set(FIRMWARE) == set(NETWORKED)


@pytest.mark.parametrize("platform", NETWORKED)
def test_firmware_names_the_platform_and_its_service_gives_the_facts(platform: str, tmp_path: Path) -> None:
    """The facts have the same names on every platform, are absent if it does not provide them, and name their provider."""
    # Scaleway gives user-data only to a source port below 1024, which needs root.
    userdata = {} if platform == "scaleway" and os.geteuid() != 0 else {"userdata": PARBAKE}
    with Metadata(platform) as service:
        facts = ask(machine(tmp_path, platform), "imds", imds_url=service.url)
    assert dict(facts.values) == {"platform": platform, **userdata, **EXPECTED[platform]}, attempts_text(facts)
    assert set(facts.providers.values()) == {f"imds:{platform}"}
    assert service.violations == []


def test_lxd_is_asked_over_its_socket(tmp_path: Path) -> None:
    """In a guest of LXD its socket is the match, and no network is used."""
    socket = tmp_path / "dev/lxd/sock"
    socket.parent.mkdir(parents=True)
    write(tmp_path, "/run/systemd/container", "lxc\n")
    with Metadata("lxd", unix_socket=str(socket)) as service:
        facts = ask(machine(tmp_path), "imds")
    assert dict(facts.values) == {"platform": "lxd", "userdata": PARBAKE, **EXPECTED["lxd"]}, attempts_text(facts)
    assert service.violations == []


@pytest.mark.parametrize("platform", NETWORKED)
def test_no_user_data_is_no_error(platform: str, tmp_path: Path) -> None:
    """An instance without user-data, or with a script as user-data, has no fact `userdata` and all the others."""
    for userdata in ("", "#!/bin/sh\necho parbake\n"):
        with Metadata(platform, options={"userdata": userdata}) as service:
            facts = ask(machine(tmp_path, platform), "imds", imds_url=service.url)
        assert dict(facts.values) == {"platform": platform, **EXPECTED[platform]}, attempts_text(facts)
        assert "failed" not in attempts_text(facts)


@pytest.mark.parametrize("status", [404, 405])
def test_ec2_falls_back_to_version_1_without_tokens(status: int, tmp_path: Path) -> None:
    """A service that answers the request for a token with 404 or 405 gets requests without one."""
    with Metadata("ec2", options={"imds": "v1", "token_status": status}) as service:
        facts = ask(machine(tmp_path, "ec2"), "imds", imds_url=service.url)
    assert facts.values["instance_id"] == "i-0123456789abcdef0"
    assert all("x-aws-ec2-metadata-token" not in request.headers for request in service.seen)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_ec2_does_not_fall_back_if_a_token_is_refused(status: int, tmp_path: Path) -> None:
    """A service that has tokens and refuses one gets no request without a token, and the status is reported."""
    with Metadata("ec2", options={"imds": "v1", "token_status": status}) as service:
        facts = ask(machine(tmp_path, "ec2"), "imds", imds_url=service.url)
    assert {request.path for request in service.seen} == {"/latest/api/token"}
    assert f"answered PUT with {status}" in attempts_text(facts)


@pytest.mark.parametrize("fault", ["hang", "500"])
def test_ec2_never_falls_back_after_a_time_out(fault: str, tmp_path: Path) -> None:
    """A missing token is a failure: to continue without one would serve an attacker."""
    with Metadata("ec2", fault, on="/api/token", options={"imds": "both"}) as service:
        facts = ask(machine(tmp_path, "ec2"), "imds", imds_url=service.url, timeout=1.5)
    assert "instance_id" not in facts.values
    assert {request.path for request in service.seen} == {"/latest/api/token"}


def test_ec2_without_tags_in_metadata_has_no_tags(tmp_path: Path) -> None:
    """Tags are off by default there: 404, and no fact."""
    with Metadata("ec2", options={"tags": "off"}) as service:
        facts = ask(machine(tmp_path, "ec2"), "imds", imds_url=service.url)
    assert "tags" not in facts.values
    assert facts.values["account_id"] == "123456789012"


def test_alibaba_works_without_tokens(tmp_path: Path) -> None:
    """Tokens are optional there."""
    with Metadata("alibaba", options={"imds": "v1"}) as service:
        facts = ask(machine(tmp_path, "alibaba"), "imds", imds_url=service.url)
    assert facts.values["instance_type"] == "ecs.g7.large"
    assert service.violations == []


def test_oracle_falls_back_to_version_1(tmp_path: Path) -> None:
    """If version 2 is switched off, version 1 is used."""
    with Metadata("oracle", options={"version": "v1"}) as service:
        facts = ask(machine(tmp_path, "oracle"), "imds", imds_url=service.url)
    assert facts.values["private_ipv4"] == "10.4.0.5"


def test_openstack_without_the_ec2_tree_has_the_rest(tmp_path: Path) -> None:
    """Type and public address are only in the imitation of EC2's tree, which may be absent."""
    with Metadata("openstack", options={"ec2": "off"}) as service:
        facts = ask(machine(tmp_path, "openstack"), "imds", imds_url=service.url)
    assert "instance_type" not in facts.values
    assert facts.values["ipv6"] == SIX
    assert "failed" not in attempts_text(facts)


def test_a_config_drive_comes_before_the_network(tmp_path: Path) -> None:
    """With a config drive no request is made, and its facts are OpenStack's."""
    seed = "/var/lib/cloud/seed/config_drive/openstack/latest"
    write(tmp_path, f"{seed}/meta_data.json", '{"uuid": "u-1", "name": "web-1", "meta": {"environment": "prod"}}')
    write(tmp_path, f"{seed}/user_data", "#cloud-config\nparbake: {role: web}\n")
    with Metadata("openstack") as service:
        facts = ask(machine(tmp_path, "openstack"), "imds", imds_url=service.url)
    assert service.seen == []
    assert dict(facts.values) == {
        "platform": "openstack",
        "instance_id": "u-1",
        "hostname": "web-1",
        "tags": {"environment": "prod"},
        "userdata": {"role": "web"},
    }
    assert facts.providers["instance_id"] == "imds:configdrive"
