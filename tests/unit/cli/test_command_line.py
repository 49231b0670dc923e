"""Bad input on the command line and in the settings: an exit code, the reason, and never a traceback."""

from __future__ import annotations

import json

import pytest

from agent.cli.main import main
from tests.conftest import Image

COMPONENT = '[component]\nname = "web"\n'


@pytest.mark.parametrize("command", ["check", "bake", "verify", "history"])
def test_json_before_the_command_and_after_it(image: Image, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """A general option may be before or after the command."""
    image.settings(site=False)
    for words in (["--json", command], [command, "--json"]):
        assert main(["--root", str(image.root), *words]) == 0
        json.loads(capsys.readouterr().out)


def test_a_root_called_like_a_command(
    image: Image, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value of an option is not taken for the command."""
    image.settings()
    image.site("common", "a = 1\n")
    image.root.rename(image.root.with_name("check"))
    monkeypatch.chdir(image.root.parent)
    assert main(["--root", "check", "explain", "a"]) == 0
    assert "a = 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["frobnicate"],
        ["plan", "--frobnicate"],
        ["--root", "/nowhere/at/all", "check"],
        ["--root", "a" * 5000, "check"],
        ["--log-level", "loud", "check"],
        ["compare", "one"],
        ["rollback", "x"],
    ],
)
def test_usage(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """A wrong command line exits 64 with an error, and prints nothing on standard output."""
    assert main(words) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")


def test_what_a_store_holds_cannot_steer_the_terminal(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """A value or a name from outside is printed with escapes, also in an error."""
    image.settings()
    image.site("common", 'a = "x\\u001b]0;y"\n')
    assert main(["--root", str(image.root), "plan"]) == 0
    assert main(["--root", str(image.root), "explain", "a\x1b[2J"]) != 0
    printed = "".join(capsys.readouterr())
    assert "\x1b" not in printed
    assert printed.count(r"\x1b") >= 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[source]]\nbackend = "os:getcwd"\n', "options_class"),
        ('[[source]]\nbackend = ":x"\n', "cannot be imported"),
        ('[[source]]\nbackend = ".x:y"\n', "cannot be imported"),
        ('[[source]]\nbackend = "no_such_module:X"\n', "cannot be imported"),
        ('[[source]]\nbackend = "json:Nothing"\n', "has no Nothing"),
        ('[[sink]]\ntype = "json:JSONDecoder"\n', "options_class"),
        (f"[watch]\nsettle = 1{'0' * 400}\n", "expected a duration"),
        (f'[watch]\nsettle_max = "{"9" * 400}h"\n', "expected a duration"),
        ('[keys."a"]\ntype = "bytes"\ndefault = "!"\n', "base64"),
        ("[component\n", "not valid TOML"),
        ("source = 1\n" + COMPONENT, "expected [[source]]"),
    ],
)
def test_invalid_settings(image: Image, capsys: pytest.CaptureFixture[str], text: str, words: str) -> None:
    """Invalid settings exit 78 with the reason, and are never reported as a bug in parbake."""
    image.write("/etc/parbake/parbake.toml", text if "[component" in text else COMPONENT + text)
    assert main(["--root", str(image.root), "check"]) == 78
    assert words in capsys.readouterr().err


def test_missing_settings(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """An image without settings, or with a --config that does not exist, exits 78, and the error names the file."""
    assert main(["--root", str(image.root), "check"]) == 78
    assert "/etc/parbake/parbake.toml" in capsys.readouterr().err
    assert main(["--root", str(image.root), "--config", "/nowhere.toml", "check"]) == 78
    assert "/nowhere.toml" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["absent", "broken", "."])
def test_check_finds_a_broken_include(image: Image, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """`check` fails on an include that no instance could render."""
    image.settings('[[template]]\nsource = "t"\ntarget = "/t"\n', site=False)
    image.template("t", f"{{% include '{name}' %}}")
    image.template("broken", "{% if %}")
    assert main(["--root", str(image.root), "check"]) == 65
    assert f"t includes {name}" in capsys.readouterr().err


def test_check_compares_the_templates_with_the_contract(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that is read and not declared is an error, as is a missing command; one declared and not read is a warning."""
    keys = '[keys."a"]\n[keys."unused"]\n'
    image.settings(keys + '[[template]]\nsource = "t"\ntarget = "/t"\ncheck = ["no-such-program", "{candidate}"]\n', site=False)
    image.template("t", "{{ config.a }}{{ config.b.c }}")
    assert main(["--root", str(image.root), "check"]) == 65
    err = capsys.readouterr().err
    assert "reads b.c, which [keys] does not declare" in err
    assert "check command no-such-program is not in the image" in err
    image.settings(keys + '[[template]]\nsource = "t"\ntarget = "/t"\n', site=False)
    image.template("t", "{{ config.a }}")
    assert main(["--root", str(image.root), "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == ["key unused is declared and never read by a template"]
    image.template("t", "{{ config | to_json }}")
    assert main(["--root", str(image.root), "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == []
