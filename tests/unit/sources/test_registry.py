"""A fact in a source's options: a fact that does not fit is a failure of that source alone."""

from __future__ import annotations

import logging

import pytest

from agent.errors import DiscoveryError, SourceUnreachable
from agent.model import Facts
from agent.sources import Source
from tests.conftest import Image
from tests.unit.convergence.worlds import World, world_of

CONSUL = """
[[source]]
backend = "consul"
name = "far"
layers = ["common"]
required = false
address = "http://{{ facts.store }}:8500"
"""


def world(image: Image, text: str = CONSUL) -> World:
    image.settings(text, site=False)
    return world_of(image)


def opened_by(world: World, **facts: str) -> Source[object]:
    runtime = world.runtime
    return world.sources.open(runtime.settings.sources[0], Facts(facts), runtime.build)


def failure(world: World, **facts: str) -> DiscoveryError:
    source = opened_by(world, **facts)
    with pytest.raises(DiscoveryError) as refused:
        source.fetch(["common"])
    return refused.value


def test_a_fact_that_breaks_an_option_is_named(image: Image) -> None:
    """Source, option, fact and value: the operator who set the tag finds it."""
    said = str(failure(world(image), store="a b:c"))
    for word in ("far", "address", "facts.store", '"a b:c"'):
        assert word in said


@pytest.mark.parametrize("value", ["evil/", "..", "a\\b"])
def test_a_fact_is_vetted_before_an_option_is_made_of_it(value: str, image: Image) -> None:
    """It would lead the source to another address, which must not be used."""
    said = str(failure(world(image), store=value))
    assert "the fact store cannot be part" in said


def test_a_fact_that_does_not_fit_leaves_the_open_source_for_when_it_does(image: Image) -> None:
    """After a wrong tag and its correction it is the same source object, with its caches."""
    there = world(image)
    opened = opened_by(there, store="10.0.0.9")
    failure(there, store="a b:c")
    assert opened_by(there, store="10.0.0.9") is opened
    there.sources.close()


def test_an_instance_goes_on_without_a_source_whose_option_does_not_fit(image: Image) -> None:
    """One tag must not end the daemon if the source is not even required."""
    image.settings(CONSUL)
    image.write("/etc/parbake/conf.d/store.toml", '[facts]\nstore = "a b:c"\n')
    image.site("common", 'a = "1"\n')
    there = world_of(image)
    assert there.converge() == 0
    (report,) = [report for report in there.report.sources if report.name == "far"]
    assert report.state == "absent"
    assert "facts.store" in str(report.error)


BUGGY = """
[[source]]
backend = "tests.unit.sources.broken:BrokenSource"
name = "far"
layers = ["common"]
path = "/site.ini"
bug_of = "{where}"
"""


def test_a_bug_of_a_constructor_is_an_unavailable_source(image: Image) -> None:
    """The convergence goes on, and the error names the exception's type and code line, and not its text."""
    buggy = world(image, BUGGY.replace("{where}", "constructor"))
    with pytest.raises(SourceUnreachable, match=r"KeyError at .*broken\.py:") as caught:
        opened_by(buggy).fetch(["common"])
    assert "s3cret" not in str(caught.value)


def test_a_source_that_could_not_be_opened_is_known_until_it_opens(image: Image) -> None:
    """Nothing watches it, so that the daemon must try again by itself."""
    buggy = world(image, BUGGY.replace("{where}", "constructor"))
    assert not buggy.sources.has_broken
    opened_by(buggy)
    assert buggy.sources.has_broken
    buggy.sources.close()
    assert not buggy.sources.has_broken


def test_a_bug_of_a_close_keeps_no_other_source_open(image: Image, caplog: pytest.LogCaptureFixture) -> None:
    """A plug-in that fails while it is closed does not end the daemon, and the other sources are closed."""
    caplog.set_level(logging.DEBUG, logger="parbake.sources")
    buggy = world(image, BUGGY.replace("{where}", "close"))
    opened_by(buggy)
    buggy.sources.close()
    assert buggy.sources.get("far") is None
    assert "KeyError at" in caplog.text
    assert "s3cret" not in caplog.text
