"""Names of kernel objects (namespaces, control groups) and machines. A name holds the pid of the run that made it."""

from __future__ import annotations

import itertools
import os
import re

_numbers = itertools.count(1)
_PATTERN = re.compile(r"parbake-lab-(\d+)-\d+")


def unique_name() -> str:
    """Return `parbake-lab-PID-N`, unique among all runs."""
    return f"parbake-lab-{os.getpid()}-{next(_numbers)}"


def orphaned(name: str) -> bool:
    """Return whether `name` was made by a run of the lab that has ended."""
    match = _PATTERN.fullmatch(name)
    if match is None:
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
