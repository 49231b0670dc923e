"""A platform that does not answer is not a platform without facts: when the settings and cloud-init may replace it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent.discovery import Context
from agent.discovery.engine import discover
from agent.discovery.precedence import FactMemory
from agent.discovery.watcher import Watcher
from agent.errors import DiscoveryError
from agent.model import Facts
from agent.paths import Paths
from agent.settings.models import Source
from agent.sources.pull import layer_names
from tests.servers.metadata import Metadata
from tests.servers.scripted import Scripted
from tests.unit.discovery.machines import ask, attempts_text, machine, settings, write

HERE = "tests.unit.discovery.test_failures"
UNREACHABLE = "http://127.0.0.1:1"
DEV = {"facts": {"environment": "dev"}, "facts_from": {"environment": ("userdata:environment",)}}


class Rack:
    """A third party's provider that lists the facts that it can give."""

    gives: ClassVar[tuple[str, ...]] = ("rack",)

    def discover(self, context: Context) -> Mapping[str, Any]:
        raise DiscoveryError("the rack's controller is not there")


class Anything:
    def discover(self, context: Context) -> Mapping[str, Any]:
        context.partial["slot"] = "7"
        raise KeyError("slot")


def cloud_init(root: Path, tags: dict[str, str]) -> None:
    document = {"v1": {"cloud_id": "aws", "instance_id": "i-1"}, "ds": {"meta-data": {"tags": {"instance": tags}}}}
    write(root, "/run/cloud-init/instance-data.json", json.dumps(document))


# -- the defaults of the settings


def test_a_default_is_used_and_recorded_if_no_provider_ever_answered(tmp_path: Path) -> None:
    """INTERFACE section 3: static facts are used if no provider answers. Without one, the layer's error names the providers."""
    facts = ask(machine(tmp_path, "ec2"), "imds", imds_url=UNREACHABLE, timeout=0.1, **DEV)
    assert (facts.values["environment"], facts.providers["environment"]) == ("dev", "settings")
    assert "environment is taken from [facts]: imds:ec2 failed" in attempts_text(facts)
    facts = ask(machine(tmp_path, "ec2"), "imds", imds_url=UNREACHABLE, timeout=0.1, facts_from=DEV["facts_from"])
    source = Source(backend="file", name="site", layers=("env/{{ facts.environment }}",))
    with pytest.raises(DiscoveryError, match=r"facts\.environment.*imds:ec2: failed"):
        layer_names(source, facts, {})


def test_a_default_is_used_if_the_platform_does_not_have_the_fact(tmp_path: Path) -> None:
    """404 for user-data is an answer, and the absence of a platform is not a failure."""
    with Metadata("ec2") as service:
        facts = ask(
            machine(tmp_path / "a", "ec2"), "imds", imds_url=service.url, facts={"own": "x"}, facts_from={"own": ("tag:no",)}
        )
    assert facts.values["own"] == "x"
    assert ask(machine(tmp_path / "b"), "imds", imds_url=UNREACHABLE, **DEV).values["environment"] == "dev"
    assert ask(machine(tmp_path / "c", "ec2"), "imds", imds="off", **DEV).values["environment"] == "dev"


def test_the_facts_of_this_run_are_used_while_the_platform_is_unavailable(tmp_path: Path) -> None:
    """The daemon keeps the environment that the platform named before, and records it. A new process has no memory."""
    paths, memory = machine(tmp_path, "ec2"), FactMemory()
    rules: dict[str, Any] = {"facts": {"environment": "dev"}, "facts_from": {"environment": ("tag:environment",)}}
    with Metadata("ec2") as service:
        answered = discover(settings(providers=("imds",), imds_url=service.url, **rules), paths, memory=memory)
    assert answered.values["environment"] == "prod"
    unavailable = settings(providers=("imds",), imds_url=UNREACHABLE, timeout=0.1, **rules)
    facts = discover(unavailable, paths, memory=memory)
    assert (facts.values["environment"], facts.providers["environment"]) == ("prod", "tag:environment")
    assert "environment keeps its earlier value: imds:ec2 failed" in attempts_text(facts)
    assert discover(unavailable, paths, memory=FactMemory()).values["environment"] == "dev"


