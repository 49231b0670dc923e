"""Facts that cloud-init has gathered, so that its requests need not be repeated.

Source: https://cloudinit.readthedocs.io/en/latest/explanation/instancedata.html for `v1.*`, whose keys are stable.
`cloud_init_datasources` reads `ds.*`, whose shape depends on the datasource.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from agent.discovery import CHANGING_FACTS, FACT_NAMES, Context, ProviderName, RawFacts
from agent.discovery.providers.fact_files import read
from agent.errors import DiscoveryError
from agent.model import Attempt
from agent.paths import Paths

RUN = "/run/cloud-init"
INSTANCE = "/var/lib/cloud/instance"
_V1 = {
    "instance_id": "instance_id",
    "region": "region",
    "zone": "availability_zone",
    "hostname": "local_hostname",
}
PLATFORMS = {"aws": "ec2", "aws-china": "ec2", "aws-gov": "ec2", "aliyun": "alibaba", "configdrive": "openstack"}
"""cloud-init's platform names that differ from parbake's."""
_PLACEHOLDERS = ("", "none", "unknown", "not-available", "iid-datasource-none", None)
"""The values that cloud-init writes if a value is unknown."""


class CloudInit:
    """Reads instance-data, which is written at each boot, and the files below /var that belong to the same instance."""

    gives: ClassVar[tuple[str, ...]] = (*FACT_NAMES, *CHANGING_FACTS)

    def discover(self, context: Context) -> RawFacts:
        """Return the facts of `v1`, `ds` and user-data. Raises DiscoveryError for instance-data that cannot be read."""
        document = _instance_data(context.paths)
        if document is None:
            return {}
        # Imported here, because imports are most of the cost on a machine without cloud-init.
        from agent.discovery.providers import cloud_init_datasources

        v1 = document.get("v1")
        v1 = v1 if isinstance(v1, Mapping) else {}
        platform = v1.get("cloud_id") or v1.get("cloud_name") or v1.get("platform")
        if platform in _PLACEHOLDERS or not isinstance(platform, str):
            context.attempts.append(Attempt(ProviderName.CLOUD_INIT, "found no datasource on this instance", 0.0))
            return {}
        platform = PLATFORMS.get(platform, platform)
        facts: dict[str, object] = {"platform": platform}
        for name, key in _V1.items():
            if v1.get(key) not in _PLACEHOLDERS:
                facts[name] = v1[key]
        datasource_facts = cloud_init_datasources.facts(platform, document.get("ds"))
        facts.update({name: value for name, value in datasource_facts.items() if value not in (None, "", {}, [])})
        for name in cloud_init_datasources.OTHER_MEANINGS.get(platform, ()):
            facts.pop(name, None)
        table = _userdata(context.paths, v1.get("instance_id"))
        if table is not None:
            facts["userdata"] = table
        return facts


def _instance_data(paths: Paths) -> Mapping[str, Any] | None:
    """Parse the sensitive file if it is readable: newer versions of cloud-init redact parts of `ds` in the other file."""
    for name in ("instance-data-sensitive.json", "instance-data.json"):
        path = paths.host(f"{RUN}/{name}")
        if not path.is_file() or not os.access(path, os.R_OK):
            continue
        from agent.discovery import parsers

        return parsers.json_table(read(path, paths.shown(path)), paths.shown(path))
    return None


def _userdata(paths: Paths, instance_id: object) -> Mapping[str, Any] | None:
    """Return the `parbake` key of all parts of user-data merged (cloud-config.txt), or else of the original user-data.

    /var/lib/cloud/instance links to a directory that is named after the instance. In an image that was captured from a
    running instance the link leads to that instance, until cloud-init has replaced it.
    """
    from agent.discovery import userdata

    link = paths.host(INSTANCE)
    if not isinstance(instance_id, str) or not _is_link_to(link, instance_id):
        return None
    for name in ("cloud-config.txt", "user-data.txt"):
        path = _target_below_root(link, paths) / name
        try:
            table = userdata.parbake_table(read(path, paths.shown(path)))
        except DiscoveryError:
            # The files have mode 0600 and `parbake debug` runs without root; not every instance has user-data.
            continue
        if table is not None:
            return table
    return None


def _is_link_to(link: Path, instance_id: str) -> bool:
    try:
        return os.readlink(link).rstrip("/").rsplit("/", 1)[-1] == instance_id.replace("/", "_")
    except OSError:
        return False


def _target_below_root(link: Path, paths: Paths) -> Path:
    """Return the target of a link, which is an absolute path, below the root."""
    target = os.readlink(link)
    return paths.host(target) if target.startswith("/") else link.parent / target
