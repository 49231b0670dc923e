"""Faults of metadata services in the field: each costs at most the time of discovery, and gives no wrong fact."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from tests.servers.metadata import Metadata
from tests.servers.processes import free_port
from tests.unit.discovery.machines import ask, attempts_text, machine, timed, write
from tests.unit.discovery.test_platforms import EXPECTED, NETWORKED

TIMEOUT_SECONDS = 1.5
"""Of discovery: a twentieth of it, in which a provider reports its failure, is enough on a busy machine."""
SLACK_SECONDS = 10.0
"""The extra time that a busy machine may take. A service that hangs does so for a minute."""


@pytest.mark.parametrize("platform", NETWORKED)
@pytest.mark.parametrize("fault", ["hang", "drip", "500"])
def test_a_service_that_gives_no_answer_costs_the_time_of_discovery(platform: str, fault: str, tmp_path: Path) -> None:
    """A service that hangs, drips or only fails costs at most discovery.timeout, and the known facts are used."""
    write(tmp_path, "/etc/hostname", "web-9\n")
    with Metadata(platform, fault) as service:
        facts, seconds = timed(machine(tmp_path, platform), "imds", "host", imds_url=service.url, timeout=TIMEOUT_SECONDS)
    assert seconds < TIMEOUT_SECONDS + SLACK_SECONDS
    assert facts.values["platform"] == platform
    assert facts.values["hostname"] == "web-9"
    assert "gave no answer within the time" in attempts_text(facts) or "did not return" in attempts_text(facts)


@pytest.mark.parametrize("platform", NETWORKED)
@pytest.mark.parametrize("fault", ["500-once", "429-once", "reset-once"])
def test_a_service_that_recovers_is_tried_again(platform: str, fault: str, tmp_path: Path) -> None:
    """500, 429 and a broken connection are tried again, and then all facts are there."""
    with Metadata(platform, fault) as service:
        facts = ask(machine(tmp_path, platform), "imds", imds_url=service.url)
    for name, value in EXPECTED[platform].items():
        assert facts.values[name] == value


@pytest.mark.parametrize("platform", sorted(set(NETWORKED) - {"azure"}))
def test_404_is_an_answer(platform: str, tmp_path: Path) -> None:
    """404 is final: no request is repeated, and discovery does not wait."""
    with Metadata(platform, "404") as service:
        facts, seconds = timed(machine(tmp_path, platform), "imds", imds_url=service.url, timeout=60.0)
    requests = [(request.method, request.path) for request in service.seen]
    assert len(requests) == len(set(requests))
    assert seconds < 20
    assert facts.values["platform"] == platform


def test_azure_is_tried_again_after_404(tmp_path: Path) -> None:
    """On Azure 404 means that the service is being updated."""
    with Metadata("azure", "404") as service:
        _, seconds = timed(machine(tmp_path, "azure"), "imds", imds_url=service.url, timeout=TIMEOUT_SECONDS)
    assert len(service.seen) > 2
    assert seconds < TIMEOUT_SECONDS + SLACK_SECONDS


INVALID = ("truncated", "not-utf8", "not-json", "empty", "large", "redirect", "page")
# Two platforms give each fact as a plain line. Half of a JSON document is a valid line.
PLAIN = ("alibaba", "exoscale")


@pytest.mark.parametrize(
    ("platform", "fault"), [(p, f) for p in NETWORKED for f in INVALID if (f, p in PLAIN) != ("not-json", True)]
)
def test_an_invalid_answer_never_becomes_a_fact(platform: str, fault: str, tmp_path: Path) -> None:
    """A body that is cut off, not text, not JSON, empty, huge or a web page, and a redirect, give no fact."""
    with Metadata(platform, fault) as service:
        facts, seconds = timed(machine(tmp_path, platform), "imds", imds_url=service.url, timeout=0.6)
    assert seconds < 0.6 + SLACK_SECONDS
    assert "in the provider" not in attempts_text(facts), attempts_text(facts)
    assert "/redirected" not in {request.path for request in service.seen}
    expected = {"platform": platform, **EXPECTED[platform]}
    for name, value in facts.values.items():
        assert value == expected.get(name), attempts_text(facts)


def test_facts_before_a_failure_are_kept(tmp_path: Path) -> None:
    """One path that hangs does not lose the facts that came before it, and the report names that path."""
    with Metadata("ec2", "hang", on="/tags/") as service:
        facts = ask(machine(tmp_path, "ec2"), "imds", imds_url=service.url, timeout=3.0)
    assert facts.values["instance_id"] == "i-0123456789abcdef0"
    assert "tags" not in facts.values
    assert "/latest/meta-data/tags/instance gave no answer" in attempts_text(facts)


@pytest.mark.parametrize("platform", NETWORKED)
def test_a_service_that_is_not_there_is_tried_until_the_deadline(platform: str, tmp_path: Path) -> None:
    """A refused connection is tried again, because a service may start later than the instance. Then it is reported."""
    url = f"http://127.0.0.1:{free_port()}"
    facts, seconds = timed(machine(tmp_path, platform), "imds", imds_url=url, timeout=TIMEOUT_SECONDS)
    assert seconds < TIMEOUT_SECONDS + SLACK_SECONDS
    assert facts.values["platform"] == platform
    assert "connection refused" in attempts_text(facts)


@pytest.mark.parametrize("platform", NETWORKED)
def test_no_proxy_is_used(platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment, which would answer with its own metadata, is not used; neither is a .netrc."""
    write(tmp_path, "netrc", "machine 127.0.0.1 login user password secret\n")
    with Metadata(platform) as service, Metadata(platform) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        facts = ask(machine(tmp_path, platform), "imds", imds_url=service.url)
    assert facts.values["instance_id"] == EXPECTED[platform]["instance_id"]
    assert proxy.seen == []
    assert service.seen != []
    # Oracle's own header is called Authorization too.
    assert {request.headers.get("authorization") for request in service.seen} <= {None, "Bearer Oracle"}


