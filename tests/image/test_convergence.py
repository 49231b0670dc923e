"""All or nothing in a booted image: values that fail before and after the check, a failed first boot, a rollback by hand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agent.system import journal_log
from tests.image import haproxy
from tests.image.conftest import Machines
from tests.image.haproxy import fill, served, serves
from tests.image.lab import Image, Machine, Network, prepared_image
from tests.image.observing import (
    RELOADED,
    STARTED,
    bake,
    count,
    events,
    history,
    leftovers,
    show,
    state_becomes,
    status,
    until,
)
from tests.servers.consul import Consul

pytestmark = [pytest.mark.image, pytest.mark.root, pytest.mark.server]

#: A rollback takes about five seconds. The rest is for a busy machine; a retry, which would do too, comes after a minute.
ROLLBACK_SECONDS = 45

bookworm = pytest.mark.parametrize("suite", ["bookworm"], indirect=True)
BESIDES = """
[[template]]
source = "app.env.j2"
target = "/etc/app/app.env"

[[template]]
source = "other.j2"
target = "/etc/app/other"
group_name = "other"
"""
APP_ENV = "GREETING={{ config.web.greeting }}\n"
# Compares the target with the answer of its port: an old worker of haproxy still answers on its old socket.
VERIFY = """\
#!/bin/sh -eu
port=$(sed -n 's/.*bind 127.0.0.1://p' "$1")
greeting=$(sed -n 's/.*text.plain string "\\(.*\\)"/\\1/p' "$1")
[ "$(curl -sS --max-time 1 "http://127.0.0.1:$port/")" = "$greeting" ]
"""


@pytest.fixture(scope="session")
def installed(bare_image: Image, session_scratch: Path, deb: Path) -> Image:
    """Debian with the package."""
    return prepared_image(bare_image, session_scratch, [deb])


@pytest.fixture
def machine(installed: Image, machines: Machines, network: Network) -> Machine:
    """A machine that is not baked yet, on a network with Consul."""
    return machines(installed, network=network, hostname="edge-1")


def identity(machine: Machine, *paths: str) -> str:
    """Return inode, times and bytes, which are the same only if the files were not touched."""
    return machine.run(["sh", "-c", 'stat -c "%i %y %z" "$@" && cat "$@"', "sh", *paths]).stdout


@bookworm
def test_a_value_that_fails_the_check_replaces_nothing_and_a_good_one_converges(machine: Machine, consul: Consul) -> None:
    """Nothing of the group is replaced, haproxy keeps serving, the status names the template and has the check's output.
    Another group is applied. A corrected value converges by itself."""
    fill(consul)
    templates = {f"/etc/parbake/templates/{name}.j2": APP_ENV for name in ("app.env", "other")}
    bake(machine, {**haproxy.files("reload", more=BESIDES), **templates}).boot()
    pid, before = show(machine, haproxy.UNIT, "MainPID"), identity(machine, haproxy.TARGET, "/etc/app/app.env")

    fill(consul, timeout="plenty", greeting="second")
    assert state_becomes(machine, "failed")
    report = status(machine)
    assert "template haproxy.cfg: its check refused" in report["error"]
    assert "unexpected character 'p' in 'timeout client'" in report["error"]
    assert {t["name"]: t["state"] for t in report["templates"]} == {
        "haproxy.cfg": "waiting",
        "app.env": "waiting",
        "other": "current",
    }
    assert until(lambda: machine.read("/etc/app/other") == "GREETING=second\n")
    assert identity(machine, haproxy.TARGET, "/etc/app/app.env") == before
    assert served(machine) == "first"
    assert (show(machine, haproxy.UNIT, "MainPID"), count(machine, RELOADED, haproxy.UNIT)) == (pid, 0)
    assert leftovers(machine, "/etc/haproxy", "/etc/app") == []

    fill(consul, timeout="40s", greeting="third")
    assert serves(machine, "third")
    assert state_becomes(machine, "converged")
    assert machine.read("/etc/app/app.env") == "GREETING=third\n"
    assert (show(machine, haproxy.UNIT, "MainPID"), count(machine, RELOADED, haproxy.UNIT)) == (pid, 1)


@bookworm
def test_a_value_that_keeps_a_unit_from_starting_is_rolled_back_and_not_tried_again(machine: Machine, consul: Consul) -> None:
    """haproxy serves with the earlier config within seconds, and the journal names the key. Neither SIGHUP, a restart of
    parbake nor an unrelated key makes it try the bad generation again. A good value converges."""
    fill(consul)
    bake(machine, haproxy.files("restart"))
    machine.run(["systemctl", "enable", "squatter.service"])
    machine.boot()
    before = machine.read(haproxy.TARGET)

    began = time.monotonic()
    consul.put("site/common/web/port", str(haproxy.ACCEPTED))
    assert state_becomes(machine, "rolled-back")
    assert serves(machine, "first")
    assert time.monotonic() - began < ROLLBACK_SECONDS
    assert machine.read(haproxy.TARGET) == before
    rolled_back = events(machine, journal_log.ROLLED_BACK)
    assert len(rolled_back) == 1
    assert "keys that changed: web.port" in rolled_back[0]["MESSAGE"]
    assert status(machine)["generation"] == 1
    assert [(g["number"], g["state"]) for g in history(machine)] == [(1, "applied"), (2, "rejected")]
    assert "rejected" in machine.run(["parbake", "history"]).stdout
    assert leftovers(machine, "/etc/haproxy") == []

    pid, starts = show(machine, haproxy.UNIT, "MainPID"), count(machine, STARTED, haproxy.UNIT)
    machine.run(["systemctl", "reload", "parbake.service"])
    digest = status(machine)["digest"]
    consul.put("site/common/unrelated", "x")
    assert until(lambda: status(machine)["digest"] != digest)
    machine.run(["systemctl", "restart", "parbake.service"])
    assert state_becomes(machine, "rolled-back")
    time.sleep(3)
    assert (show(machine, haproxy.UNIT, "MainPID"), count(machine, STARTED, haproxy.UNIT)) == (pid, starts)
    assert len(history(machine)) == 2

    consul.put("site/common/web/port", "8089")
    assert serves(machine, "first", port=8089)
    assert state_becomes(machine, "converged")


@bookworm
def test_a_rollback_starts_a_unit_whose_start_limit_is_used_up(machine: Machine, consul: Consul) -> None:
    """systemd refuses to start a unit that failed too often. A rollback resets that and starts it."""
    fill(consul)
    limit = "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=2\n"
    bake(machine, {**haproxy.files("restart"), "/etc/systemd/system/haproxy.service.d/limit.conf": limit})
    machine.run(["systemctl", "enable", "squatter.service"])
    machine.boot()
    consul.put("site/common/web/port", str(haproxy.ACCEPTED))
    assert state_becomes(machine, "rolled-back")
    assert serves(machine, "first")
    assert show(machine, haproxy.UNIT, "ActiveState") == "active"


def test_verify_finds_a_reload_that_had_no_effect_and_it_is_rolled_back(machine: Machine, consul: Consul) -> None:
    """haproxy's master keeps its old worker if a reload fails, and systemd takes that for success. The template's `verify`
    fails, and the earlier config is back in the file and in use."""
    fill(consul)
    verify = 'verify = ["/usr/local/bin/edge-verify", "{target}"]\nverify_timeout = "5s"\n'
    bake(machine, {**haproxy.files("reload", template=verify), "/usr/local/bin/edge-verify": VERIFY})
    machine.run(["systemctl", "enable", "squatter.service"])
    machine.boot()
    pid, before = show(machine, haproxy.UNIT, "MainPID"), machine.read(haproxy.TARGET)

    consul.put("site/common/web/port", str(haproxy.ACCEPTED))
    assert state_becomes(machine, "rolled-back")
    assert "template haproxy.cfg: verify failed" in status(machine)["error"]
    assert served(machine) == "first"
    assert machine.read(haproxy.TARGET) == before
    assert show(machine, haproxy.UNIT, "MainPID") == pid
    assert "keys that changed: web.port" in events(machine, journal_log.ROLLED_BACK)[0]["MESSAGE"]
    reloads = count(machine, RELOADED, haproxy.UNIT)
    time.sleep(3)
    assert count(machine, RELOADED, haproxy.UNIT) == reloads == 2

    fill(consul, port=8089, greeting="second")
    assert serves(machine, "second", port=8089)
    assert state_becomes(machine, "converged")


@bookworm
def test_a_first_config_that_does_not_start_is_reported_and_a_good_one_starts_the_unit(
    machine: Machine, consul: Consul
) -> None:
    """Without an earlier generation: `failed`, the unit stays down, parbake runs. A corrected value starts the unit."""
    fill(consul, port=haproxy.ACCEPTED)
    bake(machine, haproxy.files("reload"))
    machine.run(["systemctl", "enable", "squatter.service"])
    machine.boot(degraded=True)
    assert state_becomes(machine, "failed")
    assert "unit haproxy.service" in status(machine)["error"]
    assert len(events(machine, journal_log.FAILED)) == 1
    assert [(g["number"], g["state"]) for g in history(machine)] == [(1, "failed")]
    consul.put("site/common/unrelated", "x")
    time.sleep(3)
    assert show(machine, haproxy.UNIT, "ActiveState") == "failed"
    assert show(machine, "parbake.service", "ActiveState") == "active"

    consul.put("site/common/web/port", "8088")
    assert serves(machine, "first")
    assert state_becomes(machine, "converged")
    assert history(machine)[-1]["state"] == "applied"


@bookworm
@pytest.mark.parametrize(("setting", "left"), [("stop", "inactive"), ("leave", "active")])
def test_a_first_config_that_verify_refuses_leaves_the_unit_as_the_settings_say(
    machine: Machine, consul: Consul, setting: str, left: str
) -> None:
    """`on_first_failure`: a unit that runs on a bad config is stopped or left running. A corrected value is served."""
    fill(consul, greeting="broken")
    verify = 'verify = ["sh", "-c", "! grep broken {target}"]\nverify_timeout = "1s"\n'
    bake(machine, haproxy.files("reload", template=verify, more=f'\n[units]\non_first_failure = "{setting}"\n')).boot()
    assert state_becomes(machine, "failed")
    assert "template haproxy.cfg: verify failed" in status(machine)["error"]
    assert until(lambda: show(machine, haproxy.UNIT, "ActiveState") == left)
    time.sleep(1)
    assert show(machine, haproxy.UNIT, "ActiveState") == left

    consul.put("site/common/web/greeting", "second")
    assert serves(machine, "second")
    assert state_becomes(machine, "converged")


@bookworm
def test_a_rollback_by_hand_holds_over_changes_until_resume(machine: Machine, consul: Consul) -> None:
    """`parbake rollback` applies the earlier generation and holds it over changes in Consul, the status shows the hold, and
    `parbake resume` applies the newest values."""
    fill(consul)
    bake(machine, haproxy.files("reload")).boot()
    consul.put("site/common/web/greeting", "second")
    assert serves(machine, "second")
    assert until(lambda: status(machine)["generation"] == 2 and status(machine)["state"] == "converged")

    machine.run(["parbake", "rollback"])
    assert serves(machine, "first")
    digest = status(machine)["digest"]
    consul.put("site/common/web/greeting", "third")
    assert until(lambda: status(machine)["digest"] != digest)
    time.sleep(2)
    assert served(machine) == "first"
    report = status(machine)
    assert (report["state"], report["hold"], report["generation"]) == ("rolled-back", 1, 1)
    assert "held at generation 1; `parbake resume` ends it" in machine.run(["parbake", "status"]).stdout
    machine.run(["systemctl", "restart", "parbake.service"])
    assert state_becomes(machine, "rolled-back")
    assert served(machine) == "first"

    machine.run(["parbake", "resume"])
    assert serves(machine, "third")
    assert state_becomes(machine, "converged")
    consul.put("site/common/web/greeting", "fourth")
    assert serves(machine, "fourth")
    assert state_becomes(machine, "converged")
    assert "hold" not in status(machine)


@bookworm
def test_a_second_convergence_waits_or_exits_75(machine: Machine, consul: Consul) -> None:
    """While the daemon converges, `once --no-wait` exits 75 and does nothing, and `once` waits and logs that."""
    fill(consul)
    check = '#!/bin/sh\nwhile [ -e /run/hold-the-check ]; do sleep 0.05; done\nexec haproxy -c -f "$1"\n'
    files = haproxy.files("reload")
    files["/etc/parbake/parbake.toml"] = files["/etc/parbake/parbake.toml"].replace(
        '["haproxy", "-c", "-f", "{candidate}"]', '["/usr/local/bin/slow-check", "{candidate}"]'
    )
    bake(machine, {**files, "/usr/local/bin/slow-check": check}).boot()
    machine.run(["touch", "/run/hold-the-check"])
    consul.put("site/common/web/greeting", "second")
    assert until(lambda: machine.exists("/etc/haproxy/.haproxy.cfg.parbake-new"))

    refused = machine.run(["parbake", "once", "--no-wait"], check=False)
    assert refused.returncode == 75
    assert "another parbake is converging" in refused.stderr
    assert served(machine) == "first"
    script = """parbake once 2>/run/once.err &
    until grep -q 'waiting for another parbake' /run/once.err; do kill -0 $! || exit 1; sleep 0.05; done
    rm /run/hold-the-check; wait $!"""
    waited = machine.run(["sh", "-c", script], timeout_seconds=90)
    assert "converged, generation 2" in waited.stdout
    assert served(machine) == "second"
    assert count(machine, RELOADED, haproxy.UNIT) == 1
