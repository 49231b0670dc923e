"""The providers that need no network: the kernel command line, credentials, cloud-init, files, and the machine itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agent.discovery.providers.host import addresses
from agent.discovery.providers.kernel import parse
from agent.paths import Paths
from tests.unit.discovery.machines import ask, attempts_text, machine, write

MACHINE_ID = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("cmdline", "facts"),
    [
        ("root=/dev/sda1 ro parbake.environment=prod quiet\n", {"environment": "prod"}),
        ('parbake.role="edge proxy" x=y', {"role": "edge proxy"}),
        ('"parbake.role=edge proxy" x=y', {"role": "edge proxy"}),
        ("parbake.a=1 parbake.a=2", {"a": "2"}),
        ("parbake.url=http://x/?a=b", {"url": "http://x/?a=b"}),
        ("parbake.debug parbake.empty= notparbake.x=1 xparbake.y=2", {}),
        ('parbake.role="never closed', {"role": "never closed"}),
        ("it's parbake.role=web", {"role": "web"}),
        ("", {}),
    ],
)
def test_the_kernel_command_line(cmdline: str, facts: dict[str, str], tmp_path: Path) -> None:
    """parbake.NAME=value is a fact, quoted as the kernel quotes; the last of a name wins, as with the kernel."""
    write(tmp_path, "/proc/cmdline", cmdline)
    discovered = ask(Paths(tmp_path), "kernel")
    assert dict(discovered.values) == facts
    assert set(discovered.providers.values()) <= {"kernel"}


def test_in_a_container_the_hosts_command_line_is_not_read(tmp_path: Path) -> None:
    """In a container /proc/cmdline is the host's: the arguments of the container's init are read instead."""
    write(tmp_path, "/run/systemd/container", "systemd-nspawn\n")
    write(tmp_path, "/proc/cmdline", "parbake.environment=host\n")
    write(tmp_path, "/proc/1/cmdline", b"/sbin/init\0parbake.role=web edge\0")
    assert dict(ask(Paths(tmp_path), "kernel").values) == {"role": "web edge"}


def test_words_of_a_command_line() -> None:
    """Quotes group and vanish; nothing is escaped."""
    assert parse(r'a="b c"d  e\ f "g=h i"' + "\n") == ["a=b cd", "e\\", "f", "g=h i"]


def test_credentials_are_facts(tmp_path: Path) -> None:
    """A system credential parbake.NAME is the fact NAME, without one trailing newline. Other names are not facts."""
    write(tmp_path, "/run/credentials/@system/parbake.environment", "prod\n")
    write(tmp_path, "/run/credentials/@system/consul-token", "secret")
    assert dict(ask(Paths(tmp_path), "credentials").values) == {"environment": "prod"}


def test_the_services_credentials_are_not_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below --root the credentials of the running process are not read."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "own"))
    write(tmp_path, "/own/parbake.role", "builder")
    assert dict(ask(Paths(tmp_path), "credentials").values) == {}


def test_a_credential_that_is_not_text_is_reported(tmp_path: Path) -> None:
    """Binary is refused with the credential's name, and discovery goes on."""
    write(tmp_path, "/run/credentials/@system/parbake.role", b"\xff\xfe")
    write(tmp_path, "/etc/parbake/facts.d/a.toml", 'role = "web"\n')
    facts = ask(Paths(tmp_path), "credentials", "file")
    assert dict(facts.values) == {"role": "web"}
    assert "parbake.role is not UTF-8 text" in attempts_text(facts)


def test_fact_files(tmp_path: Path) -> None:
    """TOML, JSON and YAML; in one directory the later name wins, and run time wins over baked."""
    write(tmp_path, "/etc/parbake/facts.d/10.toml", 'role = "web"\nrack = "r1"\n[tags]\nteam = "edge"\n')
    write(tmp_path, "/etc/parbake/facts.d/20.json", '{"rack": "r2", "slot": 7}')
    write(tmp_path, "/run/parbake/facts.d/10.yaml", "role: db\n")
    write(tmp_path, "/etc/parbake/facts.d/ignored.txt", "role: x\n")
    facts = ask(Paths(tmp_path), "file")
    assert dict(facts.values) == {"role": "db", "rack": "r2", "slot": "7", "tags": {"team": "edge"}}


@pytest.mark.parametrize(
    ("name", "body"),
    [("a.toml", "role = "), ("a.json", "[1]"), ("a.yaml", "a: &x [1]\nb: *x\n"), ("a.json", b"\xff"), ("a.yaml", "{")],
)
def test_a_broken_fact_file_does_not_lose_the_others(name: str, body: str | bytes, tmp_path: Path) -> None:
    """The file is named with its error, and the other files are read."""
    write(tmp_path, f"/etc/parbake/facts.d/{name}", body)
    write(tmp_path, "/etc/parbake/facts.d/b.toml", 'role = "web"\n')
    facts = ask(Paths(tmp_path), "file")
    assert dict(facts.values) == {"role": "web"}
    assert f"/etc/parbake/facts.d/{name}" in attempts_text(facts)


def test_the_machine_id_is_the_instance_id_without_a_platform(tmp_path: Path) -> None:
    """Without a platform the machine id is the instance_id. With a platform that cannot be asked, there is no instance_id."""
    write(tmp_path, "/etc/machine-id", MACHINE_ID + "\n")
    write(tmp_path, "/etc/hostname", "web-1\n")
    assert dict(ask(Paths(tmp_path), "host").values) == {"hostname": "web-1", "instance_id": MACHINE_ID}
    machine(tmp_path, "gce")
    facts = ask(Paths(tmp_path), "imds", "host", imds_url="http://127.0.0.1:1", timeout=2.0)
    assert dict(facts.values) == {"platform": "gce", "hostname": "web-1"}


