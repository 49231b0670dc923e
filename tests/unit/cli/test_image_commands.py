"""The commands on an image, as an image builder and an operator use them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from tests.conftest import REPOSITORY, Image

PASSWORD = "tr0ub4dor-and-3"
SETTINGS = """
[[source]]
name = "team"
backend = "file"
path = "/team"
layers = ["all"]
[keys."db.password"]
secret = true
required = true
[keys."name"]
[keys."port"]
type = "integer"
default = 80
[[template]]
name = "app"
source = "app.j2"
target = "/etc/app.conf"
units = [{ name = "app.service", action = "reload" }]
"""


@pytest.fixture
def ready(image: Image) -> Image:
    """Two sources, three layers, one template that reads a secret."""
    image.settings(SETTINGS)
    image.template("app.j2", "{{ build.component }} {{ config.name }} {{ config.port }} {{ config.db.password }}\n")
    image.site("common", f'name = "common"\n[db]\npassword = "{PASSWORD}"\n')
    image.site("env/dev", 'name = "dev"\n')
    image.site("env/prod", f'name = "prod"\n[db]\npassword = "{PASSWORD}-prod"\n')
    image.write("/team/all.toml", 'name = "team"\n')
    return image


def run(image: Image, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    code = main(["--root", str(image.root), *words, "--json"])
    out, err = capsys.readouterr()
    assert PASSWORD not in out + err
    return code, json.loads(out) if out else None, err


def test_explain_across_layers_and_sources(ready: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """All layers that set the key, nearest first, and what reads it. A secret is shown without its value."""
    _, output, _ = run(ready, capsys, "explain", "name")
    assert (output["value"], output["source"], output["layer"]) == ("team", "team", "all")
    assert [(o["source"], o["layer"]) for o in output["overrode"]] == [("site", "env/dev"), ("site", "common")]
    assert (output["templates"], output["units"]) == (["app"], ["app.service"])
    _, output, _ = run(ready, capsys, "explain", "db")
    assert (output["key"], output["value"], output["secret"], output["layer"]) == ("db.password", "********", True, "common")
    _, output, _ = run(ready, capsys, "explain", "port")
    assert (output["value"], output["source"], output["layer"]) == (80, "contract", "default")
    code, _, err = run(ready, capsys, "explain", "nam")
    assert code == 64
    assert 'did you mean "name"' in err


def test_compare_shows_that_only_run_config_differs(ready: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """The same image in two environments: the keys and the targets that differ, without the secrets of either."""
    ready.write("/team/all.toml", "")
    code, output, _ = run(ready, capsys, "compare", "dev", "prod")
    assert code == 0
    assert {row["key"]: row["values"] for row in output["keys"]} == {
        "name": ["dev", "prod"],
        "db.password": ["********", "********"],
    }
    assert output["same_build"] is True
    assert list(output["targets"]) == ["app"]
    code, output, _ = run(ready, capsys, "compare", "dev", "dev")
    assert (output["keys"], output["targets"]) == ([], {"app": ""})
    assert not ready.path("/var/lib/parbake").exists()


def test_verify_finds_drift(ready: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0 without drift. Exit 2 with each path whose content or mode differs or that is missing, baked files included."""
    assert run(ready, capsys, "bake")[0] == 0
    assert run(ready, capsys, "once")[0] == 0
    assert run(ready, capsys, "verify")[:2] == (0, {"drift": []})
    target, template = ready.path("/etc/app.conf"), ready.path("/etc/parbake/templates/app.j2")
    content = target.read_bytes()
    for spoil in (lambda: target.write_bytes(b"edited"), lambda: target.chmod(0o644), target.unlink):
        spoil()
        code, output, _ = run(ready, capsys, "verify")
        assert (code, [item["path"] for item in output["drift"]]) == (2, ["/etc/app.conf"])
        target.write_bytes(content)
        target.chmod(0o600)
    template.write_text("changed")
    code, output, _ = run(ready, capsys, "verify")
    assert (code, [item["path"] for item in output["drift"]]) == (2, ["/etc/parbake/templates/app.j2"])


