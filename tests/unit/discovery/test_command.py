"""`parbake facts` for a reader who does not know why an instance has wrong or missing facts."""

from __future__ import annotations

import json
import os
import time

import pytest

from tests.conftest import Image
from tests.servers.metadata import Metadata

COMPONENT = '[component]\nname = "web"\n'
EC2 = "/sys/class/dmi/id/sys_vendor"


def settings(image: Image, text: str = "") -> None:
    image.write("/etc/parbake/parbake.toml", COMPONENT + text)


def test_each_fact_names_its_provider(image: Image) -> None:
    """One line for each fact: name, value and provider. With --json the document of INTERFACE section 3."""
    settings(image, '[facts]\nenvironment = "dev"\n')
    image.write("/proc/cmdline", "parbake.role=edge\n")
    image.write("/etc/hostname", "web-1\n")
    shown = image.run("facts")
    assert [line.split() for line in shown.out.splitlines()] == [
        ["environment", "dev", "settings"],
        ["hostname", "web-1", "host"],
        ["role", "edge", "kernel"],
    ]
    assert shown.err == ""
    document = image.run("facts", "--json").json()
    assert document["facts"] == {"environment": "dev", "hostname": "web-1", "role": "edge"}
    assert document["providers"] == {"environment": "settings", "hostname": "host", "role": "kernel"}
    assert 0 < document["seconds"] < 5


def test_verbose_shows_each_attempt_with_its_time(image: Image) -> None:
    """The string that gave the platform away, each request with its answer, each provider with its time, and the whole."""
    with Metadata("ec2") as service:
        settings(image, f'[discovery]\nimds_url = "{service.url}"\n')
        image.write(EC2, "Amazon EC2\n")
        shown = image.run("facts", "-v").out
        attempts = image.run("facts", "-v", "--json").json()["attempts"]
    assert "recognised ec2: sys_vendor is 'Amazon EC2'" in shown
    assert "PUT /latest/api/token: 200" in shown
    assert "GET /latest/meta-data/spot/instance-action: 404" in shown
    assert "ms in total, of 5000 ms at most" in shown
    assert {"kernel", "credentials", "cloud-init", "imds", "imds:ec2", "file", "host"} == {a["provider"] for a in attempts}
    assert all(set(attempt) == {"provider", "outcome", "seconds"} for attempt in attempts)


def test_a_failure_is_shown_without_verbose(image: Image) -> None:
    """If a provider failed, a warning on standard error names the missing facts, and the known facts are printed."""
    settings(image, '[discovery]\nimds_url = "http://127.0.0.1:1"\ntimeout = "2s"\n')
    image.write(EC2, "Amazon EC2\n")
    image.write("/etc/parbake/facts.d/broken.toml", "role = ")
    shown = image.run("facts")
    assert shown.code == 0
    assert "platform" in shown.out
    assert "connection refused" in shown.err
    assert "/etc/parbake/facts.d/broken.toml is not valid TOML" in shown.err
    assert "not known: instance_id" in shown.err
    assert "parbake facts -v" in shown.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[discovery]\nproviders = ["kernal"]\n', 'there is no provider "kernal"; did you mean "kernel"?'),
        ('[discovery]\nimds = "ec3"\n', 'there is no metadata service "ec3"; did you mean "ec2"?'),
        ('[discovery]\nimds = "aws"\n', "known here: akamai, alibaba, auto, azure"),
        ('[discovery]\nproviders = ["no.such:Provider"]\n', 'provider "no.such:Provider" cannot be imported'),
        ('[discovery]\ntimeout = "5 parsecs"\n', "expected a duration"),
        ('[facts_from]\nenvironment = "tags:environment"\n', 'expected "tag:NAME", "userdata:NAME" or "fact:NAME"'),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_be_right(text: str, words: str, image: Image) -> None:
    """INTERFACE section 3: exit code 78, with the value found and the closest correct name."""
    settings(image, text)
    shown = image.run("facts")
    assert shown.code == 78
    assert words in shown.err


