"""Opens log files by path, by inode, or by their content, under the settings of the log that they belong to."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agent.paths import Paths
from agent.settings.models import LogFile
from agent.shipping.readers import rotation
from agent.shipping.readers.rotation import Key
from agent.shipping.readers.tail import Tail

log = logging.getLogger("parbake")
_TRIES_MAX = 20


class FileOpener:
    """Opens files of the configured logs. `denied` counts the files that could not be read."""

    def __init__(self, logs: Sequence[LogFile], paths: Paths, line_max: int) -> None:
        self._logs, self._paths, self._line_max = logs, paths, line_max
        self._denied: set[Path] = set()
        self.denied = 0

    def matching(self) -> Iterator[Path]:
        """Yield the paths that the configured globs match now."""
        for log_file in self._logs:
            yield from rotation.matching(self._paths.host(log_file.path))

    def settings_of(self, path: Path) -> LogFile | None:
        """Return the settings of the log at `path`; None if no glob matches it."""
        return next((f for f in self._logs if fnmatch.fnmatch(str(path), str(self._paths.host(f.path)))), None)

    def is_own_generation(self, older: Path, path: Path) -> bool:
        """Return whether `older` is a generation of the log `path`, and not of another log.

        An example of another log is app-2.log.1 beside app.log.
        """
        return older.name.startswith(path.name) or not (
            self.settings_of(older) or self.settings_of(rotation.without_generation(older))
        )

    def open(self, location: Path, path: Path) -> Tail | None:
        """Open the file at `location` as a file of the log `path`. None if it cannot be read, which is logged once."""
        log_file = self.settings_of(path) or LogFile(path=str(path))
        try:
            return Tail.open(location, path, self._line_max, log_file.start, log_file.pause)
        except FileNotFoundError:
            return None
        except OSError as error:
            if location not in self._denied:
                self._denied.add(location)
                self.denied += 1
                log.warning("%s cannot be read: %s; make it readable for group parbake-ship", location, error.strerror)
            return None

    def open_by_key(self, key: Key, location: Path, path: Path) -> Tail | None:
        """Open the file `key`, last seen at `location`, even if a rotation has renamed it within its directory since."""
        for _ in range(_TRIES_MAX):
            tail = self.open(location, path)
            if tail is not None and tail.key == key:
                return tail
            if tail is not None:
                tail.close()
            sibling = rotation.siblings(location).get(key)
            if sibling is None:
                return None
            location = sibling.path
        return None

    def find(self, path: Path, state: Mapping[str, Any], is_open: Callable[[Key], bool]) -> Tail | None:
        """Find the file of a saved `state` at its path, renamed, or as a copy. The tail continues where the state ended."""
        key = (state["device"], state["inode"])
        for find in (self.open, partial(self.open_by_key, key)):
            tail = find(path, path)
            if tail is None:
                continue
            if tail.resume(state) and (state["offset"] or tail.key == key) and not is_open(tail.key):
                return tail
            tail.close()
        return self.copy_of(path, state, is_open)

    def copy_of(self, path: Path, state: Mapping[str, Any], is_open: Callable[[Key], bool]) -> Tail | None:
        """Find a file beside `path` that begins with what was read for `state`. The tail continues where the state ended."""
        for sibling in rotation.copies(path) if state["offset"] else ():
            if not is_open(sibling.key) and (copy := self.open(sibling.path, path)) is not None:
                if not is_open(copy.key) and copy.resume(state):
                    return copy
                copy.close()
        return None
