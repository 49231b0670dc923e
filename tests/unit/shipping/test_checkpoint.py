"""Checkpoints: whole or not there, and a damaged one ends nothing."""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import StateError
from agent.shipping.checkpoint import Checkpoint

POSITION = {"cursor": "s=1;i=2"}


def _summed(text: bytes) -> bytes:
    """Two records with the right checksum, so that only their content is wrong."""
    return (b"%08x %b\n" % (zlib.crc32(text), text)).ljust(200_000) * 2


def test_a_position_is_found_again(tmp_path: Path) -> None:
    """The next start reads the saved position. Sinks and readers do not share it, and no half-written file is left."""
    assert Checkpoint(tmp_path, "loki", "journal").load() is None
    Checkpoint(tmp_path, "loki", "journal").save(POSITION)
    Checkpoint(tmp_path, "loki", "files").save({"files": []})
    assert Checkpoint(tmp_path, "loki", "journal").load() == POSITION
    assert Checkpoint(tmp_path, "other", "journal").load() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loki.files.json", "loki.journal.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 8192, *map(_summed, (b'{"turn": 1, "posi', b"[]", b"{}", b'{"turn": 1, "position": 5}', b"[" * 100_000))],
    ids=["empty", "zeros", "half", "list", "nothing", "number", "deep"],
)
def test_a_damaged_checkpoint_starts_from_the_oldest_and_is_replaced(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """After any damage by a full disk or a power cut, shipping begins again, logs that, and saves as before."""
    (tmp_path / "loki.journal.json").write_bytes(content)
    checkpoint = Checkpoint(tmp_path, "loki", "journal")
    assert checkpoint.load() is None
    assert "loki.journal.json is damaged" in caplog.text
    checkpoint.save(POSITION)
    assert Checkpoint(tmp_path, "loki", "journal").load() == POSITION


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=3000), min_size=1), min_size=1, max_size=8))
def test_the_position_saved_last_is_the_one_found(positions: list[dict[str, str]]) -> None:
    """For every size of the position, saved by one process or each by another."""
    with tempfile.TemporaryDirectory() as name:
        checkpoint = Checkpoint(Path(name), "loki", "journal")
        for position in positions:
            checkpoint.save(position)
            again = Checkpoint(Path(name), "loki", "journal")
            assert again.load() == position
            checkpoint = again if len(position) % 2 else checkpoint


@given(st.data())
def test_a_record_half_written_leaves_the_one_before_it(data: st.DataObject) -> None:
    """A crash in the middle of a write, after any number of its bytes, and then the next start goes on saving."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "loki.journal.json"
        checkpoint = Checkpoint(Path(name), "loki", "journal")
        positions = [{"cursor": f"{number} " + "x" * data.draw(st.integers(0, 200))} for number in range(4)]
        states = []
        for position in positions[: data.draw(st.integers(3, 4))]:
            checkpoint.save(position)
            states.append((position, path.read_bytes()))
        (before, old), (after, new) = states[-2:]
        written = data.draw(st.integers(0, len(new)))
        path.write_bytes(new[:written] + old[written:] if data.draw(st.booleans()) else old[:written] + new[written:])
        again = Checkpoint(Path(name), "loki", "journal")
        assert again.load() in (before, after)
        again.save({"cursor": "next"})
        assert Checkpoint(Path(name), "loki", "journal").load() == {"cursor": "next"}


def test_a_position_that_cannot_be_saved_is_an_error(tmp_path: Path) -> None:
    """A full disk costs repeated entries after a restart, and the pipeline gets an error."""
    checkpoint = Checkpoint(tmp_path, "loki", "journal")
    (tmp_path / ".loki.journal.json.new").mkdir()
    with pytest.raises(StateError, match="cannot be written"):
        checkpoint.save(POSITION)
    (tmp_path / ".loki.journal.json.new").rmdir()
    checkpoint.save(POSITION)
    assert Checkpoint(tmp_path, "loki", "journal").load() == POSITION


def test_a_file_that_was_taken_away_is_made_anew(tmp_path: Path) -> None:
    """A state directory that is moved away while the shipper runs keeps its file, and the new one gets a complete file."""
    checkpoint, path = Checkpoint(tmp_path, "loki", "journal"), tmp_path / "loki.journal.json"
    checkpoint.save(POSITION)
    path.rename(tmp_path / "aside")
    checkpoint.save({"cursor": "later"})
    assert Checkpoint(tmp_path, "loki", "journal").load() == {"cursor": "later"}
    (tmp_path / "aside").rename(path)
    assert Checkpoint(tmp_path, "loki", "journal").load() == POSITION


def test_no_link_in_its_place_is_followed(tmp_path: Path) -> None:
    """The directory belongs to the service; a checkpoint that root saves by hand must not belong to root."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"x" * 8192)
    for name in ("loki.journal.json", ".loki.journal.json.new"):
        checkpoint = Checkpoint(tmp_path, "loki", "journal")
        checkpoint.save({"cursor": name})
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(precious)
        for size in (1, 10_000, 1):
            checkpoint.save({"cursor": name, "size": "y" * size})
        assert Checkpoint(tmp_path, "loki", "journal").load() == {"cursor": name, "size": "y"}
        assert precious.read_bytes() == b"x" * 8192


def test_one_that_may_not_be_read_is_no_reason_to_begin_anew(tmp_path: Path) -> None:
    """A file that exists and cannot be read is an error: otherwise all would be shipped twice."""
    (tmp_path / "loki.journal.json").mkdir()
    with pytest.raises(StateError, match="cannot be read"):
        Checkpoint(tmp_path, "loki", "journal").load()
