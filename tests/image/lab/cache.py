"""Directories that are slow to make and the same for every run: made once, kept outside the repository, never partial."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def cache_directory() -> Path:
    """Return `$XDG_CACHE_HOME/parbake-lab`, or `~/.cache/parbake-lab`. It can be removed at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(base) / "parbake-lab"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def key(parts: Iterable[str]) -> str:
    """Return a short name that depends only on `parts` and their order."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cached directory `name`. If it is missing `make(new directory)` makes it, once for concurrent runs."""
    final = cache_directory() / name
    with (cache_directory() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.is_dir():
            return final
        new = final.with_name(f"{name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        make(new)
        new.rename(final)
    return final
