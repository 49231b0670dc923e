"""Targets that were edited by hand: compared with what their generation recorded."""

from __future__ import annotations

import hashlib
import pwd
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agent.errors import ApplyError
from agent.paths import Paths
from agent.system import safe_files

GONE = "is gone"


def difference(paths: Paths, recorded: Mapping[str, Any]) -> str | None:
    """Return how a target differs from its generation's record, or None. `recorded` is made by `generations.targets_of`."""
    target = str(recorded["target"])
    try:
        current = safe_files.read_target(paths, target)
    except ApplyError as error:
        return str(error)
    if current is None or current.content is None:
        return GONE
    if hashlib.sha256(current.content).hexdigest() != recorded["sha256"]:
        return f"its content was changed{_when_and_owner(paths, target)}"
    if f"{current.mode:04o}" != recorded["mode"]:
        return f"its mode is {current.mode:04o}, was {recorded['mode']}"
    if (current.uid, current.gid) != (recorded["uid"], recorded["gid"]):
        return f"its owner is {current.uid}:{current.gid}, was {recorded['uid']}:{recorded['gid']}"
    return None


def _when_and_owner(paths: Paths, target: str) -> str:
    """Return the time and the owner of the file as it is now: all that the disk has about who edited it, and when."""
    try:
        status = paths.host(target).lstat()
    except OSError:
        return ""
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    return f" at {datetime.fromtimestamp(status.st_mtime, UTC):%Y-%m-%dT%H:%M:%SZ}; the file belongs to {owner}"
