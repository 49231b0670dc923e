"""The requirements for booting an image on this machine."""

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
    """Return one sentence for each missing requirement; empty if images can be booted here."""
    missing = [] if os.geteuid() == 0 else ["not root: mounts, namespaces and systemd-nspawn need it"]
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for program, package in _PROGRAMS.items():
        if shutil.which(program, path=path) is None:
            missing.append(f"{program} is not installed (package {package})")
    if not KEYRING.exists():
        missing.append(f"{KEYRING} is not there (package debian-archive-keyring)")
    return missing