def test_a_refused_fact_and_a_missing_origin_are_shown(image: Image) -> None:
    """An invalid static fact, an origin that does not exist, and a service that is switched off."""
    settings(image, '[discovery]\nimds = "off"\n[facts]\ntags = "x"\n[facts_from]\nenvironment = ["tag:env", "userdata:env"]\n')
    shown = image.run("facts", "-v").out
    assert "[facts]: refused 'tags': found a str, expected a table" in shown
    assert "environment: there is no tag:env and no userdata:env" in shown
    assert 'switched off: [discovery] imds = "off"' in shown


def test_a_provider_that_never_comes_back_does_not_keep_the_command(image: Image) -> None:
    """A fact file on a mount that is dead: discovery ends in time, and so does the process, though a thread still hangs."""
    settings(image, '[discovery]\nimds = "off"\ntimeout = "3s"\n')
    image.write("/etc/hostname", "web-1\n")
    directory = image.path("/etc/parbake/facts.d")
    directory.mkdir(parents=True)
    os.mkfifo(directory / "dead.toml")
    began = time.monotonic()
    shown = image.run("facts", timeout=60)
    assert time.monotonic() - began < 40
    assert shown.code == 0
    assert "web-1" in shown.out
    assert "file did not return within" in shown.err


def test_missing_facts_that_nothing_needs_do_not_stop_a_convergence(image: Image) -> None:
    """The metadata service hangs: parbake converges in time, and one line names the missing facts and the reason."""
    with Metadata("ec2", "hang", on="/meta-data/") as service:
        discovery = f'[discovery]\nimds_url = "{service.url}"\ntimeout = "2s"\n'
        settings(image, discovery + SITE.format(more=', "{{ facts.region }}"') + TEMPLATE)
        image.write(EC2, "Amazon EC2\n")
        image.write("/site/eu-central-1.toml", "x = 1\n")
        image.write("/etc/parbake/templates/a.j2", "{{ config.x }} {{ facts.instance_id }}\n")
        ended = image.run("once")
    assert ended.code == 0, ended.err
    assert image.read("/etc/a") == "1 i-0123456789abcdef0\n"
    assert "gave no answer within the time of discovery" in ended.err
    assert "not known: " in ended.err
    assert "public_ipv4" in ended.err


SITE = '[[source]]\nname = "site"\nbackend = "file"\npath = "/site"\nlayers = ["common"{more}]\n'
TEMPLATE = '[[template]]\nsource = "a.j2"\ntarget = "/etc/a"\n'
SHIP = '[ship]\njournal = false\nfiles = ["/var/log/a.log"]\n[[sink]]\ntype = "stdout"\nlabels.role = "{{ facts.role }}"\n'


def test_a_fact_that_would_leave_a_layers_path_is_still_a_fact(image: Image) -> None:
    """As part of a path it is refused, with an error that names it. In templates and labels it is used unchanged."""
    image.write("/etc/parbake/facts.d/a.toml", 'role = "../a b/c"\n')
    image.write("/etc/parbake/templates/a.j2", "role={{ facts.role }}\n")
    image.write("/site/common.toml", "x = 1\n")
    image.write("/var/log/a.log", "a line\n")
    settings(image, '[discovery]\nproviders = ["file"]\n' + SITE.format(more="") + TEMPLATE + SHIP)
    assert image.run("once").code == 0
    assert image.read("/etc/a") == "role=../a b/c\n"
    sent = json.loads(image.run("ship", "--dry-run").out.splitlines()[0])
    assert sent["role"] == "../a b/c"

    settings(image, '[discovery]\nproviders = ["file"]\n' + SITE.format(more=', "{{ facts.role }}"') + TEMPLATE)
    shown = image.run("plan")
    assert "the fact role cannot be part of a layer's path: its value contains a slash" in shown.err
    assert "../a b/c" not in shown.err


def test_a_layer_whose_fact_is_unknown_names_the_fact_and_who_was_asked(image: Image) -> None:
    """Never a path with a hole in it: the error has the fact, and each provider once with its outcome."""
    settings(
        image,
        '[discovery]\nimds_url = "http://127.0.0.1:1"\ntimeout = "2s"\n' + SITE.format(more=', "env/{{ facts.environment }}"'),
    )
    image.write(EC2, "Amazon EC2\n")
    image.write("/site/env/.toml", "x = 1\n")
    shown = image.run("once")
    assert shown.code == 69
    assert "facts.environment" in shown.err
    assert "kernel: nothing" in shown.err
    assert "connection refused" in shown.err
