"""Which instance this is, so that what an earlier one left in the image is never taken for ours."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.discovery.container import in_container
from agent.model import Facts
from agent.paths import Paths

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one instance from another; "" where unknown.

    `instance_id` is the platform's. `product_uuid` and `machine_id` are known without a network, and stand in when
    the platform could not be asked, so that a metadata service that is down does not look like a new instance.
    """

    instance_id: str = ""
    product_uuid: str = ""
    machine_id: str = ""

    def __str__(self) -> str:
        return self.instance_id or self.machine_id


def identify(facts: Facts, paths: Paths) -> Identity:
    """The identity of this instance. Reads /etc/machine-id and, outside a container, the product UUID of DMI."""
    instance = facts.values.get("instance_id", "")
    if facts.providers.get("instance_id") in ("host", "settings"):
        # the machine id under another name, or what every instance of the image has
        instance = ""
    return Identity(instance if isinstance(instance, str) else "", _product_uuid(paths), machine_id(paths))


def identity(facts: Facts, paths: Paths) -> str:
    """The instance id, else the machine id, else ""."""
    return str(identify(facts, paths))


def changed(before: Identity, now: Identity) -> bool:
    """Whether `now` is another instance than `before`: by the best mark that both of them have."""
    for mark in ("instance_id", "product_uuid", "machine_id"):
        old, new = getattr(before, mark), getattr(now, mark)
        if old and new:
            return bool(old != new)
    return False


def remembered(before: Identity, now: Identity) -> Identity:
    """What to keep of an instance that is still the same: also the marks that cannot be told at this boot."""
    return Identity(
        now.instance_id or before.instance_id, now.product_uuid or before.product_uuid, now.machine_id or before.machine_id
    )


def machine_id(paths: Paths) -> str:
    """/etc/machine-id, or "" where it is missing, empty or still "uninitialized"."""
    text = _read(paths, "/etc/machine-id")
    return text if _ID.fullmatch(text) else ""


def _product_uuid(paths: Paths) -> str:
    if in_container(paths):
        return ""
    text = _read(paths, "/sys/class/dmi/id/product_uuid").lower()
    digits = text.replace("-", "")
    # Firmware that was never given one says all zeros or all ones, on every such machine alike.
    return text if _ID.fullmatch(digits) and len(set(digits)) > 2 else ""


def _read(paths: Paths, path: str) -> str:
    try:
        return paths.host(path).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
