"""Watches of directories: which changes are events, and directories that cannot be watched."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest

from agent.system.inotify import DirectoryObserver, FileEvent, WatchUnavailable


def next_of(events: queue.SimpleQueue[FileEvent], name: str) -> FileEvent:
    """Return the next event of a file, within 20 s."""
    while True:
        event = events.get(timeout=20)
        if event.path.endswith(name):
            return event


def test_changes_are_events_and_reads_are_not(tmp_path: Path) -> None:
    """Creating and moving a file are events; opening and reading it are not."""
    events: queue.SimpleQueue[FileEvent] = queue.SimpleQueue()
    observer = DirectoryObserver({str(tmp_path): False}, events.put)
    try:
        (tmp_path / "one").write_text("1")
        assert next_of(events, "/one").kind == "created"
        (tmp_path / "one").read_text()
        (tmp_path / "one").rename(tmp_path / "two")
        while (moved := next_of(events, "/one")).kind != "moved":
            assert moved.kind in ("modified", "closed")
        assert moved.moved_to == str(tmp_path / "two")
    finally:
        observer.close()


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    """It fails all watches, with the reason; with a callback it fails alone."""
    with pytest.raises(WatchUnavailable, match="No such file"):
        DirectoryObserver({str(tmp_path): False, str(tmp_path / "no"): False}, lambda event: None)
    failed: list[str] = []
    events: queue.SimpleQueue[FileEvent] = queue.SimpleQueue()
    observer = DirectoryObserver(
        {str(tmp_path / "no"): False, str(tmp_path): False}, events.put, on_unwatchable=lambda path, error: failed.append(path)
    )
    try:
        (tmp_path / "one").write_text("1")
        assert next_of(events, "/one").kind == "created"
        assert failed == [str(tmp_path / "no")]
    finally:
        observer.close()
