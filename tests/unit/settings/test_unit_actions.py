"""Each name in the templates' `units` stands for one action: an entry that would be dropped is refused at load."""

from __future__ import annotations

import pytest

from agent.cli.output import FAMILIES
from agent.errors import SettingsError
from agent.paths import Paths
from agent.settings import loader
from tests.conftest import Image


def bake(image: Image, first: str, second: str) -> None:
    """Write an image of the templates "a" and "b", with one entry of `units` each."""
    image.template("t.j2", "")
    image.settings(
        "".join(
            f'[[template]]\nname = "{name}"\nsource = "t.j2"\ntarget = "/etc/{name}"\nunits = [{{ {entry} }}]\n'
            for name, entry in (("a", first), ("b", second))
        )
    )


UNIT = 'name = "app.service", action = "restart"'
COMMAND = 'name = "app.service", command = ["app", "re load"]'


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            UNIT,
            COMMAND,
            '"app.service" names a unit and a command: template "a" has the action restart, '
            "template \"b\" runs the command app 're load'; only one of them would run: give the command another `name`",
        ),
        (
            COMMAND,
            UNIT,
            '"app.service" names a unit and a command: template "a" runs the command app \'re load\', '
            'template "b" has the action restart; only one of them would run: give the command another `name`',
        ),
        (
            'name = "x", command = ["one"]',
            'name = "x", command = ["two"]',
            '"x" names two commands: template "a" runs the command one, template "b" runs the command two; '
            "only one of them would run: give one of them another `name`",
        ),
        (
            'command = ["one two"]',
            'command = ["one", "two"]',
            '"one two" names two commands: template "a" runs the command \'one two\', template "b" runs the command '
            "one two; only one of them would run: give one of them another `name`",
        ),
        (
            'name = "x", command = ["one"]',
            'name = "x", command = ["one"], timeout = "2m"',
            '"x" is one command with two timeouts: 30s in template "a", 120s in template "b"; '
            "it runs once, so write the same `timeout` in both",
        ),
    ],
)
def test_two_actions_of_one_name_are_refused(image: Image, first: str, second: str, words: str) -> None:
    """The problem names the templates, the name, both entries and the remedy; no action is dropped in silence."""
    bake(image, first, second)
    with pytest.raises(SettingsError) as failed:
        loader.load(Paths(image.root), FAMILIES)
    (problem,) = failed.value.problems
    line = image.read("/etc/parbake/parbake.toml").splitlines().index(f"units = [{{ {second} }}]") + 1
    assert problem == f"{image.root}/etc/parbake/parbake.toml:{line}: template[1].units[0]: {words}"


def test_two_actions_of_one_name_in_one_template_are_refused(image: Image) -> None:
    """The entries of one template are checked as those of two are."""
    bake(image, f"{UNIT} }}, {{ {COMMAND}", 'name = "other.service"')
    with pytest.raises(SettingsError) as failed:
        loader.load(Paths(image.root), FAMILIES)
    (problem,) = failed.value.problems
    assert 'template[0].units[1]: "app.service" names a unit and a command' in problem


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (UNIT, UNIT),
        (UNIT, 'name = "app.service", action = "reload"'),
        (COMMAND, COMMAND),
        ('command = ["one"]', 'name = "one", command = ["one"]'),
        ('name = "app.service", action = "none"', COMMAND),
        (COMMAND, 'name = "app.service", action = "none"'),
        (UNIT, 'name = "reload app", command = ["app", "re load"]'),
    ],
)
def test_what_is_one_action_is_accepted(image: Image, first: str, second: str) -> None:
    """Templates share a unit, whose strongest action is done, and a command with the same words and timeout."""
    bake(image, first, second)
    assert len(loader.load(Paths(image.root), FAMILIES).templates) == 2
