"""Rendering: strict, sandboxed, equal on every machine, and with every read recorded."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import RenderError
from agent.keypath import leaves
from agent.model import Facts, Rendering, RunConfig
from agent.paths import Paths
from agent.secret import Secret
from agent.settings.models import Component, Template
from agent.templates.renderer import Renderer, inputs_unchanged
from tests.conftest import Image

CONFIG: dict[str, Any] = {
    "name": "x",
    "port": 80,
    "none": {},
    "db": {"user": "app", "password": Secret("hunter2"), "hosts": ["b", "a"]},
    "zones": {"b": 2, "a": 1, "c": {"z": 1, "y": 2}},
    "key": b"\0\xff",
    "a-b": "dashed",
    "items": "a key named like a method",
    "html": "<a href='x'>&</a>",
    "yes": True,
}
FACTS = Facts({"environment": "dev", "tags": {"role": "edge"}})


def config(tree: dict[str, Any] | None = None) -> RunConfig:
    tree = CONFIG if tree is None else tree
    return RunConfig(tree, {}, frozenset(path for path, value in leaves(tree) if isinstance(value, Secret)))


def rendering(image: Image, text: str, tree: dict[str, Any] | None = None, facts: Facts = FACTS, **template: Any) -> Rendering:
    image.template("t.j2", text)
    stated = Template(**{"name": "t", "source": "t.j2", "target": "/t", **template})
    return Renderer(Paths(image.root), Component(name="web", version="2"), [stated]).render(stated, config(tree), facts)


def text(image: Image, source: str, tree: dict[str, Any] | None = None, **template: Any) -> str:
    return rendering(image, source, tree, **template).content.decode()


def refusal(image: Image, source: str) -> str:
    with pytest.raises(RenderError) as failed:
        rendering(image, source)
    assert "hunter2" not in str(failed.value)
    return str(failed.value)


def test_namespaces(image: Image) -> None:
    """INTERFACE section 4: build, config and facts, written with dots or brackets."""
    source = '{{ build.component }} {{ build.version }} {{ config["a-b"] }} {{ config.db.user }} {{ facts.tags.role }}'
    assert text(image, source) == "web 2 dashed app edge"
    assert text(image, '{{ config["items"] }}') == "a key named like a method"


def test_whitespace_follows_ansible(image: Image) -> None:
    """INTERFACE section 4: trim_blocks on, lstrip_blocks off, the trailing newline kept; both can be set per template."""
    source = "a\n  {% if true %}\nb\n{% endif %}\n"
    assert text(image, source) == "a\n  b\n"
    assert text(image, source, lstrip_blocks=True) == "a\nb\n"
    assert text(image, source, trim_blocks=False) == "a\n  \nb\n\n"


def test_delimiters_are_each_templates_own(image: Image) -> None:
    """A target whose format uses braces is rendered with other delimiters, set for its template alone."""
    source = "[% if true %]\n{{ $labels.instance }} is [[ config.name ]]{# theirs #}[# ours #].\n[% endif %]\n"
    own: dict[str, Any] = {
        "variable_delimiters": ("[[", "]]"),
        "block_delimiters": ("[%", "%]"),
        "comment_delimiters": ("[#", "#]"),
    }
    assert text(image, source, **own) == "{{ $labels.instance }} is x{# theirs #}.\n"
    assert text(image, "{{ config.name }} [[ ]]\n") == "x [[ ]]\n"


def test_ambiguous_delimiters_are_refused() -> None:
    """Two kinds of delimiters that begin alike, or half a pair, are an error of the settings, before any render."""
    wrongs: list[dict[str, Any]] = [
        {"variable_delimiters": ("{%", "%}")},
        {"block_delimiters": ("{%",)},
        {"comment_delimiters": (" ", "#}")},
    ]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="delimiters must"):
            Template(source="t.j2", target="/t", **wrong)


def test_no_escaping_anywhere(image: Image) -> None:
    """INTERFACE section 4: no HTML escaping anywhere; tojson too gives plain JSON."""
    assert text(image, "{{ config.html }}") == CONFIG["html"]
    assert text(image, "{{ config.html | tojson }}") == "\"<a href='x'>&</a>\""


@pytest.mark.parametrize(
    "source",
    [
        "{{ config.nope }}", "{{ config.db.nope }}", "{{ config.nope.deeper }}", "{{ facts.nope }}", "{{ build.nope }}",
        "{{ nope }}", "{% if config.nope %}{% endif %}", "{% for x in config.nope %}{% endfor %}", "{{ config.nope | upper }}",
        "{{ config.nope ~ 'x' }}", "{{ config.nope == 1 }}", "{{ config.nope | to_json }}", "{{ config.nope | mandatory }}",
        "{{ config.nope | quote }}", "{{ config.nope | combine({}) }}", "{{ config['nope'] }}", "{{ config.nope | bool }}",
    ],
)  # fmt: skip
def test_an_undefined_name_is_an_error(image: Image, source: str) -> None:
    """INTERFACE section 4: an undefined name is an error, never an empty string."""
    assert "nope" in refusal(image, source) or "mandatory" in source


def test_every_missing_key_is_named(image: Image) -> None:
    """The error of one render names the template and all missing keys, with a hint."""
    message = refusal(image, "{{ config.one }}\n{% for x in config.two.deep %}{% endfor %}{{ facts.three }}{{ config['a.b'] }}")
    for name in ("config.one", "config.two.deep", "facts.three", 'config."a.b"'):
        assert f"{name} is not set" in message
    assert "template t" in message


def test_default_and_defined(image: Image) -> None:
    """`default` and `is defined` work at any depth, and count as a read of the whole key."""
    result = rendering(image, "{{ config.a.b.c | default('d') }}{{ config.q.r is defined }}{{ config.name is defined }}")
    assert result.content == b"dFalseTrue"
    assert {("a", "b", "c"), ("q", "r")} <= result.reads


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}", "{{ config.__class__ }}", "{{ config._tree }}", "{{ config._reads }}", "{{ config.db._path }}",
        "{{ ''['__class__'] }}", "{{ config.name.__init__.__globals__ }}", "{{ self.__init__ }}", "{{ (1).__class__.mro() }}",
        "{{ ''|attr('__class__') }}", "{{ config|attr('_tree') }}", "{{ cycler.__init__.__globals__ }}",
        "{{ joiner.__init__ }}", "{{ range.__self__ }}", "{{ lipsum() }}", "{{ now() }}", "{{ [1]|random }}",
        "{% include '/etc/passwd' %}", "{% include '../../../etc/passwd' %}", "{{ config.db.hosts.append(1) }}",
        "{{ '%s'.format.__globals__ }}", "{{ '{0.__class__}'.format(config) }}", "{{ config.update({}) }}",
        "{{ range(10000000) | list }}",
        "{{ ('{0.__class__}' | attr('format'))(config) }}", "{% set f = '{0.__class__}'.format %}{{ f(config) }}",
        "{{ ['{0.__class__}'.format] | map('string') | join }}{{ ('{0._tree}'.format_map)({'0': config}) }}",
        "{% import 'os' as os %}",
    ],
)  # fmt: skip
def test_the_sandbox(image: Image, source: str) -> None:
    """INTERFACE section 4: no attribute with an underscore first, no file outside, no time, no random, no changed inputs."""
    refusal(image, source)


def test_the_inputs_cannot_be_changed(image: Image) -> None:
    """A render does not change its inputs."""
    before = repr(CONFIG)
    changes = ("{% do config.clear() %}", "{{ config.update({}) }}", "{% set config.x = 1 %}", "{{ config.db.hosts.sort() }}")
    for source in changes:
        refusal(image, source)
    with contextlib.suppress(RenderError):  # Jinja2 forbids it from 3.1.5 on
        rendering(image, "{{ config.db.hosts.pop() }}")
    assert repr(CONFIG) == before


def test_includes_from_the_template_directory(image: Image) -> None:
    """Templates share parts below the template directory."""
    image.template("parts/head.j2", "head {{ config.name }}\n")
    assert text(image, "{% include 'parts/head.j2' %}body\n") == "head x\nbody\n"


def test_mappings_are_sorted(image: Image) -> None:
    """INTERFACE section 4: a mapping from a store iterates in sorted order."""
    assert text(image, "{% for k in config.zones %}{{ k }}{% endfor %}") == "abc"
    assert text(image, "{{ config.zones | to_json }}") == '{"a": 1, "b": 2, "c": {"y": 2, "z": 1}}'
    assert text(image, "{{ config.zones | list | join }} {{ config.zones.keys() | list | length }}") == "abc 3"


def test_what_cannot_be_printed(image: Image) -> None:
    """A table or a function is never printed as Python shows it."""
    assert "is a table" in refusal(image, "{{ config.db }}")
    assert "cannot be printed" in refusal(image, "{{ config.items }}")
    assert "nothing (null)" in refusal(image, "{{ none }}")


def test_bytes(image: Image) -> None:
    """A key of type bytes is rendered as the same bytes, after base64 too."""
    assert rendering(image, "{{ config.key }}").content == b"\0\xff"
    assert text(image, "{{ config.key | b64encode }}") == "AP8="


def test_syntax_errors_have_a_line(image: Image) -> None:
    """An error names the template and the line, those of an included template too."""
    assert "t.j2 line 3" in refusal(image, "a\nb\n{% if %}\n")
    image.template("part.j2", "\n\n{{ oops\n")
    assert "template t: part.j2 line 3" in refusal(image, "{% include 'part.j2' %}")
    assert "line 2" in refusal(image, "\n{{ 1 / 0 }}")


def test_an_error_never_quotes_a_secret(image: Image) -> None:
    """INTERFACE section 8.5: the error of a filter that fails on a secret does not hold the secret."""
    assert "withheld" in refusal(image, "{{ config.db.password | from_json }}")
    assert "withheld" in refusal(image, "{{ 1 + config.db.password }}")


def test_reads_are_recorded_exactly(image: Image) -> None:
    """The keys that a template read, and no others, decide whether it is rendered again."""
    result = rendering(image, "{{ config.port }}{% if config.yes %}{{ config.db.user }}{% else %}{{ config.name }}{% endif %}")
    assert result.reads == {("port",), ("yes",), ("db", "user")}
    assert not result.secret
    assert rendering(image, "{{ facts.environment }}").facts == {"environment"}
    reveal_all = "{% for k, v in config.db.items() %}{% endfor %}"
    for reveals in ("{{ config.db.password | length }}", "{{ config.db | to_json }}", reveal_all):
        assert rendering(image, reveals).secret, reveals
    assert not rendering(image, "{{ config.db.hosts | join }}").secret


TREES = st.dictionaries(
    st.sampled_from("abc"),
    st.one_of(st.integers(0, 3), st.dictionaries(st.sampled_from("xy"), st.integers(0, 3), max_size=2)),
    max_size=3,
)
SOURCES = (
    "{{ config.a | default('-') | to_json }}",
    "{{ config.a.x | default('-') if config.a is mapping else 'value' }}",
    "{{ config | to_json }}",
    "{% for k in config %}{{ k }}{% endfor %}",
    "{{ config.b is defined }}",
    "{{ 'c' in config }}",
    "{{ config.a is mapping }}",
    "{{ config | length }}",
    "{{ config.b.items() | list if config.b is mapping else 'no' }}",
    "{{ config.get('c', 5) is number }}",
    "{{ config.a | default(1) == config.b | default(1) }}",
)


@given(st.sampled_from(SOURCES), TREES, TREES)
def test_unchanged_inputs_give_the_same_bytes(source: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """If the recorded reads are unchanged, rendering again gives the same bytes."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as root:
        image = Image(Path(root))
        before = rendering(image, source, old)
        if inputs_unchanged(before, config(old), config(new), FACTS, FACTS):
            assert rendering(image, source, new).content == before.content


