"""The keys that a template reads, from its syntax tree."""

from __future__ import annotations

import pytest

from agent.errors import RenderError
from agent.paths import Paths
from agent.settings.models import Component, Template
from agent.templates.renderer import Renderer
from agent.templates.static_analysis import static_key_reads
from tests.conftest import Image


def read(image: Image, source: str) -> set[str]:
    image.template("t.j2", source)
    template = Template(source="t.j2", target="/t", name="t")
    renderer = Renderer(Paths(image.root), Component(name="web"), [template])
    return {".".join(path) or "(all)" for path in static_key_reads(renderer.environment(template), "t.j2")}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('{{ config.a.b }}{{ config["c-d"].e }}{{ config.get("f").g }}', {"a.b", "c-d.e", "f.g"}),
        ("{% set d = config.db %}{{ d.user }}", {"db", "db.user"}),
        ("{% set c = config %}{{ c.a }}", {"a"}),
        ("{% set a = config.a %}{% set a = 5 %}{{ a.b }}", {"a"}),
        ("{% for s in config.servers %}{{ s.name }}{% endfor %}", {"servers"}),
        ("{% for k, v in config.db.items() %}{{ v }}{% endfor %}", {"db"}),
        ("{% for config in [1] %}{{ config.a }}{% endfor %}", set()),
        ("{% if config.a is defined and config.b | default(config.c) %}{% endif %}", {"a", "b", "c"}),
        ("{{ config.list[0] }}{{ config.table[facts.role] }}", {"list", "table"}),
        ("{{ config | to_json }}", {"(all)"}),
        ("{{ config[facts.role] }}", {"(all)"}),
        ("{{ build.component }}{{ facts.role }}", set()),
    ],
)
def test_what_is_read(image: Image, source: str, expected: set[str]) -> None:
    """`check` finds each key that a template names, through aliases too."""
    assert read(image, source) == expected


def test_included_templates_are_read_too(image: Image) -> None:
    """The keys of includes, imports and parents count. An optional include may be absent."""
    image.template("one", "{{ config.one }}{% include 'two' %}")
    image.template("two", "{{ config.two }}{% include 'one' %}")
    assert read(image, "{% include 'one' %}") == {"one", "two"}
    assert read(image, "{% include ['absent', 'one'] %}") == {"one", "two"}
    assert read(image, "{% include 'absent' ignore missing %}") == set()


@pytest.mark.parametrize(
    ("name", "words"), [("absent", "does not exist"), ("broken", "line 2"), (".", "cannot be read"), ("../up", "outside")]
)
def test_an_include_that_is_no_template(image: Image, name: str, words: str) -> None:
    """An image build fails if an included template is missing or broken; an instance never sees it."""
    image.template("broken", "\n{% if %}")
    with pytest.raises(RenderError, match=words):
        read(image, f"{{% include '{name}' %}}")
