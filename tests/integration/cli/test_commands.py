"""The commands as a user runs them: `python -m agent --root DIR`, with the exit codes of INTERFACE section 6."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Ended, Image, ended

SECRET = "hunter2-very-secret"
TEMPLATE = """
[keys."db.password"]
required = true
secret = true
[keys.motto]
[[template]]
source = "app.j2"
target = "/etc/app.conf"
check = ["grep", "-q", "motto", "{candidate}"]
units = [{ name = "app.service", action = "reload" }]
"""


@pytest.fixture
def web(image: Image) -> Image:
    """An image with one template that reads a secret, and a site that has everything it needs."""
    return filled(image)


@pytest.fixture
def public_web() -> Iterator[Image]:
    """The same image in a directory that every user can enter. Each start of pytest closes pytest's directories to others."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become nobody")
    with tempfile.TemporaryDirectory(prefix="parbake-test-") as directory:
        root = Path(directory) / "root"
        root.mkdir()
        root.parent.chmod(0o755)
        yield filled(Image(root))


def filled(image: Image) -> Image:
    image.settings(TEMPLATE)
    image.template("app.j2", "motto = {{ config.motto }}\npassword = {{ config.db.password }}\n")
    image.site("common", f'motto = "one"\n[db]\npassword = "{SECRET}"\n')
    return image


def test_once_converges_and_writes_the_status(web: Image) -> None:
    """INTERFACE sections 5 and 7: `once` writes the target, 0600 because it holds a secret, and a status.json as documented."""
    ran = web.run("once")
    assert ran.code == 0
    assert web.read("/etc/app.conf") == f"motto = one\npassword = {SECRET}\n"
    assert web.path("/etc/app.conf").stat().st_mode & 0o777 == 0o600
    status = web.status()
    assert (status["schema"], status["state"], status["generation"]) == (1, "converged", 1)
    assert status["component"] == {"name": "web", "version": "1"}
    assert status["facts"]["environment"] == "dev"
    assert status["digest"].startswith("sha256:")
    assert [(s["name"], s["backend"], s["state"], s["error"]) for s in status["sources"]] == [("site", "file", "ok", None)]
    assert status["templates"] == [{"name": "app.conf", "target": "/etc/app.conf", "state": "current", "generation": 1}]
    assert [(u["name"], u["action"], u["result"]) for u in status["units"]] == [("app.service", "reload", "skipped")]
    assert status["error"] is None
    assert web.path("/run/parbake/status.json").stat().st_mode & 0o777 == 0o644
    assert web.path("/var/lib/parbake").stat().st_mode & 0o777 == 0o700
    assert web.leftovers() == []


def test_a_second_once_does_nothing(web: Image) -> None:
    """INTERFACE section 8, promise 3: without a change no target is touched, not even its times."""
    assert web.run("once").code == 0
    before = web.path("/etc/app.conf").stat()
    assert web.run("once").code == 0
    after = web.path("/etc/app.conf").stat()
    assert (before.st_ino, before.st_mtime_ns, before.st_ctime_ns) == (after.st_ino, after.st_mtime_ns, after.st_ctime_ns)
    assert web.status()["generation"] == 1


def test_plan_shows_the_changes_that_once_would_make(web: Image) -> None:
    """INTERFACE sections 5 and 6: `plan` changes nothing; `--exit-code` makes it exit 2 if `once` would change something."""
    before = sorted(web.root.rglob("*"))
    assert web.run("plan").code == 0
    planning = web.run("plan", "--exit-code", "--json")
    assert planning.code == 2
    assert sorted(web.root.rglob("*")) == before
    planned = planning.json()
    assert planned["changes"] is True
    assert [(t["target"], t["change"], t["mode"]) for t in planned["targets"]] == [("/etc/app.conf", "create", "0600")]
    assert planned["units"] == [{"name": "app.service", "action": "reload", "templates": ["app.conf"]}]
    assert SECRET not in planning.out
    assert web.run("once").code == 0
    assert web.run("plan", "--exit-code").code == 0


