"""Each problem of the settings names its file, line and key, and the values that were found and expected."""

from __future__ import annotations

import pytest

from agent.cli.output import FAMILIES
from agent.errors import SettingsError
from agent.paths import Paths
from agent.settings import loader
from tests.conftest import Image

SOURCE = '[[source]]\nbackend = "file"\npath = "/x"\n'
TEMPLATE = '[[template]]\nname = "a"\nsource = "a.j2"\ntarget = "/etc/a"\n'


def problems(image: Image, text: str) -> list[str]:
    image.template("a.j2", "")
    image.write("/etc/parbake/parbake.toml", f'[component]\nname = "web"\n{text}')
    with pytest.raises(SettingsError) as failed:
        loader.load(Paths(image.root), FAMILIES)
    return [problem.removeprefix(f"{image.root}/etc/parbake/") for problem in failed.value.problems]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[watch]\nsettle = "10s"\nsettle_max = "5s"\n',
            "5: watch.settle_max: settle_max is 5s, which is shorter than settle, 10s; make it at least as long",
        ),
        (
            '[watch]\nsettle = "10s"\n',
            "3: watch.settle_max: settle_max is 5s, which is shorter than settle, 10s; make it at least as long",
        ),
        ('[discovery]\ntimeout = "0s"\n', "4: discovery.timeout: timeout is 0s, expected more"),
        (
            '[discovery]\nproviders = ["kernal"]\n',
            '4: discovery.providers: there is no provider "kernal"; did you mean "kernel"?',
        ),
        ('[discovery]\nimds = "ec3"\n', '4: discovery.imds: there is no metadata service "ec3"; did you mean "ec2"?'),
        (
            '[discovery]\nimds_url = "ftp://x"\n',
            "4: discovery.imds_url: imds_url must begin with http://",
        ),
        (f'{SOURCE}poll = "0s"\n', "6: source[0].poll: poll is 0s, expected more"),
        (f"{SOURCE}timeout = 0\n", "6: source[0].timeout: timeout is 0s, expected more"),
        (
            f'{SOURCE}layers = [\n"a",\n"{{{{ fact.x }}}}"]\n',
            '6: source[0].layers: "{{ fact.x }}" is not a placeholder; expected {{ facts.NAME }} or {{ build.NAME }}',
        ),
        (
            '[[source]]\nbackend = "file"\nrequired = true\npath = "/{{ x }}"\n',
            '6: source[0].path: "{{ x }}" is not a placeholder; expected {{ facts.NAME }} or {{ build.NAME }}',
        ),
        (
            '[[sink]]\ntype = "file"\npath = "/x"\nlabels = { a = "{{ x }}" }\n',
            '6: sink[0].labels: "{{ x }}" is not a placeholder; expected {{ facts.NAME }} or {{ build.NAME }}',
        ),
        (
            '[[sink]]\ntype = "http"\nurl = "https://user:pass@host/"\n',
            "5: sink[0].url: url must not contain credentials; they come from a file or a systemd credential",
        ),
        (
            '[keys."a.b"]\ntype = "integer"\ndefault = "x"\n',
            '5: keys."a.b".default: default is a string, but the type is integer',
        ),
        (
            '[keys.a]\ntype = "bytes"\ndefault = "!"\n',
            "5: keys.a.default: default is not base64, as a default of type bytes must be",
        ),
        (
            '[keys.a]\ntype = "table"\nsecret = true\n',
            "5: keys.a.secret: a table cannot be secret as a whole; declare its keys",
        ),
        (
            '[keys.a]\ntype = "string"\n[keys."a.b"]\n',
            '4: keys.a.type: "a" has the type string, but "a.b" is declared below it; expected table',
        ),
        (f'{TEMPLATE}check = ["x", "{{candidate:b}}"]\n', '7: template[0].check: there is no template "b"; known here: a'),
        (f'{TEMPLATE}check_timeout = "0s"\n', "7: template[0].check_timeout: check_timeout is 0s, expected more"),
        (f'{TEMPLATE}after = ["b"]\n', '7: template[0].after: there is no template "b"; known here: a'),
        (f'{TEMPLATE}after = ["a"]\n', "7: template[0].after: a cycle: a -> a; remove one of its names"),
        (
            f'{TEMPLATE}[[template]]\nname = "b"\nsource = "a.j2"\ntarget = "/etc/a"\n',
            '10: template[1].target: "b" has the same target as "a": /etc/a',
        ),
        (
            '[[template]]\nsource = "b.j2"\ntarget = "/etc/a"\n',
            '4: template[0].source: /etc/parbake/templates/b.j2 does not exist; did you mean "a.j2"?',
        ),
        (
            f'{TEMPLATE}units = [{{ name = "nginx" }}]\n',
            '7: template[0].units[0].name: name "nginx" has no suffix; write "nginx.service"',
        ),
        (
            f'{TEMPLATE}[[template.units]]\nname = "parbake.service"\n',
            '8: template[0].units[0].name: name "parbake.service" is the unit of parbake itself, '
            "which a template cannot act on",
        ),
        (
            f'{TEMPLATE}units = [{{ action = "reload" }}]\n',
            "7: template[0].units[0]: an entry of units needs a name, or a command",
        ),
        ("[state]\ngenerations = 0\n", "4: state.generations: generations must be at least 1; found 0"),
        (
            '[ship]\nmask = ["("]\n',
            '4: ship.mask: mask "(" is not a regular expression: missing ), unterminated subpattern at position 0',
        ),
        (
            '[ship]\nline_max = "1MB"\nfiles = ["var/log/x"]\n',
            '5: ship.files: files must be absolute paths; found "var/log/x"',
        ),
        ('[ship]\nline_max = "32MiB"\n', "4: ship.line_max: line_max must be between 256B and 16MiB; found 32MiB"),
        (
            '[ship]\ndrain = "90s"\n',
            "4: ship.drain: drain must be 75s at most; found 90s: "
            "parbake-ship.service is killed at the end of its TimeoutStopSec",
        ),
        (
            "[ship]\nmask_for = -1\n",
            '4: ship.mask_for: found -1, expected a duration such as "200ms", "5s", "2m", "1h" or "7d", not negative',
        ),
        (
            '[ship]\nmask_for = "-1d"\n',
            '4: ship.mask_for: found "-1d", expected a duration such as "200ms", "5s", "2m", "1h" or "7d", not negative',
        ),
        ('[ship]\nmask_for = "366d"\n', "4: ship.mask_for: mask_for must be 0s to 365d; found 366d"),
        (
            '[ship.journal]\nmatch = ["x"]\n',
            '4: ship.journal.match: match "x" is not FIELD=value with an upper-case journal field',
        ),
        (
            '[[sink]]\ntype = "file"\npath = "/x"\nbatch_entries = 0\n',
            "6: sink[0].batch_entries: batch_entries must be between 1 and 10000; found 0",
        ),
    ],
)
def test_a_problem_names_file_line_and_values(image: Image, text: str, message: str) -> None:
    """INTERFACE section 3: an error names the file, the line, the key, what was found and what was expected."""
    assert problems(image, text) == [f"parbake.toml:{message}"]


