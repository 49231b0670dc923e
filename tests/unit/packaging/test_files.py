"""What stands in more than one file of the package agrees."""

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
    """A unit file's settings; none of ours is given twice."""
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
def test_whoever_looks_for_a_drop_in_knows_its_name(path: str) -> None:
    """The generator, its trigger and the package's removal look where `parbake bake` writes."""
    assert f"{boot_dropins.DIRECTORY}/*.d/{boot_dropins.FILE_NAME}" in (TREE / path).read_text()


def test_removal_knows_the_drop_ins_by_their_first_line() -> None:
    """postrm removes only what bake made: its pattern is the beginning of the header."""
    pattern = re.search(r"grep -q '\^(.+?)'", (DEBIAN / "postrm").read_text())
    assert pattern is not None
    assert boot_dropins.HEADER.startswith(pattern[1])


def test_a_daemon_that_crashes_comes_back_however_often_and_one_that_is_misconfigured_does_not() -> None:
    """systemd restarts parbake without ever giving up, except where its command line or settings are wrong."""
    found = unit("parbake.service")
    assert found["Unit"]["StartLimitIntervalSec"] == "0"
    assert found["Service"]["Restart"] == "on-failure"
    assert found["Service"]["RestartPreventExitStatus"].split() == ["64", "78"]


def test_cloud_init_is_waited_for_and_never_started() -> None:
    """Wanting cloud-config.target would start a cloud-init that an image has disabled."""
    for name in ("parbake.service", "parbake-ship.service"):
        found = unit(name)["Unit"]
        assert "cloud-config.target" in found["After"].split()
        assert not any("cloud" in found.get(key, "") for key in ("Wants", "Requires", "BindsTo"))


def test_status_and_the_mark_of_the_first_convergence_outlive_a_restart() -> None:
    """/run/parbake is kept when the daemon stops, and the mark is where generator and lift look for it."""
    service = unit("parbake.service")["Service"]
    assert service["RuntimeDirectoryPreserve"] == "yes"
    mark = f"{Paths().run}/ready"
    assert service["ExecStartPost"].split()[-1] == mark
    for script in ("parbake-generator", "lift"):
        assert f"[ -e {mark} ] || exit 0" in (SYSTEMD / script).read_text()


def test_the_shipper_has_no_way_into_the_state_of_root() -> None:
    """It is another user, without capabilities, that sees its own directory of /var/lib/parbake and nothing beside it."""
    service = unit("parbake-ship.service")["Service"]
    assert service["User"] == "parbake-ship"
    assert service["CapabilityBoundingSet"] == ""
    assert service["TemporaryFileSystem"].partition(":")[0] == str(Paths().state)
    assert service["BindPaths"] == str(Paths().ship)
    assert f"d {Paths().ship} 0700 parbake-ship" in (SYSTEMD / "parbake.tmpfiles").read_text()


def test_no_secret_reaches_a_core_dump() -> None:
    """Neither service dumps core, and neither makes a file that others can read by accident."""
    for name in ("parbake.service", "parbake-ship.service"):
        service = unit(name)["Service"]
        assert (service["LimitCORE"], service["UMask"]) == ("0", "0077")


@pytest.mark.parametrize("ready", [True, False])
def test_the_requirement_is_lifted_only_after_the_first_convergence(tmp_path: Path, ready: bool) -> None:
    """The generator overrides the drop-ins with their ordering alone, once this boot has converged, and not before."""
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
    made = sorted(path for path in tmp_path.glob("early/**/*") if path.is_file())
    assert made == ([tmp_path / "early/app.service.d/50-parbake.conf"] if ready else [])
    for path in made:
        assert "Requires" not in path.read_text()
        assert "After=parbake.service parbake-ship.service" in path.read_text().splitlines()