@pytest.mark.parametrize("text", ["uninitialized\n", "", "not hex", MACHINE_ID + "00"])
def test_an_invalid_machine_id_is_not_an_identity(text: str, tmp_path: Path) -> None:
    """An image whose machine id is not yet set has no instance_id."""
    write(tmp_path, "/etc/machine-id", text)
    assert dict(ask(Paths(tmp_path), "host").values) == {}


def test_the_machines_own_addresses() -> None:
    """The addresses that the routes would use, never a loopback or link-local one, and without a packet being sent."""
    host_addresses = addresses()
    assert set(host_addresses) <= {"private_ipv4", "public_ipv4", "ipv6"}
    assert not any(value.startswith(("127.", "169.254.", "::1", "fe80")) for value in host_addresses.values())
    assert len({"private_ipv4", "public_ipv4"} & set(host_addresses)) <= 1


def instance_data(root: Path, document: dict[str, Any]) -> Paths:
    write(root, "/run/cloud-init/instance-data.json", json.dumps(document))
    return Paths(root)


EC2_DATA: dict[str, Any] = {
    "v1": {
        "cloud_id": "aws",
        "cloud_name": "aws",
        "platform": "ec2",
        "region": "eu-central-1",
        "availability_zone": "eu-central-1a",
        "instance_id": "i-1",
        "local_hostname": "ip-10-0-0-5",
    },
    "ds": {
        "meta-data": {"instance-type": "m7g.large", "local-ipv4": "10.0.0.5", "tags": {"instance": {"role": "web"}}},
        "dynamic": {"instance-identity": {"document": {"accountId": "123456789012", "imageId": "ami-1"}}},
    },
}


def test_the_facts_that_cloud_init_has_gathered(tmp_path: Path) -> None:
    """v1 gives its facts under parbake's names, and ds gives the facts that v1 does not have."""
    assert dict(ask(instance_data(tmp_path, EC2_DATA), "cloud-init").values) == {
        "platform": "ec2",
        "instance_id": "i-1",
        "region": "eu-central-1",
        "zone": "eu-central-1a",
        "hostname": "ip-10-0-0-5",
        "instance_type": "m7g.large",
        "private_ipv4": "10.0.0.5",
        "account_id": "123456789012",
        "image_id": "ami-1",
        "tags": {"role": "web"},
    }


@pytest.mark.parametrize("ds", [None, [], "x", {"meta-data": 3}, {"meta_data": {"tags": 3, "placement": []}}])
@pytest.mark.parametrize("cloud", ["aws", "gce", "azure", "openstack", "oracle", "lxd", "vultr", "scaleway", "nocloud"])
def test_a_ds_of_another_shape_costs_only_its_facts(ds: Any, cloud: str, tmp_path: Path) -> None:
    """The shape of ds is not stable. The facts of v1 do not depend on it."""
    facts = ask(instance_data(tmp_path, {"v1": {"cloud_id": cloud, "instance_id": "i-1"}, "ds": ds}), "cloud-init")
    assert facts.values["instance_id"] == "i-1"
    assert "in the provider" not in attempts_text(facts)


@pytest.mark.parametrize("body", ["", "{", "[]", '{"v1": []}', '{"v1": {"cloud_id": 3}}', b"\xff"])
def test_half_written_instance_data_is_no_traceback(body: str | bytes, tmp_path: Path) -> None:
    """Discovery goes on whatever the file contains."""
    write(tmp_path, "/run/cloud-init/instance-data.json", body)
    facts = ask(Paths(tmp_path), "cloud-init")
    assert dict(facts.values) == {}
    assert "in the provider" not in attempts_text(facts)


def test_cloud_init_without_a_datasource_gives_no_facts(tmp_path: Path) -> None:
    """Its placeholder instance id is not an identity."""
    data = {"v1": {"cloud_id": "none", "platform": "none", "instance_id": "iid-datasource-none", "region": None}}
    assert dict(ask(instance_data(tmp_path, data), "cloud-init").values) == {}


def userdata(root: Path, instance: str, **files: str) -> None:
    for name, body in files.items():
        write(root, f"/var/lib/cloud/instances/{instance}/{name.replace('_', '-')}.txt", body)
    link = root / "var/lib/cloud/instance"
    link.unlink(missing_ok=True)
    os.symlink(f"/var/lib/cloud/instances/{instance}", link)


def test_user_data_that_cloud_init_has_merged(tmp_path: Path) -> None:
    """The `parbake` key of all parts merged, else of the user-data as it was given, is the fact `userdata`."""
    paths = instance_data(tmp_path, EC2_DATA)
    userdata(tmp_path, "i-1", user_data="#cloud-config\nparbake: {role: db}\n")
    assert ask(paths, "cloud-init").values["userdata"] == {"role": "db"}
    userdata(tmp_path, "i-1", cloud_config="#cloud-config\nparbake: {role: web}\n")
    assert ask(paths, "cloud-init").values["userdata"] == {"role": "web"}


def test_user_data_of_an_earlier_instance_is_not_read(tmp_path: Path) -> None:
    """In an image captured from a running instance the link still leads to that instance, and is not followed."""
    paths = instance_data(tmp_path, EC2_DATA)
    userdata(tmp_path, "i-0", user_data="#cloud-config\nparbake: {role: db}\n")
    assert "userdata" not in ask(paths, "cloud-init").values
