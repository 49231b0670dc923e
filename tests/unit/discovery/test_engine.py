"""The whole of discovery: order, deadline, rules, validation, and the record of its attempts."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.discovery import Context
from agent.discovery.engine import discover, missing_facts_summary, providers_summary
from agent.discovery.fact_validation import check_segment
from agent.errors import DiscoveryError, SettingsError
from agent.paths import Paths
from tests.unit.discovery.machines import ask, attempts_text, machine, settings, timed, write

HERE = "tests.unit.discovery.test_engine"
SLACK_SECONDS = 10.0
"""The extra time that a busy machine may take. A provider that hangs does so for half a minute."""


class First:
    def discover(self, context: Context) -> Mapping[str, Any]:
        return {"role": "web", "tags": {"environment": "prod", "n": 3}, "region": "r1", "empty": "", "none": None}


class Second:
    def discover(self, context: Context) -> Mapping[str, Any]:
        return {"role": "db", "zone": "z1", "saw": ",".join(sorted(context.known))}


class Raises:
    def discover(self, context: Context) -> Mapping[str, Any]:
        raise DiscoveryError("the rack's controller is not there")


class Buggy:
    def discover(self, context: Context) -> Mapping[str, Any]:
        raise ZeroDivisionError("oops")


class Exits:
    def discover(self, context: Context) -> Mapping[str, Any]:
        raise SystemExit(3)


class Incomparable:
    """A value whose comparison fails, as that of some libraries' arrays does."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


class OddAnswer:
    def discover(self, context: Context) -> Mapping[str, Any]:
        return {"role": "odd", "array": Incomparable()}


class OddContext:
    gives: Any = 3

    def discover(self, context: Any) -> Mapping[str, Any]:
        context.label, context.attempts, context.partial = 3, ["no attempt"], None
        raise KeyError("role")


class NoTable:
    def discover(self, context: Context) -> Any:
        return ["role", "web"]


class Hangs:
    release = threading.Event()

    def discover(self, context: Context) -> Mapping[str, Any]:
        context.partial["slot"] = "7"
        self.release.wait(30)
        return {}


class Bad:
    def discover(self, context: Context) -> Mapping[Any, Any]:
        return {
            "control": "a\x1b[2Jb",
            "line": "a\nb",
            "long": "x" * 5000,
            "instance_id": {"a": "b"},
            "tags": "role=web",
            "list": [1],
            "no name": "x",
            "../x": "x",
            "deep": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": 1}}}}}}}}},
            "surrogate": "\ud800",
            "bidi": "\u202eevil",
            3: "x",
            "good": "yes",
            "number": 7,
            "flag": True,
        }


def provider(name: str) -> str:
    return f"{HERE}:{name}"


def test_the_first_answer_wins_and_names_its_provider(tmp_path: Path) -> None:
    """Providers are asked in the configured order, each sees the facts known so far, and empty answers are not facts."""
    facts = ask(Paths(tmp_path), provider("First"), provider("Second"))
    assert facts.values["role"] == "web"
    assert facts.providers == {
        "role": provider("First"),
        "tags": provider("First"),
        "region": provider("First"),
        "zone": provider("Second"),
        "saw": provider("Second"),
    }
    assert facts.values["saw"] == "region,role,tags"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Raises", "the rack's controller is not there"),
        ("Buggy", "ZeroDivisionError in the provider"),
        ("Exits", "SystemExit in the provider"),
        ("OddAnswer", "ValueError in the provider"),
        ("OddContext", "KeyError in the provider"),
        ("NoTable", "answered with a list"),
    ],
)
def test_a_provider_that_fails_is_recorded_and_the_others_are_asked(name: str, words: str, tmp_path: Path) -> None:
    """A provider's failure costs only the facts of that provider."""
    facts = ask(Paths(tmp_path), provider(name), provider("Second"))
    assert facts.values["zone"] == "z1"
    assert words in attempts_text(facts)


def test_an_unexpected_error_is_shown_by_type_and_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The outcome has the type, the file and the line; the debug log has the stack; neither has the error's own text."""
    caplog.set_level(logging.DEBUG, "parbake.discovery")
    facts = ask(Paths(tmp_path), provider("Buggy"))
    assert re.search(r"failed: ZeroDivisionError in the provider, at \S*/test_engine\.py:\d+$", attempts_text(facts))
    assert re.search(r"raised ZeroDivisionError:.*\n  \S*/test_engine\.py:\d+ in discover$", caplog.text, re.S | re.M)
    assert "oops" not in attempts_text(facts) + caplog.text