def test_a_secret_is_only_in_its_target(web: Image) -> None:
    """INTERFACE section 8, promise 5: no command prints the secret, and only its source and its target hold it."""
    assert web.run("once").code == 0
    web.site("common", f'motto = "two"\n[db]\npassword = "{SECRET}-rotated"\n')
    commands = [
        ["plan"], ["plan", "--json"], ["debug"], ["facts"], ["explain", "db.password"], ["explain", "db", "--json"],
        ["once", "--log-level", "debug"], ["status"], ["status", "--json"], ["history", "--json"], ["history"], ["verify"],
        ["check"], ["bake"], ["compare", "dev", "prod"], ["rollback"], ["resume"],
    ]  # fmt: skip
    for words in commands:
        ran = web.run(*words)
        assert SECRET not in ran.out + ran.err, words
        assert "Traceback" not in ran.err, words
    holders = {str(p.relative_to(web.root)) for p in web.root.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()}
    assert holders == {"site/common.toml", "etc/app.conf"}


def test_no_form_of_a_secret_is_in_a_diff(web: Image) -> None:
    """INTERFACE section 8, promise 5: no line that depends on a secret is on the terminal, whatever filter changed it and
    however short it is."""
    secret = "it's 7 secret-words"
    keys = '[keys.pw]\nsecret = true\n[keys.pin]\nsecret = true\ntype = "integer"\n'
    web.settings(keys + '[[template]]\nsource = "f.j2"\ntarget = "/f"\n')
    web.template(
        "f.j2",
        "plain = {{ config.pw }}\nquoted = {{ config.pw | quote }}\nupper = {{ config.pw | upper }}\n"
        "hash = {{ config.pw | hash }}\nturned = {{ config.pw | reverse }}\n"
        "{% if config.pin == 7 %}\nseven\n{% else %}\nother\n{% endif %}\nopen = {{ config.motto }}\n",
    )
    for value in ("one", "two"):
        web.site("common", f'motto = "{value}"\npw = "{secret}{value}"\npin = 7\n')
        web.site("env/prod", f'pw = "{secret}-prod"\n')
        for ran in (web.run("plan"), web.run("plan", "--json"), web.run("compare", "dev", "prod"), web.run("debug")):
            assert ran.code == 0
            shown = ran.out.lower()
            for form in ("secret-words", "sdrow-terces", "seven", "it's", "'\"'\"'"):
                assert form not in shown, (form, ran.out)
        shown = web.run("plan").out
        assert "+plain = ********" in shown
        assert f"+open = {value}" in shown
        assert "+(a line that depends on a secret, withheld)" in shown
        assert web.run("once").code == 0


USAGE = [
    [], ["conjure"], ["once", "--frobnicate"], ["explain"], ["rollback", "nine"], ["once", "extra"],
    ["--log-level", "loud", "once"],
]  # fmt: skip


@pytest.mark.parametrize("words", USAGE, ids=" ".join)
def test_usage(web: Image, words: list[str]) -> None:
    """INTERFACE section 6: a wrong command line exits 64, with a hint and without a traceback."""
    ran = web.run(*words)
    assert ran.code == 64
    assert ran.err.startswith("error: parbake")
    assert "Traceback" not in ran.err


def test_a_missing_root(web: Image, tmp_path: Path) -> None:
    """INTERFACE section 6: exit 64, and the error names the directory."""
    missing = Image(tmp_path / "missing")
    ran = missing.run("once")
    assert ran.code == 64
    assert str(missing.root) in ran.err


def test_help_and_version(web: Image) -> None:
    """INTERFACE section 5: -h and --version work with all commands."""
    for words in (["-h"], ["once", "-h"], ["--version"], ["plan", "--version"]):
        ran = web.run(*words)
        assert ran.code == 0
        assert "parbake" in ran.out


def test_data_that_breaks_the_contract(web: Image) -> None:
    """INTERFACE section 6: a broken contract exits 65. The error names every key, and nothing is written."""
    web.site("common", "[db]\nport = 1\n")
    ran = web.run("once")
    assert ran.code == 65
    assert "db.password: required" in ran.err
    assert "motto" in ran.err
    assert not web.path("/etc/app.conf").exists()
    assert web.status()["state"] == "failed"


def test_a_check_that_fails(web: Image) -> None:
    """INTERFACE section 6: a failed check exits 65. The old file stays, and the error has the check's output."""
    assert web.run("once").code == 0
    web.template("app.j2", "{{ config.motto }}\n{{ config.db.password }}\n")
    ran = web.run("once")
    assert ran.code == 65
    assert "its check refused the new /etc/app.conf (exit code 1)" in ran.err
    assert "motto = one" in web.read("/etc/app.conf")
    assert web.leftovers() == []


