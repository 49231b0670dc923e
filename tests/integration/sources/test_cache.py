"""The last good run config on disk: [state] cache, and no secret in the clear anywhere below the root."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from agent.cli.main import main
from tests.conftest import Image, ended
from tests.integration.sources.benches import VaultBench
from tests.integration.sources.fleet import source_table

CANARY = "c4nary-0f-the-st0re"
SETTINGS = """
[keys."db.password"]
secret = true
required = true
[[template]]
source = "app.j2"
target = "/etc/app.conf"
"""
sealing = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("systemd-creds") is None, reason="systemd-creds seals for root only"
)


@pytest.fixture
def web(image: Image) -> Image:
    """An image that renders a secret of its file source."""
    image.settings(SETTINGS)
    image.template("app.j2", "{{ config.db.password }}\n")
    image.site("common", f'[db]\npassword = "{CANARY}"\n')
    return image


def once(image: Image, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["--root", str(image.root), "once"])
    out, err = capsys.readouterr()
    assert CANARY not in out + err
    return code, out + err


def holding(image: Image) -> set[str]:
    """Return the names of parbake's files that hold the secret in the clear. The store and the target may hold it."""
    files = [path for path in image.root.rglob("*") if path.is_file() and not path.is_relative_to(image.path("/site"))]
    return {path.name for path in files if path != image.path("/etc/app.conf") and CANARY.encode() in path.read_bytes()}


def modes(image: Image) -> set[tuple[str, int]]:
    state = image.path("/var/lib/parbake")
    return {("d" if path.is_dir() else "f", path.stat().st_mode & 0o777) for path in [state, *state.rglob("*")]}


def remove_store(image: Image) -> None:
    image.path("/site").rename(image.path("/gone"))


def restore_store(image: Image) -> None:
    image.path("/gone").rename(image.path("/site"))


@sealing
def test_encrypted_is_the_default_and_boots_without_the_source(web: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """No file but the target holds the secret; all are 0600 in 0700; a target that is lost comes back without the source."""
    assert once(web, capsys)[0] == 0
    assert web.path("/var/lib/parbake/last-good.sealed").exists()
    assert holding(web) == set()
    assert modes(web) == {("d", 0o700), ("f", 0o600)}
    remove_store(web)
    web.path("/etc/app.conf").unlink()
    assert once(web, capsys)[0] == 75
    assert web.read("/etc/app.conf") == f"{CANARY}\n"


def test_plain_is_for_root_alone(web: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """With `cache = "plain"` it is in the clear, 0600 in 0700."""
    web.write("/etc/parbake/conf.d/cache.toml", '[state]\ncache = "plain"\n')
    assert once(web, capsys)[0] == 0
    assert "last-good.json" in holding(web)
    assert modes(web) == {("d", 0o700), ("f", 0o600)}
    remove_store(web)
    assert once(web, capsys)[0] == 75


def test_none_keeps_nothing_and_cannot_boot_without_the_source(web: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """No last good is on disk, not even that of an earlier setting; 69 without the source, and the target stays."""
    web.write("/etc/parbake/conf.d/cache.toml", '[state]\ncache = "plain"\n')
    assert once(web, capsys)[0] == 0
    web.write("/etc/parbake/conf.d/cache.toml", '[state]\ncache = "none"\n')
    web.site("common", f'[db]\npassword = "{CANARY}-2"\n')
    assert once(web, capsys)[0] == 0
    assert not list(web.path("/var/lib/parbake").glob("last-good*"))
    assert {name for name in holding(web) if not name.startswith("000001")} == set()
    remove_store(web)
    assert once(web, capsys)[0] == 69
    assert web.read("/etc/app.conf") == f"{CANARY}-2\n"


def test_none_still_empties_nothing_while_the_daemon_runs(web: Image) -> None:
    """Promise 4 holds in memory: a layer that lost its keys keeps the last good and is stale."""
    web.write("/etc/parbake/conf.d/cache.toml", '[state]\ncache = "none"\n')
    web.settings(SETTINGS.replace("required = true", 'default = "none"'))
    process = web.start("run")
    try:
        until(web, "converged")
        web.site("common", "")
        until(web, "stale")
        assert web.read("/etc/app.conf") == f"{CANARY}\n"
    finally:
        process.kill()
        process.communicate()


def until(image: Image, state: str) -> None:
    end = time.monotonic() + 30
    while not image.path("/run/parbake/status.json").exists() or image.status()["state"] != state:
        assert time.monotonic() < end
        time.sleep(0.05)


@sealing
@pytest.mark.parametrize("how", ["garbage", "elsewhere", "cut"])
def test_what_cannot_be_opened_is_set_aside(web: Image, capsys: pytest.CaptureFixture[str], how: str) -> None:
    """Damaged, sealed on another machine, or truncated: a warning, the file is moved aside, and 69 without the source."""
    assert once(web, capsys)[0] == 0
    kept = web.path("/var/lib/parbake/last-good.sealed")
    if how == "elsewhere":
        web.path("/var/lib/systemd/credential.secret").unlink()
        subprocess.run(
            ["systemd-creds", "setup"], check=True, capture_output=True,
            env={**os.environ, "SYSTEMD_CREDENTIAL_SECRET": str(web.path("/var/lib/systemd/credential.secret"))},
        )  # fmt: skip
    else:
        kept.write_bytes(b"\x00garbage" if how == "garbage" else kept.read_bytes()[:-100])
    remove_store(web)
    code, output = once(web, capsys)
    assert code == 69
    assert "last-good.sealed is damaged" in output
    assert (kept.exists(), kept.with_name("last-good.sealed.damaged").exists()) == (False, True)
    restore_store(web)
    assert once(web, capsys)[0] == 0
    assert kept.exists()


@sealing
def test_without_the_tool_no_secret_is_kept_and_none_is_lost(web: Image) -> None:
    """If systemd-creds does not run, only the names of the layers with keys are kept, with a warning; an earlier sealed copy
    stays."""
    hidden = ["unshare", "--mount", "sh", "-c", 'mount --bind /dev/null "$(command -v systemd-creds)" && exec "$0" "$@"']
    assert ended([*hidden, *web.command("once")]).code == 0
    assert [path.name for path in web.path("/var/lib/parbake").glob("last-good*")] == ["last-good.index"]
    assert holding(web) == set()
    web.site("common", f'[db]\npassword = "{CANARY}-2"\n')
    assert web.run("once").code == 0
    remove_store(web)
    ran = ended([*hidden, *web.command("once")])
    assert ran.code == 69
    assert "the file is kept" in ran.err
    assert web.run("once").code == 75


@sealing
def test_what_a_store_of_secrets_holds_is_a_secret(image: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key of Vault that no contract declares is not in the clear on the disk either."""
    bench = VaultBench(image.root / "bench")
    with bench.held:
        bench.begin()
        bench.put("common", "name", "x")
        bench.put("common", "undeclared", CANARY)
        image.settings(source_table(bench, image, bench.port or 0, "http"), site=False)
        assert once(image, capsys)[0] == 0
        assert image.path("/var/lib/parbake/last-good.sealed").exists()
        assert holding(image) == set()
