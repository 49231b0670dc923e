"""Names and versions that several files of the package repeat agree."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent import __version__
from agent.convergence import boot_dropins
from agent.paths import Paths

TREE = Path(__file__).parents[3]
SYSTEMD = TREE / "systemd"
DEBIAN = TREE / "packaging/debian"


def unit(name: str) -> configparser.ConfigParser:
    """Parse a unit file of parbake. Fails on a setting that is given twice."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((SYSTEMD / name).read_text())
    return parser


def test_the_changelog_is_that_of_the_version() -> None:
    """The package's version is the program's."""
    first = (DEBIAN / "changelog").read_text().splitlines()[0]
    assert re.match(r"parbake \((.+?)\)", first)[1] == __version__  # type: ignore[index]


def test_the_manual_is_of_the_version() -> None:
    """parbake(8) names the version that it describes."""
    assert f'"parbake {__version__}"' in (TREE / "packaging/parbake.8").read_text()


@pytest.mark.parametrize("path", ["systemd/parbake-generator", "systemd/lift", "packaging/debian/postrm"])
def test_scripts_look_for_drop_ins_by_their_name(path: str) -> None:
    """The generator, its trigger and the package's removal look where `parbake bake` writes."""
    assert f"{boot_dropins.DIRECTORY}/*.d/{boot_dropins.FILE_NAME}" in (TREE / path).read_text()


def test_removal_finds_the_drop_ins_by_their_first_line() -> None:
    """postrm removes only drop-ins of `parbake bake`: its pattern is the beginning of their header."""
    pattern = re.search(r"grep -q '\^(.+?)'", (DEBIAN / "postrm").read_text())
    assert pattern is not None
    assert boot_dropins.HEADER.startswith(pattern[1])


def test_a_daemon_that_crashes_comes_back_however_often_and_one_that_is_misconfigured_does_not() -> None:
    """systemd restarts parbake without a limit, except after a wrong command line or invalid settings."""
    settings = unit("parbake.service")
    assert settings["Unit"]["StartLimitIntervalSec"] == "0"
    assert settings["Service"]["Restart"] == "on-failure"
    assert settings["Service"]["RestartPreventExitStatus"].split() == ["64", "78"]


def test_the_services_wait_for_cloud_init_and_never_start_it() -> None:
    """A dependency on cloud-config.target would start a cloud-init that an image has disabled."""
    for name in ("parbake.service", "parbake-ship.service"):
        settings = unit(name)["Unit"]
        assert "cloud-config.target" in settings["After"].split()
        assert not any("cloud" in settings.get(key, "") for key in ("Wants", "Requires", "BindsTo"))


def test_the_status_and_the_ready_file_outlive_a_restart() -> None:
    """/run/parbake is kept when the daemon stops, and generator and lift look for the ready file there."""
    service = unit("parbake.service")["Service"]
    assert service["RuntimeDirectoryPreserve"] == "yes"
    ready_file = f"{Paths().run}/ready"
    assert service["ExecStartPost"].split()[-1] == ready_file
    for script in ("parbake-generator", "lift"):
        assert f"[ -e {ready_file} ] || exit 0" in (SYSTEMD / script).read_text()


def test_the_shipper_cannot_read_the_state_of_root() -> None:
    """The shipper is another user without capabilities, and sees only its own directory of /var/lib/parbake."""
    service = unit("parbake-ship.service")["Service"]
    assert service["User"] == "parbake-ship"
    assert service["CapabilityBoundingSet"] == ""
    assert service["TemporaryFileSystem"].partition(":")[0] == str(Paths().state)
    assert service["BindPaths"] == str(Paths().ship)
    assert f"d {Paths().ship} 0700 parbake-ship" in (SYSTEMD / "parbake.tmpfiles").read_text()


def test_no_secret_reaches_a_core_dump() -> None:
    """Neither service dumps core, and both create files that only their user can read."""
    for name in ("parbake.service", "parbake-ship.service"):
        service = unit(name)["Service"]
        assert (service["LimitCORE"], service["UMask"]) == ("0", "0077")


@pytest.mark.parametrize("ready", [True, False])
def test_the_requirement_is_lifted_only_after_the_first_convergence(tmp_path: Path, ready: bool) -> None:
    """After the first convergence of a boot, and not before, the generator replaces the drop-ins by ones that only order."""
    system = tmp_path / "etc/systemd/system"
    (system / "app.service.d").mkdir(parents=True)
    (system / "app.service.d/50-parbake.conf").write_text("[Unit]\nRequires=parbake.service\n")
    (system / "none.service.d").mkdir()
    (tmp_path / "run/parbake").mkdir(parents=True)
    if ready:
        (tmp_path / "run/parbake/ready").touch()
    script = (SYSTEMD / "parbake-generator").read_text()
    script = script.replace("/run/parbake", f"{tmp_path}/run/parbake").replace("/etc/systemd", f"{tmp_path}/etc/systemd")
    directories = [tmp_path / each for each in ("normal", "early", "late")]
    shell = shutil.which("sh") or "/bin/sh"
    subprocess.run([shell, "-c", script, "parbake-generator", *map(str, directories)], check=True)
    generated = sorted(path for path in tmp_path.glob("early/**/*") if path.is_file())
    assert generated == ([tmp_path / "early/app.service.d/50-parbake.conf"] if ready else [])
    for path in generated:
        assert "Requires" not in path.read_text()
        assert "After=parbake.service parbake-ship.service" in path.read_text().splitlines()
