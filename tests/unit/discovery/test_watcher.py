"""Facts that change while an instance runs, and the identity of the instance."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent.discovery.clouds import ChangingCloud
from agent.discovery.clouds.azure import parse_events
from agent.discovery.clouds.ec2 import Ec2
from agent.discovery.engine import discover
from agent.discovery.identity import Identity, changed, identify
from agent.discovery.watcher import Watcher
from agent.errors import DiscoveryError
from agent.model import Facts
from agent.paths import Paths
from tests.servers.metadata import Metadata
from tests.servers.metadata_answers import Request
from tests.servers.metadata_headers import Gce
from tests.servers.processes import wait_until
from tests.unit.discovery.machines import ask, machine, settings, write

UUID = "0c2d7f6e-1234-4000-8000-00000000000a"
MACHINE_ID = "0123456789abcdef0123456789abcdef"


def watcher(paths: Paths, service: Metadata, **options: Any) -> Watcher:
    return Watcher(settings(imds_url=service.url, **options).discovery, paths)


def test_a_spot_notice_sets_terminating(tmp_path: Path) -> None:
    """A notice is seen at the next look, ends the wait once, and is a fact of the next discovery."""
    paths = machine(tmp_path, "ec2")
    with Metadata("ec2") as service:
        facts = ask(paths, "imds", imds_url=service.url)
        assert "terminating" not in facts.values
        watching = watcher(paths, service)
        assert watching.wait(facts, 0.05) is False
        service.state.options["spot"] = "terminate"  # type: ignore[attr-defined]
        assert watching.wait(facts, 0.05) is True
        assert watching.wait(facts, 0.05) is False
        later = ask(paths, "imds", imds_url=service.url)
    assert later.values["terminating"] == "spot"
    assert later.values["terminating_at"] == "2030-01-01T00:00:00Z"
    assert service.violations == []


def test_the_life_cycle_of_an_auto_scaling_group(tmp_path: Path) -> None:
    """The state that the group wants is a fact, and the last of them means termination."""
    paths = machine(tmp_path, "ec2")
    with Metadata("ec2", options={"lifecycle": "InService"}) as service:
        facts = ask(paths, "imds", imds_url=service.url)
        assert facts.values["lifecycle_state"] == "InService"
        service.state.options["lifecycle"] = "Terminated"  # type: ignore[attr-defined]
        assert watcher(paths, service).wait(facts, 0.05) is True
        later = ask(paths, "imds", imds_url=service.url)
    assert later.values["terminating"] == "lifecycle"


def test_notices_replace_cloud_inits_facts_of_the_boot(tmp_path: Path) -> None:
    """Tags that changed since the boot are taken from the notices, and a tag that no longer exists is not a fact."""
    write(
        tmp_path,
        "/run/cloud-init/instance-data.json",
        '{"v1": {"cloud_id": "aws", "instance_id": "i-1"}, "ds": {"meta-data": {"tags": {"instance": {"role": "a"}}}}}',
    )
    paths = machine(tmp_path)
    with Metadata("ec2") as service:
        configured = settings(providers=("cloud-init",), imds_url=service.url)
        facts = discover(configured, paths)
        watching = Watcher(configured.discovery, paths)
        assert watching.wait(facts, 0.05) is True
        later = discover(configured, paths, notices=watching.notices)
        assert later.values["tags"] == {"environment": "prod", "Name": "web-1", "a.b:c": "x y=z"}
        assert watching.wait(later, 0.05) is False
        assert discover(configured, paths, notices={"tags": None}).values.get("tags") is None


def test_notices_do_not_replace_the_operators_facts(tmp_path: Path) -> None:
    """A fact from the command line, a file or the settings stays, whatever the platform answers."""
    write(tmp_path, "/proc/cmdline", "parbake.lifecycle_state=mine")
    facts = discover(settings(providers=("kernel",)), Paths(tmp_path), notices={"lifecycle_state": "InService"})
    assert facts.values["lifecycle_state"] == "mine"


class Wait:
    """`Watcher.wait` in a thread."""

    def __init__(self, watching: Watcher, facts: Facts) -> None:
        self.results: list[bool] = []
        self._thread = threading.Thread(target=lambda: self.results.append(watching.wait(facts, 300)), daemon=True)
        self._thread.start()

    def result(self, timeout_seconds: float) -> bool:
        self._thread.join(timeout_seconds)
        assert self.results, "the watcher still waits"
        return self.results[0]


def polls(service: Metadata) -> list[Request]:
    return [request for request in service.seen if "wait_for_change" in request.query]


def test_gce_answers_when_something_has_changed(tmp_path: Path) -> None:
    """The service is long-polled: one request waits, and returns when a change happens."""
    paths = machine(tmp_path, "gce")
    with Metadata("gce") as service:
        facts = ask(paths, "imds", imds_url=service.url)
        watching = watcher(paths, service)
        state = service.state
        assert isinstance(state, Gce)
        wait = Wait(watching, facts)
        wait_until(lambda: bool(polls(service)), 30, "the long poll")
        assert wait.results == []
        state.change(environment="test")
        assert wait.result(30) is True
        later = ask(paths, "imds", imds_url=service.url)
        assert later.values["tags"] == {"environment": "test", "http-server": "true"}
        state.change(preempted="TRUE")
        assert watching.wait(later, 30) is True
        assert ask(paths, "imds", imds_url=service.url).values["terminating"] == "preempted"
    assert 1 <= len(polls(service)) <= 4
    assert all(request.query["last_etag"] for request in polls(service))
    assert service.violations == []


def test_a_service_that_does_not_wait_is_not_asked_without_a_pause(tmp_path: Path) -> None:
    """A service that answers each long poll at once, without a change, is asked once a second and not in a loop."""
    paths = machine(tmp_path, "gce")
    with Metadata("gce", options={"patience": "none"}) as service:
        facts = ask(paths, "imds", imds_url=service.url)
        watching = watcher(paths, service)
        wait = Wait(watching, facts)
        wait_until(lambda: len(polls(service)) >= 3, 30, "the third long poll", 0.01)
        times = [request.received_at for request in polls(service)]
        assert times[2] - times[0] > 1.8
        watching.close()
        assert wait.result(30) is False


def test_a_service_that_never_rests_makes_no_storm(tmp_path: Path) -> None:
    """A service whose answers always differ causes one change a second, however fast the caller waits for the next."""
    paths = machine(tmp_path, "gce")
    with Metadata("gce", options={"restless": "on"}) as service:
        facts = ask(paths, "imds", imds_url=service.url)
        watching = watcher(paths, service)
        start = time.monotonic()
        assert [watching.wait(facts, 20) for _ in range(4)] == [True] * 4
        assert time.monotonic() - start > 2.5
        assert len(service.seen) < 12


def test_a_service_that_restarts_in_a_long_poll_loses_no_change(tmp_path: Path) -> None:
    """A long poll that breaks off is repeated with the same ETag, and the change in between is seen."""
    paths = machine(tmp_path, "gce")
    with Metadata("gce") as service:
        facts = ask(paths, "imds", imds_url=service.url)
        watching = watcher(paths, service)
        assert watching.wait(facts, 0.05) is False
        service.fault = "reset-once"
        state = service.state
        assert isinstance(state, Gce)
        earlier = len(polls(service))
        wait = Wait(watching, facts)
        wait_until(lambda: len(polls(service)) > earlier, 30, "the long poll that breaks off")
        state.change(environment="test")
        assert wait.result(30) is True
        tags = watching.notices["tags"]
        assert isinstance(tags, dict)
        assert tags["environment"] == "test"
        etags = [request.query["last_etag"] for request in polls(service)]
        assert len(etags) >= 2
        assert etags[0] == etags[1]


def test_a_notice_leaves_a_line_in_the_log(tmp_path: Path) -> None:
    """The logs of an instance that is gone have the reason, once, and whether the termination was called off."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Lines()
    logging.getLogger("parbake.discovery").addHandler(handler)
    paths = machine(tmp_path, "ec2")
    try:
        with Metadata("ec2") as service:
            facts = ask(paths, "imds", imds_url=service.url)
            watching = watcher(paths, service)
            for spot in (None, "terminate", "terminate", None):
                service.state.options["spot"] = spot  # type: ignore[attr-defined]
                watching.wait(facts, 0.05)
    finally:
        logging.getLogger("parbake.discovery").removeHandler(handler)
    assert lines == [
        "the platform will terminate this instance: spot, at 2030-01-01T00:00:00Z",
        "the platform has cancelled the termination of this instance (it was: spot)",
    ]


