"""Names for what lives in the kernel (namespaces, groups, machines), from which their owner can be told."""

from __future__ import annotations

import itertools
import os
import re

_numbers = itertools.count(1)
_PATTERN = re.compile(r"parbake-lab-(\d+)-\d+")


def unique_name() -> str:
    """`parbake-lab-PID-N`: no two runs, and no two things of one run, share it."""
    return f"parbake-lab-{os.getpid()}-{next(_numbers)}"


def orphaned(name: str) -> bool:
    """Whether `name` is one of ours and the run that made it is gone."""
    found = _PATTERN.fullmatch(name)
    if found is None:
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
