"""The inputs of a render: nothing else influences it, and each one that it read is recorded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import RenderError
from agent.keypath import same
from agent.model import Facts, Rendering, RunConfig
from agent.paths import Paths
from agent.secret import Secret
from agent.settings.models import Component, Template
from agent.templates.renderer import Renderer, inputs_unchanged
from tests.conftest import Image

PASSWORD = "correct horse battery"
TREE: dict[str, Any] = {"list": ["a", "b"], "table": {"x": 1}, "password": Secret(PASSWORD), "raw": b"\xff\x01abc"}


def render(
    image: Image, source: str, tree: dict[str, Any], facts: dict[str, Any] | None = None, name: str = "t.j2"
) -> Rendering:
    image.template(name, source)
    template = Template(source=name, target="/t", name="t")
    renderer = Renderer(Paths(image.root), Component(name="web"), [template])
    return renderer.render(template, RunConfig(tree, {}), Facts(facts or {}))


@pytest.mark.parametrize(
    "source",
    [
        '{{ config.list | map("upper") }}',
        "{{ config.table.items() }}",
        "{{ config.table.values() }}",
        "{{ cycler(1) }}",
        "{{ namespace() }}",
        '{{ ("2020-01-01 00:00:00" | to_datetime).now() }}',
        '{{ ("2020-01-01 00:00:00" | to_datetime).today() }}',
        '{{ ("2020-01-01 00:00:00" | to_datetime).astimezone() }}',
        '{{ ("2020-01-01 00:00:00" | to_datetime).timestamp() }}',
        '{{ ("2020-01-01 00:00:00" | to_datetime) | attr("now") }}',
        "{{ now() }}",
        "{{ lipsum() }}",
        "{{ [1, 2] | random }}",
    ],
)
def test_nothing_of_the_machine_or_the_moment(image: Image, source: str) -> None:
    """Memory addresses, the clock, the time zone and chance cannot get into a target."""
    with pytest.raises(RenderError):
        render(image, source, TREE)


def test_an_aware_time_has_a_timestamp(image: Image) -> None:
    """A time with a zone is the same moment on every machine."""
    result = render(image, '{{ ("2020-01-01 00:00 +0100" | to_datetime("%Y-%m-%d %H:%M %z")).timestamp() | int }}', {})
    assert result.content == b"1577833200"


@pytest.mark.parametrize(
    "source", ["{{ config.table[config.password] }}", "{{ config[config.password] }}", '{{ {"a": 1}[config.password] }}']
)
def test_a_secret_that_is_looked_up_is_not_named(image: Image, source: str) -> None:
    """An error names keys, and masks one that is the value of a secret."""
    with pytest.raises(RenderError) as caught:
        render(image, source, TREE)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "content"), [('{{ config.raw ~ "x" }}', b"\xff\x01abcx"), ("{{ config.raw | upper }}", b"\xff\x01ABC")]
)
def test_bytes_within_text_stay_bytes(image: Image, source: str, content: bytes) -> None:
    """A key of type bytes never ends up as Python's b'...'."""
    assert render(image, source, TREE).content == content


@pytest.mark.parametrize(
    "source",
    [
        f"{{{{ config.absent | {name} }}}}"
        for name in (
            "basename",
            "dirname",
            "from_json",
            "from_yaml",
            "b64decode",
            "to_datetime",
            "mandatory",
            "mandatory('say why')",
            "to_json",
            "quote",
            "combine",
        )
    ]
    + ["{{ config.absent + 1 }}", "{{ config.absent > 1 }}", "{{ 2 * config.absent }}", "{{ config.absent % 2 }}"],
)
def test_every_use_of_an_absent_key_names_it(image: Image, source: str) -> None:
    """Every use of a missing key is an error with the key and its line, in a file of any name."""
    with pytest.raises(RenderError) as caught:
        render(image, f"one\n{source}", TREE, name="no-extension")
    assert "config.absent is not set" in str(caught.value)
    assert "line 2" in str(caught.value)
    assert ("say why" in source) == ("say why" in str(caught.value))


