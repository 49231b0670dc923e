"""Remove the processes, namespaces, mounts and directories that killed runs have left."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.image.lab.cache import cache_directory
from tests.image.lab.cgroups import hierarchies, remove_tree
from tests.image.lab.commands import call
from tests.image.lab.names import orphaned


def sweep() -> list[str]:
    """Remove the leftovers of ended runs (processes, namespaces, mounts, directories), and return one line for each."""
    swept = []
    for hierarchy in hierarchies():
        for path in _children(hierarchy):
            if orphaned(path.name):
                remove_tree(path)
                swept.append(f"control group {path}")
    for path in _children(Path("/run/netns")):
        if orphaned(path.name):
            call(["ip", "netns", "delete", path.name], check=False)
            swept.append(f"network namespace {path.name}")
    for root in _orphaned_mounts():
        call(["umount", "--lazy", root], check=False)
        swept.append(f"mount {root}")
    for path in _children(cache_directory()):
        if orphaned(path.name):
            shutil.rmtree(path, ignore_errors=True)
            swept.append(f"directory {path}")
    return swept


def _children(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _orphaned_mounts() -> list[str]:
    """Mount points of the lab's overlays: the directory that holds one is named by the run."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4]
        if after.startswith("overlay parbake-lab ") and any(orphaned(part) for part in Path(point).parts):
            points.append(point)
    return points
