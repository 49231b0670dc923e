"""Targets that somebody edited: seen through inotify, and compared with what their generation recorded."""

from __future__ import annotations

import hashlib
import logging
import pwd
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from agent.errors import ApplyError
from agent.paths import Paths
from agent.system import safe_files

log = logging.getLogger("parbake")


def of_target(paths: Paths, known: Mapping[str, Any]) -> str | None:
    """How a target differs from its generation's record, or None."""
    try:
        now = safe_files.read_target(paths, str(known["target"]))
    except ApplyError as error:
        return str(error)
    if now is None or now.content is None:
        return "is gone"
    if hashlib.sha256(now.content).hexdigest() != known["sha256"]:
        return f"its content was changed{_by(paths, str(known['target']))}"
    if f"{now.mode:04o}" != known["mode"]:
        return f"its mode is {now.mode:04o}, was {known['mode']}"
    if (now.uid, now.gid) != (known["uid"], known["gid"]):
        return f"its owner is {now.uid}:{now.gid}, was {known['uid']}:{known['gid']}"
    return None


def _by(paths: Paths, target: str) -> str:
    """What the disk knows of who and when: the owner of the file as it is now, and its time."""
    try:
        found = paths.host(target).lstat()
    except OSError:
        return ""
    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = str(found.st_uid)
    return f" at {datetime.fromtimestamp(found.st_mtime, UTC):%Y-%m-%dT%H:%M:%SZ}; the file belongs to {owner}"


class Watch:
    """Calls `changed` when something happens in a target's place. Its own commits too: the caller compares. `lost`: a place
    was removed, and one that is made anew is not watched, although it may have the old one's inode number."""

    def __init__(self, paths: Paths, targets: Iterable[str], changed: Callable[[], None]) -> None:
        # costs 15 ms of imports, and nothing needs it before READY
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer

        names = {str(paths.host(target)) for target in targets}
        directories = {str(paths.host(target).parent) for target in targets}
        self.lost = False

        class Handler(FileSystemEventHandler):
            def on_any_event(_self, event: FileSystemEvent) -> None:
                if event.event_type in ("deleted", "moved") and str(event.src_path) in directories:
                    self.lost = True
                    changed()
                touched = {str(event.src_path), str(getattr(event, "dest_path", ""))}
                if event.event_type not in ("opened", "closed_no_write") and touched & names:
                    changed()

        self._observer = Observer()
        self._observer.daemon = True
        self._observer.start()  # before its places: each that cannot be watched is an error of its own then
        for directory in sorted(directories):
            try:
                self._observer.schedule(Handler(), directory)
            except FileNotFoundError:
                continue  # its target is waiting to be made
            except OSError as error:
                log.warning("%s cannot be watched (%s): what is edited there by hand is not noticed", directory, error.strerror)

    def stop(self) -> None:
        self._observer.stop()