FILTERS: list[tuple[str, str]] = [
    ("{{ {'b': 1, 'a': [true, none]} | to_json }}", '{"a": [true, null], "b": 1}'),
    ("{{ {'a': 1} | to_nice_json }}", '{\n    "a": 1\n}'),
    ("{{ ('[1, 2]' | from_json)[1] }}", "2"),
    ("{{ {'b': 1, 'a': ['x']} | to_yaml }}", "a:\n- x\nb: 1\n"),
    ("{{ ('a: [1, 2]' | from_yaml).a[1] }}", "2"),
    ("{{ {'t': {'k': 'v'}, 'a': 1} | to_toml }}", 'a = 1\n\n[t]\nk = "v"\n'),
    ("{{ 'é' | b64encode }}", "w6k="),
    ("{{ 'w6k=' | b64decode }}", "é"),
    ("{{ 'x' | hash('sha256') }}", "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"),
    ("{{ 'x' | hash }}", "11f6ad8ec52a2984abaafd7c3b516503785c2072"),
    ("{{ \"it's\" | quote }}", "'it'\"'\"'s'"),
    ("{{ 'a1b2' | regex_replace('[0-9]', '#') }}", "a#b#"),
    ("{{ 'A1' | regex_replace('a(.)', '\\\\1', ignorecase=true) }}", "1"),
    ("{{ 'port=80' | regex_search('[0-9]+') }}", "80"),
    ("{{ 'port=80' | regex_search('(.)=(.*)', '\\\\2') | first }}", "80"),
    ("{{ 'x' | regex_search('y') }}", ""),
    ("{{ ({'a': 1} | combine({'b': 2})) | to_json }}", '{"a": 1, "b": 2}'),
    ("{{ ({'a': {'x': 1}} | combine({'a': {'y': 2}}, recursive=true)) | to_json }}", '{"a": {"x": 1, "y": 2}}'),
    ("{{ {'a': 1} | dict2items | map(attribute='value') | first }}", "1"),
    ("{{ ([{'key': 'a', 'value': 1}] | items2dict).a }}", "1"),
    ("{{ 'yes' | bool }} {{ 'no' | bool }} {{ 1 | bool }}", "True False True"),
    ("{{ 'x' | mandatory }}", "x"),
    ("{{ '/a/b.c' | basename }} {{ '/a/b.c' | dirname }}", "b.c /a"),
    ("{{ ('2026-01-02 03:04:05' | to_datetime).year }}", "2026"),
    ("{{ '192.0.2.5/24' | ipaddr('network') }} {{ '192.0.2.5/24' | ipaddr('netmask') }}", "192.0.2.0 255.255.255.0"),
    ("{{ 'x' | ipaddr }}", "False"),
    ("{{ ['192.0.2.1', 'x', '::1'] | ipv4 | join(',') }}", "192.0.2.1"),
    ("{{ ['192.0.2.1', '::1'] | ipv6 | join(',') }}", "::1"),
    ("{{ '::1' | ipwrap }} {{ '192.0.2.1' | ipwrap }} {{ 'host' | ipwrap }}", "[::1] 192.0.2.1 host"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), FILTERS)
def test_filters(image: Image, source: str, expected: str) -> None:
    """INTERFACE section 4: the filters beyond Jinja2's own, with Ansible's names and meanings."""
    assert text(image, source) == expected


def test_compiled_templates_are_used_and_never_trusted_blindly(image: Image) -> None:
    """Templates are compiled at bake; a damaged or outdated file is compiled again, never run."""
    image.template("t.j2", "one {{ config.name }}\n")
    stated = Template(name="t", source="t.j2", target="/t")
    paths, component = Paths(image.root), Component(name="web")
    baking = Renderer(paths, component, [stated], baking=True)
    baking.compile(stated)
    (compiled,) = baking.baked_files()

    def render() -> bytes:
        return Renderer(paths, component, [stated]).render(stated, config(), FACTS).content

    assert render() == b"one x\n"
    image.template("t.j2", "two {{ config.name }}\n")
    assert render() == b"two x\n"
    for damage in (b"", b"rubbish", image.path(compiled).read_bytes()[:40] if image.path(compiled).exists() else b"x"):
        with open(compiled, "wb") as file:
            file.write(damage)
        assert render() == b"two x\n"
