"""Facts that change while an instance runs, and whose identity it is."""

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
from tests.servers.metadata_headers import Gce
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
        again = ask(paths, "imds", imds_url=service.url)
    assert again.values["terminating"] == "spot"
    assert again.values["terminating_at"] == "2030-01-01T00:00:00Z"
    assert service.violations == []


def test_the_life_cycle_of_an_auto_scaling_group(tmp_path: Path) -> None:
    """The state that the group wants is a fact, and the last of them means termination."""
    paths = machine(tmp_path, "ec2")
    with Metadata("ec2", options={"lifecycle": "InService"}) as service:
        facts = ask(paths, "imds", imds_url=service.url)
        assert facts.values["lifecycle_state"] == "InService"
        service.state.options["lifecycle"] = "Terminated"  # type: ignore[attr-defined]
        assert watcher(paths, service).wait(facts, 0.05) is True
        again = ask(paths, "imds", imds_url=service.url)
    assert again.values["terminating"] == "lifecycle"


def test_what_was_seen_replaces_what_cloud_init_knew_at_boot(tmp_path: Path) -> None:
    """Tags that changed since the boot are taken from the notices, and one that is no more is no fact."""
    write(
        tmp_path,
        "/run/cloud-init/instance-data.json",
        '{"v1": {"cloud_id": "aws", "instance_id": "i-1"}, "ds": {"meta-data": {"tags": {"instance": {"role": "a"}}}}}',
    )
    paths = machine(tmp_path)
    with Metadata("ec2") as service:
        asked = settings(providers=("cloud-init",), imds_url=service.url)
        facts = discover(asked, paths)
        watching = Watcher(asked.discovery, paths)
        assert watching.wait(facts, 0.05) is True
        again = discover(asked, paths, notices=watching.notices)
        assert again.values["tags"] == {"environment": "prod", "Name": "web-1", "a.b:c": "x y=z"}
        assert watching.wait(again, 0.05) is False
        assert discover(asked, paths, notices={"tags": None}).values.get("tags") is None


def test_notices_do_not_replace_what_the_operator_said(tmp_path: Path) -> None:
    """A fact from the command line, a file or the settings stays whatever the platform says."""
    write(tmp_path, "/proc/cmdline", "parbake.lifecycle_state=mine")
    facts = discover(settings(providers=("kernel",)), Paths(tmp_path), notices={"lifecycle_state": "InService"})
    assert facts.values["lifecycle_state"] == "mine"


def test_gce_answers_when_something_has_changed(tmp_path: Path) -> None:
    """The service is long-polled: a change is seen when it happens, and one request waits meanwhile."""
    paths = machine(tmp_path, "gce")
    with Metadata("gce") as service:
        facts = ask(paths, "imds", imds_url=service.url)
        watching = watcher(paths, service)
        state = service.state
        assert isinstance(state, Gce)
        timer = threading.Timer(1.6, state.change, kwargs={"environment": "test"})
        timer.start()
        start = time.monotonic()
        assert watching.wait(facts, 20) is True
        seconds = time.monotonic() - start
        assert 1.4 < seconds < 4
        again = ask(paths, "imds", imds_url=service.url)
        assert again.values["tags"] == {"environment": "test", "http-server": "true"}
        state.change(preempted="TRUE")
        assert watching.wait(again, 5) is True
        assert ask(paths, "imds", imds_url=service.url).values["terminating"] == "preempted"
    polls = [request for request in service.seen if "wait_for_change" in request.query]
    assert 1 <= len(polls) <= 4
    assert all(request.query["last_etag"] for request in polls)
    assert service.violations == []


def polls(service: Metadata) -> int:
    return sum("wait_for_change" in request.query for request in service.seen)


def test_a_service_that_does_not_wait_is_not_asked_without_a_pause(tmp_path: Path) -> None:
    """One that answers each long poll at once, with nothing new, is asked once a second and not in a loop."""
    paths = machine(tmp_path, "gce")
    with Metadata("gce", options={"patience": "none"}) as service:
        facts = ask(paths, "imds", imds_url=service.url)
        assert watcher(paths, service).wait(facts, 3.5) is False
        assert 2 <= polls(service) <= 4


def test_a_service_that_never_rests_makes_no_storm(tmp_path: Path) -> None:
    """One whose every answer is another is a change once a second, however fast whoever converges calls again."""
    paths = machine(tmp_path, "gce")
    with Metadata("gce", options={"restless": "on"}) as service:
        facts = ask(paths, "imds", imds_url=service.url)
        watching = watcher(paths, service)
        start = time.monotonic()
        assert [watching.wait(facts, 20) for _ in range(4)] == [True] * 4
        assert time.monotonic() - start > 2.5
        assert len(service.seen) < 12


def test_a_service_that_restarts_in_a_long_poll_loses_no_change(tmp_path: Path) -> None:
    """A long poll that breaks off is sent again with the tag that is known, and the change meanwhile is seen."""
    paths = machine(tmp_path, "gce")
    with Metadata("gce") as service:
        facts = ask(paths, "imds", imds_url=service.url)
        watching = watcher(paths, service)
        assert watching.wait(facts, 0.05) is False
        service.fault = "reset-once"
        state = service.state
        assert isinstance(state, Gce)
        threading.Timer(1.0, state.change, kwargs={"environment": "test"}).start()
        assert watching.wait(facts, 30) is True
        tags = watching.notices["tags"]
        assert isinstance(tags, dict)
        assert tags["environment"] == "test"
        asked = [request.query["last_etag"] for request in service.seen if "wait_for_change" in request.query]
        assert len(asked) >= 2
        assert asked[0] == asked[1]


