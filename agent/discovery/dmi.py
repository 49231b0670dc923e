"""Which platform this is, by the strings its firmware carries, before anything is asked over a network.

V sys_vendor, P product_name, S product_serial, C chassis_asset_tag, U product_uuid, H /sys/hypervisor/uuid.
S and U are readable by root only. Exact strings from the platforms' documentation and cloud-init's ds-identify.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.discovery.container import in_container
from agent.paths import Paths

FIELDS = {
    "V": "/sys/class/dmi/id/sys_vendor",
    "P": "/sys/class/dmi/id/product_name",
    "S": "/sys/class/dmi/id/product_serial",
    "C": "/sys/class/dmi/id/chassis_asset_tag",
    "U": "/sys/class/dmi/id/product_uuid",
    "H": "/sys/hypervisor/uuid",
}

# First match wins, so what could happen by chance (three digits of a UUID) comes last.
TABLE: tuple[tuple[str, str, str], ...] = (
    ("azure", "C", r"7783-7084-3265-9085-8269-3286-77"),
    ("oracle", "C", r"OracleCloud\.com"),
    ("gce", "P", r"Google Compute Engine"),
    ("gce", "S", r"GoogleCloud-.*"),
    ("alibaba", "P", r"Alibaba Cloud ECS"),
    ("exoscale", "P", r"Exoscale.*"),
    ("openstack", "P", r"OpenStack (Nova|Compute)"),
    ("openstack", "C", r"OpenStack (Nova|Compute)|OpenTelekomCloud|SAP CCloud VM|HUAWEICLOUD|Samsung Cloud Platform"),
    ("digitalocean", "V", r"DigitalOcean"),
    ("hetzner", "V", r"Hetzner"),
    ("vultr", "V", r"Vultr"),
    ("scaleway", "V", r"Scaleway"),
    ("akamai", "V", r"Linode|Akamai"),
    ("upcloud", "V", r"UpCloud"),
    ("ec2", "V", r"Amazon EC2"),
    ("ec2", "H", r"(?i:ec2).*"),
    ("ec2", "U", r"(?i:ec2).*"),
    # The same in a UUID whose first group is little-endian.
    ("ec2", "U", r"[0-9a-fA-F]{4}2[0-9a-fA-F](?i:ec)-.*"),
)

ID_FIELDS = {"digitalocean": "S", "hetzner": "S", "akamai": "S", "upcloud": "U"}
"""Where the instance id stands in the DMI itself, so that it is known without a network."""


def strings(paths: Paths) -> dict[str, str]:
    """The DMI's strings by their letter, those that are set. Empty in a container, where they are the host's."""
    if in_container(paths):
        return {}
    found = {}
    for letter, path in FIELDS.items():
        try:
            text = paths.host(path).read_text("utf-8", "replace").strip()
        except OSError:
            continue
        if text:
            found[letter] = text
    return found


def identify(found: Mapping[str, str]) -> tuple[str, str]:
    """The platform and the string that gave it away, as ("ec2", "sys_vendor is Amazon EC2"), or ("", "")."""
    for platform, letter, pattern in TABLE:
        text = found.get(letter, "")
        if text and re.fullmatch(pattern, text):
            # Serials and UUIDs are of no use to a reader, and not everybody's to read.
            shown = f" is {text[:64]!a}" if letter in "VPC" else " fits"
            return platform, FIELDS[letter].rsplit("/", 1)[-1] + shown
    return "", ""