def test_every_problem_of_one_table_is_named(image: Image) -> None:
    """INTERFACE section 3: all errors are reported at once, also those of one table."""
    text = '[ship]\nline_max = 1\ndrain = "2m"\nfiles = ["x", "y"]\nmask_for = "400d"\n'
    assert [problem.split(":")[:3] for problem in problems(image, text)] == [
        ["parbake.toml", str(line), f" ship.{key}"]
        for line, key in ((7, "mask_for"), (4, "line_max"), (5, "drain"), (6, "files"), (6, "files"))
    ]


def test_a_key_is_named_in_the_file_that_sets_it(image: Image) -> None:
    """A table of several files: each problem names the file whose key is wrong."""
    image.write("/etc/parbake/conf.d/watch.toml", '\n[watch]\nsettle = "10s"\n')
    image.write("/etc/parbake/conf.d/zz.toml", '[watch]\nsplay = "1s"\n')
    (problem,) = problems(image, '[watch]\nsettle_max = "5s"\n')
    assert problem.startswith("parbake.toml:4: watch.settle_max: ")
    image.write("/etc/parbake/conf.d/watch.toml", '\n[watch]\nsettle = "soon"\n')
    (problem,) = problems(image, "")
    assert problem.startswith("conf.d/watch.toml:3: watch.settle: ")


def test_a_broken_template_is_still_a_name(image: Image) -> None:
    """A template with a problem exists for `after` and {candidate:NAME}: it causes one problem and not three."""
    text = (
        TEMPLATE
        + 'mode = 640\n[[template]]\nname = "b"\nsource = "a.j2"\ntarget = "/b"\nafter = ["a"]\ncheck = ["{candidate:a}"]\n'
    )
    (problem,) = problems(image, text)
    assert "template[0].mode: found 640, expected an octal mode" in problem


def test_a_main_file_that_is_not_toml_is_one_problem(image: Image) -> None:
    """[component] is not reported as missing if its file could not be read."""
    image.write("/etc/parbake/parbake.toml", "[component\n")
    with pytest.raises(SettingsError) as failed:
        loader.load(Paths(image.root), FAMILIES)
    assert [problem.partition(": ")[2].partition(":")[0] for problem in failed.value.problems] == ["not valid TOML"]


def test_a_missing_component_names_the_file_that_should_have_it(image: Image) -> None:
    """The settings without [component] are invalid."""
    image.write("/etc/parbake/parbake.toml", "[watch]\n")
    with pytest.raises(SettingsError) as failed:
        loader.load(Paths(image.root), FAMILIES)
    expected = f'{image.root}/etc/parbake/parbake.toml: component: is missing; it needs at least name = "..."'
    assert list(failed.value.problems) == [expected]


def test_an_empty_component_has_no_name(image: Image) -> None:
    """A [component] without a key misses its name, and is named with its line."""
    image.write("/etc/parbake/parbake.toml", "\n[component]\n")
    with pytest.raises(SettingsError) as failed:
        loader.load(Paths(image.root), FAMILIES)
    expected = f'{image.root}/etc/parbake/parbake.toml:2: component: "name" is missing; it is required'
    assert list(failed.value.problems) == [expected]