LXD_FAULTS = ("hang", "drip", "500", "500-once", "reset-once", "404", *INVALID)


@pytest.mark.parametrize("fault", LXD_FAULTS)
def test_the_socket_of_lxd_is_trusted_no_more_than_a_network(fault: str, tmp_path: Path) -> None:
    """The same faults over the socket: discovery ends in time, no fact is wrong, and a service that recovers is used."""
    socket_path = tmp_path / "dev/lxd/sock"
    socket_path.parent.mkdir(parents=True)
    with Metadata("lxd", fault, unix_socket=str(socket_path)) as service:
        facts, seconds = timed(machine(tmp_path), "imds", timeout=0.6 if "once" not in fault else 5.0)
    if "once" in fault:
        assert facts.values["instance_id"] == EXPECTED["lxd"]["instance_id"]
    else:
        assert seconds < 0.6 + SLACK_SECONDS
    assert "in the provider" not in attempts_text(facts), attempts_text(facts)
    assert "/redirected" not in {request.path for request in service.seen}
    expected = {"platform": "lxd", "userdata": {"environment": "prod", "role": "web"}, **EXPECTED["lxd"]}
    for name, value in facts.values.items():
        assert value == expected.get(name), attempts_text(facts)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"uuid": "u-1', "is not valid JSON"),
        (b"\xff\xfe{}", "is not UTF-8 text"),
        (b"[1]", "is not a JSON object"),
        (b"", "is not valid JSON"),
        (b"{" + b" " * 5_000_000 + b"}", "is longer than 1048576 bytes"),
        (None, "has no openstack/latest/meta_data.json"),
    ],
    ids=["truncated", "not-utf8", "list", "empty", "large", "missing"],
)
def test_a_broken_config_drive_gives_no_facts_and_says_why(body: bytes | None, words: str, tmp_path: Path) -> None:
    """The drive's documents are checked like a service's, and the network is not asked instead."""
    drive = "/var/lib/cloud/seed/config_drive/openstack/latest"
    write(tmp_path, f"{drive}/other", "")
    if body is not None:
        write(tmp_path, f"{drive}/meta_data.json", body)
    facts = ask(machine(tmp_path), "imds", imds_url="http://127.0.0.1:1")
    assert dict(facts.values) == {"platform": "openstack"}
    assert words in attempts_text(facts)


def test_another_service_in_its_place_is_not_taken_for_gce(tmp_path: Path) -> None:
    """An answer without Google's header is not Google's."""
    with Metadata("digitalocean") as service:
        facts = ask(machine(tmp_path, "gce"), "imds", imds_url=service.url)
    assert dict(facts.values) == {"platform": "gce"}


def test_a_connection_that_was_closed_between_requests_is_opened_again(tmp_path: Path) -> None:
    """A service that closes idle connections does not cost a fact."""
    with Metadata("ec2", "reset-once", on="/public-ipv4") as service:
        facts = ask(machine(tmp_path, "ec2"), "imds", imds_url=service.url)
    assert facts.values["public_ipv4"] == "198.51.100.7"


def test_a_body_that_never_ends_is_cut_off(tmp_path: Path) -> None:
    """An endless sequence of chunks is read up to the limit of a body."""
    sent = 0

    def pour(listener: socket.socket) -> None:
        nonlocal sent
        wire, _ = listener.accept()
        with wire:
            wire.recv(65536)
            wire.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
            try:
                while sent < 64 * 1024 * 1024:
                    wire.sendall(chunk)
                    sent += len(chunk)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=pour, args=(listener,), daemon=True)
        thread.start()
        facts = ask(machine(tmp_path, "vultr"), "imds", imds_url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(5)
    assert "more than 1048576 bytes" in attempts_text(facts)
    assert sent < 16 * 1024 * 1024
