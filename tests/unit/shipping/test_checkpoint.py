"""Checkpoints: whole or not there, and a damaged one ends nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.errors import StateError
from agent.shipping.checkpoint import Checkpoint

POSITION = {"cursor": "s=1;i=2"}


def test_a_position_is_found_again(tmp_path: Path) -> None:
    """What was saved is what the next start reads; sinks and readers do not share it, and nothing half written is left."""
    assert Checkpoint(tmp_path, "loki", "journal").load() is None
    Checkpoint(tmp_path, "loki", "journal").save(POSITION)
    Checkpoint(tmp_path, "loki", "files").save({"files": []})
    assert Checkpoint(tmp_path, "loki", "journal").load() == POSITION
    assert Checkpoint(tmp_path, "other", "journal").load() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loki.files.json", "loki.journal.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100, b'{"position": ', b"[]", b"{}", b'{"position": 5}', b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "zeros", "half", "list", "nothing", "number", "binary", "deep"],
)
def test_a_damaged_checkpoint_starts_from_the_oldest_and_is_replaced(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a full disk or a power cut left in its place: shipping begins again, says so, and saves as before."""
    (tmp_path / "loki.journal.json").write_bytes(content)
    checkpoint = Checkpoint(tmp_path, "loki", "journal")
    assert checkpoint.load() is None
    assert "loki.journal.json is damaged" in caplog.text
    checkpoint.save(POSITION)
    assert json.loads((tmp_path / "loki.journal.json").read_bytes())["position"] == POSITION


def test_a_position_that_cannot_be_saved_is_an_error_that_leaves_the_old_one(tmp_path: Path) -> None:
    """A disk that takes nothing costs repeated entries after a restart, not the position there was."""
    checkpoint = Checkpoint(tmp_path, "loki", "journal")
    checkpoint.save(POSITION)
    (tmp_path / "loki.journal.new").mkdir()
    with pytest.raises(StateError, match="cannot be written"):
        checkpoint.save({"cursor": "later"})
    assert Checkpoint(tmp_path, "loki", "journal").load() == POSITION


def test_one_that_may_not_be_read_is_no_reason_to_begin_anew(tmp_path: Path) -> None:
    """Where the file is there and cannot be read, all would be shipped twice: that is an error, not a start from nothing."""
    (tmp_path / "loki.journal.json").mkdir()
    with pytest.raises(StateError, match="cannot be read"):
        Checkpoint(tmp_path, "loki", "journal").load()
