"""The identity of this instance, so that state which an earlier instance left in the image is not taken for its state."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.discovery import ProviderName
from agent.discovery.container import in_container
from agent.model import Facts
from agent.paths import Paths

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Identity:
    """The ids that distinguish one instance from another; "" if unknown.

    `instance_id` is the platform's. `product_uuid` and `machine_id` are known without a network. They replace the
    instance id if the platform could not be asked, so that an unavailable metadata service does not look like a new instance.
    """

    instance_id: str = ""
    product_uuid: str = ""
    machine_id: str = ""

    def __str__(self) -> str:
        return self.instance_id or self.machine_id


def identify(facts: Facts, paths: Paths) -> Identity:
    """Return the identity of this instance. Reads /etc/machine-id and, outside a container, the product UUID of DMI."""
    instance_id = facts.values.get("instance_id", "")
    if facts.providers.get("instance_id") in (ProviderName.HOST, ProviderName.SETTINGS):
        # The machine id under another name, or a value that every instance of the image has.
        instance_id = ""
    return Identity(instance_id if isinstance(instance_id, str) else "", _product_uuid(paths), machine_id(paths))


def changed(before: Identity, now: Identity) -> bool:
    """Return whether `before` and `now` are different instances, by the most reliable id that both have."""
    for name in ("instance_id", "product_uuid", "machine_id"):
        old, new = getattr(before, name), getattr(now, name)
        if old and new:
            return bool(old != new)
    return False


def remembered(before: Identity, now: Identity) -> Identity:
    """Return the ids to record for an unchanged instance: those of `now`, and of `before` for ids unknown at this boot."""
    return Identity(
        now.instance_id or before.instance_id, now.product_uuid or before.product_uuid, now.machine_id or before.machine_id
    )


def machine_id(paths: Paths) -> str:
    """Return /etc/machine-id, or "" if it is missing, empty or "uninitialized"."""
    text = _read(paths, "/etc/machine-id")
    return text if _ID.fullmatch(text) else ""


def _product_uuid(paths: Paths) -> str:
    if in_container(paths):
        return ""
    text = _read(paths, "/sys/class/dmi/id/product_uuid").lower()
    digits = text.replace("-", "")
    # Firmware without a UUID has all zeros or all ones, on every such machine.
    return text if _ID.fullmatch(digits) and len(set(digits)) > 2 else ""


def _read(paths: Paths, path: str) -> str:
    try:
        return paths.host(path).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