def test_a_default_that_was_right_before_stays(tmp_path: Path) -> None:
    """If the platform answered that there is no such tag, its next failure changes nothing."""
    paths, memory = machine(tmp_path, "ec2"), FactMemory()
    rules: dict[str, Any] = {"facts": {"site": "home"}, "facts_from": {"site": ("tag:site",)}}
    with Metadata("ec2") as service:
        discover(settings(providers=("imds",), imds_url=service.url, **rules), paths, memory=memory)
    unavailable = settings(providers=("imds",), imds_url=UNREACHABLE, timeout=0.1, **rules)
    assert discover(unavailable, paths, memory=memory).values["site"] == "home"


def test_the_tags_of_the_boot_do_not_replace_the_current_ones_while_the_platform_is_unavailable(tmp_path: Path) -> None:
    """cloud-init's copy is older than the facts of this run."""
    paths, memory = machine(tmp_path, "ec2"), FactMemory()
    cloud_init(tmp_path, {"environment": "test"})
    rules: dict[str, Any] = {"providers": ("cloud-init", "imds"), "facts_from": {"environment": ("tag:environment",)}}
    with Metadata("ec2") as service:
        assert discover(settings(imds_url=service.url, **rules), paths, memory=memory).values["environment"] == "prod"
    unavailable = settings(imds_url=UNREACHABLE, timeout=0.1, **rules)
    assert discover(unavailable, paths, memory=memory).values["environment"] == "prod"


@pytest.mark.parametrize(("tags", "environment"), [({"environment": "new"}, "new"), (None, "dev")])
def test_a_notice_is_newer_than_the_memory(tags: dict[str, str] | None, environment: str, tmp_path: Path) -> None:
    """A notice is the platform's answer, also while the platform is unavailable."""
    paths, memory = machine(tmp_path, "ec2"), FactMemory()
    cloud_init(tmp_path, {"environment": "test"})
    rules: dict[str, Any] = {"providers": ("cloud-init", "imds"), **DEV, "facts_from": {"environment": ("tag:environment",)}}
    with Metadata("ec2") as service:
        assert discover(settings(imds_url=service.url, **rules), paths, memory=memory).values["environment"] == "prod"
    unavailable = settings(imds_url=UNREACHABLE, timeout=0.1, **rules)
    assert discover(unavailable, paths, memory=memory, notices={"tags": tags}).values["environment"] == environment


@pytest.mark.parametrize(("provider", "uncertain"), [("Rack", "rack"), ("Anything", "role")])
def test_only_facts_that_the_failed_provider_can_give_are_uncertain(tmp_path: Path, provider: str, uncertain: str) -> None:
    """A provider with a list can give the facts in it. Without a list, it can give any fact."""
    facts = ask(Paths(tmp_path), f"{HERE}:{provider}", facts={"role": "web", "rack": "1", "slot": "1"})
    assert facts.values["role"] == "web"
    assert facts.values["slot"] == ("7" if provider == "Anything" else "1")
    assert f"{uncertain} is taken from [facts]" in attempts_text(facts)
    assert ("role is taken" in attempts_text(facts)) == (provider == "Anything")


# -- cloud-init's copies


def test_the_platforms_tags_win_over_cloud_inits_copy(tmp_path: Path) -> None:
    """After a change of a tag, a new process begins with the current tags. For all other facts the first answer wins."""
    cloud_init(tmp_path, {"environment": "test", "gone": "yes"})
    with Metadata("ec2") as service:
        facts = ask(machine(tmp_path, "ec2"), "cloud-init", "imds", imds_url=service.url)
    assert facts.values["tags"] == {"environment": "prod", "Name": "web-1", "a.b:c": "x y=z"}
    assert facts.providers["tags"] == "imds:ec2"
    assert (facts.values["instance_id"], facts.providers["instance_id"]) == ("i-1", "cloud-init")


def test_tags_that_no_longer_exist_are_not_a_fact(tmp_path: Path) -> None:
    """If the platform answers that there are no tags, cloud-init's copy is not used either."""
    cloud_init(tmp_path, {"environment": "test"})
    with Metadata("ec2", options={"tags": "off"}) as service:
        facts = ask(machine(tmp_path, "ec2"), "cloud-init", "imds", imds_url=service.url)
    assert "tags" not in facts.values


