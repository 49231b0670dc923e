"""Server programs that the release of this machine does not have."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.image.lab.apt import download
from tests.image.lab.cache import made_once
from tests.image.lab.commands import call


def consul_binary() -> Path:
    """Return the `consul` on PATH, or bullseye's (1.8.7, the last one in Debian), unpacked into the cache. Needs no root.

    Raises LabError when the mirror does not have it.
    """
    if installed := shutil.which("consul"):
        return Path(installed)

    def unpack(directory: Path) -> None:
        package = download("consul", "bullseye", directory)
        call(["dpkg", "-x", str(package), str(directory / "root")])
        package.unlink()

    return made_once("consul-bullseye", unpack) / "root/usr/bin/consul"