def test_no_source(web: Image) -> None:
    """INTERFACE section 6: without its source `once` exits 69, and 75 with a last good run config."""
    web.path("/site/common.toml").unlink()
    ran = web.run("once")
    assert ran.code == 69
    assert "site" in ran.err
    web.site("common", f'motto = "one"\n[db]\npassword = "{SECRET}"\n')
    assert web.run("once").code == 0
    web.path("/site/common.toml").unlink()
    assert web.run("once").code == 75
    assert web.status()["state"] == "stale"
    assert "motto = one" in web.read("/etc/app.conf")


def test_a_target_that_cannot_be_written(web: Image) -> None:
    """INTERFACE section 6: a target that cannot be written exits 74. The error names it."""
    web.path("/etc/app.conf").mkdir()
    ran = web.run("once")
    assert ran.code == 74
    assert "/etc/app.conf" in ran.err
    assert "Traceback" not in ran.err


def test_settings_that_are_invalid(web: Image) -> None:
    """INTERFACE section 6: invalid settings exit 78, before anything else is read."""
    web.settings("[colour]\n")
    ran = web.run("once")
    assert ran.code == 78
    assert "colour" in ran.err


def test_busy(web: Image) -> None:
    """`once`, `run` and `rollback` never overlap: with --no-wait the second exits 75, else it logs that it waits."""
    assert web.run("once").code == 0
    before = web.status()
    with open(web.path("/run/parbake/lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = web.run("once", "--no-wait")
        assert ran.code == 75
        assert "another parbake" in ran.err
        assert web.status() == before, "the status belongs to the other one"
        waiting = web.start("once")
        try:
            assert waiting.stderr is not None
            assert "waiting for another parbake" in waiting.stderr.readline()
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert waiting.wait(60) == 0
        finally:
            waiting.kill()
            waiting.communicate()


def test_rollback_and_resume(web: Image) -> None:
    """INTERFACE section 5: `rollback N` applies generation N and holds it, the status shows it, `resume` ends it."""
    for motto in ("one", "two", "three"):
        web.site("common", f'motto = "{motto}"\n[db]\npassword = "{SECRET}"\n')
        assert web.run("once").code == 0
    assert web.run("rollback", "1").code == 0
    assert "motto = one" in web.read("/etc/app.conf")
    planned = web.run("plan", "--exit-code")
    assert (planned.code, "held at generation 1" in planned.out) == (0, True), "a hold is no change that `once` would make"
    assert web.run("plan", "--json").json()["changes"] is False
    with open(web.path("/run/parbake/lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert web.run("resume", "--no-wait").code == 75
    assert "held at generation 1" in web.run("status").out, "the hold was released by a command that did nothing"
    assert web.run("once").code == 0
    assert "motto = one" in web.read("/etc/app.conf")
    assert "held at generation 1" in web.run("status").out
    assert web.run("resume").code == 0
    assert "motto = three" in web.read("/etc/app.conf")
    assert web.run("rollback", "99").code == 64


def test_a_held_instance_masks_its_secrets(web: Image) -> None:
    """INTERFACE section 8, promise 5: after a reboot into a hold or a broken contract the mask file still has the
    secrets."""
    web.write("/etc/parbake/conf.d/sink.toml", '[[sink]]\ntype = "file"\npath = "/var/log/parbake/out"\n')
    mask = web.path("/run/parbake/mask")
    for motto in ("one", "two"):
        web.site("common", f'motto = "{motto}"\n[db]\npassword = "{SECRET}"\n')
        assert web.run("once").code == 0
    assert web.run("rollback").code == 0
    shutil.rmtree(web.path("/run/parbake"))
    assert web.run("once").code == 0
    assert SECRET in mask.read_text()
    assert web.run("resume").code == 0
    web.site("common", f'[db]\npassword = "{SECRET}"\n')
    shutil.rmtree(web.path("/run/parbake"))
    assert web.run("once").code == 65
    assert SECRET in mask.read_text()


def test_reading_commands_need_no_root(public_web: Image) -> None:
    """INTERFACE section 5: `debug`, `plan` and `explain` need no root, even if parbake has run as root. A command that changes
    state exits 74 and names the state directory."""
    web = public_web
    assert web.run("once").code == 0
    before = web.path("/var/lib/parbake/digest.key").read_bytes()
    for words in (("plan",), ("debug",), ("explain", "motto")):
        ran = as_nobody(web, *words)
        assert ran.code in (0, 74), ran.err  # 74: a target that only root may read
        assert "motto" in ran.out
        assert "digest" not in ran.err
    refused = as_nobody(web, "resume")
    assert (refused.code, "state directory" in refused.err) == (74, True)
    assert web.path("/var/lib/parbake/digest.key").read_bytes() == before


def as_nobody(web: Image, *words: str) -> Ended:
    command = web.command(*words)
    readable = os.stat("/root").st_mode & 0o005 == 0o005
    if not readable and os.path.realpath(command[0]).startswith("/root"):
        command[0] = "/usr/bin/python3"
    return ended(["setpriv", "--reuid=nobody", "--clear-groups", *command])


def test_verify_sees_drift(web: Image) -> None:
    """INTERFACE sections 5 and 6: `verify` exits 2 if a target was edited by hand, and names it."""
    assert web.run("once").code == 0
    assert web.run("verify").code == 0
    with open(web.path("/etc/app.conf"), "a") as file:
        file.write("# by hand\n")
    ran = web.run("verify")
    assert ran.code == 2
    assert "/etc/app.conf" in ran.out


def test_explain(web: Image) -> None:
    """INTERFACE section 5: the source and layer of a key, what it overrode, and what uses it."""
    web.site("env/dev", 'motto = "two"\n')
    key = web.run("explain", "motto", "--json").json()
    assert (key["value"], key["source"], key["layer"]) == ("two", "site", "env/dev")
    assert [(o["source"], o["layer"]) for o in key["overrode"]] == [("site", "common")]
    assert (key["templates"], key["units"]) == (["app.conf"], ["app.service"])
    assert web.run("explain", "moto").code == 64


def test_debug_applies_only_with_apply(web: Image) -> None:
    """INTERFACE section 5: `debug` shows each step and changes nothing without --apply."""
    ran = web.run("debug")
    assert (ran.code, web.path("/etc/app.conf").exists()) == (0, False)
    assert " ms " in ran.out
    assert web.run("debug", "--apply").code == 0
    assert web.path("/etc/app.conf").exists()


def test_every_printing_command_has_json(web: Image) -> None:
    """INTERFACE section 5: every command that prints has --json and then prints one JSON value."""
    assert web.run("once", "--json").json()["state"] == "converged"
    for words in (
        ["plan"], ["debug"], ["facts"], ["explain", "motto"], ["check"], ["bake"], ["verify"], ["compare", "dev", "prod"],
        ["status"], ["history"], ["rollback", "1"], ["resume"],
    ):  # fmt: skip
        json.loads(web.run(*words, "--json").out)


def test_a_reader_that_closes_its_pipe(web: Image) -> None:
    """`parbake history | head -1` exits 0 and prints no error."""
    assert web.run("once").code == 0
    line = " ".join(web.command("history")) + " | true"
    ran = ended(["bash", "-c", f"set -o pipefail; {line}"])
    assert (ran.code, ran.err) == (0, "")


def test_without_root(public_web: Image) -> None:
    """INTERFACE section 3: below --root an owner that cannot be set without root is reported and is no error."""
    web = public_web
    web.settings(TEMPLATE.replace("target =", 'owner = "root"\ntarget ='))
    subprocess.run(["chown", "-R", "nobody", str(web.root)], check=True)
    readable = os.access("/root", os.X_OK) and os.stat("/root").st_mode & 0o005 == 0o005
    program = web.command("once")[0]
    if program.startswith("/root") or (os.path.realpath(program).startswith("/root") and not readable):
        program = "/usr/bin/python3"
    ran = ended(["setpriv", "--reuid=nobody", "--clear-groups", program, *web.command("once")[1:]])
    assert ran.code == 0, ran.err
    assert web.path("/etc/app.conf").stat().st_uid != 0


def test_an_interrupt_is_not_reported_as_a_bug(web: Image) -> None:
    """Control-C during the wait for the lock exits 130, as shells expect, without a traceback."""
    # A shell that runs the tests in the background may ignore the signal, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert web.run("once").code == 0
    with open(web.path("/run/parbake/lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = web.start("once")
        assert waiting.stderr is not None
        waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        _, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 130
    assert "Traceback" not in err
