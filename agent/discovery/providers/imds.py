"""The metadata service of the platform that the firmware, the command line or a socket names. Nobody else is asked."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from agent.discovery import CHANGING, NAMES, Context, dmi
from agent.discovery.clouds import CLOUDS, Cloud
from agent.discovery.providers.kernel import words
from agent.errors import ParbakeError
from agent.model import Attempt
from agent.paths import Paths
from agent.settings import plugins

LXD_SOCKET = "/dev/lxd/sock"
CONFIG_DRIVE_LABELS = ("config-2", "CONFIG-2")
CONFIG_DRIVE_SEED = "/var/lib/cloud/seed/config_drive"
_COMMAND_LINE = re.compile(r"(?:ds|ci\.ds|ignition\.platform\.id|coreos\.oem\.id)=([A-Za-z0-9_-]+)(?:;.*)?")
_OTHER_NAMES = {
    "aws": "ec2",
    "gcp": "gce",
    "google": "gce",
    "aliyun": "alibaba",
    "hcloud": "hetzner",
    "oraclecloud": "oracle",
    "linode": "akamai",
    "config-drive": "configdrive",
}


class Imds:
    """Recognises the platform, then lets its file under `clouds/` ask. What was learnt before a failure is kept."""

    gives: ClassVar[tuple[str, ...]] = (*NAMES, *CHANGING)

    def discover(self, context: Context) -> Mapping[str, Any]:
        wanted = context.settings.imds
        if wanted == "off":
            context.attempts.append(Attempt("imds", 'switched off: [discovery] imds = "off"', 0.0))
            return {}
        firmware = dmi.strings(context.paths)
        name, why = (wanted, "the settings say so") if wanted != "auto" else recognise(context, firmware)
        if not name:
            context.attempts.append(Attempt("imds", "no platform recognised, no request made", 0.0))
            return {}
        context.label = f"imds:{name}"
        context.attempts.append(Attempt("imds", f"recognised {name}: {why}", 0.0))
        cloud: Cloud = plugins.load(CLOUDS, name, "metadata service")()
        found = context.partial
        found["platform"] = "openstack" if name == "configdrive" else name
        if name in dmi.ID_FIELDS and (identity := firmware.get(dmi.ID_FIELDS[name])):
            found["instance_id"] = identity.lower() if name == "upcloud" else identity
        start = time.monotonic()
        try:
            for part in cloud.discover(context):
                for key, value in part.items():
                    if value not in (None, "", {}, []):
                        found[key] = value
                    elif key in CHANGING:
                        found.setdefault(key, None)  # an answer: what cloud-init saw at boot is no more
        except ParbakeError as error:
            context.attempts.append(Attempt(context.label, f"failed: {error.message}", time.monotonic() - start))
        return found


def recognise(context: Context, firmware: Mapping[str, str]) -> tuple[str, str]:
    """The platform's name in `CLOUDS` and what gave it away, or ("", "")."""
    paths = context.paths
    if paths.host(LXD_SOCKET).exists():
        return "lxd", f"{LXD_SOCKET} is there"
    name, why = dmi.identify(firmware)
    if name in ("", "openstack") and (drive := config_drive(paths)):
        return "configdrive", f"{drive} is there"
    if name:
        return name, why
    for word in words(paths):
        if (match := _COMMAND_LINE.fullmatch(word)) and _known(match[1]):
            return _known(match[1]), "the kernel command line names it"
    platform = context.known.get("platform", "")
    if isinstance(platform, str) and _known(platform):
        return _known(platform), "an earlier provider named it"
    return "", ""


def _known(name: str) -> str:
    name = _OTHER_NAMES.get(name.lower(), name.lower())
    return name if name in CLOUDS else ""


def config_drive(paths: Paths) -> str:
    """The path of the config drive as the settings would write it: the seed's directory, or the disk by its label."""
    if paths.host(f"{CONFIG_DRIVE_SEED}/openstack").is_dir():
        return CONFIG_DRIVE_SEED
    for label in CONFIG_DRIVE_LABELS:
        path = f"/dev/disk/by-label/{label}"
        if os.path.lexists(paths.host(path)):
            return path
    return ""
