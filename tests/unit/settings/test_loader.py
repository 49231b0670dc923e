"""Settings: every mistake found in one run, each with its file, its line, what was found, what was expected."""

from __future__ import annotations

import re

import pytest

from agent.cli.output import FAMILIES
from agent.errors import SettingsError
from agent.keypath import segments
from agent.paths import Paths
from agent.settings import loader
from agent.settings.models import Settings
from tests.conftest import Image


def load(image: Image) -> Settings:
    return loader.load(Paths(image.root), FAMILIES)


def problems(image: Image) -> list[str]:
    with pytest.raises(SettingsError) as failed:
        load(image)
    assert failed.value.exit_code == 78
    return list(failed.value.problems)


def problem_of(image: Image, text: str) -> str:
    """Return the one problem of a component with `text`, from its line on."""
    image.write("/etc/parbake/parbake.toml", f'[component]\nname = "web"\n{text}')
    (problem,) = problems(image)
    return problem.removeprefix(f"{image.root}/etc/parbake/parbake.toml")


TEN = """\
[component]
name = "web"
colour = "blue"

[watch]
settle = "soon"
settle_max = 5

[keys."db.password"]
type = "text"

[keys.port]
type = "integer"
default = "x"

[[source]]
name = "site"
backend = "consull"

[[template]]
source = "missing.j2"
target = "etc/relative"

[[template]]
source = "app.j2"
target = "/etc/app"
mode = 640

[[template]]
source = "missing.j2"
target = "/etc/other"

[[sink]]
type = "file"
labels = 5

[templat]
"""


def test_ten_mistakes_ten_findings(image: Image) -> None:
    """Settings with ten different mistakes give ten findings in one run, and exit 78."""
    image.write("/etc/parbake/parbake.toml", TEN)
    image.template("app.j2", "")
    texts = "\n".join(problems(image))
    for line, words in {
        3: 'unknown key "colour"',
        6: 'found "soon", expected a duration',
        10: 'found "text", expected one of: string',
        18: 'there is no backend "consull"; did you mean "consul"?',
        22: 'target "etc/relative" must be an absolute path',
        27: 'expected an octal mode in quotes such as "0640"',
        35: "labels",
        37: 'unknown table "templat"; did you mean "template"?',
    }.items():
        assert re.search(rf"parbake\.toml:{line}: .*{re.escape(words)}", texts), (line, words, texts)
    assert "default is a string, but the type is integer" in texts
    assert "/etc/parbake/templates/missing.j2 does not exist" in texts
    ran = image.run("once")
    assert ran.code == 78
    assert ran.err.count("\n  - ") >= 10
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[discovry]\n", 3, 'unknown table "discovry"; did you mean "discovery"?'),
        ("[discovery]\ntimout = 5\n", 4, 'unknown key "timout"; did you mean "timeout"?'),
        ('[discovery]\nproviders = ["kernal"]\n', None, 'no provider "kernal"; did you mean "kernel"?'),
        ('[discovery]\nimds_url = "10.0.0.1:80"\n', None, "imds_url must begin with http://"),
        ('[units]\ntimeout = "90 parsecs"\n', 4, 'found "90 parsecs", expected a duration'),
        ("[units]\nretries = true\n", 4, "expected an integer, found a boolean"),
        ('[state]\ncache = "encrypt"\n', 4, 'did you mean "encrypted"?'),
        ("watch = 5\n", 3, "unknown key"),
        ('[[source]]\nbackend = "file"\npath = "/x"\nlayers = ["{{ fact.x }}"]\n', None, "is not a placeholder"),
        ('[[source]]\nbackend = "file"\n', 3, '"path" is missing; it is required'),
        ('[[source]]\nbackend = "file"\npath = 5\n', 5, "expected a string, found an integer"),
        ('[[source]]\nbackend = "file"\npath = "/x"\npth = "/y"\n', 6, 'unknown key "pth"; did you mean "path"?'),
        ("[source]\nbackend = 1\n", 3, "expected [[source]], a list of tables"),
        ('[keys.db.password]\ntype = "string"\n', None, 'declared with its whole path in quotes, as [keys."db.NAME"]'),
        ('[keys.a]\ntype = "bytes"\ndefault = "not base64!"\n', None, "default is not base64"),
        ('[keys.a]\ntype = "table"\nsecret = true\n', None, "a table cannot be secret as a whole"),
        ("[facts]\nenvironment = [1]\n", 4, "expected a string or a table"),
        ('[facts_from]\nenvironment = "label:x"\n', 4, 'expected "tag:NAME"'),
    ],
)
def test_a_mistake_is_named_with_its_line(image: Image, text: str, line: int | None, words: str) -> None:
    """INTERFACE section 3: the file, the line or table, what was found, what was expected, and the closest correct name."""
    problem = problem_of(image, text)
    if "unknown key" in words and line == 3:  # a bare key after [component] is one of [component]
        assert 'unknown key "watch"' in problem
        return
    assert words in problem
    if line is not None:
        assert problem.startswith(f":{line}: "), problem


