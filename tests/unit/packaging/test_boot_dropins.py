"""The drop-ins that make application units wait for their config."""

from __future__ import annotations

import pytest

from agent.convergence.boot_dropins import EARLY, drop_ins
from agent.settings.models import Component, Settings, Template, TemplateUnit

WAITS = "/etc/systemd/system/{}.d/50-parbake.conf"


def settings(*templates: Template) -> Settings:
    return Settings(component=Component(name="web"), templates=templates)


def template(target: str, *units: str, required: bool = True) -> Template:
    return Template(source="x.j2", target=target, units=tuple(TemplateUnit(name=u) for u in units), required=required)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_a_unit_of_a_required_template_neither_starts_before_parbake_nor_without_it() -> None:
    """The drop-in orders the unit after parbake and requires it."""
    generated = drop_ins(settings(template("/etc/haproxy/haproxy.cfg", "haproxy.service")))
    assert list(generated) == [WAITS.format("haproxy.service")]
    text = generated[WAITS.format("haproxy.service")]
    assert lines(text) == ["[Unit]", "After=parbake.service parbake-ship.service", "Requires=parbake.service"]
    assert text.startswith("# Made by `parbake bake`")


def test_a_unit_of_an_optional_template_waits_for_nothing() -> None:
    """With `required = false` the unit starts without parbake: an operator may need it to repair the instance."""
    assert drop_ins(settings(template("/etc/ssh/sshd_config", "ssh.service", required=False))) == {}


@pytest.mark.parametrize("first_required", [True, False])
def test_one_required_template_is_enough(first_required: bool) -> None:
    """A unit that several templates name waits for parbake if one of them is required."""
    one = template("/etc/a", "app.service", required=first_required)
    two = template("/etc/b", "app.service", required=not first_required)
    assert list(drop_ins(settings(one, two))) == [WAITS.format("app.service")]


def test_no_template_no_drop_in() -> None:
    """Without templates, or without units in them, no unit waits."""
    assert drop_ins(settings()) == {}
    assert drop_ins(settings(template("/etc/environment"))) == {}


@pytest.mark.parametrize("unit", sorted(EARLY))
def test_a_unit_that_the_network_needs_does_not_wait_for_parbake(unit: str) -> None:
    """parbake is ordered after the network: a drop-in for a unit before the network would be a cycle, which drops a job."""
    generated = drop_ins(settings(template("/etc/x", unit, "app.service")))
    assert list(generated) == [WAITS.format("app.service")]
