"""The Debian mirrors of this machine, so that images come from the same mirror and no address is written down here."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.image.lab.commands import LabError, call

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

#: The machine's settings for reaching its mirrors: proxies, certificates, checks of dates.
_TRANSPORT = re.compile(r"Acquire::(http|https|Check-Valid-Until|Check-Date|Retries|Max-FutureTime)\b")


def _codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise LabError("/etc/os-release names no VERSION_CODENAME: the lab wants a Debian release as its host")


def _uris_by_pocket() -> dict[str, str]:
    """Return the configured URIs of the release (`""`), of `-updates` and of `-security`."""
    codename = _codename()
    listed = call(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(CREATED_BY)"]).stdout
    uris: dict[str, str] = {}
    for line in listed.splitlines():
        uri, release, component, created_by = line.split()
        if release.startswith(codename) and component == "main" and created_by == "Packages":
            uris.setdefault(release.removeprefix(codename), uri)
    if "" not in uris:
        raise LabError(f"apt has no source for {codename} main: `apt-get indextargets` lists what it has")
    return uris


def sources_for(suite: str) -> tuple[str, ...]:
    """Return `sources.list` lines for `suite` (a codename) with its updates and security, from this machine's own mirrors."""
    pockets = ("", "-updates", "-security")
    uris = _uris_by_pocket()
    return tuple(f"deb [signed-by={KEYRING}] {uris[each]} {suite}{each} main" for each in pockets if each in uris)


def transport_options() -> tuple[str, ...]:
    """Return the machine's apt options for reaching the mirrors, as `NAME "VALUE";`."""
    dumped = call(["apt-config", "dump"]).stdout.splitlines()
    return tuple(line for line in dumped if _TRANSPORT.match(line) and not line.endswith(' "";'))


def download(package: str, suite: str, target: Path) -> Path:
    """Fetch one package of `suite` into `target`. Needs no root."""
    return download_all([package], suite, target)[0]


def download_all(packages: Sequence[str], suite: str, target: Path) -> list[Path]:
    """Fetch packages of `suite` into `target`, without adding the suite to this machine's apt. Needs no root."""
    with tempfile.TemporaryDirectory(prefix="parbake-apt-") as name:
        private = Path(name)
        for each in ("lists/partial", "cache/archives/partial"):
            (private / each).mkdir(parents=True)
        (private / "status").touch()
        (private / "sources.list").write_text(sources_for(suite)[0] + "\n")
        options = {
            "Dir::Etc::sourcelist": private / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State": private,
            "Dir::State::lists": private / "lists",
            "Dir::State::status": private / "status",
            "Dir::Cache": private / "cache",
            "Acquire::Languages": "none",
            "APT::Sandbox::User": "root",
        }
        apt_get = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]
        call([*apt_get, "update"], timeout_seconds=300)
        call([*apt_get, "download", *packages], timeout_seconds=300, cwd=target)
    files_by_package = {package: sorted(target.glob(f"{package}_*.deb")) for package in packages}
    if missing := [package for package, files in files_by_package.items() if not files]:
        raise LabError(f"{suite} has no package {', '.join(missing)}")
    return [files[-1] for files in files_by_package.values()]