def test_closing_ends_a_long_poll(tmp_path: Path) -> None:
    """A daemon that stops does not wait for the service."""
    paths = machine(tmp_path, "gce")
    with Metadata("gce") as service:
        watching = watcher(paths, service)
        wait = Wait(watching, ask(paths, "imds", imds_url=service.url))
        wait_until(lambda: bool(polls(service)), 30, "the long poll")
        watching.close()
        assert wait.result(30) is False


def test_azures_scheduled_events(tmp_path: Path) -> None:
    """Pre-emption of this machine is a termination. An event of another machine in its set is not."""
    paths = machine(tmp_path, "azure")
    with Metadata("azure", options={"events": "Preempt"}) as service:
        facts = ask(paths, "imds", imds_url=service.url)
        watching = watcher(paths, service)
        assert watching.wait(facts, 0.05) is True
        assert isinstance(watching._cloud, ChangingCloud)
        assert watching._cloud.poll_timeout_seconds < 10  # the two minutes are for the first answer alone
    assert watching.notices["terminating"] == "spot"
    assert service.violations == []
    event = {"EventType": "Terminate", "Resources": ["other"], "NotBefore": "x"}
    assert parse_events({"Events": [event]}, "web_1")["terminating"] is None


def test_a_platform_with_tags_alone_is_asked_for_them(tmp_path: Path) -> None:
    """Where there is nothing else that changes, the tags are compared; nothing changed is no change."""
    paths = machine(tmp_path, "digitalocean")
    with Metadata("digitalocean") as service:
        facts = ask(paths, "imds", imds_url=service.url)
        assert watcher(paths, service).wait(facts, 0.05) is False
        other = Facts({**facts.values, "tags": {"environment": "test"}}, facts.providers)
        assert watcher(paths, service).wait(other, 0.05) is True


