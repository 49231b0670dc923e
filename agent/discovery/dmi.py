"""Recognises the platform by the strings of its firmware, before any request is made.

The patterns are from the platforms' documentation and from cloud-init's ds-identify.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from agent.discovery.container import in_container
from agent.paths import Paths


class Field(StrEnum):
    """The strings of the firmware. Root alone can read the serial and the UUID."""

    SYS_VENDOR = "sys_vendor"
    PRODUCT_NAME = "product_name"
    PRODUCT_SERIAL = "product_serial"
    CHASSIS_ASSET_TAG = "chassis_asset_tag"
    PRODUCT_UUID = "product_uuid"
    HYPERVISOR_UUID = "hypervisor_uuid"

    @property
    def path(self) -> str:
        """The file of this string."""
        return "/sys/hypervisor/uuid" if self is Field.HYPERVISOR_UUID else f"/sys/class/dmi/id/{self}"


_PRIVATE_FIELDS = (Field.PRODUCT_SERIAL, Field.PRODUCT_UUID, Field.HYPERVISOR_UUID)

# The first match wins, so a pattern that can match by chance (three digits of a UUID) comes last.
TABLE: tuple[tuple[str, Field, str], ...] = (
    ("azure", Field.CHASSIS_ASSET_TAG, r"7783-7084-3265-9085-8269-3286-77"),
    ("oracle", Field.CHASSIS_ASSET_TAG, r"OracleCloud\.com"),
    ("gce", Field.PRODUCT_NAME, r"Google Compute Engine"),
    ("gce", Field.PRODUCT_SERIAL, r"GoogleCloud-.*"),
    ("alibaba", Field.PRODUCT_NAME, r"Alibaba Cloud ECS"),
    ("exoscale", Field.PRODUCT_NAME, r"Exoscale.*"),
    ("openstack", Field.PRODUCT_NAME, r"OpenStack (Nova|Compute)"),
    (
        "openstack",
        Field.CHASSIS_ASSET_TAG,
        r"OpenStack (Nova|Compute)|OpenTelekomCloud|SAP CCloud VM|HUAWEICLOUD|Samsung Cloud Platform",
    ),
    ("digitalocean", Field.SYS_VENDOR, r"DigitalOcean"),
    ("hetzner", Field.SYS_VENDOR, r"Hetzner"),
    ("vultr", Field.SYS_VENDOR, r"Vultr"),
    ("scaleway", Field.SYS_VENDOR, r"Scaleway"),
    ("akamai", Field.SYS_VENDOR, r"Linode|Akamai"),
    ("upcloud", Field.SYS_VENDOR, r"UpCloud"),
    ("ec2", Field.SYS_VENDOR, r"Amazon EC2"),
    ("ec2", Field.HYPERVISOR_UUID, r"(?i:ec2).*"),
    ("ec2", Field.PRODUCT_UUID, r"(?i:ec2).*"),
    # The same in a UUID whose first group is little-endian.
    ("ec2", Field.PRODUCT_UUID, r"[0-9a-fA-F]{4}2[0-9a-fA-F](?i:ec)-.*"),
)
"""Platform, field, and the pattern that the whole string matches."""

ID_FIELDS = {
    "digitalocean": Field.PRODUCT_SERIAL,
    "hetzner": Field.PRODUCT_SERIAL,
    "akamai": Field.PRODUCT_SERIAL,
    "upcloud": Field.PRODUCT_UUID,
}
"""The field that holds the instance id, which is therefore known without a network."""


def strings(paths: Paths) -> dict[Field, str]:
    """Return the strings that are set. {} in a container, because the strings are the host's."""
    if in_container(paths):
        return {}
    firmware = {}
    for field in Field:
        try:
            text = paths.host(field.path).read_text("utf-8", "replace").strip()
        except OSError:
            continue
        if text:
            firmware[field] = text
    return firmware


def identify(firmware: Mapping[Field, str]) -> tuple[str, str]:
    """Return the platform and the reason, as ("ec2", "sys_vendor is 'Amazon EC2'"), or ("", "")."""
    for platform, field, pattern in TABLE:
        text = firmware.get(field, "")
        if text and re.fullmatch(pattern, text):
            # Serials and UUIDs do not help a reader, and only root may read them.
            return platform, f"{field} matches" if field in _PRIVATE_FIELDS else f"{field} is {text[:64]!a}"
    return "", ""
