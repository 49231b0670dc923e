"""`file`: NDJSON lines in a file that is rotated by size."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from agent.errors import SinkUnavailable
from agent.settings.schema import Mode, Size, setting
from agent.shipping import ACCEPTED, Batch, SendResult, SinkContext
from agent.shipping.json_lines import JsonFields
from agent.shipping.locked_append import append


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    path: str = setting("the file")
    max_size: Size = setting("the file is rotated before it grows beyond this", Size(64 * 2**20))
    keep: int = setting("how many rotated files are kept, as PATH.1 and so on", 3)
    mode: Mode = setting("the permissions of a new file", Mode(0o640))
    sync: bool = setting("write every batch through to the disk before it counts as shipped", True)

    def __post_init__(self) -> None:
        if not self.path.startswith("/") or self.path.endswith("/"):
            raise ValueError(f'path "{self.path}" must be the absolute path of a file')
        if "\0" in self.path:
            raise ValueError("path contains a NUL, which no path can have")
        if not 0 <= self.keep <= 1000:
            raise ValueError("keep must be between 0 and 1000")
        if self.max_size < 4096:
            raise ValueError("max_size must be at least 4 KiB")


class FileSink:
    """Appends whole batches under a lock: the pipelines of the journal and of the files share the file."""

    options_class = FileOptions
    wants_ids = False

    def __init__(self, options: FileOptions, context: SinkContext) -> None:
        self._options = options
        self._path: Path = context.paths.host(options.path)
        self._json = JsonFields()

    def send(self, batch: Batch) -> SendResult:
        body = self._json.ndjson(batch).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append(
                self._path,
                body,
                max_bytes=self._options.max_size,
                rotate=self._rotate,
                mode=self._options.mode,
                sync=self._options.sync,
            )
        except OSError as error:
            raise SinkUnavailable(
                f"{self._path} cannot be written: {error.strerror}",
                hint="parbake-ship, which is not root, must be able to write there: see who owns the directory",
            ) from None
        return ACCEPTED

    def close(self) -> None:
        """Do nothing: each batch opens the file, so that a file that was moved away is noticed."""

    def _rotate(self) -> None:
        for number in range(self._options.keep, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number - 1}")
            if newer.exists():
                os.replace(newer, older)
        if not self._options.keep:
            self._path.unlink()
