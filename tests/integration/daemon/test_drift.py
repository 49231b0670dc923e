"""Targets edited by hand below a running daemon: reported, and put back if the settings say so."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

import pytest

from tests.conftest import Image
from tests.integration.daemon.test_loop import daemon, eventually

SETTINGS = """
[[template]]
source = "a.j2"
target = "/etc/app/left.conf"
[[template]]
source = "a.j2"
target = "/etc/app/kept.conf"
drift = "repair"
"""
GOOD = "value one\n"


@pytest.fixture
def converged(image: Image) -> Image:
    image.settings(SETTINGS)
    image.template("a.j2", "value {{ config.v }}\n")
    image.site("common", 'v = "one"\n')
    return image


def states(image: Image) -> dict[str, str]:
    return {row["name"]: row["state"] for row in image.status()["templates"]}


def is_converged(image: Image) -> bool:
    return bool(image.status()["state"] == "converged") and set(states(image).values()) == {"current"}


def test_a_target_edited_by_hand_is_reported_and_left(converged: Image) -> None:
    """`report` is the default: drift is reported with the owner and the time of the edit, once for each edit."""
    with daemon(converged) as process:
        eventually(lambda: is_converged(converged))
        converged.write("/etc/app/left.conf", "by hand\n")
        eventually(lambda: states(converged) == {"left.conf": "drifted", "kept.conf": "current"})
        assert converged.read("/etc/app/left.conf") == "by hand\n"
        assert converged.status()["generation"] == 1
        converged.write("/etc/app/left.conf", GOOD)
        eventually(lambda: is_converged(converged))
        converged.write("/etc/app/left.conf", "by hand again\n")
        eventually(lambda: states(converged)["left.conf"] == "drifted")
        converged.site("common", 'v = "two"\n')
        eventually(lambda: converged.read("/etc/app/left.conf") == "value two\n" and is_converged(converged))
        process.terminate()
        errors = process.communicate(timeout=60)[1]
    owner = pwd.getpwuid(os.geteuid()).pw_name
    assert errors.count("target /etc/app/left.conf drifted: its content was changed at ") == 2
    assert f"the file belongs to {owner}" in errors
    assert "it is left so" in errors
    assert "by hand" not in errors


@pytest.mark.parametrize("change", ["content", "mode", "replaced"])
def test_a_target_with_drift_repair_is_put_back(converged: Image, change: str) -> None:
    """`drift = "repair"` puts a target back after any edit, and leaves its neighbour alone."""
    target = converged.path("/etc/app/kept.conf")
    with daemon(converged) as process:
        eventually(lambda: is_converged(converged))
        converged.write("/etc/app/left.conf", "by hand\n")
        eventually(lambda: states(converged)["left.conf"] == "drifted")
        if change == "content":
            target.write_text("by hand\n")
        elif change == "mode":
            target.chmod(0o600)
        else:
            _replace(target)
        eventually(lambda: target.read_text() == GOOD and target.stat().st_mode & 0o777 == 0o644)
        eventually(lambda: states(converged)["kept.conf"] == "current")
        process.terminate()
        errors = process.communicate(timeout=60)[1]
    assert "target /etc/app/kept.conf drifted: its " in errors
    assert "it is restored" in errors


@pytest.mark.parametrize("name", ["left", "kept"])
def test_a_target_that_is_gone_comes_back(converged: Image, name: str) -> None:
    """A removed target is put back with either setting: a service without its config is worse than one with an edited one."""
    target = converged.path(f"/etc/app/{name}.conf")
    with daemon(converged):
        eventually(lambda: is_converged(converged))
        target.unlink()
        eventually(lambda: target.exists() and target.read_text() == GOOD and is_converged(converged))


def test_a_missing_directory_is_watched_once_it_exists(converged: Image) -> None:
    """A group that waits for its keys may have its target in a directory that its first commit makes."""
    later = '[[template]]\nsource = "later.j2"\ntarget = "/srv/later/b"\ngroup_name = "later"\ndrift = "repair"\n'
    converged.write("/etc/parbake/conf.d/later.toml", later)
    converged.template("later.j2", "{{ config.later }}\n")
    target = converged.path("/srv/later/b")
    with daemon(converged) as process:
        eventually(lambda: converged.status()["state"] == "failed")
        converged.site("common", 'v = "one"\nlater = "there"\n')
        eventually(lambda: target.exists() and is_converged(converged))
        for _ in range(2):
            target.write_text("by hand\n")
            eventually(lambda: target.read_text() == "there\n" and is_converged(converged))
            shutil.rmtree(target.parent)
            eventually(lambda: target.exists() and is_converged(converged))
        assert process.poll() is None


def _replace(target: Path) -> None:
    new = target.with_name("new")
    new.write_text("by hand\n")
    new.rename(target)