def test_providers_that_hang_cost_at_most_the_time_of_discovery(tmp_path: Path) -> None:
    """However many hang: the next ones are asked, partial facts are kept, and the time of discovery is not exceeded."""
    names = [provider("Hangs")] * 3
    facts, seconds = timed(Paths(tmp_path), *names, provider("Second"), timeout=2.0)
    Hangs.release.set()
    shares = [float(share) for share in re.findall(r"did not return within (\S+) s", attempts_text(facts))]
    assert len(shares) == 3
    assert sum(shares) <= 2.0
    assert 1.5 < shares[0] <= 1.8
    assert seconds < 2.0 + SLACK_SECONDS
    assert facts.values["zone"] == "z1"
    assert facts.values["slot"] == "7"
    assert f"did not return within {shares[0]:g} s; gave slot" in attempts_text(facts)


def test_a_provider_that_does_not_exist_is_an_error_of_the_settings(tmp_path: Path) -> None:
    """A dotted path that cannot be imported is named."""
    with pytest.raises(SettingsError, match=r"no\.such\.module"):
        ask(Paths(tmp_path), "no.such.module:Provider")


def test_values_from_outside_are_not_trusted(tmp_path: Path) -> None:
    """Control characters, absurd lengths, wrong kinds and impossible names are refused, each by name, never by value."""
    facts = ask(Paths(tmp_path), provider("Bad"))
    assert dict(facts.values) == {"good": "yes", "number": "7", "flag": "true"}
    for name in ("control", "line", "long", "instance_id", "tags", "list", "no name", "../x", "deep", "surrogate"):
        assert f"refused '{name}'" in attempts_text(facts)
    assert "evil" not in attempts_text(facts)


def test_rules_take_a_fact_from_elsewhere(tmp_path: Path) -> None:
    """[facts_from]: the first origin that exists wins over what a provider called the fact, and is named as provider."""
    write(tmp_path, "/etc/parbake/facts.d/a.toml", 'environment = "file"\n[userdata.site]\nname = "fra"\n')
    facts = ask(
        Paths(tmp_path),
        provider("First"),
        "file",
        facts_from={
            "environment": ("tag:nope", "tag:environment"),
            "site": ("userdata:site.name",),
            "place": ("fact:region",),
            "role": ("tag:role",),
            "count": ("tag:n",),
            "own": ("fact:own", "fact:place"),
        },
    )
    assert facts.values["environment"] == "prod"
    assert facts.values["site"] == "fra"
    assert facts.values["place"] == facts.values["own"] == "r1"
    assert facts.values["role"] == "web"
    assert facts.values["count"] == "3"
    assert facts.providers["environment"] == "tag:environment"
    assert facts.providers["site"] == "userdata:site.name"
    assert facts.providers["role"] == provider("First")


def test_static_facts_are_used_if_no_provider_answers(tmp_path: Path) -> None:
    """[facts] come last, after providers and rules."""
    facts = ask(Paths(tmp_path), provider("First"), facts={"environment": "dev", "role": "x", "n": "1"})
    assert facts.values["environment"] == "dev"
    assert facts.values["role"] == "web"
    assert facts.providers["environment"] == "settings"


@pytest.mark.parametrize(
    "value", ["../../etc", "a/b", "..", ".", "", "a\x00b", "a\nb", "x" * 300, "a..b", "a\\b", "\u200b", "\ud800"]
)
def test_a_fact_that_would_leave_a_layers_path_is_refused(value: str) -> None:
    """The error names the fact and what is wrong with it, never its value."""
    with pytest.raises(DiscoveryError, match="the fact environment cannot be part of a layer's path"):
        check_segment("environment", value)


@pytest.mark.parametrize("value", ["prod", "eu-central-1", "web-1.example", "i-0abc", "ümlaut", "a b", ".hidden"])
def test_a_fact_that_fits_is_passed_on(value: str) -> None:
    """A usual directory name may be part of a layer's path."""
    assert check_segment("environment", value) == value


def test_a_missing_fact_is_explained(tmp_path: Path) -> None:
    """Each provider that was asked, once, with its failure if there was one, even if it also gave facts."""
    facts = ask(Paths(tmp_path), provider("Raises"), "kernel")
    assert providers_summary(facts) == f"{provider('Raises')}: failed: the rack's controller is not there; kernel: nothing"
    refused = ask(machine(tmp_path, "ec2"), "imds", imds_url="http://127.0.0.1:1", timeout=1.5)
    assert providers_summary(refused).startswith("imds:ec2: failed: http://127.0.0.1:1/latest/api/token gave no answer")
    assert providers_summary(ask(Paths(tmp_path))) == "no provider"