def test_arithmetic_does_not_hide_later_keys(image: Image) -> None:
    """All missing keys are named in one run, also those after a calculation with a missing key."""
    with pytest.raises(RenderError) as caught:
        render(image, "{{ config.a + 1 }}{% if config.b < 2 %}{% endif %}{{ config.c | to_json }}{{ config.d }}", {})
    assert [f"config.{name} is not set" for name in "abcd"] == list(caught.value.problems)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('{{ "YWJj\\nZGVm\\n" | b64decode }}', "abcdef"),
        ('{{ [{"a": 1, "b": 1}, {"b": 2}] | combine | to_json }}', '{"a": 1, "b": 2}'),
        ('{{ {"a": {"x": 1}} | combine({"a": {"y": 2}}, recursive=true) | to_json }}', '{"a": {"x": 1, "y": 2}}'),
        ('{{ "10.0.0.1" | ipaddr("private") }}', "10.0.0.1"),
        ('{{ "8.8.8.8" | ipaddr("private") }}', "False"),
        ('{{ ["10.0.0.1", "8.8.8.8"] | ipaddr("public") | join }}', "8.8.8.8"),
        ('{{ "10.0.0.128/24" | ipaddr(0) }}', "10.0.0.0/24"),
        ('{{ "10.0.0.0/24" | ipaddr("-1") }}', "10.0.0.255/24"),
        ('{{ "2001:db8::/32" | ipwrap }}', "[2001:db8::]/32"),
        ('{{ "::1" | ipwrap }}', "[::1]"),
        ('{{ "10.0.0.0/8" | ipwrap }}', "10.0.0.0/8"),
        ('{{ "host.example" | ipwrap }}', "host.example"),
    ],
)
def test_filters_as_in_ansible(image: Image, source: str, expected: str) -> None:
    """A template that was written for Ansible renders as it does in Ansible."""
    assert render(image, source, {}).content.decode() == expected


SCALARS = st.one_of(
    st.sampled_from([0, 1, True, False, 0.0, -0.0, 1.0, "1", "", "x"]),
    st.lists(st.sampled_from([1, True, 1.0, "1"]), max_size=2),
)
TREES = st.dictionaries(
    st.sampled_from("ab"),
    st.one_of(SCALARS, SCALARS.map(Secret), st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2)),
    max_size=2,
)
SOURCES = (
    "{{ config.a | to_json }}",
    "{{ config.a is defined }}",
    "{{ config.a is mapping }}",
    "{{ config.a.b | default('none') }}",
    "{{ config.a.a is defined }}",
    "{{ config.get('b', 'none') | string if config.b is not mapping else 'table' }}",
    "{% for key in config %}{{ key }}{% endfor %}",
    "{{ config | length }}",
    "{{ config | to_json }}",
    "{% if config.b %}yes{% endif %}",
    "{{ 'a' in config }}",
    "{% set t = config.a %}{{ t | default('none') | to_json }}",
    "{{ config.b is sequence }}",
    "{{ facts.role | default('none') }}{{ facts.tags is defined }}",
    "{% for name in facts %}{{ name }}{% endfor %}",
    "{{ facts | to_json }}",
)
FACTS = st.dictionaries(st.sampled_from(["role", "tags"]), st.one_of(st.just("x"), st.just({"a": "b"}), st.just({})))


def outcome(image: Image, source: str, tree: dict[str, Any], facts: dict[str, Any]) -> Rendering | None:
    try:
        return render(image, source, tree, facts)
    except RenderError:
        return None


@given(st.sampled_from(SOURCES), TREES, TREES, FACTS, FACTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_unchanged_inputs_give_the_same_rendering(
    image: Image, source: str, old: dict[str, Any], new: dict[str, Any], old_facts: dict[str, Any], new_facts: dict[str, Any]
) -> None:
    """A template is not rendered again only if rendering it again would give the same bytes."""
    before = outcome(image, source, old, old_facts)
    if before and inputs_unchanged(before, RunConfig(old, {}), RunConfig(new, {}), Facts(old_facts), Facts(new_facts)):
        after = outcome(image, source, new, new_facts)
        assert after is not None
        assert (before.content, before.secret) == (after.content, after.secret)


def test_numbers_that_python_thinks_equal_are_not_the_same() -> None:
    """1, 1.0 and true differ in a file, so they differ here, in a list, a table and a secret too."""
    for one, two in ((1, True), (1, 1.0), (0.0, -0.0), ([1], [True]), ({"a": 1}, {"a": 1.0}), (Secret([1]), Secret([True]))):
        assert not same(one, two)
        assert same(one, one)
    assert Secret("\ud800") != Secret("x")
