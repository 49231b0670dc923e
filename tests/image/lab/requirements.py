"""What this machine lacks for a booted image."""

from __future__ import annotations

import os
import shutil

from tests.image.lab.apt import KEYRING

_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "apt-get": "apt",
}


def missing_requirements() -> list[str]:
    """One sentence for each thing that is missing; empty when images can be booted here."""
    found = [] if os.geteuid() == 0 else ["not root: mounts, namespaces and systemd-nspawn need it"]
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for program, package in _PROGRAMS.items():
        if shutil.which(program, path=path) is None:
            found.append(f"{program} is not installed (package {package})")
    if not KEYRING.exists():
        found.append(f"{KEYRING} is not there (package debian-archive-keyring)")
    return found