def test_cloud_inits_copy_is_used_while_the_platform_is_unavailable(tmp_path: Path) -> None:
    """A failure of the service is not the answer that there are no tags."""
    cloud_init(tmp_path, {"environment": "test"})
    facts = ask(machine(tmp_path, "ec2"), "cloud-init", "imds", imds_url=UNREACHABLE, timeout=0.1)
    assert (facts.values["tags"], facts.providers["tags"]) == ({"environment": "test"}, "cloud-init")


# -- one bad value


LONG = "0x" + "f" * 5000


@pytest.mark.parametrize(
    "value", ['!!int ""', "!!bool x", "!!timestamp x", "!!int x", LONG, f"{{n: {LONG}}}", f"{{? {LONG} : n}}"]
)
def test_one_bad_value_costs_no_other_fact(value: str, tmp_path: Path) -> None:
    """A value that the YAML library fails on, or that has no text, is refused. Other facts stay."""
    write(tmp_path, "/etc/parbake/facts.d/a.yaml", f"own: {value}\n")
    write(tmp_path, "/etc/parbake/facts.d/b.toml", 'role = "web"\n')
    facts = ask(Paths(tmp_path), "file")
    assert dict(facts.values) == {"role": "web"}
    json.dumps(dict(facts.values))
    assert "the provider" not in attempts_text(facts)


def test_a_name_that_is_a_long_number_is_refused(tmp_path: Path) -> None:
    """Python refuses to print such a number."""
    write(tmp_path, "/etc/parbake/facts.d/a.yaml", f"? {LONG}\n: x\nrole: web\n")
    facts = ask(Paths(tmp_path), "file")
    assert dict(facts.values) == {"role": "web"}
    assert "refused 'a number'" in attempts_text(facts)


@pytest.mark.parametrize("value", ['!!int ""', "!!bool x", "!!timestamp x"])
def test_bad_user_data_costs_no_fact_of_the_platform(value: str, tmp_path: Path) -> None:
    """User-data comes from its writer, and tags and ids from the platform."""
    from agent.discovery import userdata

    assert userdata.parbake_table(f"parbake: {{a: {value}}}".encode()) is None


def test_a_provider_that_fails_keeps_its_partial_facts(tmp_path: Path) -> None:
    """So does a provider that misses the deadline."""
    facts = ask(Paths(tmp_path), f"{HERE}:Anything")
    assert facts.values["slot"] == "7"


# -- a look that stalls


class Stalling:
    """Each poll waits at a service that never answers, as far as its context lets it."""

    poll_seconds = 10.0
    poll_timeout_seconds = 0.0
    long_polls = False

    def __init__(self) -> None:
        self.ends: list[float] = []

    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        yield {}

    def changing(self, context: Context) -> Iterator[Mapping[str, Any]]:
        self.ends.append(context.deadline - time.monotonic())
        yield {}


@pytest.mark.parametrize(("waits", "least", "most"), [(False, 4.0, 5.1), (True, 290.0, 300.1)])
def test_a_look_takes_no_longer_than_discovery_unless_it_waits_for_a_change(
    waits: bool, least: float, most: float, tmp_path: Path
) -> None:
    """A request that stalls must not hide a notice of two minutes. A long poll is meant to wait."""
    cloud = Stalling()
    cloud.long_polls = waits
    watcher = Watcher(settings().discovery, Paths(tmp_path))
    watcher._poll(cloud, time.monotonic() + 300)
    assert least < cloud.ends[0] <= most


def test_a_request_that_stalls_hides_no_notice(tmp_path: Path) -> None:
    """The wait of five minutes goes on with another request within the time of discovery."""
    server = Scripted()

    def hang(wire: Any) -> None:
        server.read_request(wire)
        server.stopping.wait(20)

    def answer(wire: Any) -> None:
        while request := server.read_request(wire):
            if b"PUT" in request:
                status, body = b"200 OK", b"token"
            elif b"instance-action" in request:
                status, body = b"200 OK", b'{"action": "terminate", "time": "2030-01-01T00:00:00Z"}'
            else:
                status, body = b"404 Not Found", b""
            wire.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))

    server.plays = [hang, answer]
    watcher = Watcher(settings(imds="ec2", imds_url=server.url, timeout=1.0).discovery, Paths(tmp_path))
    start = time.monotonic()
    try:
        assert watcher.wait(Facts(), 300) is True
    finally:
        server.stopping.set()
    assert time.monotonic() - start < 5
    assert watcher.notices["terminating"] == "spot"
