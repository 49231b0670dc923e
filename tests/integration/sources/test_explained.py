"""`parbake explain` across layers and sources, and the two origins of a clash, as an operator sees them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli.main import main
from tests.conftest import Image

SETTINGS = """
[[source]]
name = "site"
backend = "file"
path = "/site"
layers = ["common", "env/{{ facts.environment }}", "instance"]
[[source]]
name = "team"
backend = "file"
path = "/team"
layers = ["all"]
[keys."db.password"]
secret = true
required = true
[keys.spare]
[[template]]
name = "app"
source = "app.j2"
target = "/etc/app.conf"
units = [{ name = "app.service", action = "reload" }]
"""
CANARY = "c4nary-0f-explain"


@pytest.fixture
def web(image: Image) -> Image:
    """Three layers of one source and one of another."""
    image.settings(SETTINGS, site=False)
    image.template("app.j2", "{{ config.name }} {{ config.db.password }}\n")
    image.site("common", f'name = "one"\n[db]\npassword = "{CANARY}-1"\n')
    image.site("env/dev", f'name = "two"\n[db]\npassword = "{CANARY}-2"\n')
    image.site("instance", 'name = "three"\n')
    image.write("/team/all.toml", 'name = "four"\n')
    return image


def run(image: Image, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["--root", str(image.root), *words])
    out, err = capsys.readouterr()
    assert CANARY not in out + err
    return code, out, err


def explained(image: Image, capsys: pytest.CaptureFixture[str], key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(image, capsys, "explain", key, "--json")[1])
    return found


def test_three_layers_and_two_sources(web: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """The origin of a value and of everything that it overrode, each with its revision; a secret's without its value."""
    found = explained(web, capsys, "name")
    chain = [(found["source"], found["layer"]), *((one["source"], one["layer"]) for one in found["overrode"])]
    assert chain == [("team", "all"), ("site", "instance"), ("site", "env/dev"), ("site", "common")]
    assert found["revision"]
    assert all(one["revision"] for one in found["overrode"])
    found = explained(web, capsys, "db.password")
    assert (found["value"], found["layer"], [one["layer"] for one in found["overrode"]]) == ("********", "env/dev", ["common"])
    _, out, _ = run(web, capsys, "explain", "db")
    assert "db.password = ********" in out
    assert "from source site, layer env/dev" in out
    assert "over source site, layer common" in out


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("nmae", 'did you mean "name"?'),
        ("spare", "is declared and not required, and no layer has it"),
        ("name.first", "name is a value, with nothing below it"),
        ("something.else", "no layer has something.else, and it is not declared"),
    ],
)
def test_a_key_without_a_value(web: Image, capsys: pytest.CaptureFixture[str], key: str, words: str) -> None:
    """The message has the reason and the layers that were searched."""
    code, out, err = run(web, capsys, "explain", key)
    assert (code, out) == (64, "")
    assert words in err
    assert "searched: site: common, env/dev, instance; team: all" in err


def test_a_last_good_value_is_marked_as_stale(web: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer says that it is not the source's current content."""
    web.settings(SETTINGS + '[state]\ncache = "plain"\n', site=False)
    assert run(web, capsys, "once")[0] == 0
    assert explained(web, capsys, "name")["stale"] is None
    web.write("/team/all.toml", "name = ")
    found = explained(web, capsys, "name")
    assert (found["value"], "is not valid TOML" in found["stale"]) == ("four", True)


def test_a_table_here_and_a_value_there(web: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """It is an error that names both origins, for every command, and nothing is written."""
    web.write("/team/all.toml", 'db = "postgres://"\n')
    for command in (("explain", "name"), ("plan",), ("once",)):
        code, _, err = run(web, capsys, *command)
        assert code == 65
        assert "db: a table in source site, layer common; a value in source team, layer all" in err
    assert not web.path("/etc/app.conf").exists()