def test_a_service_that_fails_is_no_change(tmp_path: Path) -> None:
    """A failure is raised, so that the caller backs off, and earlier notices stay."""
    paths = machine(tmp_path, "ec2")
    with Metadata("ec2", "500") as service:
        watching = watcher(paths, service, timeout=0.3)
        with pytest.raises(DiscoveryError):
            watching.wait(Facts({"platform": "ec2"}, {"platform": "imds:ec2"}), 0.05)
    assert watching.notices == {}


def test_without_a_platform_there_is_nothing_to_watch(tmp_path: Path) -> None:
    """No platform, or imds = "off": no thread is needed, and no request is made."""
    paths = machine(tmp_path)
    assert not Watcher(settings().discovery, paths).watches(Facts({"hostname": "a"}, {"hostname": "host"}))
    assert not Watcher(settings(imds="off").discovery, paths).watches(Facts({"platform": "ec2"}, {}))
    assert Watcher(settings().discovery, paths).watches(Facts({"platform": "ec2"}, {"platform": "cloud-init"}))
    assert Watcher(settings().discovery, paths).watches(Facts({"platform": "ec2"}, {"platform": "imds:ec2"}))


@pytest.mark.parametrize("provider", ["settings", "file", "kernel", "tag:platform"])
def test_a_platform_that_another_provider_names_is_not_asked(provider: str, tmp_path: Path) -> None:
    """A name for the sake of layers is no match: no request goes to an address that may belong to another machine."""
    assert not Watcher(settings().discovery, machine(tmp_path)).watches(Facts({"platform": "ec2"}, {"platform": provider}))


def test_alibabas_spot_notice(tmp_path: Path) -> None:
    """The time of the end exists once a spot instance will be reclaimed."""
    paths = machine(tmp_path, "alibaba")
    with Metadata("alibaba") as service:
        facts = ask(paths, "imds", imds_url=service.url)
        assert "terminating" not in facts.values
        service.options["spot"] = "2030-01-01T00:00:00Z"
        watching = watcher(paths, service)
        assert watching.wait(facts, 0.05) is True
    assert watching.notices["terminating"] == "spot"
    assert watching.notices["terminating_at"] == "2030-01-01T00:00:00Z"
    assert service.violations == []


def test_polling_is_gentle() -> None:
    """EC2 is polled often enough for its two minutes of notice, and at most every five seconds."""
    assert 5 <= Ec2.poll_seconds <= 30


def test_an_id_that_is_baked_in_is_not_an_identity(tmp_path: Path) -> None:
    """A static fact is the same on every instance of the image."""
    write(tmp_path, "/etc/machine-id", MACHINE_ID)
    baked = Facts({"instance_id": "x"}, {"instance_id": "settings"})
    assert identify(baked, Paths(tmp_path)) == Identity("", "", MACHINE_ID)


def test_the_identity_is_the_instance_id_else_the_machine_id(tmp_path: Path) -> None:
    """Without an instance id the machine id is the identity, also if the fact instance_id is the machine id."""
    write(tmp_path, "/etc/machine-id", MACHINE_ID)
    write(tmp_path, "/sys/class/dmi/id/product_uuid", UUID.upper())
    paths = Paths(tmp_path)
    assert str(identify(Facts({"instance_id": "i-1"}, {"instance_id": "imds:ec2"}), paths)) == "i-1"
    assert str(identify(Facts(), paths)) == MACHINE_ID
    from_host = ask(paths, "host")
    assert identify(from_host, paths) == Identity("", UUID, MACHINE_ID)


@pytest.mark.parametrize("text", ["", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "no"])
def test_an_invalid_product_uuid(text: str, tmp_path: Path) -> None:
    """Machines whose firmware has no UUID are not the same instance."""
    write(tmp_path, "/sys/class/dmi/id/product_uuid", text)
    assert identify(Facts(), Paths(tmp_path)) == Identity()


@pytest.mark.parametrize(
    ("before", "now", "differs"),
    [
        (Identity("i-1", "u1", "m1"), Identity("i-2", "u2", "m1"), True),
        (Identity("i-1", "u1", "m1"), Identity("i-1", "u2", "m2"), False),
        # The metadata service is unavailable at this boot: the firmware distinguishes a clone.
        (Identity("i-1", "u1", "m1"), Identity("", "u1", "m1"), False),
        (Identity("i-1", "u1", "m1"), Identity("", "u2", "m1"), True),
        (Identity("i-1", "", "m1"), Identity("", "", "m1"), False),
        (Identity("i-1", "", "m1"), Identity("", "", "m2"), True),
        (Identity(), Identity("i-1", "u1", "m1"), False),
        (Identity("i-1", "", ""), Identity("", "", "m1"), False),
    ],
)
def test_another_instance_is_recognised_by_the_most_reliable_id_that_both_have(
    before: Identity, now: Identity, differs: bool
) -> None:
    """An image of a running instance is another instance. The same instance without its metadata service is not."""
    assert changed(before, now) is differs