def test_plan_changes_nothing_and_its_exit_code_shows_changes(ready: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 if `once` would change something, else 0. `plan` creates no file."""
    before = sorted(ready.root.rglob("*"))
    code, output, _ = run(ready, capsys, "plan", "--exit-code")
    assert code == 2
    assert [(t["target"], t["change"], t["mode"]) for t in output["targets"]] == [("/etc/app.conf", "create", "0600")]
    assert [(u["name"], u["action"]) for u in output["units"]] == [("app.service", "reload")]
    assert sorted(ready.root.rglob("*")) == before
    assert run(ready, capsys, "once")[0] == 0
    assert run(ready, capsys, "plan", "--exit-code")[0] == 0


def test_a_broken_contract_names_every_key_and_writes_nothing(ready: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 65 with all problems in one run: missing keys, wrong types, and keys that a template would miss."""
    ready.site("common", 'port = "eighty"\n')
    ready.site("env/dev", "")
    ready.write("/team/all.toml", "")
    code, _, err = run(ready, capsys, "once")
    assert code == 65
    for key in ("db.password", "port", "name"):
        assert f"- {key}: " in err
    assert "eighty" not in err
    assert not ready.path("/etc/app.conf").exists()


def test_a_source_that_cannot_be_read(ready: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 69 without a last good run config, 75 with one. The status is `failed` or `stale`."""
    moved = ready.path("/moved")
    ready.path("/site").rename(moved)
    assert run(ready, capsys, "once")[0] == 69
    assert run(ready, capsys, "status")[1]["state"] == "failed"
    moved.rename(ready.path("/site"))
    ready.settings(SETTINGS + '[state]\ncache = "plain"\n')
    assert run(ready, capsys, "once")[0] == 0
    assert run(ready, capsys, "status")[1]["state"] == "converged"
    ready.path("/site").rename(moved)
    assert run(ready, capsys, "once")[0] == 75
    assert run(ready, capsys, "status")[1]["state"] == "stale"
    code, output, _ = run(ready, capsys, "history")
    assert (code, len(output)) == (0, 1)


def test_a_target_that_cannot_be_written(ready: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory at a target's path exits 74, and the error names the path."""
    ready.path("/etc/app.conf").mkdir()
    code, _, err = run(ready, capsys, "once")
    assert code == 74
    assert "/etc/app.conf" in err


def test_the_manifest_has_the_build_config_alone(ready: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """The manifest has every file of build config and no settings of /run. A unit no longer named loses its drop-in."""
    ready.write("/run/parbake/conf.d/10.toml", '[facts]\nenvironment = "prod"\n')
    _, output, _ = run(ready, capsys, "bake")
    assert output["drop_ins"] == ["/etc/systemd/system/app.service.d/50-parbake.conf"]
    files = json.loads(ready.read("/usr/lib/parbake/manifest.json"))["files"]
    build = {"/etc/parbake/parbake.toml", "/etc/parbake/templates/app.j2"}
    assert {*build, *output["drop_ins"], *output["compiled"]} == set(files)
    ready.settings(SETTINGS.replace("app.service", "other.service"))
    assert run(ready, capsys, "bake")[1]["drop_ins"] == ["/etc/systemd/system/other.service.d/50-parbake.conf"]
    assert not ready.path("/etc/systemd/system/app.service.d").exists()


def test_the_example(image: Image, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """examples/web can be checked, baked and planned without a change."""
    shutil.copytree(REPOSITORY / "examples" / "web", image.root, dirs_exist_ok=True)
    if shutil.which("haproxy", path=os.pathsep.join(("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"))) is None:
        image.write("/usr/sbin/haproxy", "#!/bin/sh\nexit 0\n").chmod(0o755)
    assert main(["--root", str(image.root), "check"]) == 0
    assert "warning" not in capsys.readouterr().out
    assert main(["--root", str(image.root), "bake"]) == 0
    capsys.readouterr()
    code, output, _ = run(image, capsys, "plan")
    assert code == 0
    assert {t["target"]: t["mode"] for t in output["targets"]} == {
        "/etc/haproxy/haproxy.cfg": "0644",
        "/etc/chrony/sources.d/site.sources": "0644",
        "/etc/app/app.env": "0600",
    }
    assert run(image, capsys, "verify")[:2] == (0, {"drift": []})
