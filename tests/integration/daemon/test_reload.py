"""SIGHUP: the settings are read again, and what the last convergence learnt is kept."""

from __future__ import annotations

import json
import signal
import subprocess

from tests.conftest import Image
from tests.integration.daemon.test_loop import daemon, eventually, wait_for_line

SETTINGS = """
[[template]]
source = "a.j2"
target = "/etc/app/a.conf"
[[template]]
source = "b.j2"
target = "/etc/app/b.conf"
group_name = "other"
"""


def state_of(image: Image, name: str) -> str:
    return str({row["name"]: row["state"] for row in image.status()["templates"]}[name])


def reload_and_converge(process: subprocess.Popen[str]) -> None:
    """Send SIGHUP with debug logging on, and wait for the end of the convergence that follows."""
    process.send_signal(signal.SIGHUP)
    wait_for_line(process, "plan:")


def converged_pair(image: Image) -> None:
    image.settings(SETTINGS)
    image.write("/etc/parbake/conf.d/log.toml", '[log]\nlevel = "debug"\n')
    for name in "ab":
        image.template(f"{name}.j2", f"{{{{ config.{name} }}}}\n")
    image.site("common", 'a = "one"\nb = "one"\n')


def test_a_hand_edit_survives_a_reload(image: Image) -> None:
    """`drift = "report"` leaves an edit by hand in place. A reload of the settings is no reason to overwrite it."""
    converged_pair(image)
    with daemon(image) as process:
        eventually(lambda: image.status()["state"] == "converged")
        image.write("/etc/app/a.conf", "by hand\n")
        eventually(lambda: state_of(image, "a.conf") == "drifted")
        reload_and_converge(process)
        eventually(lambda: state_of(image, "a.conf") == "drifted")
        assert image.read("/etc/app/a.conf") == "by hand\n"
        assert image.status()["generation"] == 1


def test_history_names_the_keys_that_changed_after_a_reload(image: Image) -> None:
    """A reload forgets no value, so that the next generation names the one key that changed, and not all that are read."""
    converged_pair(image)
    with daemon(image) as process:
        eventually(lambda: image.status()["state"] == "converged")
        reload_and_converge(process)
        image.site("common", 'a = "one"\nb = "two"\n')
        eventually(lambda: image.read("/etc/app/b.conf") == "two\n")
        eventually(lambda: image.status()["generation"] == 2)
    history = json.loads(image.run("history", "--json").out)
    assert history[-1]["keys"] == ["b"]


def test_a_reload_renders_a_template_whose_settings_changed(image: Image) -> None:
    """What was learnt is kept, and yet the new settings take effect: here another mode."""
    converged_pair(image)
    with daemon(image) as process:
        eventually(lambda: image.status()["state"] == "converged")
        image.settings(SETTINGS.replace('target = "/etc/app/a.conf"', 'target = "/etc/app/a.conf"\nmode = "0600"'))
        reload_and_converge(process)
        eventually(lambda: image.path("/etc/app/a.conf").stat().st_mode & 0o777 == 0o600)


def test_a_reload_waits_for_no_splay(image: Image) -> None:
    """An operator who reloads waits for the convergence; the splay is for changes that a whole swarm sees."""
    converged_pair(image)
    image.write("/etc/parbake/conf.d/watch.toml", '[watch]\nsplay = "1h"\n')
    with daemon(image) as process:
        eventually(lambda: image.status()["state"] == "converged")
        reload_and_converge(process)
