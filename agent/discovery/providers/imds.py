"""Facts from the metadata service of the platform that the firmware, the command line or a socket names. No other is asked."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import ClassVar

from agent.discovery import CHANGING_FACTS, FACT_NAMES, Context, ProviderName, RawFacts, dmi
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
    """Recognises the platform, then asks its metadata service. Facts that arrived before a failure are kept."""

    gives: ClassVar[tuple[str, ...]] = (*FACT_NAMES, *CHANGING_FACTS)

    def discover(self, context: Context) -> RawFacts:
        """Return the facts. A failure of the service is recorded in the context's attempts."""
        configured = context.settings.imds
        if configured == "off":
            context.attempts.append(Attempt(ProviderName.IMDS, 'switched off: [discovery] imds = "off"', 0.0))
            return {}
        firmware = dmi.strings(context.paths)
        name, reason = (configured, "the settings name it") if configured != "auto" else recognise(context, firmware)
        if not name:
            context.attempts.append(Attempt(ProviderName.IMDS, "no platform recognised, no request made", 0.0))
            return {}
        context.label = f"{ProviderName.IMDS}:{name}"
        context.attempts.append(Attempt(ProviderName.IMDS, f"recognised {name}: {reason}", 0.0))
        cloud: Cloud = plugins.load(CLOUDS, name, "metadata service")()
        facts = context.partial
        facts["platform"] = "openstack" if name == "configdrive" else name
        if name in dmi.ID_FIELDS and (identity := firmware.get(dmi.ID_FIELDS[name])):
            facts["instance_id"] = identity.lower() if name == "upcloud" else identity
        start = time.monotonic()
        try:
            for part in cloud.discover(context):
                _add(part, facts)
        except ParbakeError as error:
            context.attempts.append(Attempt(context.label, f"failed: {error.message}", time.monotonic() - start))
        return facts


def _add(part: RawFacts, facts: dict[str, object]) -> None:
    for name, value in part.items():
        if value not in (None, "", {}, []):
            facts[name] = value
        elif name in CHANGING_FACTS:
            facts.setdefault(name, None)  # kept, because it shows that cloud-init's copy from the boot is out of date


def recognise(context: Context, firmware: Mapping[dmi.Field, str]) -> tuple[str, str]:
    """Return the platform's name in `CLOUDS` and the reason, or ("", "")."""
    paths = context.paths
    if paths.host(LXD_SOCKET).exists():
        return "lxd", f"{LXD_SOCKET} exists"
    name, reason = dmi.identify(firmware)
    if name in ("", "openstack") and (drive := config_drive(paths)):
        return "configdrive", f"{drive} exists"
    if name:
        return name, reason
    for word in words(paths):
        if (match := _COMMAND_LINE.fullmatch(word)) and _supported(match[1]):
            return _supported(match[1]), "the kernel command line names it"
    platform = context.known.get("platform", "")
    if isinstance(platform, str) and _supported(platform):
        return _supported(platform), "an earlier provider named it"
    return "", ""


def _supported(name: str) -> str:
    """Return parbake's name for a platform, "" if parbake does not support it."""
    name = _OTHER_NAMES.get(name.lower(), name.lower())
    return name if name in CLOUDS else ""


def config_drive(paths: Paths) -> str:
    """Return the path of the config drive on the host, or "": the directory of the seed, or the disk by its label."""
    if paths.host(f"{CONFIG_DRIVE_SEED}/openstack").is_dir():
        return CONFIG_DRIVE_SEED
    for label in CONFIG_DRIVE_LABELS:
        path = f"/dev/disk/by-label/{label}"
        if os.path.lexists(paths.host(path)):
            return path
    return ""
