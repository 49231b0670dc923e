"""A private, writable view of read-only layers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.image.lab.commands import LabError, call
from tests.image.lab.names import unique_name


class Overlay:
    """`with Overlay(layers, scratch) as overlay:` mounts `layers` (the uppermost first) below a new, empty one.

    `overlay.root` is the merged view, `overlay.changes` has the written files. Leaving unmounts. `keep_changes` keeps
    `changes` as a layer for others. Raises LabError if the kernel refuses the mount.
    """

    def __init__(self, layers: Sequence[Path], scratch: Path, *, keep_changes: bool = False) -> None:
        directory = scratch / unique_name()
        self.root = directory / "root"
        self.changes = directory / "changes"
        self._work = directory / "work"
        self._layers = tuple(layers)
        self._keep_changes = keep_changes

    def __enter__(self) -> Overlay:
        for each in (self.root, self.changes, self._work):
            each.mkdir(parents=True)
        options = f"lowerdir={':'.join(map(str, self._layers))},upperdir={self.changes},workdir={self._work}"
        try:
            # Volatile: nothing here must survive a crash of the host, so its disk need not be waited for.
            call(["mount", "-t", "overlay", "parbake-lab", "-o", f"{options},volatile", str(self.root)])
        except LabError as error:
            raise LabError(f"{error}\n{self.changes} must be where an overlay can have its upper") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if call(["umount", str(self.root)], check=False).returncode != 0:
            # A killed process may hold its last file for a moment.
            call(["umount", "--lazy", str(self.root)])
        self.root.rmdir()
        shutil.rmtree(self._work, ignore_errors=True)
        if not self._keep_changes:
            shutil.rmtree(self.root.parent, ignore_errors=True)
