"""Facts that cloud-init has gathered already, so that its crawl need not be repeated.

Sources: https://cloudinit.readthedocs.io/en/latest/explanation/instancedata.html for `v1.*`, whose keys are stable;
`agent.discovery.providers.cloud_init_datasources` reads `ds.*`, whose shape differs from datasource to datasource.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from agent.discovery import CHANGING, NAMES, Context
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
"""cloud-init's names that differ from ours."""
_SAYS_NOTHING = ("", "none", "unknown", "not-available", "iid-datasource-none", None)


class CloudInit:
    """Instance-data is written anew at each boot; what is below /var is taken only where it fits to that."""

    gives: ClassVar[tuple[str, ...]] = (*NAMES, *CHANGING)

    def discover(self, context: Context) -> Mapping[str, Any]:
        document = _instance_data(context.paths)
        if document is None:
            return {}
        # Not before there is something to read: most of what a machine without cloud-init would pay is imports.
        from agent.discovery.providers import cloud_init_datasources

        v1 = document.get("v1")
        v1 = v1 if isinstance(v1, Mapping) else {}
        platform = v1.get("cloud_id") or v1.get("cloud_name") or v1.get("platform")
        if platform in _SAYS_NOTHING or not isinstance(platform, str):
            context.attempts.append(Attempt("cloud-init", "found no datasource on this instance", 0.0))
            return {}
        platform = PLATFORMS.get(platform, platform)
        found: dict[str, Any] = {"platform": platform}
        for name, key in _V1.items():
            if v1.get(key) not in _SAYS_NOTHING:
                found[name] = v1[key]
        known = cloud_init_datasources.facts(platform, document.get("ds"))
        found.update({name: value for name, value in known.items() if value not in (None, "", {}, [])})
        for name in cloud_init_datasources.MEANS_ANOTHER.get(platform, ()):
            found.pop(name, None)
        table = _userdata(context.paths, v1.get("instance_id"))
        if table is not None:
            found["userdata"] = table
        return found


def _instance_data(paths: Paths) -> Mapping[str, Any] | None:
    """The sensitive file where we may read it: the other one has parts of `ds` redacted on newer versions."""
    for name in ("instance-data-sensitive.json", "instance-data.json"):
        path = paths.host(f"{RUN}/{name}")
        if not path.is_file() or not os.access(path, os.R_OK):
            continue
        from agent.discovery import userdata

        return userdata.json_table(read(path, paths.shown(path)), paths.shown(path))
    return None


def _userdata(paths: Paths, instance_id: object) -> Mapping[str, Any] | None:
    """The `parbake` key of the user-data: of all its parts merged (cloud-config.txt), else of it as it was given.

    /var/lib/cloud/instance links to a directory named after the instance; in an image that was captured from a running
    instance it may still be another's, until cloud-init has moved it.
    """
    from agent.discovery import userdata

    link = paths.host(INSTANCE)
    if not isinstance(instance_id, str) or not _belongs(link, instance_id):
        return None
    for name in ("cloud-config.txt", "user-data.txt"):
        path = _inside(link, paths) / name
        try:
            table = userdata.userdata(read(path, paths.shown(path)))
        except DiscoveryError:
            # 0600, or not there: `parbake debug` runs without root, and not every instance has user-data.
            continue
        if table is not None:
            return table
    return None


def _belongs(link: Path, instance_id: str) -> bool:
    try:
        return os.readlink(link).rstrip("/").rsplit("/", 1)[-1] == instance_id.replace("/", "_")
    except OSError:
        return False


def _inside(link: Path, paths: Paths) -> Path:
    """The link's target below the root: it is written as an absolute path."""
    target = os.readlink(link)
    return paths.host(target) if target.startswith("/") else link.parent / target
