"""The mask file: the texts that the shipper masks, written by the daemon."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from agent.system.safe_files import write_atomic

GROUP = "parbake-ship"


def write_mask_file(path: Path, texts: Iterable[str], group: str = GROUP) -> bool:
    """Write the mask file, whole or not at all, and return whether it changed. Raises OSError.

    An empty list means that there is no secret. Only root and `group` can read the file (0640, or 0600 if the group does
    not exist). `path` is on a tmpfs: /run/parbake/mask.
    """
    content = json.dumps(sorted(set(texts))).encode()
    gid = _gid(group)
    mode, owner_group = (0o640, gid) if gid is not None else (0o600, os.getegid())
    try:
        status = path.lstat()
        same = stat.S_ISREG(status.st_mode) and (stat.S_IMODE(status.st_mode), status.st_gid) == (mode, owner_group)
        if same and path.read_bytes() == content:
            return False
    except FileNotFoundError:
        pass
    set_group = (lambda descriptor: os.fchown(descriptor, -1, gid)) if gid is not None else None
    write_atomic(path, content, mode, sync=False, on_created=set_group)
    return True


def _gid(group: str) -> int | None:
    """Return the number of a group, or None if it does not exist or this process is not root."""
    import grp

    try:
        return grp.getgrnam(group).gr_gid if os.geteuid() == 0 else None
    except KeyError:
        return None


def read_mask_file(path: Path) -> tuple[str, ...] | None:
    """Return the texts to mask, or None if there is no file yet. Raises OSError, and ValueError for a damaged file."""
    try:
        texts = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path} is not a JSON list of strings")
    return tuple(texts)
