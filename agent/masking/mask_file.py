"""The mask file: how the daemon tells the shipper which texts to mask."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from agent.system.safe_files import write_atomic

GROUP = "parbake-ship"


def write_mask_file(path: Path, texts: Iterable[str], group: str = GROUP) -> bool:
    """Say what the shipper is to mask; an empty list says that no secret is known. True where the file changed.

    The file is for root and `group` alone (0640; 0600 where there is no such group), whole or not at all. Its place is
    on a tmpfs: /run/parbake/mask. Raises OSError.
    """
    content = json.dumps(sorted(set(texts))).encode()
    gid = _gid(group)
    wanted = (0o640, gid) if gid is not None else (0o600, os.getegid())
    try:
        found = path.lstat()
        same = stat.S_ISREG(found.st_mode) and (stat.S_IMODE(found.st_mode), found.st_gid) == wanted
        if same and path.read_bytes() == content:
            return False
    except FileNotFoundError:
        pass
    give = (lambda descriptor: os.fchown(descriptor, -1, gid)) if gid is not None else None
    write_atomic(path, content, wanted[0], sync=False, on_created=give)
    return True


def _gid(group: str) -> int | None:
    import grp

    try:
        return grp.getgrnam(group).gr_gid if os.geteuid() == 0 else None
    except KeyError:
        return None


def read_mask_file(path: Path) -> tuple[str, ...] | None:
    """The texts to mask; None where there is no file yet. Raises OSError; ValueError where it holds anything else."""
    try:
        texts = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path} is not a JSON list of strings")
    return tuple(texts)