def test_the_summary_names_failures_and_missing_facts(tmp_path: Path) -> None:
    """The failed providers, the reasons, and the unknown facts. Empty if no provider failed."""
    facts = ask(Paths(tmp_path), provider("Raises"), provider("First"))
    text = missing_facts_summary(facts)
    assert "the rack's controller is not there" in text
    assert "not known: platform, instance_id, zone" in text
    assert missing_facts_summary(ask(Paths(tmp_path), provider("First"))) == ""
    hung = ask(machine(tmp_path, "ec2"), "imds", imds_url="http://127.0.0.1:1", timeout=1.5)
    assert "imds:ec2 failed: http://127.0.0.1:1/latest/api/token gave no answer" in missing_facts_summary(hung)


def test_no_request_without_a_match(tmp_path: Path) -> None:
    """Unknown firmware, and firmware seen from inside a container, name no platform, so no request is made."""
    unknown = machine(tmp_path / "a", sys_vendor="QEMU", product_uuid="0c2d7f6e-0000-4000-8000-000000000001")
    assert "no request made" in attempts_text(ask(unknown, "imds", imds_url="http://127.0.0.1:1"))
    inside = machine(tmp_path / "b", "ec2")
    write(inside.root, "/run/systemd/container", "podman\n")
    facts = ask(inside, "imds", imds_url="http://127.0.0.1:1")
    assert dict(facts.values) == {}
    assert "no request made" in attempts_text(facts)


def test_imds_off_makes_no_request(tmp_path: Path) -> None:
    """imds = "off" makes no request on any platform."""
    facts = ask(machine(tmp_path, "ec2"), "imds", imds="off", imds_url="http://127.0.0.1:1")
    assert dict(facts.values) == {}


def test_an_unknown_name_for_imds_is_reported(tmp_path: Path) -> None:
    """A name that does not exist is reported with the closest that does."""
    assert 'did you mean "ec2"' in attempts_text(ask(Paths(tmp_path), "imds", imds="ec3"))


@pytest.mark.parametrize(
    ("platform", "strings"),
    [
        ("ec2", {"product_uuid": "EC2E1916-9099-7CAF-FD21-012345ABCDEF"}),
        ("ec2", {"product_uuid": "45e12aec-dcd1-b213-94ed-012345abcdef"}),
        ("gce", {"product_serial": "GoogleCloud-0123"}),
        ("openstack", {"chassis_asset_tag": "HUAWEICLOUD"}),
        ("akamai", {"sys_vendor": "Linode"}),
        # Three digits of a UUID can match by chance, so a vendor's name comes first.
        ("hetzner", {"sys_vendor": "Hetzner", "product_uuid": "ec2e1916-9099-7caf-fd21-012345abcdef"}),
    ],
)
def test_other_marks_of_a_platform(platform: str, strings: dict[str, str], tmp_path: Path) -> None:
    """Each string that identifies a platform does."""
    facts = ask(machine(tmp_path, **strings), "imds", imds_url="http://127.0.0.1:1", timeout=0.5)
    assert facts.values["platform"] == platform


@pytest.mark.parametrize(
    ("cmdline", "platform"), [("ds=ec2", "ec2"), ("ignition.platform.id=gcp", "gce"), ("ds=nocloud;s=/x", None)]
)
def test_the_command_line_names_a_platform(cmdline: str, platform: str | None, tmp_path: Path) -> None:
    """If the firmware names no platform, the kernel command line can."""
    write(tmp_path, "/proc/cmdline", cmdline)
    facts = ask(Paths(tmp_path), "imds", imds_url="http://127.0.0.1:1", timeout=0.5)
    assert facts.values.get("platform") == platform


def test_the_id_that_firmware_holds_needs_no_network(tmp_path: Path) -> None:
    """An instance id in the firmware is known although the service is unavailable."""
    facts = ask(machine(tmp_path, "digitalocean"), "imds", imds_url="http://127.0.0.1:1", timeout=1.0)
    assert facts.values["instance_id"] == "2756294"


@pytest.mark.parametrize("url", ["https://127.0.0.1", "ftp://x", "127.0.0.1", "http://u:secret@x/", "http://x/?a", "http://"])
def test_an_invalid_address_is_refused(url: str) -> None:
    """imds_url must be plain http to an address; the error does not repeat it."""
    with pytest.raises(ValueError, match="imds_url") as refused:
        settings(imds_url=url)
    assert "secret" not in str(refused.value)


def test_time_is_measured_with_the_clock_that_is_given(tmp_path: Path) -> None:
    """`seconds` is the whole of discovery, on the injected clock."""
    ticks = iter(range(1000, 2000))
    facts = discover(settings(providers=(provider("First"),)), Paths(tmp_path), clock=lambda: float(next(ticks)))
    assert facts.seconds == 3.0
    assert facts.attempts[0].seconds == 1.0