def test_a_file_that_cannot_be_read(image: Image) -> None:
    """A file that is not TOML, not UTF-8 or missing is named, and the other files are still checked."""
    image.write("/etc/parbake/conf.d/a.toml", "[component\n")
    image.write("/etc/parbake/conf.d/b.toml", b"\xff\xfe")
    image.write("/etc/parbake/conf.d/c.toml", "[nonsense]\n")
    texts = problems(image)
    assert any("parbake.toml: no such file" in text for text in texts)
    assert any("a.toml: not valid TOML" in text and "line 1" in text for text in texts)
    assert any("b.toml: cannot be read" in text for text in texts)
    assert any('c.toml:1: nonsense: unknown table "nonsense"' in text for text in texts)


def test_run_time_files_may_set_four_tables(image: Image) -> None:
    """INTERFACE section 2: /run/parbake/conf.d may set facts, sources, sinks and the log; any other table is refused."""
    image.settings()
    image.write(
        "/run/parbake/conf.d/ci.toml",
        '[facts]\nenvironment = "prod"\n[log]\nlevel = "debug"\n[[source]]\nname = "more"\nbackend = "file"\npath = "/more"\n'
        '[[sink]]\ntype = "file"\npath = "/var/log/out"\n',
    )
    loaded = load(image)
    assert (loaded.facts["environment"], loaded.log.level) == ("prod", "debug")
    assert [source.name for source in loaded.sources] == ["site", "more"]
    image.write("/run/parbake/conf.d/evil.toml", '[component]\nname = "other"\n[keys.x]\n[[template]]\n[units]\n')
    texts = problems(image)
    assert len(texts) == 4
    assert all("build config, which does not change on an instance" in text for text in texts)


def test_later_files_win_key_by_key(image: Image) -> None:
    """INTERFACE section 2: vendor, main, conf.d by name, run time: a later key wins, a later item replaces one of its name."""
    image.write("/usr/lib/parbake/conf.d/vendor.toml", '[units]\ntimeout = "1s"\nretries = 9\n[facts]\na = "vendor"\n')
    image.settings('[units]\ntimeout = "2s"\n')
    image.write("/etc/parbake/conf.d/20.toml", '[units]\ntimeout = "20s"\n')
    image.write("/etc/parbake/conf.d/10.toml", '[units]\ntimeout = "10s"\n')
    image.write("/run/parbake/conf.d/x.toml", '[[source]]\nname = "site"\nbackend = "file"\npath = "/elsewhere"\n')
    loaded = load(image)
    assert (loaded.units.timeout, loaded.units.retries, loaded.facts["a"]) == (20.0, 9, "vendor")
    assert [(source.name, source.options.path) for source in loaded.sources] == [("site", "/elsewhere")]


def test_defaults_are_those_of_the_interface(image: Image) -> None:
    """INTERFACE section 3: names and defaults are a promise."""
    image.template("haproxy.cfg.j2", "")
    image.write(
        "/etc/parbake/parbake.toml",
        '[component]\nname = "web"\n[[source]]\nbackend = "file"\npath = "/etc/parbake/site"\n[keys."db.password"]\n'
        '[[template]]\nsource = "haproxy.cfg.j2"\ntarget = "/etc/haproxy/haproxy.cfg"\n',
    )
    loaded = load(image)
    (source,), (template,) = loaded.sources, loaded.templates
    assert loaded.discovery.providers[:5] == ("kernel", "credentials", "cloud-init", "imds", "file")
    assert (loaded.discovery.timeout, loaded.discovery.imds, loaded.discovery.imds_url) == (5.0, "auto", "")
    assert (source.name, source.required, source.poll) == ("file", True, 60.0)
    assert (template.name, template.mode, template.group_name) == ("haproxy.cfg", None, "")
    assert (template.trim_blocks, template.lstrip_blocks) == (True, False)
    assert (loaded.watch.settle, loaded.watch.settle_max, loaded.watch.splay) == (0.2, 5.0, 0.0)
    assert (loaded.state.generations, loaded.units.settle_active) == (10, 2.0)
    assert loaded.ship.mask_for == 7 * 86400.0
    assert segments("db.password") in loaded.keys


def test_two_templates_of_one_target(image: Image) -> None:
    """Two templates cannot have one target: either could overwrite the other."""
    image.template("a.j2", "")
    image.settings("".join(f'[[template]]\nname = "{name}"\nsource = "a.j2"\ntarget = "/etc/a"\n' for name in "xy"))
    assert any('has the same target as "x"' in text for text in problems(image))


@pytest.mark.parametrize(
    ("text", "expected_seconds"), [('"0s"', 0.0), ("0", 0.0), ('"12h"', 43200.0), ('"365d"', 31_536_000.0)]
)
def test_mask_for(image: Image, text: str, expected_seconds: float) -> None:
    """[ship] mask_for is a duration of no time to a year."""
    image.settings(f"[ship]\nmask_for = {text}\n")
    assert load(image).ship.mask_for == expected_seconds
