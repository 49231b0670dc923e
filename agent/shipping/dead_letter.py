"""Entries that a sink will never accept, set aside in a file of bounded size, so that other entries do not wait for them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.shipping import Batch
from agent.shipping.checkpoint import give_to_owner
from agent.shipping.json_lines import timestamps
from agent.shipping.locked_append import append

MAX_BYTES = 16 * 2**20


class DeadLetters:
    """`DIRECTORY/SINK.ndjson` and its predecessor `.1`; older entries are deleted.

    The entries are masked before they arrive here. `mask` is applied to the reasons, which may quote a receiver.
    """

    def __init__(self, directory: Path, sink: str, max_bytes: int = MAX_BYTES, mask: Callable[[str], str] = str) -> None:
        self._path = directory / f"{sink}.ndjson"
        self._max_bytes = max_bytes
        self._mask = mask

    def add(self, batch: Batch, refused: Sequence[tuple[int, str]]) -> None:
        """Set aside entries of `batch`, given by index and reason. Raises OSError."""
        rows, stamps = batch.rows(), list(timestamps(batch.times))
        lines = [
            json.dumps({"timestamp": stamps[i], "refused": self._mask(reason), **rows[i], **batch.labels}) + "\n"
            for i, reason in refused
        ]
        directory = self._path.parent
        if not directory.exists():
            directory.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            give_to_owner(descriptor, directory.parent)
            os.close(descriptor)
        append(
            self._path,
            "".join(lines).encode(),
            max_bytes=self._max_bytes,
            rotate=lambda: os.replace(self._path, self._path.with_suffix(".ndjson.1")),
            mode=0o600,
            on_create=lambda descriptor: give_to_owner(descriptor, directory.parent),
        )