def test_a_notice_leaves_a_line_in_the_log(tmp_path: Path) -> None:
    """Whoever looks for an instance that is gone finds why in its logs, once, and whether it was called off."""
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
        "the platform is going to terminate this instance: spot, at 2030-01-01T00:00:00Z",
        "the platform has called off the termination of this instance (it was: spot)",
    ]


def test_closing_ends_a_long_poll(tmp_path: Path) -> None:
    """A daemon that stops does not wait for the service."""
    paths = machine(tmp_path, "gce")
    with Metadata("gce") as service:
        facts = ask(paths, "imds", imds_url=service.url)
        watching = watcher(paths, service)
        timer = threading.Timer(1.5, watching.close)
        timer.start()
        start = time.monotonic()
        assert watching.wait(facts, 30) is False
        assert time.monotonic() - start < 5


def test_azures_scheduled_events(tmp_path: Path) -> None:
    """Pre-emption of this machine is a termination; an event of another one of its set is not."""
    paths = machine(tmp_path, "azure")
    with Metadata("azure", options={"events": "Preempt"}) as service:
        facts = ask(paths, "imds", imds_url=service.url)
        watching = watcher(paths, service)
        assert watching.wait(facts, 0.05) is True
        assert isinstance(watching._cloud, ChangingCloud)
        assert watching._cloud.look_seconds < 10  # the two minutes are for the first answer alone
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
    """A failure is raised for the caller to back off, and what was seen before stays."""
    paths = machine(tmp_path, "ec2")
    with Metadata("ec2", "500") as service:
        watching = watcher(paths, service, timeout=0.3)
        with pytest.raises(DiscoveryError):
            watching.wait(Facts({"platform": "ec2"}, {"platform": "imds:ec2"}), 0.05)
    assert watching.notices == {}


def test_without_a_platform_there_is_nothing_to_watch(tmp_path: Path) -> None:
    """No platform, or imds = "off": no thread is needed, and none asks anything."""
    paths = machine(tmp_path)
    assert not Watcher(settings().discovery, paths).watches(Facts({"hostname": "a"}, {"hostname": "host"}))
    assert not Watcher(settings(imds="off").discovery, paths).watches(Facts({"platform": "ec2"}, {}))
    assert Watcher(settings().discovery, paths).watches(Facts({"platform": "ec2"}, {"platform": "cloud-init"}))
    assert Watcher(settings().discovery, paths).watches(Facts({"platform": "ec2"}, {"platform": "imds:ec2"}))


@pytest.mark.parametrize("provider", ["settings", "file", "kernel", "tag:platform"])
def test_a_platform_that_is_only_called_so_is_not_asked(provider: str, tmp_path: Path) -> None:
    """What a layer may be named by is no match: nothing is sent to an address that is somebody else's here."""
    assert not Watcher(settings().discovery, machine(tmp_path)).watches(Facts({"platform": "ec2"}, {"platform": provider}))


def test_alibabas_spot_notice(tmp_path: Path) -> None:
    """The time of the end is there once a spot instance is to be taken back."""
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
    """EC2 is looked at often enough for its two minutes of notice, and not more than every five seconds."""
    assert 5 <= Ec2.poll_seconds <= 30


def test_an_id_that_is_baked_in_is_nobodys(tmp_path: Path) -> None:
    """A static fact is the same on every instance of the image, so it tells none from another."""
    write(tmp_path, "/etc/machine-id", MACHINE_ID)
    baked = Facts({"instance_id": "x"}, {"instance_id": "settings"})
    assert identify(baked, Paths(tmp_path)) == Identity("", "", MACHINE_ID)


def test_the_identity_is_the_instance_id_else_the_machine_id(tmp_path: Path) -> None:
    """The machine id stands in where there is no instance id, also where it stands in as the fact."""
    write(tmp_path, "/etc/machine-id", MACHINE_ID)
    write(tmp_path, "/sys/class/dmi/id/product_uuid", UUID.upper())
    paths = Paths(tmp_path)
    assert str(identify(Facts({"instance_id": "i-1"}, {"instance_id": "imds:ec2"}), paths)) == "i-1"
    assert str(identify(Facts(), paths)) == MACHINE_ID
    stand_in = ask(paths, "host")
    assert identify(stand_in, paths) == Identity("", UUID, MACHINE_ID)


@pytest.mark.parametrize("text", ["", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "no"])
def test_a_product_uuid_that_is_none(text: str, tmp_path: Path) -> None:
    """Firmware that was never given a UUID does not make all machines one."""
    write(tmp_path, "/sys/class/dmi/id/product_uuid", text)
    assert identify(Facts(), Paths(tmp_path)) == Identity()


@pytest.mark.parametrize(
    ("before", "now", "differs"),
    [
        (Identity("i-1", "u1", "m1"), Identity("i-2", "u2", "m1"), True),
        (Identity("i-1", "u1", "m1"), Identity("i-1", "u2", "m2"), False),
        # The metadata service is down at this boot: the firmware tells a clone from ourselves.
        (Identity("i-1", "u1", "m1"), Identity("", "u1", "m1"), False),
        (Identity("i-1", "u1", "m1"), Identity("", "u2", "m1"), True),
        (Identity("i-1", "", "m1"), Identity("", "", "m1"), False),
        (Identity("i-1", "", "m1"), Identity("", "", "m2"), True),
        (Identity(), Identity("i-1", "u1", "m1"), False),
        (Identity("i-1", "", ""), Identity("", "", "m1"), False),
    ],
)
def test_another_instance_is_told_by_the_best_mark_that_both_have(before: Identity, now: Identity, differs: bool) -> None:
    """An image of a running instance is another one; the same one with its service down is not."""
    assert changed(before, now) is differs
